"""How fast an epoch of this project is, beside JAX, PyTorch and Keras. The results: speed.md.

    pip install -r studies/requirements.txt
    python teacher.py && python studies/speed.py    ten minutes on two cores; nothing else should run meanwhile
    python studies/speed.py race errors             some parts of it: race, errors, together
    python studies/speed.py --quick                 a round of each, in five minutes; nothing is saved

race: each contender is a process of its own; they train in turn, a few epochs each, in ROUNDS rounds, each in another
order. The student is 784-64-64-10, batches of 250; the teacher 784-1200-1200-10, batches of 500, dropout, shifts by up
to 2 pixels. errors: after the same epochs from the same first weights. together: a race of many students that are
trained side by side, on 48,000 images shifted by up to a pixel. Writes every raw number to studies/speed.json, and the
tables of speed.md.
"""

import importlib.metadata
import importlib.util
import itertools
import json
import multiprocessing
import random
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import UserError, classifier, files, model_files, pool, teacher_logits, terminal, training
from support.batches import Batches

import keras
import numpy as np
import tensorflow as tf

import data
import distill
import student
import teacher
from studies import tables

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "studies" / "speed.json"
PACKAGES = ("torch", "jax", "optax")
ROUNDS, EPOCHS = 5, {"student": 3, "teacher": 2}  # of a contender in a round
NUM_IMAGES, NUM_IMAGES_TOGETHER, STUDENT_BATCH, TEACHER_BATCH, RATE = 60_000, 48_000, 250, 500, 1e-3
ERRORS = distill.DistillRecipe(
    temperature=2.0, alpha=0.5, learning_rate=5e-3, epochs=10, batch_size=STUDENT_BATCH, translate=0
)
RACE = replace(ERRORS, temperature=4.0, alpha=0.9, learning_rate=RATE)

digits = cache(partial(data.load, validation=0))
build_student = partial(student.build_student, (28, 28), 10)
load_teacher = partial(model_files.load, example_shape=(28, 28), num_classes=10)


# ---- contenders: functions of the teacher's path that return (epoch, predict) ----------------------------------------
# epoch() trains one epoch; predict(images uint8) -> logits, or None where no errors are counted. Those whose errors are
# counted also take a recipe: its temperature, alpha and learning rate, and its seed, which decides the first weights.


def train_arrays():
    """The training images (n, 28, 28) float32 in [0, 1], and the labels (n,) int64."""
    return classifier.to_unit(digits().train.images).numpy(), digits().train.labels.astype(np.int64)


def cached_logits(path):
    """The teacher's logits of the training images, (n, 10)."""
    images = digits().train.images
    views = teacher_logits.as_teacher(load_teacher(path)).on_views(images, ERRORS, cache=Path(path).parent)
    return views(np.arange(len(images)), 0, images).numpy()


def train_here(model, batches, loss, rate=RATE):
    run_epoch = training.compile_epoch(model, keras.optimizers.Adam(rate), batches, loss)
    numbers = itertools.count(1)
    return lambda: run_epoch(batches.epoch(next(numbers))), classifier.predictor(model)


def this_project(path, recipe=RACE, is_taught=True):
    """This project; without is_taught, on labels alone."""
    views = teacher_logits.looked_up(cached_logits(path)[:, None]) if is_taught else None
    batches = Batches(digits().train, recipe, views)
    loss = training.with_settings(distill.distillation_loss if is_taught else training.cross_entropy, recipe)
    return train_here(build_student(seed=recipe.seed), batches, loss, recipe.learning_rate)


def own_teacher(path):
    recipe = replace(
        teacher.DEFAULTS, input_dropout=0.1, dropout=0.4, distort=0.0, translate=2, batch_size=TEACHER_BATCH
    )
    net = teacher.build_teacher((28, 28), 10, recipe)
    return train_here(net, Batches(digits().train, recipe), training.cross_entropy)


def keras_distiller(path, recipe=RACE, loss=None, num_images=NUM_IMAGES):
    """`keras.distillation.Distiller` as its documentation uses it. loss: None is Keras' own, with the KL that works."""
    net = build_student(seed=recipe.seed)
    loss = loss or keras.distillation.LogitsDistillation(recipe.temperature, keras.losses.KLDivergence())
    distiller = keras.distillation.Distiller(load_teacher(path), net, loss, student_loss_weight=1 - recipe.alpha)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.Adam(recipe.learning_rate), cross_entropy, metrics=["accuracy"])
    arrays = (array[:num_images] for array in train_arrays())
    return partial(distiller.fit, *arrays, batch_size=STUDENT_BATCH, verbose=0), classifier.predictor(net)


def keras_fit(path):
    """Keras' `fit` at its best: images in memory, cached logits, XLA, and a whole epoch in one call."""
    images, labels, logits = map(tf.constant, (*digits().train, cached_logits(path)))

    def batch(indices):
        targets = tf.concat([tf.cast(tf.gather(labels, indices), tf.float32)[:, None], tf.gather(logits, indices)], -1)
        return classifier.to_unit(tf.gather(images, indices)), targets

    def loss(targets, logits):
        loss = training.with_settings(distill.distillation_loss, RACE)
        return loss(tf.cast(targets[:, 0], tf.int32), targets[:, 1:], logits)

    net, optimizer = build_student(), keras.optimizers.Adam(RATE)
    net.compile(optimizer=optimizer, loss=loss, steps_per_execution=NUM_IMAGES // STUDENT_BATCH, jit_compile=True)
    order = tf.data.Dataset.range(NUM_IMAGES, output_type=tf.int32).shuffle(NUM_IMAGES).batch(STUDENT_BATCH)
    return partial(net.fit, order.map(batch).prefetch(2), shuffle=False, verbose=0), None


def torch_student(path, recipe=RACE, is_eager=False):
    """PyTorch, in memory, cached logits. The step (gather, loss, gradients, Adam) is compiled, unless it is_eager."""
    import torch
    from torch import nn

    torch.manual_seed(recipe.seed)  # for the order of the images
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    for parameter, first in zip(net.parameters(), build_student(seed=recipe.seed).get_weights(), strict=True):
        parameter.data = torch.tensor(first.T).contiguous()  # a Keras kernel is (inputs, outputs)
    images, labels, logits = map(torch.tensor, (*train_arrays(), cached_logits(path)))
    weights = {name: weight.detach() for name, weight in net.named_parameters()}  # in the memory of the net's
    means, squares = ({name: torch.zeros_like(weight) for name, weight in weights.items()} for _ in range(2))
    count, peak, temperature, alpha = torch.zeros(()), recipe.learning_rate, recipe.temperature, recipe.alpha
    optimizer = torch.optim.Adam(net.parameters(), peak)  # of the eager step

    def loss(weights, index):
        student_logits = torch.func.functional_call(net, weights, images[index])
        student_log = (student_logits / temperature).log_softmax(-1)
        kl = nn.functional.kl_div(student_log, (logits[index] / temperature).softmax(-1), reduction="batchmean")
        return alpha * temperature**2 * kl + (1 - alpha) * nn.functional.cross_entropy(student_logits, labels[index])

    @torch.compile
    def step(index):
        gradients = torch.func.grad(loss)(weights, index)
        count.add_(1)
        rate = peak * torch.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        for name, gradient in gradients.items():
            means[name].lerp_(gradient, 1 - 0.9)
            squares[name].lerp_(gradient**2, 1 - 0.999)
            weights[name].sub_(rate * means[name] / (squares[name].sqrt() + 1e-7))

    def eager_step(index):
        optimizer.zero_grad()
        loss(dict(net.named_parameters()), index).backward()
        optimizer.step()

    def epoch():
        for index in torch.randperm(NUM_IMAGES).split(STUDENT_BATCH):
            (eager_step if is_eager else step)(index)

    return epoch, lambda images: net(torch.tensor(classifier.to_unit(images).numpy())).detach().numpy()


def torch_teacher(path):
    """PyTorch with tensors in memory, each image shifted on its own, and the fused Adam."""
    import torch
    from torch import nn

    hidden = [nn.Linear(784, 1200), nn.ReLU(), nn.Dropout(0.4), nn.Linear(1200, 1200), nn.ReLU(), nn.Dropout(0.4)]
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), *hidden, nn.Linear(1200, 10))
    images, labels = map(torch.tensor, train_arrays())
    padded = nn.functional.pad(images, (2, 2, 2, 2)).reshape(NUM_IMAGES, -1)
    optimizer = torch.optim.Adam(net.parameters(), RATE, fused=True)
    pixels = (torch.arange(28)[:, None] * 32 + torch.arange(28)).reshape(1, -1)

    def epoch():
        net.train()
        for index in torch.randperm(NUM_IMAGES).split(TEACHER_BATCH):
            corner = torch.randint(5, (len(index), 1)) * 32 + torch.randint(5, (len(index), 1))
            optimizer.zero_grad()
            logits = net(padded[index].gather(1, corner + pixels))
            nn.functional.cross_entropy(logits, labels[index]).backward()
            optimizer.step()

    return epoch, None


def jax_scan(path, recipe=RACE):
    """JAX and Optax: one `jit` of a `lax.scan` over an epoch's steps; images in memory, cached logits."""
    import jax
    import optax
    from jax import numpy as jnp

    random, optimizer = np.random.default_rng(recipe.seed), optax.adam(recipe.learning_rate)
    weights = jax.tree.map(jnp.array, build_student(seed=recipe.seed).get_weights())  # its kernels and biases in turn
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
        student_log, teacher_log = (jax.nn.log_softmax(each / recipe.temperature) for each in (logits, teacher_logits))
        kl = optax.losses.kl_divergence_with_log_targets(student_log, teacher_log)
        cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        return (recipe.alpha * recipe.temperature**2 * kl + (1 - recipe.alpha) * cross_entropy).mean()

    @partial(jax.jit, donate_argnums=0)
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
    for inputs, outputs in ((784, 64), (64, 64), (64, 10)):
        values, kernel, error = (STUDENT_BATCH, inputs), (inputs, outputs), (STUDENT_BATCH, outputs)
        products += [(values, kernel, {}), (values, error, {"transpose_a": True})]  # forward; gradient of the kernel
        products += [(error, kernel, {"transpose_b": True})] * (inputs != 784)  # of the values, but not of the pixels
    left, right = ([tf.random.normal(product[side]) for product in products] for side in (0, 1))

    @tf.function(jit_compile=True)
    def run(left, right):
        total = tf.constant(0.0)
        for _ in tf.range(NUM_IMAGES // STUDENT_BATCH):
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
    recipe = replace(ERRORS, translate=1, epochs=150, learning_rate=5e-3)
    batches = Batches(split, recipe, teacher_logits.looked_up(logits))
    trainers, numbers = [], itertools.count(1)
    each = ThreadPoolExecutor(cores).map if cores > 1 else map
    for x in np.linspace(0, 1, number):
        its_own = replace(recipe, temperature=1 + 7 * x, alpha=0.1 + 0.8 * x)
        trainers.append(training.Trainer(build_student(), batches, distill.distillation_loss, its_own))

    def epoch():  # as in training.train
        examples = batches.epoch(number := next(numbers))
        list(each(partial(training.Trainer.train_epoch, number=number, examples=examples, seconds=0), trainers))

    return epoch, None


SOFT_TARGETS = distill.SoftTargetLoss(ERRORS.temperature)
KERAS_DEFAULT = keras.distillation.LogitsDistillation(ERRORS.temperature)
CONTENDERS = {  # what the table calls each
    "student": {
        "distilling: **this project**": this_project,
        "JAX, `jit` of a `lax.scan` over the epoch, cached logits": jax_scan,
        "PyTorch, in memory, cached logits, `torch.compile` of the step": torch_student,
        "Keras' `fit` at its best, cached logits": keras_fit,
        "`keras.distillation.Distiller`": keras_distiller,
        "the student's matrix products alone": matrix_products,
    },
    "teacher": {"the teacher: **this project**": own_teacher, "PyTorch, in memory, fused Adam": torch_teacher},
}
ERROR_CONTENDERS = {  # name: (contender, its loss)
    "**this project**": (this_project, "cross-entropy, T² KL"),
    "JAX": (jax_scan, "the same"),
    "PyTorch, eager": (partial(torch_student, is_eager=True), "the same"),
    "`Distiller`, `distill.SoftTargetLoss`": (partial(keras_distiller, loss=SOFT_TARGETS), "the same"),
    "`Distiller` as it comes": (partial(keras_distiller, loss=KERAS_DEFAULT), "cross-entropy, KL without softmax"),
    "this project on labels alone": (partial(this_project, is_taught=False), "cross-entropy"),
}
TOGETHER = {  # the first is what the others are compared with
    "one student alone": partial(students_at_once, number=1),
    "8 students at once": partial(students_at_once, number=8),
    "24 students at once": partial(students_at_once, number=24),
    "two workers, 8 students each": partial(students_at_once, number=8, cores=1),
    "`Distiller`": partial(keras_distiller, recipe=ERRORS, loss=SOFT_TARGETS, num_images=NUM_IMAGES_TOGETHER),
}
NUM_STUDENTS = dict(zip(TOGETHER, (1, 8, 24, 16, 1), strict=True))


# ---- measuring -------------------------------------------------------------------------------------------------------


def serve(contender, path, connection):
    """Train so many epochs as the connection asks, again and again, and answer with the seconds of each."""
    epoch, _ = contender(path)
    epoch()  # compiles
    connection.send([])
    while num_epochs := connection.recv():
        times = [time.perf_counter()]
        for _ in range(num_epochs):
            epoch()
            times.append(time.perf_counter())
        connection.send(np.diff(times).tolist())


def received(name, processes):
    """What the processes of a contender answer, one after the other."""
    seconds = []
    for process, connection in processes:
        try:
            seconds += connection.recv()
        except EOFError:
            process.join()
            problem = f"{name} ended with status {process.exitcode}"
            raise UserError(f"{problem}: see its error above, and studies/requirements.txt") from None
    return seconds


def race(contenders, path, epochs, rounds):
    """{name: {"seconds": of each epoch}} of contenders that train in turn; of "two workers", two at the same time."""
    context, results, running = multiprocessing.get_context("spawn"), {}, {}
    for name, contender in contenders.items():
        print(f"starting {name}", flush=True)
        running[name], results[name] = [], {"seconds": []}
        for _ in range(2 if name.startswith("two workers") else 1):
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(contender, path, there), daemon=True)
            process.start()
            there.close()
            running[name].append((process, here))
        received(name, running[name])
    for number in range(rounds):
        for name in random.Random(number).sample(list(running), len(running)):  # nobody always follows the same one
            for _, connection in running[name]:
                connection.send(epochs)
            results[name]["seconds"] += received(name, running[name])
            print(f"round {number + 1}/{rounds}  {results[name]['seconds'][-1]:6.2f} s  {name}", flush=True)
    for _, connection in itertools.chain(*running.values()):
        connection.send(0)
    return results


def measure_race(path, quick=False, contenders=CONTENDERS):
    """{net: results of `race`}."""
    return {net: race(each, path, EPOCHS[net], 1 if quick else ROUNDS) for net, each in contenders.items()}


def measure_errors(path, quick=False):
    """{contender: test errors with each seed}, one after the other in this process."""
    errors, test = {name: [] for name in ERROR_CONTENDERS}, digits().test
    for name, (contender, _) in ERROR_CONTENDERS.items():
        for seed in range(1 if quick else 3):
            epoch, predict = contender(path, replace(ERRORS, seed=seed))
            for number in range(1 if quick else ERRORS.epochs):
                tf.random.set_seed(1000 * seed + number)  # with a seed for all epochs, Keras would shuffle all alike
                epoch()
            errors[name].append(int(np.sum(predict(test.images).argmax(-1) != test.labels)))
        print(f"{tables.spread_and_each(errors[name])} test errors  {name}", flush=True)
    return errors


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
            fastest, typical = min(result["seconds"]), median(result["seconds"])
            lines.append([name, f"{fastest:.2f}", f"{typical:.2f}", f"{typical / ours:.1f}"])
    return tables.markdown(["an epoch of", "fastest (s)", "median (s)", "times ours"], lines)


def errors_table(measured):
    """The table of the errors: mean, standard deviation and each seed, and the loss."""
    lines = [[name, ERROR_CONTENDERS[name][1], tables.spread_and_each(each)] for name, each in measured.items()]
    return tables.markdown(["ten epochs of", "loss", "test errors"], lines)


def together_table(measured):
    """The table of students trained together: seconds an epoch, of all and of each, and how many times one alone."""
    lines, alone = [], median(next(iter(measured["student"].values()))["seconds"])
    for name, result in measured["student"].items():
        fastest, typical, number = min(result["seconds"]), median(result["seconds"]), NUM_STUDENTS[name]
        cells = [f"{fastest:.2f}", f"{typical:.2f}", f"{typical / number:.3f}", f"{typical / number / alone:.2f}"]
        lines.append([name, str(number), *cells])
    header = ["an epoch of", "students", "fastest (s)", "median (s)", "each student (s)", "times one alone"]
    return tables.markdown(header, lines)


PARTS = {
    "race": (measure_race, race_table),
    "errors": (measure_errors, errors_table),
    "together": (partial(measure_race, contenders={"student": TOGETHER}), together_table),
}


def texts(measured):
    """{name: Markdown} of the tables of speed.md, of the parts that were measured. measured: what speed.json holds."""
    return {f"speed_{part}": table(measured[part]) for part, (_, table) in PARTS.items() if part in measured}


def main():
    options = terminal.parser(__doc__)
    options.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)} (default: all)")
    options.add_argument("--teacher", type=Path, default=ROOT / "artifacts" / "teacher.keras", metavar="PATH")
    options.add_argument("--quick", action="store_true", help="a round of each part; nothing is saved")
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
        measured = {} if arguments.quick else json.loads(RESULTS.read_text(encoding="utf-8"))
        for part in arguments.parts or PARTS:
            measured[part] = PARTS[part][0](path, quick=arguments.quick)
            if not arguments.quick:
                measured["machines"][part] = machine()
                with files.atomic_write(RESULTS) as scratch:
                    scratch.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    for text in texts(measured).values():
        print(f"\n{text}")
    if not arguments.quick:
        tables.fill(texts(measured))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: sys.exit(terminal.STOPPED))  # so that the temporary folders are removed
    terminal.run(main)
