"""Ways to train the same net, each as `name(teacher's path) -> (epoch, errors)`: epoch() trains one, errors() counts on the test set.

    python contenders.py NAME teacher.keras

serves one of them to speed.py: a JSON line once it is warm (set up, compiled, an epoch done), then one for each line read,
which says how many epochs to train.

Distilling: 784-64-64-10, batch 250, T = 4, alpha = 0.9, Adam at 1e-3, all 60,000 digits, a trained teacher.
Teaching: 784-1200-1200-10, batch 500, dropout 0.1 and 0.4, 2-pixel translations, Adam at 1e-3, all 60,000 digits.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import common  # noqa: F401 - before TensorFlow: it keeps the start-up quiet
import numpy as np

import data

T, ALPHA, RATE = 4.0, 0.9, 1e-3
DISTIL_BATCH, TEACHER_BATCH = 250, 500
DIGITS = data.load(validation=0)


def scaled(images):
    return images.astype(np.float32) / 255


def load_teacher(path):
    import training

    return training.load(Path(path), DIGITS.image_shape, DIGITS.num_classes)


# ---- distilling ------------------------------------------------------------------------------------------------------


def ours(path, translate=0, repeat=1):
    """This project. translate: views of every image, on cached logits; repeat: that many copies of (a part of) the images."""
    import training

    import distill
    import student

    logits = distill.teacher_logits(load_teacher(path), DIGITS.train.images, translate, cache=Path(path).parent)
    parts = [DIGITS.train.images, DIGITS.train.labels, logits]
    number = round(60_000 * repeat)
    images, labels, logits = (np.resize(part, (number, *part.shape[1:])) for part in parts)
    model = student.build_student(DIGITS.image_shape, DIGITS.num_classes)
    batches = data.Batches(data.Split(images, labels), DISTIL_BATCH, seed=0, translate=translate, teacher_logits=logits)
    loss = distill.loss_at(T, ALPHA)
    run_epoch = training.compile_epoch(model, training.FusedAdam(RATE), batches, loss)
    numbers = iter(range(1, 1000))
    return lambda: run_epoch(next(numbers)), lambda: training.count_errors(model, DIGITS.test)


def ours_translated(path):
    return ours(path, translate=2)


def ours_15000(path):
    return ours(path, repeat=1 / 4)


def ours_30000(path):
    return ours(path, repeat=1 / 2)


def ours_120000(path):
    return ours(path, repeat=2)


def ours_240000(path):
    return ours(path, repeat=4)


def without_xla(path):
    """This project, its epoch a graph that XLA does not compile."""
    import tensorflow as tf

    real = tf.function
    tf.function = lambda function=None, jit_compile=None, **options: real(function, **options)
    return ours(path)


def gathered_in_the_graph(path):
    """This project, each batch gathered inside the graph, not an epoch at once before it."""
    import tensorflow as tf

    collect, view = data.Batches.collect, data.Batches.view
    data.Batches.collect = lambda self, indices, views: [tf.constant(indices), tf.constant(views)]
    data.Batches.view = lambda self, indices, views: view(self, *collect(self, indices, views))
    return ours(path)


def best_fit(path):
    """Keras' `fit` at its best: indices from tf.data, images gathered from memory, an epoch in one call, XLA, cached logits."""
    import keras
    import tensorflow as tf
    import training

    import distill
    import student

    logits = distill.teacher_logits(load_teacher(path), DIGITS.train.images, cache=Path(path).parent)
    batches = data.Batches(DIGITS.train, DISTIL_BATCH, seed=0, teacher_logits=logits)

    def batch(indices):
        images, labels, teacher_logits = batches.view(*batches.collect(indices, tf.zeros_like(indices)))
        return images, tf.concat([tf.cast(labels, tf.float32)[:, None], teacher_logits], axis=-1)

    model = student.build_student(DIGITS.image_shape, DIGITS.num_classes)
    model.compile(
        optimizer=keras.optimizers.Adam(RATE),
        loss=lambda y, s: distill.distillation_loss(tf.cast(y[:, 0], tf.int32), y[:, 1:], s, T, ALPHA),
        steps_per_execution=batches.num_steps,
        jit_compile=True,
    )
    order = tf.data.Dataset.range(60_000, output_type=tf.int32).shuffle(60_000).batch(DISTIL_BATCH)
    pipeline = order.map(batch).prefetch(2)
    return lambda: model.fit(pipeline, verbose=0), lambda: training.count_errors(model, DIGITS.test)


def keras_distiller(path):
    """`keras.distillation.Distiller`, as its documentation uses it, with the loss that works."""
    import keras

    import student

    net = student.build_student(DIGITS.image_shape, DIGITS.num_classes)
    distiller = keras.distillation.Distiller(
        teacher=load_teacher(path),
        student=net,
        distillation_losses=keras.distillation.LogitsDistillation(temperature=T, loss=keras.losses.KLDivergence()),
        student_loss_weight=1 - ALPHA,
    )
    return keras_fit(distiller, net)


def keras_example(path):
    """The way of keras.io's example "Knowledge Distillation": a Model whose compute_loss asks the teacher."""
    import keras

    import student

    class Distiller(keras.Model):
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

    net, teacher = student.build_student(DIGITS.image_shape, DIGITS.num_classes), load_teacher(path)
    teacher.trainable = False
    return keras_fit(Distiller(net, teacher), net)


def keras_fit(model, net):
    import keras
    import training

    model.compile(
        optimizer=keras.optimizers.Adam(RATE),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    images, labels = scaled(DIGITS.train.images), DIGITS.train.labels
    epoch = lambda: model.fit(images, labels, batch_size=DISTIL_BATCH, verbose=0)
    return epoch, lambda: training.count_errors(net, DIGITS.test)


def torch_net(hidden, input_dropout=0.0, dropout=0.0):
    from torch import nn

    layers, inputs = [nn.Flatten(), nn.Dropout(input_dropout)], 784
    for units in hidden:
        layers += [nn.Linear(inputs, units), nn.ReLU(), nn.Dropout(dropout)]
        inputs = units
    layers = [layer for layer in layers if not (isinstance(layer, nn.Dropout) and layer.p == 0)]
    return nn.Sequential(*layers, nn.Linear(inputs, 10))


def torch_teacher_net(path):
    """The same teacher, its weights carried over."""
    import torch

    net = torch_net((1200, 1200))
    weights = iter(load_teacher(path).get_weights())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.from_numpy(next(weights).T.copy()))
    return net.eval()


def torch_errors(net):
    import torch

    def errors():
        net.eval()
        with torch.no_grad():
            classes = net(torch.from_numpy(scaled(DIGITS.test.images))).argmax(-1).numpy()
        net.train()
        return int(np.sum(classes != DIGITS.test.labels))

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
    """PyTorch's tutorial: a DataLoader, the teacher asked on each batch."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    net, teacher = torch_net((64, 64)), torch_teacher_net(path)
    images, labels = torch.from_numpy(scaled(DIGITS.train.images)), torch.from_numpy(DIGITS.train.labels).long()
    loader = DataLoader(TensorDataset(images, labels), DISTIL_BATCH, shuffle=True)
    optimizer = torch.optim.Adam(net.parameters(), RATE)

    def epoch():
        for x, y in loader:
            with torch.no_grad():
                teacher_logits = teacher(x)
            optimizer.zero_grad()
            torch_loss(net(x), teacher_logits, y).backward()
            optimizer.step()

    return epoch, torch_errors(net)


def torch_memory(path):
    """PyTorch at its best: tensors in memory, the teacher's logits cached, the fused Adam."""
    import torch

    net, teacher = torch_net((64, 64)), torch_teacher_net(path)
    images, labels = torch.from_numpy(scaled(DIGITS.train.images)), torch.from_numpy(DIGITS.train.labels).long()
    with torch.no_grad():
        logits = torch.cat([teacher(part) for part in images.split(2000)])
    optimizer = torch.optim.Adam(net.parameters(), RATE, fused=True)

    def epoch():
        for index in torch.randperm(len(images)).split(DISTIL_BATCH):
            optimizer.zero_grad()
            torch_loss(net(images[index]), logits[index], labels[index]).backward()
            optimizer.step()

    return epoch, torch_errors(net)


# ---- teaching --------------------------------------------------------------------------------------------------------


def ours_teacher(path):
    """This project."""
    import training

    import teacher

    model = teacher.build_teacher(DIGITS.image_shape, DIGITS.num_classes)
    batches = data.Batches(DIGITS.train, TEACHER_BATCH, seed=0, translate=2)
    run_epoch = training.compile_epoch(model, training.FusedAdam(RATE), batches, training.cross_entropy)
    numbers = iter(range(1, 1000))
    return lambda: run_epoch(next(numbers)), lambda: training.count_errors(model, DIGITS.test)


def teacher_with_keras_adam(path):
    """This project with Keras' own Adam."""
    import keras
    import training

    training.FusedAdam = keras.optimizers.Adam
    return ours_teacher(path)


def teacher_with_keras_dropout(path):
    """This project with Keras' own dropout."""
    import training

    training.forward = lambda model, images, seed: model(images, training=True)
    return ours_teacher(path)


def teacher_with_plain_crop(path):
    """This project, its translation not compiled by XLA."""
    data.Batches._crop = data.Batches._crop.python_function
    return ours_teacher(path)


def teacher_under_xla(path):
    """This project, its epoch compiled by XLA in spite of the dropout."""
    import tensorflow as tf

    real = tf.function
    tf.function = lambda function=None, jit_compile=None, **options: real(function, jit_compile=True, **options)
    return ours_teacher(path)


def keras_teacher(path):
    """Plain `fit` on a tf.data pipeline with a RandomTranslation layer."""
    import keras
    import tensorflow as tf
    import training

    import teacher

    model = teacher.build_teacher(DIGITS.image_shape, DIGITS.num_classes)
    model.compile(
        optimizer=keras.optimizers.Adam(RATE),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    move = keras.layers.RandomTranslation(2 / 28, 2 / 28, fill_mode="constant")
    images = scaled(DIGITS.train.images)[..., None]
    pipeline = (
        tf.data.Dataset.from_tensor_slices((images, DIGITS.train.labels))
        .shuffle(60_000)
        .batch(TEACHER_BATCH)
        .map(lambda x, y: (move(x, training=True)[..., 0], y), num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )
    return lambda: model.fit(pipeline, verbose=0), lambda: training.count_errors(model, DIGITS.test)


def torch_teacher(path):
    """PyTorch in memory, each image moved by a shift of its own, the fused Adam."""
    import torch
    from torch.nn import functional

    net = torch_net((1200, 1200), input_dropout=0.1, dropout=0.4)
    padded = torch.from_numpy(scaled(data.padded(DIGITS.train.images, 2)))
    labels = torch.from_numpy(DIGITS.train.labels).long()
    optimizer = torch.optim.Adam(net.parameters(), RATE, fused=True)
    pixels = (torch.arange(28)[:, None] * 32 + torch.arange(28)).reshape(1, -1)

    def epoch():
        for index in torch.randperm(len(padded)).split(TEACHER_BATCH):
            corner = torch.randint(5, (len(index), 1)) * 32 + torch.randint(5, (len(index), 1))
            x = padded[index].reshape(len(index), -1).gather(1, corner + pixels)
            optimizer.zero_grad()
            functional.cross_entropy(net(x), labels[index]).backward()
            optimizer.step()

    return epoch, torch_errors(net)


# ---- the teacher's logits, and floors, whose epoch() returns the seconds that it would take at the least ----------------


def logits_1_view(path):
    """This project's teacher, asked for the digits as they are: what each epoch would cost without the cache."""
    import distill

    teacher, images = load_teacher(path), DIGITS.train.images
    return lambda: distill.teacher_logits(teacher, images), lambda: None


def logits_25_views(path):
    """This project's teacher, asked for every translation by up to two pixels of the digits to distil with."""
    import distill

    teacher, images = load_teacher(path), DIGITS.train.images
    return lambda: distill.teacher_logits(teacher, images, translate=2), lambda: None


def matmul_seconds(m, k, n, transpose_a, transpose_b, calls=20):
    """The median seconds of a float32 product (m, k) x (k, n), in a loop in the graph."""
    import tensorflow as tf

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


def step_shapes(batch, layers):
    """The matrix products of a training step: forward, to the weights, to the inputs of all layers but the first."""
    forward = [(batch, k, n, False, False) for k, n in layers]
    to_weights = [(k, batch, n, True, False) for k, n in layers]
    to_inputs = [(batch, n, k, False, True) for k, n in layers[1:]]
    return forward + to_weights + to_inputs


def floor_student(path):
    """The matrix products of an epoch of the student and nothing else, in one loop under XLA as ours are."""
    import tensorflow as tf

    shapes = step_shapes(DISTIL_BATCH, [(784, 64), (64, 64), (64, 10)])
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

    steps = tf.constant(len(DIGITS.train.labels) // DISTIL_BATCH)
    return lambda: products(left, right, steps).numpy(), lambda: None


def floor_teacher(path):
    """6 x parameters x examples / the best rate of matmul over the shapes of the layers, forward and backward."""
    shapes = step_shapes(TEACHER_BATCH, [(784, 1200), (1200, 1200), (1200, 10)])

    def seconds():
        rates = [2 * m * k * n / matmul_seconds(m, k, n, *transposed) for m, k, n, *transposed in shapes]
        return 6 * 2_395_210 * len(DIGITS.train.labels) / max(rates)

    return seconds, lambda: None


def floor_logits_25_views(path):
    """The teacher's matrix products alone, as often as the logits of 25 views of every image take them."""
    import distill

    batch = distill.LOGITS_AT_ONCE
    shapes = [(batch, k, n, False, False) for k, n in [(784, 1200), (1200, 1200), (1200, 10)]]
    calls = 25 * len(DIGITS.train.labels) / batch
    return lambda: calls * sum(matmul_seconds(*shape) for shape in shapes), lambda: None


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
    threads = torch.get_num_threads() if torch else len(os.sched_getaffinity(0))  # TensorFlow takes every core
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
