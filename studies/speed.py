"""How fast this project is, an epoch and a result, beside JAX, PyTorch and Keras. The results: speed.md.

    pip install -r studies/requirements.txt
    python teacher.py && python studies/speed.py    20 minutes on two cores; nothing else should run meanwhile
    python studies/speed.py race errors             some parts of it: race, errors, together
    python studies/speed.py --quick                 a round of each, in ten minutes; nothing is saved

race: each contender is a process of its own; they train in turn, a few epochs each, in ROUNDS rounds, each in another
order. The student is 784-64-64-10 on images shifted by up to a pixel, batches of 250; the teacher 784-1200-1200-10 on
distorted images, batches of 500. With the errors of studies/selection.py after trainings of several lengths, its
seconds give the time to a result. errors: after the same epochs from the same first weights. together: a race of many
students that are trained side by side. Writes every raw number to studies/speed.json, and the tables and the figure of
speed.md.
"""

import importlib.metadata
import importlib.util
import itertools
import json
import math
import multiprocessing
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, median

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import UserError, files, terminal

import keras
import numpy as np
import tensorflow as tf

from studies import contenders, figures, runs, selection, tables

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "studies" / "speed.json"
PACKAGES = ("torch", "jax", "optax")
ROUNDS, EPOCHS = 5, {"student": 3, "teacher": 2, "logits": 1}  # of a contender in a round
RACE = contenders.RACE
ERRORS = replace(RACE, temperature=2.0, alpha=0.5, epochs=10, translate=0)
KERAS_DEFAULT = keras.distillation.LogitsDistillation(ERRORS.temperature)
OURS, TORCH, FIT, DISTILLER = "**this project**", "PyTorch, compiled", "Keras' `fit`, `predict`", "`Distiller`"
A_FIFTH, TWO_FIFTHS = "this project, a fifth of the images", "this project, two fifths of the images"
CONTENDERS = {  # the first of each group is what the others are compared with
    "teacher": {
        OURS: contenders.own_teacher,
        A_FIFTH: partial(contenders.own_teacher, recipe=replace(contenders.TEACHER, select=0.2)),
        TORCH: contenders.torch_teacher,
        FIT: contenders.keras_teacher,
    },
    "logits": {OURS: contenders.own_logits, TORCH: contenders.torch_logits, FIT: contenders.keras_logits},
    "student": {
        OURS: contenders.this_project,
        TWO_FIFTHS: partial(contenders.this_project, recipe=replace(RACE, select=0.4)),
        "JAX": contenders.jax_scan,
        TORCH: contenders.torch_student,
        FIT: contenders.keras_fit,
        DISTILLER: contenders.keras_distiller,
        "its matrix products alone": contenders.matrix_products,
    },
}
OF = {"teacher": "an epoch of the teacher", "logits": "the teacher's logits", "student": "an epoch of the student"}
ERROR_CONTENDERS = {  # name: (contender, its loss)
    OURS: (contenders.this_project, "cross-entropy, T² KL"),
    "JAX": (contenders.jax_scan, "the same"),
    "PyTorch, eager": (partial(contenders.torch_student, is_eager=True), "the same"),
    "`Distiller`, `distill.SoftTargetLoss`": (contenders.keras_distiller, "the same"),
    "`Distiller` as it comes": (
        partial(contenders.keras_distiller, loss=KERAS_DEFAULT),
        "cross-entropy, KL without softmax",
    ),
    "this project on labels alone": (contenders.own_baseline, "cross-entropy"),
}
TOGETHER = {  # the first is what the others are compared with
    "one student alone": partial(contenders.students_at_once, number=1),
    "8 students at once": partial(contenders.students_at_once, number=8),
    "24 students at once": partial(contenders.students_at_once, number=24),
    "two workers, 8 students each": partial(contenders.students_at_once, number=8, cores=1),
    DISTILLER: partial(contenders.keras_distiller, num_images=contenders.NUM_IMAGES_TOGETHER),
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


def race(group, path, epochs, rounds):
    """{name: {"seconds": of each epoch}} of contenders that train in turn; of "two workers", two at the same time."""
    context, results, running = multiprocessing.get_context("spawn"), {}, {}
    for name, contender in group.items():
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


def measure_race(path, quick=False, groups=CONTENDERS):
    """{net: results of `race`}."""
    return {net: race(each, path, EPOCHS[net], 1 if quick else ROUNDS) for net, each in groups.items()}


def measure_errors(path, quick=False):
    """{contender: test errors with each seed}, one after the other in this process."""
    errors, test = {name: [] for name in ERROR_CONTENDERS}, contenders.digits().test
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
    for net, results in measured.items():
        ours = median(results[OURS]["seconds"])
        for name, result in results.items():
            fastest, typical = min(result["seconds"]), median(result["seconds"])
            lines.append([OF[net], name, f"{fastest:.2f}", f"{typical:.2f}", f"{typical / ours:.1f}"])
    return tables.markdown(["", "", "fastest (s)", "median (s)", "times ours"], lines)


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


# ---- the time to a result --------------------------------------------------------------------------------------------

ENOUGH = 100  # test errors of the student, in the mean of the seeds
TO_A_RESULT = {  # row: its teacher, logits and student in the race
    "**this project**, on the hard images": (A_FIFTH, OURS, TWO_FIFTHS),
    "this project, on every image": (OURS, OURS, OURS),
    TORCH: (TORCH, TORCH, TORCH),
    "Keras' `fit`": (FIT, FIT, FIT),
    "Keras' `fit`, then `Distiller`": (FIT, None, DISTILLER),
}


def measured_lengths():
    """{(the teacher's recipe, the student's recipe): test errors of each seed} of `selection.lengths`."""
    errors = runs.recorded(RESULTS.with_name("selection.json"), "test_errors")
    runs_of_students = selection.lengths().values()
    return {(run.teacher.recipe, run.recipe): errors[run] for run in runs_of_students if run in errors}


def seconds_of(results, name, recipe):
    """The seconds of all epochs of a net, without compiling. results: of one group of the race. name: there."""
    whole, own = (median(results[contender]["seconds"]) for contender in (OURS, name))
    if recipe.select == 1:
        return recipe.epochs * own
    num_whole = selection.whole_epochs(recipe)
    return num_whole * whole + (recipe.epochs - num_whole) * own


def fronts(race, lengths):
    """{row of TO_A_RESULT: [(seconds of teacher, logits and student, the two recipes, errors)]}.

    Of all lengths, those that no other one beats in both seconds and errors, the fastest first.
    """
    teachers, students, found = race["teacher"], race["student"], {}
    for row, (of_teacher, of_logits, of_student) in TO_A_RESULT.items():
        entries, best = [], math.inf
        logits = median(race["logits"][of_logits]["seconds"]) if of_logits else 0.0
        for (taught_by, recipe), errors in lengths.items():
            if (recipe.select < 1) == (of_student == TWO_FIFTHS):
                ends = seconds_of(teachers, of_teacher, taught_by), seconds_of(students, of_student, recipe)
                entries.append(((ends[0], logits, ends[1]), taught_by, recipe, errors))
        found[row] = []
        for entry in sorted(entries, key=lambda entry: sum(entry[0])):
            if mean(entry[-1]) < best:
                best = mean(entry[-1])
                found[row].append(entry)
    return found


def result_table(race):
    """The table of the seconds to a student of at most ENOUGH errors, a column for each part."""
    lines, ours = [], None
    for row, front in fronts(race, measured_lengths()).items():
        for parts, teacher_recipe, recipe, errors in front:
            if mean(errors) <= ENOUGH:
                ours = ours or sum(parts)
                epochs = str(teacher_recipe.epochs), str(recipe.epochs)
                cells = [f"{seconds:.1f}" for seconds in (*parts, sum(parts))]
                lines.append([row, *epochs, *cells, f"{sum(parts) / ours:.1f}", tables.spread_and_each(errors)])
                break
    header = ["", "epochs: teacher", "student", "seconds: teacher", "logits", "student", "all", "times ours"]
    return tables.markdown([*header, "test errors"], lines)


def draw(race):
    """Draw the test errors against the seconds."""
    lines = {}
    for row, front in fronts(race, measured_lengths()).items():
        lines[row.replace("*", "").replace("`", "")] = [(sum(parts), mean(errors)) for parts, *_, errors in front]
    labels = {"xlabel": "seconds, teacher included", "ylabel": "errors in 10,000 test images, mean of five seeds"}
    figures.errors_by_seconds(lines, RESULTS.with_suffix(".png"), level=ENOUGH, **labels)


PARTS = {
    "race": (measure_race, race_table),
    "errors": (measure_errors, errors_table),
    "together": (partial(measure_race, groups={"student": TOGETHER}), together_table),
}


def texts(measured):
    """{name: Markdown} of the tables of speed.md, of the parts that were measured. measured: what speed.json holds."""
    filled = {f"speed_{part}": table(measured[part]) for part, (_, table) in PARTS.items() if part in measured}
    return filled | ({"speed_result": result_table(measured["race"])} if "race" in measured else {})


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
        draw(measured["race"])


if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: sys.exit(terminal.STOPPED))  # so that the temporary folders are removed
    terminal.run(main)
