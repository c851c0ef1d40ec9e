"""Distil at every temperature and alpha of a grid, with several seeds, and choose on the validation images.

    python tools/sweep.py        (after python teacher.py)

4 temperatures x 2 alphas x 3 seeds of the default student, each trained as by distill.py, on one core. This takes
about 7 minutes, or 5 on two cores after `pip install distributed` (Dask): then each core trains a student, and
--cluster takes any Dask cluster. Keeps each student in artifacts/sweep/ and goes on where it was stopped. Writes
sweep.json and plots/sweep.png to artifacts/.
"""

import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import UserError, files, inference, model_files, parallel, terminal, training
from support.recipe import MAX_SEED, any_temperature, fraction, integer

import numpy as np

import data
import distill
import student
import teachers
from studies import figures

TEMPERATURES, ALPHAS = [1.0, 2.0, 4.0, 8.0], [0.5, 0.9]


def parse_arguments():
    nets = teachers.OwnTeacher(), inference.TeacherPixels(), student.OwnStudent()
    recipes = terminal.Files(), *nets, terminal.Figures(), student.MNIST
    options = terminal.parser(__doc__, *recipes, own_data=student.OWN_DATA)
    options.add_argument("--temperatures", type=any_temperature, nargs="+", default=TEMPERATURES, metavar="T")
    options.add_argument("--alphas", type=fraction, nargs="+", default=ALPHAS, metavar="ALPHA")
    options.add_argument("--seeds", type=integer(1), default=3, help="so many, from --seed on (default: 3)")
    parallel.add_options(options)
    arguments = options.parse_args()
    if arguments.seed + arguments.seeds > MAX_SEED + 1:
        options.error(f"--seed {arguments.seed} leaves no {arguments.seeds} seeds up to {MAX_SEED}")
    arguments.temperatures, arguments.alphas = sorted({*arguments.temperatures}), sorted({*arguments.alphas})
    return arguments


def plan(arguments, dataset, teacher, folder):
    """{path of a student: its settings} of the whole grid, seed by seed."""
    common = student.settings_from(student.StudentRecipe.of(vars(arguments)), arguments.student, dataset)
    common |= {"validation": files.fingerprint(*dataset.validation)}
    common |= {"teacher": teachers.fingerprint(teacher), "teacher_pixels": arguments.teacher_pixels}
    students = {}
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    for seed, temperature, alpha in itertools.product(seeds, arguments.temperatures, arguments.alphas):
        path = folder / f"T{temperature}_alpha{alpha}_seed{seed}.keras"
        students[path] = common | {"seed": seed, "temperature": temperature, "alpha": alpha}
    return students


def train(dataset, settings, teacher, logits, own_student):
    """Train a student in any process: (errors on the validation images, its .keras file as bytes).

    logits: see teachers.teacher_logits; None for distorted images, whose logits are computed here. teacher: its files
    as bytes, and --teacher-pixels; only needed without logits. own_student: the file of --student as bytes, or None.
    """
    recipe = distill.DistillRecipe.of(settings)
    if logits is None:
        saved, pixels = teacher
        nets = [model_files.from_bytes(each, dataset.image_shape, dataset.num_classes)[0] for each in saved]
        logits = teachers.teacher_logits(nets, dataset.train.images, distort=recipe.distort, pixels=pixels)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.keras"
        path.write_bytes(own_student or b"")
        loss, options = distill.loss_of(recipe), {"report": training.show_epoch}
        net, history = student.train_student(dataset, recipe, loss, logits, own_student and path, **options)
    errors = inference.count_errors(net, dataset.validation, recipe.student_pixels)
    return errors, model_files.to_bytes(net, settings | {"validation_errors": errors}, history)


def run_grid(arguments, dataset, logits, students, out):
    """Train those students, {path: settings}, that are not there yet; returns {path: errors on the validation images}.

    logits: what teachers.teacher_logits returns. out: where the teacher is, unless --teacher says otherwise.
    """
    defaults = student.MNIST.settings()
    missing = [path for path, settings in students.items() if not model_files.is_made_with(path, settings, defaults)]
    if len(missing) < len(students):
        print(f"{len(students) - len(missing)} of {len(students)} students are there already")
    start, num_finished = time.perf_counter(), 0

    def describe():
        left = parallel.time_left(start, num_finished, len(missing))
        return f"{num_finished} of {len(missing)} students done{left}"

    with parallel.pool(arguments.workers, arguments.cluster) as pool:
        teacher = [path.read_bytes() for path in arguments.teacher or [out / "teacher.keras"]], arguments.teacher_pixels
        teacher_or_logits = (pool.share(teacher), None) if callable(logits) else (None, pool.share(logits))
        own_student = arguments.student and arguments.student.read_bytes()
        shared, tasks = pool.share(dataset), {}
        for path in missing:
            task = pool.submit(train, shared, students[path], *teacher_or_logits, own_student, name=path.stem)
            tasks[task] = path
        for task, (errors, saved) in pool.finished(list(tasks), describe):
            with files.atomic_write(tasks[task]) as scratch:
                scratch.write_bytes(saved)
            num_finished += 1
            terminal.clear_progress()
            print(f"{tasks[task].stem:<24} {errors:4} validation images wrong  {describe()}", flush=True)
    return {path: model_files.load_training(path)[0]["validation_errors"] for path in students}


def show(grid, arguments, num_images, figure):
    """Draw and print the errors `grid` (seeds, temperatures, alphas); returns (header, rows) of the table."""
    counted = f"errors in {num_images:,} validation images"
    figures.error_lines(
        arguments.temperatures,
        {f"alpha = {alpha:g}": grid[:, :, place].T for place, alpha in enumerate(arguments.alphas)},
        figure,
        xlabel="temperature",
        ylabel=counted,
        title=f"Mean and range of {arguments.seeds} seeds; alpha is the weight of the soft term",
    )
    header, rows = ["T", *(f"alpha {alpha:g}" for alpha in arguments.alphas)], []
    for place, temperature in enumerate(arguments.temperatures):
        cells = [f"{errors.mean():.1f} ({errors.min()}-{errors.max()})" for errors in grid[:, place].T]
        rows.append([f"{temperature:g}", *cells])
    terminal.print_table(f"\n{counted}: mean of {arguments.seeds} seeds (least-most)", header, rows)
    return header, rows


def main():
    arguments = parse_arguments()
    terminal.print_settings(arguments)
    parallel.use_one_core()  # before anything is computed: then the students do not depend on the number of workers
    out = files.output_folder(arguments.out)
    dataset = data.load_for(arguments)
    if not len(dataset.validation.labels):
        raise UserError("there are no validation images to choose on: leave --validation out, or raise it")
    teacher = teachers.load_teacher(arguments, dataset, out)
    views = student.StudentRecipe.of(vars(arguments)).only("translate", "distort")
    logits = teachers.teacher_logits(teacher, dataset.train.images, **views, cache=out, pixels=arguments.teacher_pixels)
    folder = out / "sweep"
    folder.mkdir(exist_ok=True)
    files.lock(folder)
    students = plan(arguments, dataset, teacher, folder)
    errors = run_grid(arguments, dataset, logits, students, out)

    temperatures, alphas, figure = arguments.temperatures, arguments.alphas, out / "plots" / f"sweep.{arguments.format}"
    grid = np.array([errors[path] for path in students]).reshape(arguments.seeds, len(temperatures), len(alphas))
    header, rows = show(grid, arguments, len(dataset.validation.labels), figure)
    row, column = np.unravel_index(grid.mean(0).argmin(), grid.shape[1:])
    chosen = {"temperature": temperatures[row], "alpha": alphas[column]}
    print(f"chosen: --temperature {temperatures[row]:g} --alpha {alphas[column]:g}", flush=True)

    # Only now is the test set used, and for the chosen students alone.
    test_errors = []
    for path, settings in students.items():
        if not model_files.differing(settings, chosen):
            net = model_files.load(path, dataset.image_shape, dataset.num_classes)
            test_errors.append(inference.count_errors(net, dataset.test, arguments.student_pixels))
    runs = [settings | {"validation_errors": errors[path]} for path, settings in students.items()]
    result = {"chosen": chosen | {"test_errors": test_errors}, "header": header, "rows": rows, "runs": runs}
    files.write_json(out / "sweep.json", result)
    print(f"saved {out / 'sweep.json'} and {figure}")
    mean, listed = statistics.mean(test_errors), ", ".join(map(str, test_errors))
    print(f"the chosen: {mean:.1f} test errors in {len(dataset.test.labels):,} images, mean of the seeds ({listed})")


if __name__ == "__main__":
    terminal.run(main)
