"""The ways to train the same nets that speed.py compares. Each is a function: name(teacher's path) -> (epoch, errors).

    echo 1 | python studies/contenders.py NAME artifacts/teacher.keras

epoch() trains one epoch, errors() counts the test errors. As a script this serves one contender to speed.py: it prints a line of
JSON when it is warm (set up, compiled, one epoch done), then one for each line it reads, which says how many epochs to train.

Distilling: 784-64-64-10, batch 250, T = 4, alpha = 0.9, Adam at 1e-3, all 60,000 digits, a trained teacher.
Teaching: 784-1200-1200-10, batch 500, dropout 0.1 and 0.4, shifts by up to 2 pixels, Adam at 1e-3, all 60,000 digits.
"""

import functools
import itertools
import json
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import models, training

import keras
import numpy as np
import tensorflow as tf

import data
import distill
import student
import teacher

T, ALPHA, RATE = 4.0, 0.9, 1e-3
DISTIL_BATCH, TEACHER_BATCH = 250, 500
HIDDEN, TEACHER_HIDDEN = (64, 64), (1200, 1200)
INPUT_DROPOUT, DROPOUT = 0.1, 0.4  # of the teacher


@functools.cache
def digits():
    return data.load(validation=0)


def load_teacher(path):
    return models.load(path, digits().image_shape, digits().num_classes)


def cached_logits(path, translate=0):
    return distill.teacher_logits(load_teacher(path), digits().train.images, translate, cache=Path(path).parent)


def build_student():
    return student.build_student(digits().image_shape, digits().num_classes, HIDDEN)


def build_teacher():
    return teacher.build_teacher(digits().image_shape, digits().num_classes, TEACHER_HIDDEN, DROPOUT, INPUT_DROPOUT)


def keras_errors(model):
    return lambda: models.count_errors(model, digits().test)


def scaled(images):
    return models.to_unit(images).numpy()


def layer_sizes(hidden):
    """[(inputs, outputs)] of each dense layer."""
    return list(itertools.pairwise([784, *hidden, 10]))


# ---- distilling: this project, whole and with one thing changed ------------------------------------------------------


def train_here(model, batches, loss):
    run_epoch = training.compile_epoch(model, keras.optimizers.Adam(RATE), batches, loss)
    numbers = itertools.count(1)
    return lambda: run_epoch(next(numbers)), keras_errors(model)


def ours(path, translate=0, repeat=1.0, kind=data.Batches):
    """This project, with cached logits. translate: of shifted images; repeat: with so many times the images."""
    parts = [*digits().train, cached_logits(path, translate)]
    number = round(len(parts[0]) * repeat)
    images, labels, logits = (np.resize(part, (number, *part.shape[1:])) for part in parts)
    batches = kind(data.Split(images, labels), DISTIL_BATCH, seed=0, translate=translate, teacher_logits=logits)
    return train_here(
        build_student(), batches, functools.partial(distill.distillation_loss, temperature=T, alpha=ALPHA)
    )


ours_translated = functools.partial(ours, translate=2)
ours_15000 = functools.partial(ours, repeat=1 / 4)
ours_30000 = functools.partial(ours, repeat=1 / 2)
ours_120000 = functools.partial(ours, repeat=2)
ours_240000 = functools.partial(ours, repeat=4)


def compile_with_xla(wanted):
    """From now on, `tf.function` uses XLA if wanted, and does not if not, whatever its caller says."""
    real = tf.function
    tf.function = lambda function=None, jit_compile=None, **options: real(function, jit_compile=wanted, **options)


def without_xla(path):
    """This project, its epoch a graph that XLA does not compile."""
    compile_with_xla(False)
    return ours(path)


class GraphBatches(data.Batches):
    """Gathers each batch inside the graph, not all of an epoch's rows before it. Images are not shifted."""

    def collect(self, number):
        return [tf.constant(part) for part in self.order(number)]

    def view(self, indices, shifts):
        targets = tf.gather(self._labels, indices), tf.gather(self._logits, indices)
        return super().view(tf.gather(self._images, indices), shifts, *targets)


gathered_in_the_graph = functools.partial(ours, kind=GraphBatches)


def logits_1_view(path):
    """The teacher's logits of the images as they are: what each epoch would take in addition without the cache."""
    net, images = load_teacher(path), digits().train.images
    return lambda: distill.teacher_logits(net, images), lambda: None


# ---- distilling: Keras -----------------------------------------------------------------------------------------------


def best_fit(path):
    """Keras' `fit` at its best: indices from tf.data, images gathered from memory, an epoch in a call, XLA, cached logits."""
    batches = GraphBatches(digits().train, DISTIL_BATCH, seed=0, teacher_logits=cached_logits(path))

    def batch(indices):
        images, labels, logits = batches.view(indices, None)
        return images, tf.concat([tf.cast(labels, tf.float32)[:, None], logits], axis=-1)

    model = build_student()
    model.compile(
        optimizer=keras.optimizers.Adam(RATE),
        loss=lambda y, logits: distill.distillation_loss(tf.cast(y[:, 0], tf.int32), y[:, 1:], logits, T, ALPHA),
        steps_per_execution=batches.num_steps,
        jit_compile=True,
    )
    order = tf.data.Dataset.range(60_000, output_type=tf.int32).shuffle(60_000).batch(DISTIL_BATCH)
    pipeline = order.map(batch).prefetch(2)
    return lambda: model.fit(pipeline, verbose=0), keras_errors(model)


def keras_distiller(path):
    """`keras.distillation.Distiller` as its documentation uses it, with the loss that works."""
    net = build_student()
    distiller = keras.distillation.Distiller(
        teacher=load_teacher(path),
        student=net,
        distillation_losses=keras.distillation.LogitsDistillation(temperature=T, loss=keras.losses.KLDivergence()),
        student_loss_weight=1 - ALPHA,
    )
    return keras_fit(distiller, net)


class ExampleDistiller(keras.Model):
    def __init__(self, student, teacher):
        super().__init__()
        self.student, self.teacher = student, teacher
        self.student_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.distillation_loss = keras.losses.KLDivergence()

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        teacher_logits = self.teacher(x, training=False)
        soft = self.distillation_loss(keras.ops.softmax(teacher_logits / T), keras.ops.softmax(y_pred / T))
        return ALPHA * T**2 * soft + (1 - ALPHA) * self.student_loss(y, y_pred)

    def call(self, x, training=None):
        return self.student(x, training=training)


def keras_example(path):
    """keras.io's example "Knowledge Distillation": a Model whose compute_loss runs the teacher on each batch."""
    net, frozen = build_student(), load_teacher(path)
    frozen.trainable = False
    return keras_fit(ExampleDistiller(net, frozen), net)


def compile_plain(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(RATE), loss=loss, metrics=["accuracy"])


def keras_fit(model, net):
    compile_plain(model)
    images, labels = scaled(digits().train.images), digits().train.labels
    return lambda: model.fit(images, labels, batch_size=DISTIL_BATCH, verbose=0), keras_errors(net)


# ---- distilling: PyTorch ---------------------------------------------------------------------------------------------


def torch_net(hidden, input_dropout=0.0, dropout=0.0):
    from torch import nn

    layers = [nn.Flatten(), nn.Dropout(input_dropout)]
    for inputs, outputs in layer_sizes(hidden):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*(layer for layer in layers[:-2] if not isinstance(layer, nn.Dropout) or layer.p))


def torch_digits():
    """The training images (n, 28, 28) float32 in [0, 1] and labels (n,) as PyTorch tensors."""
    import torch

    return torch.tensor(scaled(digits().train.images)), torch.tensor(digits().train.labels).long()


def torch_errors(net):
    import torch

    def errors():
        net.eval()
        with torch.no_grad():
            classes = net(torch.tensor(scaled(digits().test.images))).argmax(-1).numpy()
        net.train()
        return int(np.sum(classes != digits().test.labels))

    return errors


def torch_loss(student_logits, teacher_logits, labels):
    from torch.nn import functional

    soft = functional.kl_div(
        functional.log_softmax(student_logits / T, -1),
        functional.softmax(teacher_logits / T, -1),
        reduction="batchmean",
    )
    return ALPHA * T**2 * soft + (1 - ALPHA) * functional.cross_entropy(student_logits, labels)


def torch_loader(path):
    """PyTorch as in its tutorials: a DataLoader, the teacher run on each batch."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    net, frozen = torch_net(HIDDEN), torch_net(TEACHER_HIDDEN).eval()
    with torch.no_grad():
        for parameter, weights in zip(frozen.parameters(), load_teacher(path).get_weights()):
            parameter.copy_(torch.tensor(weights.T))
    loader = DataLoader(TensorDataset(*torch_digits()), DISTIL_BATCH, shuffle=True)
    optimizer = torch.optim.Adam(net.parameters(), RATE)

    def epoch():
        for images, labels in loader:
            with torch.no_grad():
                teacher_logits = frozen(images)
            optimizer.zero_grad()
            torch_loss(net(images), teacher_logits, labels).backward()
            optimizer.step()

    return epoch, torch_errors(net)


def torch_memory(path):
    """PyTorch with its tensors in memory, the teacher's logits cached, and the fused Adam."""
    import torch

    net, (images, labels), logits = torch_net(HIDDEN), torch_digits(), torch.tensor(cached_logits(path)[:, 0])
    optimizer = torch.optim.Adam(net.parameters(), RATE, fused=True)

    def epoch():
        for index in torch.randperm(len(images)).split(DISTIL_BATCH):
            optimizer.zero_grad()
            torch_loss(net(images[index]), logits[index], labels[index]).backward()
            optimizer.step()

    return epoch, torch_errors(net)


def torch_compile(path):
    """The same, but one `torch.compile` makes a single function of a step: gathering, loss, gradients, and Adam written out."""
    import torch

    net, (images, labels), logits = torch_net(HIDDEN), torch_digits(), torch.tensor(cached_logits(path)[:, 0])
    weights = {name: parameter.detach() for name, parameter in net.named_parameters()}  # they share the net's memory
    means, squares = ({name: torch.zeros_like(weight) for name, weight in weights.items()} for _ in range(2))
    count = torch.zeros(())

    def loss(weights, index):
        student_logits = torch.func.functional_call(net, weights, (images[index],))
        return torch_loss(student_logits, logits[index], labels[index])

    @torch.compile
    def step(index):
        gradients = torch.func.grad(loss)(weights, index)
        count.add_(1)
        rate = RATE * torch.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        for name, gradient in gradients.items():
            means[name].lerp_(gradient, 1 - 0.9)
            squares[name].lerp_(gradient**2, 1 - 0.999)
            weights[name].sub_(rate * means[name] / (torch.sqrt(squares[name]) + 1e-7))

    def epoch():
        for index in torch.randperm(len(images)).split(DISTIL_BATCH):
            step(index)

    return epoch, torch_errors(net)


# ---- distilling: JAX -------------------------------------------------------------------------------------------------


def jax_scan(path):
    """JAX: one `jit` of a `lax.scan` over all steps of an epoch; images uint8 on the device, cached logits, Adam written out."""
    import jax
    from jax import lax
    from jax import numpy as jnp

    random = np.random.default_rng(0)
    weights = []
    for inputs, outputs in layer_sizes(HIDDEN):  # Glorot uniform, as Keras' Dense
        limit = np.sqrt(6 / (inputs + outputs))
        weights.append((random.uniform(-limit, limit, (inputs, outputs)).astype(np.float32), np.zeros(outputs, "f")))
    zeros = jax.tree.map(np.zeros_like, weights)
    state = jax.device_put((weights, zeros, zeros, np.float32(0)))
    examples = jax.device_put((*digits().train, cached_logits(path)[:, 0]))

    @jax.jit
    def forward(weights, images):
        *hidden, (kernel, bias) = weights
        values = images.reshape(-1, 784).astype(jnp.float32) / 255
        for kernel_below, bias_below in hidden:
            values = jax.nn.relu(values @ kernel_below + bias_below)
        return values @ kernel + bias

    def loss(weights, images, labels, teacher_logits):
        logits = forward(weights, images)
        teacher_log, student_log = jax.nn.log_softmax(teacher_logits / T), jax.nn.log_softmax(logits / T)
        kl = (jnp.exp(teacher_log) * (teacher_log - student_log)).sum(-1)
        cross_entropy = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], -1)[:, 0]
        return (ALPHA * T**2 * kl + (1 - ALPHA) * cross_entropy).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def run_epoch(state, order, examples):
        def step(state, index):
            weights, means, squares, count = state
            gradients = jax.grad(loss)(weights, *(part[index] for part in examples))
            count += 1
            rate = RATE * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
            means = jax.tree.map(lambda m, g: m + (1 - 0.9) * (g - m), means, gradients)
            squares = jax.tree.map(lambda s, g: s + (1 - 0.999) * (g**2 - s), squares, gradients)
            weights = jax.tree.map(lambda w, m, s: w - rate * m / (jnp.sqrt(s) + 1e-7), weights, means, squares)
            return (weights, means, squares, count), None

        return lax.scan(step, state, order)[0]

    def epoch():
        nonlocal state
        order = random.permutation(60_000).astype(np.int32).reshape(-1, DISTIL_BATCH)
        state = jax.block_until_ready(run_epoch(state, order, examples))

    def errors():
        classes = np.asarray(forward(state[0], digits().test.images)).argmax(-1)
        return int(np.sum(classes != digits().test.labels))

    return epoch, errors


# ---- teaching --------------------------------------------------------------------------------------------------------


def ours_teacher(path):
    """This project."""
    batches = data.Batches(digits().train, TEACHER_BATCH, seed=0, translate=2)
    return train_here(build_teacher(), batches, training.cross_entropy)


def teacher_with_plain_crop(path):
    """This project, its shifts not compiled by XLA."""
    data.Batches._shifted = data.Batches._shifted.python_function
    return ours_teacher(path)


def teacher_under_xla(path):
    """This project, its epoch compiled by XLA in spite of the dropout."""
    compile_with_xla(True)
    return ours_teacher(path)


def keras_teacher(path):
    """Plain `fit` on a tf.data pipeline with a RandomTranslation layer."""
    model = build_teacher()
    compile_plain(model)
    move = keras.layers.RandomTranslation(2 / 28, 2 / 28, fill_mode="constant")
    images = scaled(digits().train.images)[..., None]
    pipeline = (
        tf.data.Dataset.from_tensor_slices((images, digits().train.labels))
        .shuffle(60_000)
        .batch(TEACHER_BATCH)
        .map(lambda x, y: (move(x, training=True)[..., 0], y), num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )
    return lambda: model.fit(pipeline, verbose=0), keras_errors(model)


def torch_teacher(path):
    """PyTorch with its tensors in memory, each image shifted on its own, and the fused Adam."""
    import torch
    from torch.nn import functional

    net, (images, labels) = torch_net(TEACHER_HIDDEN, INPUT_DROPOUT, DROPOUT), torch_digits()
    padded = functional.pad(images, (2, 2, 2, 2)).reshape(len(images), -1)
    optimizer = torch.optim.Adam(net.parameters(), RATE, fused=True)
    pixels = (torch.arange(28)[:, None] * 32 + torch.arange(28)).reshape(1, -1)

    def epoch():
        for index in torch.randperm(len(padded)).split(TEACHER_BATCH):
            corner = torch.randint(5, (len(index), 1)) * 32 + torch.randint(5, (len(index), 1))
            optimizer.zero_grad()
            functional.cross_entropy(net(padded[index].gather(1, corner + pixels)), labels[index]).backward()
            optimizer.step()

    return epoch, torch_errors(net)


# ---- logits of all shifts, and floors, whose epoch() returns the least seconds that it would take --------------------


def logits_25_views(path):
    """This project's logits of the teacher, for every shift by up to two pixels of every training image."""
    net, images = load_teacher(path), digits().train.images
    return lambda: distill.teacher_logits(net, images, translate=2), lambda: None


def matmul_seconds(m, k, n, transpose_a, transpose_b, calls=20):
    """The median seconds of a float32 product (m, k) x (k, n), in a loop in the graph."""
    a = tf.random.normal((k, m) if transpose_a else (m, k))
    b = tf.random.normal((n, k) if transpose_b else (k, n))

    @tf.function
    def products():
        for _ in tf.range(calls):
            product = tf.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b)
        return product[0, 0]

    products()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        products()
        times.append((time.perf_counter() - start) / calls)
    return statistics.median(times)


def step_shapes(batch, hidden):
    """The matrix products of a training step: forward, to the weights, to the inputs of all layers but the first."""
    layers = layer_sizes(hidden)
    forward = [(batch, k, n, False, False) for k, n in layers]
    to_weights = [(k, batch, n, True, False) for k, n in layers]
    to_inputs = [(batch, n, k, False, True) for k, n in layers[1:]]
    return forward + to_weights + to_inputs


def floor_student(path):
    """The matrix products of an epoch of the student and nothing else, in one loop under XLA as ours are."""
    shapes = step_shapes(DISTIL_BATCH, HIDDEN)
    left = [tf.random.normal((k, m) if transpose else (m, k)) for m, k, n, transpose, _ in shapes]
    right = [tf.random.normal((n, k) if transpose else (k, n)) for m, k, n, _, transpose in shapes]

    @tf.function(jit_compile=True)
    def products(left, right, steps):
        total = tf.constant(0.0)
        while steps > 0:
            for a, b, (*_, transpose_a, transpose_b) in zip(left, right, shapes):
                a = a + total  # so that no product is moved out of the loop
                total += 1e-20 * tf.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b)[0, 0]
            steps -= 1
        return total

    steps = tf.constant(60_000 // DISTIL_BATCH)
    return lambda: products(left, right, steps).numpy(), lambda: None


def floor_teacher(path):
    """6 x parameters x examples / the best rate of matmul over the shapes of the layers, forward and backward."""

    def seconds():
        shapes = step_shapes(TEACHER_BATCH, TEACHER_HIDDEN)
        rates = [2 * m * k * n / matmul_seconds(m, k, n, *transposed) for m, k, n, *transposed in shapes]
        return 6 * 2_395_210 * 60_000 / max(rates)

    return seconds, lambda: None


def floor_logits_25_views(path):
    """The teacher's matrix products alone, as often as the logits of 25 shifts of every image take them."""
    shapes = step_shapes(distill.IMAGES_AT_ONCE, TEACHER_HIDDEN)[:3]  # forward
    calls = 25 * 60_000 / distill.IMAGES_AT_ONCE
    return lambda: calls * sum(matmul_seconds(*shape) for shape in shapes), lambda: None


# ---- the process that speed.py starts --------------------------------------------------------------------------------


def serve(name, path):
    """Answer speed.py on stdout; whatever else prints goes to stderr."""
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(**values):
        print(json.dumps(values), file=answers, flush=True)

    start = time.perf_counter()
    try:
        epoch, errors = globals()[name](path)
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
        answer(seconds=seconds, test_errors=errors())


if __name__ == "__main__":
    serve(*sys.argv[1:])
