"""What speed.py races: the training of teacher and student here, and in PyTorch, JAX and Keras.

A contender is a function of the path of a trained teacher that returns (epoch, predict): epoch() trains one epoch, or
computes all of the teacher's logits; predict(images uint8) gives logits, or is None where no errors are counted. Those
whose errors are counted also take a recipe.
"""

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from support import classifier, distortion, model_files, pool, teacher_logits, terminal, training
from support.batches import Batches, all_shifts, padded
from support.selection import WHOLE_EPOCHS

import keras
import numpy as np
import tensorflow as tf

import data
import distill
import student
import teacher
from studies import runs

NUM_IMAGES, NUM_IMAGES_TOGETHER = 55_000, 48_000
TEACHER, RACE = runs.EVERY_IMAGE, distill.DistillRecipe()

digits = cache(data.load)
build_student = partial(student.build_student, (28, 28), 10)
load_teacher = partial(model_files.load, example_shape=(28, 28), num_classes=10)


def train_arrays(translate):
    """The training data as arrays, with which a shift of an image is one gather.

    Images with a border of zeros, (n, pixels) float32 in [0, 1]; labels (n,) int64; and where the 784 pixels of each
    shift lie among those of an image, (shifts, 784) int64.
    """
    images, span = classifier.to_unit(padded(digits().train.images, translate)).numpy(), 2 * translate + 1
    places = np.arange(images[0].size).reshape(images[0].shape)
    of_shifts = [places[top : top + 28, left : left + 28].ravel() for top, left in np.ndindex(span, span)]
    return images.reshape(len(images), -1), digits().train.labels.astype(np.int64), np.stack(of_shifts)


def cached_logits(path, translate):
    """The teacher's logits of all shifts of the training images, (n, shifts, 10)."""
    taught_by = teacher_logits.as_teacher(load_teacher(path))
    return taught_by.on_shifts(digits().train.images, translate, cache=Path(path).parent)


def train_here(model, batches, loss, recipe):
    """(epoch, predict) of a net of this project. If the recipe selects images, each epoch is a selective one."""
    optimizer = keras.optimizers.Adam(recipe.learning_rate, weight_decay=recipe.weight_decay or None)
    trainer = training.Trainer(model, batches, loss, recipe, optimizer=optimizer)
    numbers = itertools.count(1 + WHOLE_EPOCHS)

    def epoch():
        number = next(numbers)
        trainer.train_epoch(number, None if trainer.selection else batches.epoch(number), 0)

    return epoch, classifier.predictor(model)


def this_project(path, recipe=RACE):
    views = None if recipe.loss == "labels" else teacher_logits.looked_up(cached_logits(path, recipe.translate))
    batches = Batches(digits().train, recipe, views)
    return train_here(build_student(seed=recipe.seed), batches, distill.LOSSES[recipe.loss], recipe)


def own_baseline(path, recipe):
    return this_project(path, replace(recipe, loss="labels"))


def own_teacher(path, recipe=TEACHER):
    batches = Batches(digits().train, recipe)
    return train_here(teacher.build_teacher((28, 28), 10, recipe), batches, training.cross_entropy, recipe)


def own_logits(path):
    taught_by = teacher_logits.as_teacher(load_teacher(path))
    return lambda: taught_by.on_shifts(digits().train.images, RACE.translate), None


def keras_views(recipe, num_images=NUM_IMAGES):
    """A tf.data.Dataset of batches: indices (b,), shifts (b,), images (b, 28, 28), labels (b,)."""
    images, labels, places = map(tf.constant, train_arrays(recipe.translate))

    def batch(rows):
        shifts = tf.random.uniform(tf.shape(rows), maxval=len(places), dtype=tf.int32)
        views = tf.gather(tf.gather(images, rows), tf.gather(places, shifts), batch_dims=1)
        return rows, shifts, tf.reshape(views, (recipe.batch_size, 28, 28)), tf.gather(labels, rows)

    order = tf.data.Dataset.range(num_images, output_type=tf.int32).shuffle(num_images)
    return order.batch(recipe.batch_size, drop_remainder=True).map(batch, tf.data.AUTOTUNE)


def keras_distiller(path, recipe=RACE, loss=None, num_images=NUM_IMAGES):
    """`keras.distillation.Distiller`, which runs the teacher on each batch. loss: None is `SoftTargetLoss`."""
    net = build_student(seed=recipe.seed)
    loss = loss or distill.SoftTargetLoss(recipe.temperature)
    distiller = keras.distillation.Distiller(load_teacher(path), net, loss, student_loss_weight=1 - recipe.alpha)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.Adam(recipe.learning_rate), cross_entropy, metrics=["accuracy"])
    batches = keras_views(recipe, num_images).map(lambda rows, shifts, images, labels: (images, labels)).prefetch(2)
    return partial(distiller.fit, batches, shuffle=False, verbose=0), classifier.predictor(net)


def keras_fit(path):
    """Keras' `fit` at its best: images in memory, cached logits, XLA, and a whole epoch in one call."""
    known = tf.constant(cached_logits(path, RACE.translate))

    def targets(rows, shifts, images, labels):
        logits = tf.gather_nd(known, tf.stack([rows, shifts], -1))
        return images, tf.concat([tf.cast(labels, tf.float32)[:, None], logits], -1)

    def loss(targets, logits):
        loss = training.with_settings(distill.distillation_loss, RACE)
        return loss(tf.cast(targets[:, 0], tf.int32), targets[:, 1:], logits)

    net, optimizer = build_student(), keras.optimizers.Adam(RACE.learning_rate)
    net.compile(optimizer=optimizer, loss=loss, steps_per_execution=NUM_IMAGES // RACE.batch_size, jit_compile=True)
    batches = keras_views(RACE).map(targets, tf.data.AUTOTUNE).prefetch(2)
    return partial(net.fit, batches, shuffle=False, verbose=0), None


def keras_teacher(path):
    """Keras' `fit` at its best, on images that support/distortion.py distorts."""
    amounts = distortion.distortion(TEACHER.distort)

    def distorted(rows, shifts, images, labels):
        seed = tf.random.uniform((2,), maxval=2**31 - 1, dtype=tf.int32)
        return distortion.distort(images, seed, amounts), labels

    net = teacher.build_teacher((28, 28), 10, TEACHER)
    optimizer = keras.optimizers.Adam(TEACHER.learning_rate, weight_decay=TEACHER.weight_decay)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(optimizer=optimizer, loss=loss, steps_per_execution=NUM_IMAGES // TEACHER.batch_size, jit_compile=True)
    batches = keras_views(TEACHER).map(distorted, tf.data.AUTOTUNE).prefetch(2)
    return partial(net.fit, batches, shuffle=False, verbose=0), None


def keras_logits(path):
    """The teacher's logits of all shifts by Keras' `predict`."""
    net = load_teacher(path)

    def predict_all():
        for shifted in all_shifts(digits().train.images, RACE.translate):
            net.predict(classifier.to_unit(shifted), batch_size=2000, verbose=0)

    return predict_all, None


def torch_dense(net):
    """The PyTorch net with the layers, and the weights, of a dense ReLU net of Keras."""
    import torch
    from torch import nn

    layers, weights = [nn.Flatten()], net.get_weights()
    for kernel, bias in zip(weights[::2], weights[1::2], strict=True):
        layers += [nn.Linear(*kernel.shape), nn.ReLU()]
        layers[-2].weight.data = torch.tensor(kernel.T).contiguous()  # a Keras kernel is (inputs, outputs)
        layers[-2].bias.data = torch.tensor(bias)
    return nn.Sequential(*layers[:-1])


def torch_student(path, recipe=RACE, is_eager=False):
    """PyTorch, in memory, cached logits. The step (gather, loss, gradients, Adam) is compiled, unless it is_eager."""
    import torch
    from torch import nn

    torch.manual_seed(recipe.seed)  # for the order of the images
    net = torch_dense(build_student(seed=recipe.seed))
    images, labels, places = map(torch.tensor, train_arrays(recipe.translate))
    logits = torch.tensor(cached_logits(path, recipe.translate))
    weights = {name: weight.detach() for name, weight in net.named_parameters()}  # in the memory of the net's
    means, squares = ({name: torch.zeros_like(weight) for name, weight in weights.items()} for _ in range(2))
    count, peak, temperature, alpha = torch.zeros(()), recipe.learning_rate, recipe.temperature, recipe.alpha
    optimizer = torch.optim.Adam(net.parameters(), peak)  # of the eager step

    def loss(weights, index, shift):
        student_logits = torch.func.functional_call(net, weights, images[index].gather(1, places[shift]))
        student_log = (student_logits / temperature).log_softmax(-1)
        soft_targets = (logits[index, shift] / temperature).softmax(-1)
        kl = nn.functional.kl_div(student_log, soft_targets, reduction="batchmean")
        return alpha * temperature**2 * kl + (1 - alpha) * nn.functional.cross_entropy(student_logits, labels[index])

    @torch.compile
    def step(index, shift):
        gradients = torch.func.grad(loss)(weights, index, shift)
        count.add_(1)
        rate = peak * torch.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        for name, gradient in gradients.items():
            means[name].lerp_(gradient, 1 - 0.9)
            squares[name].lerp_(gradient**2, 1 - 0.999)
            weights[name].sub_(rate * means[name] / (squares[name].sqrt() + 1e-7))

    def eager_step(index, shift):
        optimizer.zero_grad()
        loss(dict(net.named_parameters()), index, shift).backward()
        optimizer.step()

    def epoch():
        for index in torch.randperm(NUM_IMAGES).split(recipe.batch_size):
            (eager_step if is_eager else step)(index, torch.randint(len(places), index.shape))

    return epoch, lambda images: net(torch.tensor(classifier.to_unit(images).numpy())).detach().numpy()


def torch_teacher(path):
    """PyTorch with tensors in memory: the distortion and the step are compiled, Adam is the fused one."""
    import torch
    from torch import nn

    net = torch_dense(teacher.build_teacher((28, 28), 10, TEACHER))
    images, labels, _ = map(torch.tensor, train_arrays(0))
    optimizer = torch.optim.AdamW(
        net.parameters(), TEACHER.learning_rate, weight_decay=TEACHER.weight_decay, fused=True
    )
    rotation, scaling, translation, elastic = distortion.distortion(TEACHER.distort)
    bumps, line = torch.tensor(distortion._bumps(28)), torch.arange(28) - 13.5

    @torch.compile
    def distorted(images, draws):  # as in support/distortion.py
        angle, zoom = draws[:, 0, None, None] * rotation * np.pi / 180, 1 + draws[:, 1:3, None, None] * scaling
        knots = draws[:, 5:].reshape(-1, 2, distortion.KNOTS, distortion.KNOTS)
        moved = draws[:, 3:5, None, None] * translation
        moved = moved + elastic * torch.einsum("hk,bckl,wl->bchw", bumps, knots, bumps)
        rows = (angle.cos() * line[:, None] - angle.sin() * line) * zoom[:, 0] + moved[:, 0]
        columns = (angle.sin() * line[:, None] + angle.cos() * line) * zoom[:, 1] + moved[:, 1]
        grid = torch.stack([columns, rows], -1) / 13.5
        return nn.functional.grid_sample(images.reshape(-1, 1, 28, 28), grid, align_corners=True)

    @torch.compile
    def loss(images, labels):
        return nn.functional.cross_entropy(net(images), labels)

    def epoch():
        for index in torch.randperm(NUM_IMAGES).split(TEACHER.batch_size):
            draws = 2 * torch.rand(len(index), 5 + 2 * distortion.KNOTS**2) - 1
            optimizer.zero_grad()
            loss(distorted(images[index], draws), labels[index]).backward()
            optimizer.step()

    return epoch, None


def torch_logits(path):
    """The teacher's logits of all shifts by PyTorch."""
    import torch

    net = torch.compile(torch_dense(load_teacher(path)))

    @torch.no_grad()
    def predict_all():
        for shifted in all_shifts(digits().train.images, RACE.translate):
            images = torch.tensor(classifier.to_unit(shifted).numpy())
            torch.cat([net(part) for part in images.split(2000)])

    return predict_all, None


def jax_scan(path, recipe=RACE):
    """JAX and Optax: one `jit` of a `lax.scan` over an epoch's steps; images in memory, cached logits."""
    import jax
    import optax
    from jax import numpy as jnp

    random, optimizer = np.random.default_rng(recipe.seed), optax.adam(recipe.learning_rate)
    weights = jax.tree.map(jnp.array, build_student(seed=recipe.seed).get_weights())  # its kernels and biases in turn
    state = weights, optimizer.init(weights)
    *known, places = train_arrays(recipe.translate)
    known, places = jax.device_put((*known, cached_logits(path, recipe.translate))), jnp.array(places)

    @jax.jit
    def forward(weights, images):
        values = images.reshape(-1, 784)
        for kernel, bias in zip(weights[:-2:2], weights[1:-2:2]):
            values = jax.nn.relu(values @ kernel + bias)
        return values @ weights[-2] + weights[-1]

    def loss(weights, images, labels, teacher_logits):
        logits = forward(weights, images)
        student_log, teacher_log = (jax.nn.log_softmax(each / recipe.temperature) for each in (logits, teacher_logits))
        kl = optax.losses.kl_divergence_with_log_targets(student_log, teacher_log)
        cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        return (recipe.alpha * recipe.temperature**2 * kl + (1 - recipe.alpha) * cross_entropy).mean()

    @partial(jax.jit, donate_argnums=0)
    def run_epoch(state, order, shifts, known):
        images, labels, teacher_logits = known

        def step(state, chosen):
            (weights, moments), (index, shift) = state, chosen
            views = jnp.take_along_axis(images[index], places[shift], 1)
            gradients = jax.grad(loss)(weights, views, labels[index], teacher_logits[index, shift])
            updates, moments = optimizer.update(gradients, moments)
            return (optax.apply_updates(weights, updates), moments), None

        return jax.lax.scan(step, state, (order, shifts))[0]

    def epoch():
        nonlocal state
        order = random.permutation(NUM_IMAGES).astype(np.int32).reshape(-1, recipe.batch_size)
        shifts = random.integers(len(places), size=order.shape).astype(np.int32)
        state = jax.block_until_ready(run_epoch(state, order, shifts, known))

    return epoch, lambda images: np.asarray(forward(state[0], classifier.to_unit(images).numpy()))


def matrix_products(path):
    """The matrix products of an epoch of the student alone, in one loop under XLA: a floor."""
    products = []  # (left, right, which is transposed)
    for inputs, outputs in ((784, 64), (64, 64), (64, 10)):
        values, kernel, error = (RACE.batch_size, inputs), (inputs, outputs), (RACE.batch_size, outputs)
        products += [(values, kernel, {}), (values, error, {"transpose_a": True})]  # forward; gradient of the kernel
        products += [(error, kernel, {"transpose_b": True})] * (inputs != 784)  # of the values, but not of the pixels
    left, right = ([tf.random.normal(product[side]) for product in products] for side in (0, 1))

    @tf.function(jit_compile=True)
    def run(left, right):
        total = tf.constant(0.0)
        for _ in tf.range(NUM_IMAGES // RACE.batch_size):
            for a, b, (_, _, transposed) in zip(left, right, products):
                total += 1e-20 * tf.matmul(a + total, b, **transposed)[0, 0]  # `+ total`: else XLA takes it out
        return total

    return lambda: run(left, right).numpy(), None


def students_at_once(path, number, cores=None):
    """So many students, trained as distill.train_students does it, a core for each (default: all cores)."""
    if cores == 1:
        pool.use_one_core()
    cores, split = cores or terminal.num_cores(), digits().train.take(slice(NUM_IMAGES_TOGETHER))
    logits = np.random.default_rng(0).normal(size=(NUM_IMAGES_TOGETHER, 9, 10)).astype(np.float32)  # as good, for times
    batches = Batches(split, RACE, teacher_logits.looked_up(logits))
    trainers, numbers = [], itertools.count(1)
    each = ThreadPoolExecutor(cores).map if cores > 1 else map
    for x in np.linspace(0, 1, number):
        its_own = replace(RACE, temperature=1 + 7 * x, alpha=0.1 + 0.8 * x)
        trainers.append(training.Trainer(build_student(), batches, distill.distillation_loss, its_own))

    def epoch():  # as in training.train
        examples = batches.epoch(number := next(numbers))
        list(each(partial(training.Trainer.train_epoch, number=number, examples=examples, seconds=0), trainers))

    return epoch, None
