"""How fast an epoch of this project is, beside JAX, PyTorch and Keras. The results: speed.md.

    pip install -r studies/requirements.txt
    python teacher.py && python studies/speed.py    an hour on two cores; nothing else should run meanwhile
    python studies/speed.py race                    the epochs alone: 12 minutes
    python studies/speed.py race --quick            one round of them; nothing is saved

Each contender is a process of its own. They train in turn, a few epochs each, in ROUNDS rounds, each in another order.
All train on the 60,000 digits with Adam at 1e-3. The student is 784-64-64-10: batches of 250, T = 4, alpha = 0.9, the
same trained teacher. The teacher is 784-1200-1200-10: batches of 500, dropout, shifts by up to 2 pixels. Writes every
raw time to studies/speed.json, and the tables of speed.md.
"""

import functools
import importlib.metadata
import importlib.util
import itertools
import json
import multiprocessing
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import UserError, files, inference, model_files, terminal, training

import keras
import numpy as np
import tensorflow as tf

import data
import distill
import student
import teacher
import teachers
from studies import tables

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "studies" / "speed.json"
PACKAGES = ("torch", "jax", "optax", "distributed")
ROUNDS, EPOCHS = 5, {"student": 3, "teacher": 2}  # of a contender in a round
TEMPERATURE, ALPHA, RATE = 4.0, 0.9, 1e-3
NUM_IMAGES, STUDENT_BATCH, TEACHER_BATCH = 60_000, 250, 500
LAYERS = [(784, 64), (64, 64), (64, 10)]  # inputs and outputs of the student's
DROPOUT = {"input_dropout": 0.1, "dropout": 0.4}  # of the teacher

digits = functools.cache(functools.partial(data.load, validation=0))
build_student = functools.partial(student.build_student, (28, 28), 10)
load_teacher = functools.partial(model_files.load, example_shape=(28, 28), num_classes=10)


# ---- contenders: functions of the teacher's path that return (epoch, predict) ----------------------------------------
# epoch() trains one epoch; predict(images uint8) -> logits, or None where no net is trained.


def train_arrays():
    """The training images (n, 28, 28) float32 in [0, 1], and the labels (n,) int64."""
    return inference.to_unit(digits().train.images).numpy(), digits().train.labels.astype(np.int64)


def cached_logits(path):
    """The teacher's logits of the training images, (n, 10)."""
    teacher_net, images = load_teacher(path), digits().train.images
    return teachers.teacher_logits(teacher_net, images, cache=Path(path).parent)[:, 0]


def train_here(model, batches, loss):
    run_epoch = training.compile_epoch(model, keras.optimizers.Adam(RATE), batches, loss)
    numbers = itertools.count(1)
    return lambda: run_epoch(batches.collect(next(numbers))), inference.predictor(model)


def this_project(path):
    loss = functools.partial(distill.distillation_loss, temperature=TEMPERATURE, alpha=ALPHA)
    logits = cached_logits(path)[:, None]
    return train_here(build_student(), data.Batches(digits().train, STUDENT_BATCH, seed=0, teacher_logits=logits), loss)


def this_projects_teacher(path):
    net = teacher.build_teacher((28, 28), 10, teacher.TeacherRecipe(**DROPOUT))
    return train_here(net, data.Batches(digits().train, TEACHER_BATCH, seed=0, translate=2), training.cross_entropy)


def keras_distiller(path):
    """`keras.distillation.Distiller` as its documentation uses it, with the loss that works."""
    net = build_student()
    loss = keras.distillation.LogitsDistillation(temperature=TEMPERATURE, loss=keras.losses.KLDivergence())
    distiller = keras.distillation.Distiller(load_teacher(path), net, loss, student_loss_weight=1 - ALPHA)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(optimizer=keras.optimizers.Adam(RATE), loss=cross_entropy, metrics=["accuracy"])
    fit = functools.partial(distiller.fit, *train_arrays(), batch_size=STUDENT_BATCH, verbose=0)
    return fit, inference.predictor(net)


def keras_fit(path):
    """Keras' `fit` at its best: images in memory, cached logits, XLA, and a whole epoch in one call."""
    images, labels, logits = map(tf.constant, (*digits().train, cached_logits(path)))

    def batch(indices):
        targets = tf.concat([tf.cast(tf.gather(labels, indices), tf.float32)[:, None], tf.gather(logits, indices)], -1)
        return inference.to_unit(tf.gather(images, indices)), targets

    def loss(targets, logits):
        labels = tf.cast(targets[:, 0], tf.int32)
        return distill.distillation_loss(labels, targets[:, 1:], logits, TEMPERATURE, ALPHA)

    net, optimizer = build_student(), keras.optimizers.Adam(RATE)
    net.compile(optimizer=optimizer, loss=loss, steps_per_execution=NUM_IMAGES // STUDENT_BATCH, jit_compile=True)
    order = tf.data.Dataset.range(NUM_IMAGES, output_type=tf.int32).shuffle(NUM_IMAGES).batch(STUDENT_BATCH)
    return functools.partial(net.fit, order.map(batch).prefetch(2), shuffle=False, verbose=0), inference.predictor(net)


def torch_net(layers, input_dropout=0.0, dropout=0.0):
    """A dense ReLU net, and predict, see above."""
    import torch
    from torch import nn

    modules = [nn.Flatten(), nn.Dropout(input_dropout)]
    for inputs, outputs in layers:
        modules += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout)]
    net = nn.Sequential(*(module for module in modules[:-2] if not isinstance(module, nn.Dropout) or module.p))

    def predict(images):
        with torch.no_grad():
            return net.eval()(torch.tensor(inference.to_unit(images).numpy())).numpy()

    return net, predict


def torch_compiled(path):
    """PyTorch with tensors in memory, cached logits, and `torch.compile` of the step: gather, loss, gradients, Adam."""
    import torch
    from torch.nn import functional

    net, predict = torch_net(LAYERS)
    images, labels, logits = map(torch.tensor, (*train_arrays(), cached_logits(path)))
    weights = {name: weight.detach() for name, weight in net.named_parameters()}  # in the memory of the net's
    means, squares = ({name: torch.zeros_like(weight) for name, weight in weights.items()} for _ in range(2))
    count = torch.zeros(())

    def loss(weights, index):
        student_logits = torch.func.functional_call(net, weights, images[index])
        student_log = (student_logits / TEMPERATURE).log_softmax(-1)
        soft_targets = (logits[index] / TEMPERATURE).softmax(-1)
        kl = functional.kl_div(student_log, soft_targets, reduction="batchmean")
        return ALPHA * TEMPERATURE**2 * kl + (1 - ALPHA) * functional.cross_entropy(student_logits, labels[index])

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
        for index in torch.randperm(NUM_IMAGES).split(STUDENT_BATCH):
            step(index)

    return epoch, predict


def torch_teacher(path):
    """PyTorch with tensors in memory, each image shifted on its own, and the fused Adam."""
    import torch

    net, predict = torch_net([(784, 1200), (1200, 1200), (1200, 10)], **DROPOUT)
    images, labels = map(torch.tensor, train_arrays())
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

    return epoch, predict


def jax_scan(path):
    """JAX and Optax: one `jit` of a `lax.scan` over an epoch's steps; images in memory, cached logits."""
    import jax
    import optax
    from jax import numpy as jnp

    random, optimizer = np.random.default_rng(0), optax.adam(RATE)
    weights = jax.tree.map(jnp.array, build_student().get_weights())  # its kernels and biases in turn
    state = weights, optimizer.init(weights)
    examples = jax.device_put((*digits().train, cached_logits(path)))

    @jax.jit
    def forward(weights, images):
        values = images.reshape(-1, 784).astype(jnp.float32) / 255
        for kernel, bias in zip(weights[:-2:2], weights[1:-2:2]):
            values = jax.nn.relu(values @ kernel + bias)
        return values @ weights[-2] + weights[-1]

    def loss(weights, images, labels, teacher_logits):
        logits = forward(weights, images)
        student_log, teacher_log = (jax.nn.log_softmax(each / TEMPERATURE) for each in (logits, teacher_logits))
        kl = optax.losses.kl_divergence_with_log_targets(student_log, teacher_log)
        cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        return (ALPHA * TEMPERATURE**2 * kl + (1 - ALPHA) * cross_entropy).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def run_epoch(state, order, examples):
        def step(state, index):
            weights, moments = state
            gradients = jax.grad(loss)(weights, *(array[index] for array in examples))
            updates, moments = optimizer.update(gradients, moments)
            return (optax.apply_updates(weights, updates), moments), None

        return jax.lax.scan(step, state, order)[0]

    def epoch():
        nonlocal state
        order = random.permutation(NUM_IMAGES).astype(np.int32).reshape(-1, STUDENT_BATCH)
        state = jax.block_until_ready(run_epoch(state, order, examples))

    return epoch, lambda images: np.asarray(forward(state[0], images))


def matrix_products(path):
    """The matrix products of an epoch of the student alone, in one loop under XLA: a floor."""
    products = []  # (left, right, which is transposed)
    for inputs, outputs in LAYERS:
        values, kernel, error = (STUDENT_BATCH, inputs), (inputs, outputs), (STUDENT_BATCH, outputs)
        products += [(values, kernel, {}), (values, error, {"transpose_a": True})]  # forward; gradient of the kernel
        products += [(error, kernel, {"transpose_b": True})] * (inputs != 784)  # of the values, but not of the pixels
    left, right = ([tf.random.normal(product[side]) for product in products] for side in (0, 1))

    @tf.function(jit_compile=True)
    def run(left, right):
        total = tf.constant(0.0)
        for _ in tf.range(NUM_IMAGES // STUDENT_BATCH):
            for a, b, (_, _, transposed) in zip(left, right, products):
                # `+ total`, or XLA would move the product out of the loop
                total += 1e-20 * tf.matmul(a + total, b, **transposed)[0, 0]
        return total

    return lambda: run(left, right).numpy(), None


CONTENDERS = {  # what the table calls each
    "student": {
        "distilling: **this project**": this_project,
        "JAX, `jit` of a `lax.scan` over the epoch, cached logits": jax_scan,
        "PyTorch, in memory, cached logits, `torch.compile` of the step": torch_compiled,
        "Keras' `fit` at its best, cached logits": keras_fit,
        "`keras.distillation.Distiller`": keras_distiller,
        "the student's matrix products alone": matrix_products,
    },
    "teacher": {
        "the teacher: **this project**": this_projects_teacher,
        "PyTorch, in memory, fused Adam": torch_teacher,
    },
}


# ---- measuring -------------------------------------------------------------------------------------------------------


def serve(contender, path, connection):
    """Train so many epochs as the connection asks, again and again, and answer with seconds and test errors."""
    epoch, predict = contender(path)
    epoch()  # compiles
    connection.send({"seconds": [], "test_errors": []})
    while num_epochs := connection.recv():
        seconds = []
        for _ in range(num_epochs):
            start = time.perf_counter()
            epoch()
            seconds.append(time.perf_counter() - start)
        test = digits().test
        wrong = predict and int(np.sum(predict(test.images).argmax(-1) != test.labels))
        connection.send({"seconds": seconds, "test_errors": [wrong]})


def received(name, process, connection):
    """What the process of a contender answers. Raises UserError: it ended before."""
    try:
        return connection.recv()
    except EOFError:
        process.join()
        advice = "see its error above, and studies/requirements.txt"
        raise UserError(f"{name} ended with status {process.exitcode}: {advice}") from None


def race(contenders, path, epochs, rounds):
    """{name: {"seconds": of each epoch, "test_errors": after each round}} of contenders that train in turn."""
    context, results, running = multiprocessing.get_context("spawn"), {}, {}
    for name, contender in contenders.items():
        print(f"starting {name}", flush=True)
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(contender, path, there), daemon=True)
        process.start()
        there.close()
        running[name], results[name] = (process, here), received(name, process, here)
    for number in range(rounds):
        for name in random.Random(number).sample(list(running), len(running)):  # nobody always follows the same one
            process, connection = running[name]
            connection.send(epochs)
            measured = received(name, process, connection)
            results[name]["seconds"] += measured["seconds"]
            results[name]["test_errors"] += measured["test_errors"]
            print(f"round {number + 1}/{rounds}  {measured['seconds'][-1]:6.2f} s  {name}", flush=True)
    for _, connection in running.values():
        connection.send(0)
    return results


def measure_race(path, rounds=ROUNDS):
    """{net: results of `race`}."""
    return {net: race(contenders, path, EPOCHS[net], rounds) for net, contenders in CONTENDERS.items()}


def measure_sweeps(path):
    """{how: seconds} of a sweep of 54 students, three times in turn with one worker, with two, and on a cluster."""
    import distributed

    sweep = ["--temperatures", 1, 2, 3, 4, 8, 16, "--alphas", 0.3, 0.5, 0.9, "--seeds", 3, "--epochs", 30]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(path, Path(folder) / "teacher.keras")

        def seconds(*options):
            command = [sys.executable, ROOT / "tools" / "sweep.py", "--out", folder, *options]
            shutil.rmtree(Path(folder) / "sweep", ignore_errors=True)
            start = time.perf_counter()
            subprocess.run([*map(str, command)], check=True, stdout=subprocess.DEVNULL)
            print(f"{time.perf_counter() - start:6.1f} s  {' '.join(map(str, options))}", flush=True)
            return time.perf_counter() - start

        seconds("--seeds", 1, "--epochs", 1)  # computes the teacher's logits, which are kept
        times = {"one worker": [], "two workers": [], "a Dask cluster of two workers on this machine": []}
        one, two, on_cluster = times.values()
        for _ in range(3):
            one.append(seconds(*sweep, "--workers", 1))
            two.append(seconds(*sweep, "--workers", 2))
            options = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": 0, "dashboard_address": ":0"}
            with distributed.LocalCluster(**options) as cluster:
                on_cluster.append(seconds(*sweep, "--cluster", cluster.scheduler_address))
        return times


PARTS = {"race": measure_race, "sweeps": measure_sweeps}


def machine():
    """The processor, and the versions of everything that was measured."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), None)
    return {"processor": processor} | files.versions() | {name: importlib.metadata.version(name) for name in PACKAGES}


# ---- tables ----------------------------------------------------------------------------------------------------------


def race_table(measured):
    """The table of the race: seconds an epoch, and how many times those of this project."""
    lines = []
    for results in measured.values():
        ours = median(next(iter(results.values()))["seconds"])
        for name, result in results.items():
            fastest, typical, errors = min(result["seconds"]), median(result["seconds"]), result["test_errors"][-1]
            cells = [f"{fastest:.2f}", f"{typical:.2f}", f"{typical / ours:.1f}", "" if errors is None else str(errors)]
            lines.append([name, *cells])
    header = ["an epoch of", "fastest (s)", "median (s)", "times ours", "test errors at the end"]
    return tables.markdown(header, lines)


def sweeps_table(measured):
    """The table of the sweeps: seconds, and how many times as fast as one worker, by the medians."""
    one, lines = median(measured["one worker"]), []
    for how, times in measured.items():
        lines.append([how, ", ".join(f"{value:.0f}" for value in times), f"{one / median(times):.2f}"])
    return tables.markdown(["the sweep with", "seconds, each time", "times as fast"], lines)


def texts(measured):
    """{name: Markdown} of the tables of speed.md. measured: what speed.json holds."""
    return {"speed_race": race_table(measured["race"]), "speed_sweeps": sweeps_table(measured["sweeps"])}


def main():
    options = terminal.parser(__doc__)
    options.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)} (default: all)")
    options.add_argument("--teacher", type=Path, default=ROOT / "artifacts" / "teacher.keras", metavar="PATH")
    options.add_argument("--quick", action="store_true", help="one round of the race alone; nothing is saved")
    arguments = options.parse_args()
    for part in arguments.parts:
        if part not in PARTS:
            options.error(f"there is no part {part!r}: choose from {', '.join(PARTS)}")
    if not arguments.teacher.exists():
        raise UserError(f"there is no {arguments.teacher}: run `python teacher.py`, or name another with --teacher")
    if not all(map(importlib.util.find_spec, PACKAGES)):
        raise UserError(f"this needs {', '.join(PACKAGES)}: pip install -r studies/requirements.txt")
    with tempfile.TemporaryDirectory() as folder:  # the logits that contenders cache beside their teacher go with it
        path = shutil.copy(arguments.teacher, Path(folder) / "teacher.keras")
        if arguments.quick:
            print(f"\n{race_table(measure_race(path, rounds=1))}")
            return
        measured = json.loads(RESULTS.read_text(encoding="utf-8"))
        for part in arguments.parts or PARTS:
            measured[part] = PARTS[part](path)
            measured["machines"][part] = machine()
            with files.atomic_write(RESULTS) as scratch:
                scratch.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    for text in texts(measured).values():
        print(f"\n{text}")
    tables.fill(texts(measured))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: sys.exit(terminal.STOPPED))  # so that the temporary folders are removed
    terminal.run(main)
