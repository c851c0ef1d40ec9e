"""The ways to train the same two nets that speed.py compares. Each is a function: name(teacher's path) -> (epoch,
predict).

    echo 1 | python studies/contenders.py NAME artifacts/teacher.keras

epoch() trains one epoch; predict(images (n, h, w) uint8) gives the net's logits, and is None where no net is trained.
As a script this serves one contender to speed.py: it prints a line of JSON when it is warm (set up, compiled, one
epoch done), and then one for each line it reads, which says how many epochs to train.

Distilling: 784-64-64-10, batch 250, T = 4, alpha = 0.9, Adam at 1e-3, all 60,000 digits, a trained teacher.
Teaching: 784-1200-1200-10, batch 500, dropout 0.1 and 0.4, shifts by up to 2 pixels, Adam at 1e-3, all 60,000 digits.
"""

import functools
import itertools
import json
import math
import os
import statistics
import sys
import time
import timeit
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import inference, model_files, training

import keras
import numpy as np
import tensorflow as tf

import data
import distill
import student
import teacher

T, ALPHA, RATE = 4.0, 0.9, 1e-3
NUM_IMAGES, DISTIL_BATCH, TEACHER_BATCH = 60_000, 250, 500
LAYERS = [(784, 64), (64, 64), (64, 10)]  # inputs and outputs
TEACHER_LAYERS = [(784, 1200), (1200, 1200), (1200, 10)]
DROPOUT = {"input_dropout": 0.1, "dropout": 0.4}  # of the teacher

digits = functools.cache(functools.partial(data.load, validation=0))
build_student = functools.partial(student.build_student, (28, 28), 10)
build_teacher = functools.partial(teacher.build_teacher, (28, 28), 10, teacher.TeacherRecipe(**DROPOUT))
load_teacher = functools.partial(model_files.load, example_shape=(28, 28), num_classes=10)


def cached_logits(path, translate=0):
    return distill.teacher_logits(load_teacher(path), digits().train.images, translate, cache=Path(path).parent)


def train_arrays():
    """The training images (n, 28, 28) float32 in [0, 1], and the labels (n,) int64."""
    return inference.to_unit(digits().train.images).numpy(), digits().train.labels.astype(np.int64)


# ---- this project, as it is and with one thing changed ---------------------------------------------------------------


def train_here(model, batches, loss):
    run_epoch = training.compile_epoch(model, keras.optimizers.Adam(RATE), batches, loss)
    numbers = itertools.count(1)
    return lambda: run_epoch(batches.collect(next(numbers))), inference.predictor(model)


def ours(path, translate=0, repeat=1, kind=data.Batches):
    """This project, with cached logits. translate: the images are shifted; repeat: there are so many times as many."""
    parts = [*digits().train, cached_logits(path, translate)]
    split = [np.resize(part, (round(NUM_IMAGES * repeat), *part.shape[1:])) for part in parts]
    logits = split.pop()
    batches = kind(data.Split(*split), DISTIL_BATCH, seed=0, translate=translate, teacher_logits=logits)
    loss = functools.partial(distill.distillation_loss, temperature=T, alpha=ALPHA)
    return train_here(build_student(), batches, loss)


def ours_teacher(path):
    """This project."""
    batches = data.Batches(digits().train, TEACHER_BATCH, seed=0, translate=2)
    return train_here(build_teacher(), batches, training.cross_entropy)


class GraphBatches(data.Batches):
    """Gathers the images of each batch inside the graph, not all of an epoch's before it. Images are not shifted."""

    def collect(self, number):
        indices, shifts = map(tf.constant, self.order(number))
        return data.Examples(indices, shifts, tf.gather(self._labels, indices), tf.gather(self._logits, indices))

    def view(self, examples):
        return super().view(examples._replace(rows=tf.gather(self._images, examples.rows)))


def with_xla(contender, wanted, path):
    """The contender, each of its graphs compiled by XLA, or none of them."""
    real = tf.function
    tf.function = lambda function=None, jit_compile=None, **options: real(function, jit_compile=wanted, **options)
    return contender(path)


def logits_only(path, translate=0):
    """Only the teacher's logits, of every shift of every training image: what each epoch would take in addition
    without the cache.
    """
    net, images = load_teacher(path), digits().train.images
    return lambda: distill.teacher_logits(net, images, translate), None


ours_translated = functools.partial(ours, translate=2)
ours_15000, ours_30000, ours_120000, ours_240000 = (functools.partial(ours, repeat=n) for n in (1 / 4, 1 / 2, 2, 4))
gathered_in_the_graph = functools.partial(ours, kind=GraphBatches)
without_xla = functools.partial(with_xla, ours, False)
teacher_under_xla = functools.partial(with_xla, ours_teacher, True)  # in spite of the dropout
logits_1_view, logits_25_views = logits_only, functools.partial(logits_only, translate=2)


# ---- Keras -----------------------------------------------------------------------------------------------------------


def fit(model, net, *examples, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(RATE), loss=loss, metrics=["accuracy"])
    return lambda: model.fit(*examples, **options, verbose=0), inference.predictor(net)


def best_fit(path):
    """Keras' `fit` at its best: indices from tf.data, images gathered from memory, an epoch in a call, XLA, cached
    logits.
    """
    images, labels, logits = map(tf.constant, (*digits().train, cached_logits(path)[:, 0]))

    def batch(indices):
        targets = tf.concat([tf.cast(tf.gather(labels, indices), tf.float32)[:, None], tf.gather(logits, indices)], -1)
        return inference.to_unit(tf.gather(images, indices)), targets

    def loss(targets, logits):
        return distill.distillation_loss(tf.cast(targets[:, 0], tf.int32), targets[:, 1:], logits, T, ALPHA)

    model = build_student()
    optimizer = keras.optimizers.Adam(RATE)
    model.compile(optimizer=optimizer, loss=loss, steps_per_execution=NUM_IMAGES // DISTIL_BATCH, jit_compile=True)
    order = tf.data.Dataset.range(NUM_IMAGES, output_type=tf.int32).shuffle(NUM_IMAGES).batch(DISTIL_BATCH)
    pipeline = order.map(batch).prefetch(2)
    return lambda: model.fit(pipeline, verbose=0), inference.predictor(model)


def keras_distiller(path):
    """`keras.distillation.Distiller` as its documentation uses it, with the loss that works."""
    net = build_student()
    loss = keras.distillation.LogitsDistillation(temperature=T, loss=keras.losses.KLDivergence())
    distiller = keras.distillation.Distiller(load_teacher(path), net, loss, student_loss_weight=1 - ALPHA)
    return fit(distiller, net, *train_arrays(), batch_size=DISTIL_BATCH)


def keras_example(path):
    """keras.io's example "Knowledge Distillation": a Model whose compute_loss runs the teacher on each batch."""
    net, frozen, softmax = build_student(), load_teacher(path), keras.ops.softmax
    hard_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    soft_loss = keras.losses.KLDivergence()

    class Distiller(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            soft = soft_loss(softmax(frozen(x, training=False) / T), softmax(y_pred / T))
            return ALPHA * T**2 * soft + (1 - ALPHA) * hard_loss(y, y_pred)

    distiller = Distiller(net.inputs, net.outputs)
    return fit(distiller, net, *train_arrays(), batch_size=DISTIL_BATCH)


def keras_teacher(path):
    """Plain `fit` on a tf.data pipeline with a RandomTranslation layer."""
    model, move = build_teacher(), keras.layers.RandomTranslation(2 / 28, 2 / 28, fill_mode="constant")
    shuffled = tf.data.Dataset.from_tensor_slices(train_arrays()).shuffle(NUM_IMAGES)
    view = lambda images, labels: (move(images[..., None], training=True)[..., 0], labels)
    pipeline = shuffled.batch(TEACHER_BATCH).map(view, num_parallel_calls=tf.data.AUTOTUNE)
    return fit(model, model, pipeline.prefetch(tf.data.AUTOTUNE))


# ---- PyTorch and JAX -------------------------------------------------------------------------------------------------


def torch_net(layers, input_dropout=0.0, dropout=0.0):
    from torch import nn

    modules = [nn.Flatten(), nn.Dropout(input_dropout)]
    for inputs, outputs in layers:
        modules += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*(module for module in modules[:-2] if not isinstance(module, nn.Dropout) or module.p))


def torch_logits(net, images):
    import torch

    with torch.no_grad():
        return net.eval()(torch.tensor(inference.to_unit(images).numpy())).numpy()


def torch_loss(student_logits, teacher_logits, labels):
    import torch

    student_log, soft_targets = (student_logits / T).log_softmax(-1), (teacher_logits / T).softmax(-1)
    kl = torch.nn.functional.kl_div(student_log, soft_targets, reduction="batchmean")
    return ALPHA * T**2 * kl + (1 - ALPHA) * torch.nn.functional.cross_entropy(student_logits, labels)


def torch_loader(path):
    """PyTorch as in its tutorials: a DataLoader, the teacher run on each batch."""
    import torch

    net, frozen = torch_net(LAYERS), torch_net(TEACHER_LAYERS).eval().requires_grad_(False)
    for parameter, weights in zip(frozen.parameters(), load_teacher(path).get_weights()):
        parameter.copy_(torch.tensor(weights.T))
    examples = torch.utils.data.TensorDataset(*map(torch.tensor, train_arrays()))
    loader = torch.utils.data.DataLoader(examples, DISTIL_BATCH, shuffle=True)
    optimizer = torch.optim.Adam(net.parameters(), RATE)

    def epoch():
        for images, labels in loader:
            optimizer.zero_grad()
            torch_loss(net(images), frozen(images), labels).backward()
            optimizer.step()

    return epoch, functools.partial(torch_logits, net)


def torch_memory(path):
    """PyTorch with its tensors in memory, the teacher's logits cached, and the fused Adam."""
    import torch

    net = torch_net(LAYERS)
    images, labels, logits = map(torch.tensor, (*train_arrays(), cached_logits(path)[:, 0]))
    optimizer = torch.optim.Adam(net.parameters(), RATE, fused=True)

    def epoch():
        for index in torch.randperm(NUM_IMAGES).split(DISTIL_BATCH):
            optimizer.zero_grad()
            torch_loss(net(images[index]), logits[index], labels[index]).backward()
            optimizer.step()

    return epoch, functools.partial(torch_logits, net)


def torch_compile(path):
    """The same with `torch.compile`, which makes one function of a step: gather, loss, gradients, and Adam written
    out.
    """
    import torch

    net = torch_net(LAYERS)
    images, labels, logits = map(torch.tensor, (*train_arrays(), cached_logits(path)[:, 0]))
    weights = {name: weight.detach() for name, weight in net.named_parameters()}  # in the memory of the net's
    means, squares = ({name: torch.zeros_like(weight) for name, weight in weights.items()} for _ in range(2))
    count = torch.zeros(())

    def loss(weights, index):
        return torch_loss(torch.func.functional_call(net, weights, images[index]), logits[index], labels[index])

    @torch.compile
    def step(index):
        gradients = torch.func.grad(loss)(weights, index)
        count.add_(1)
        rate = RATE * torch.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        for name, gradient in gradients.items():
            means[name].lerp_(gradient, 1 - 0.9)
            squares[name].lerp_(gradient**2, 1 - 0.999)
            weights[name].sub_(rate * means[name] / (squares[name].sqrt() + 1e-7))

    def epoch():
        for index in torch.randperm(NUM_IMAGES).split(DISTIL_BATCH):
            step(index)

    return epoch, functools.partial(torch_logits, net)


def torch_teacher(path):
    """PyTorch with its tensors in memory, each image shifted on its own, and the fused Adam."""
    import torch

    net, (images, labels) = torch_net(TEACHER_LAYERS, **DROPOUT), map(torch.tensor, train_arrays())
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2)).reshape(NUM_IMAGES, -1)
    optimizer = torch.optim.Adam(net.parameters(), RATE, fused=True)
    pixels = (torch.arange(28)[:, None] * 32 + torch.arange(28)).reshape(1, -1)

    def epoch():
        net.train()
        for index in torch.randperm(NUM_IMAGES).split(TEACHER_BATCH):
            corner = torch.randint(5, (len(index), 1)) * 32 + torch.randint(5, (len(index), 1))
            optimizer.zero_grad()
            logits = net(padded[index].gather(1, corner + pixels))
            torch.nn.functional.cross_entropy(logits, labels[index]).backward()
            optimizer.step()

    return epoch, functools.partial(torch_logits, net)


def jax_scan(path):
    """JAX: one `jit` of a `lax.scan` over an epoch's steps; images uint8 on the device, cached logits, Adam written
    out.
    """
    import jax
    from jax import numpy as jnp

    random, weights = np.random.default_rng(0), build_student().get_weights()  # its kernels and biases in turn
    makers = jnp.array, jnp.zeros_like, jnp.zeros_like
    state = tuple(jax.tree.map(make, weights) for make in makers), jnp.float32(0)
    examples = jax.device_put((*digits().train, cached_logits(path)[:, 0]))

    @jax.jit
    def forward(weights, images):
        values = images.reshape(-1, 784).astype(jnp.float32) / 255
        for kernel, bias in zip(weights[:-2:2], weights[1:-2:2]):
            values = jax.nn.relu(values @ kernel + bias)
        return values @ weights[-2] + weights[-1]

    def loss(weights, images, labels, teacher_logits):
        logits = forward(weights, images)
        teacher_log, student_log = jax.nn.log_softmax(teacher_logits / T), jax.nn.log_softmax(logits / T)
        kl = (jnp.exp(teacher_log) * (teacher_log - student_log)).sum(-1)
        cross_entropy = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], -1)[:, 0]
        return (ALPHA * T**2 * kl + (1 - ALPHA) * cross_entropy).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def run_epoch(state, order, examples):
        def step(state, index):
            (weights, means, squares), count = state
            gradients = jax.grad(loss)(weights, *(part[index] for part in examples))
            count += 1
            rate = RATE * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
            means = jax.tree.map(lambda m, g: m + (1 - 0.9) * (g - m), means, gradients)
            squares = jax.tree.map(lambda s, g: s + (1 - 0.999) * (g**2 - s), squares, gradients)
            weights = jax.tree.map(lambda w, m, s: w - rate * m / (jnp.sqrt(s) + 1e-7), weights, means, squares)
            return ((weights, means, squares), count), None

        return jax.lax.scan(step, state, order)[0]

    def epoch():
        nonlocal state
        order = random.permutation(NUM_IMAGES).astype(np.int32).reshape(-1, DISTIL_BATCH)
        state = jax.block_until_ready(run_epoch(state, order, examples))

    return epoch, lambda images: np.asarray(forward(state[0][0], images))


def layer_products(batch, k, n):
    """(left shape, right shape, transposed) of a dense layer's products: forward, gradient of weights, gradient of
    inputs.
    """
    forward, to_weights = ((batch, k), (k, n), {}), ((batch, k), (batch, n), {"transpose_a": True})
    return [forward, to_weights, ((batch, n), (k, n), {"transpose_b": True})]


def products(shapes, times, xla=False):
    """A function that does these float32 products so many times, in a loop in the graph."""
    left, right = ([tf.random.normal(pair[side]) for pair in shapes] for side in (0, 1))

    @tf.function(jit_compile=xla)
    def run(left, right, times):
        total = tf.constant(0.0)
        while times > 0:
            for a, b, (_, _, transposed) in zip(left, right, shapes):
                a = a + total if xla else a  # or XLA would move the product out of the loop
                total += 1e-20 * tf.matmul(a, b, **transposed)[0, 0]
            times -= 1
        return total

    return lambda: run(left, right, tf.constant(times)).numpy()


def product_seconds(shapes):
    return statistics.median(timeit.repeat(products([shapes], 20), number=1, repeat=6)) / 20


def floor_student(path):
    """The matrix products of an epoch of the student, in one loop under XLA as ours are."""
    shapes = [each for layer in LAYERS for each in layer_products(DISTIL_BATCH, *layer)]
    del shapes[2]  # nobody needs the gradient of the pixels
    return products(shapes, NUM_IMAGES // DISTIL_BATCH, xla=True), None


def floor_teacher(path):
    """6 x parameters x examples / the best rate of matmul over the products of the layers."""
    layers = [(TEACHER_BATCH, *layer) for layer in TEACHER_LAYERS]
    rates = lambda: (2 * math.prod(one) / product_seconds(each) for one in layers for each in layer_products(*one))
    return lambda: 6 * 2_395_210 * NUM_IMAGES / max(rates()), None


def floor_logits_25_views(path):
    """The teacher's products, as often as the logits of 25 shifts of every image take them."""
    batch = distill.IMAGES_AT_ONCE
    shapes = [layer_products(batch, *layer)[0] for layer in TEACHER_LAYERS]
    return lambda: 25 * NUM_IMAGES / batch * sum(map(product_seconds, shapes)), None


def serve(name, path):
    """Answer speed.py on stdout; whatever else prints goes to stderr. A floor returns the seconds, others are timed."""
    answers, sys.stdout = sys.stdout, sys.stderr
    answer = lambda **values: print(json.dumps(values), file=answers, flush=True)
    start = time.perf_counter()
    try:
        epoch, predict = globals()[name](path)
    except ModuleNotFoundError as error:
        return answer(missing=error.name)
    epoch()
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else len(os.sched_getaffinity(0))  # the others take every core
    answer(warm_seconds=time.perf_counter() - start, threads=threads)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            floor = epoch()
            seconds.append(floor if isinstance(floor, float) else time.perf_counter() - start)
        test = digits().test
        answer(seconds=seconds, test_errors=predict and int(np.sum(predict(test.images).argmax(-1) != test.labels)))


if __name__ == "__main__":
    serve(*sys.argv[1:])
