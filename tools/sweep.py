"""Distil at every temperature and alpha of a grid, with several seeds, and choose on the validation images.

    python tools/sweep.py        (after python teacher.py)

4 temperatures x 2 alphas x 3 seeds of the default student, each trained as by distill.py, in about 11 minutes on two cores. Keeps
each student in artifacts/sweep/ and goes on where it was stopped. Writes sweep.json and plots/sweep.png to artifacts/.
"""

import functools
import itertools
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import UserError, files, models, pick, plots, terminal

import numpy as np

import data
import distill
import student

TEMPERATURES, ALPHAS = [1.0, 2.0, 4.0, 8.0], [0.5, 0.9]


def parse_arguments():
    defaults = terminal.DATA | distill.NETS | {"format": "png"} | student.RECIPE
    options = terminal.parser(__doc__, defaults, student.OWN_DATA)
    options.add_argument("--temperatures", type=terminal.TEMPERATURE, nargs="+", default=TEMPERATURES, metavar="T")
    options.add_argument("--alphas", type=terminal.fraction, nargs="+", default=ALPHAS, metavar="ALPHA")
    options.add_argument("--seeds", type=terminal.integer(1), default=3, help="so many, from --seed on (default: 3)")
    arguments = options.parse_args()
    if arguments.seed + arguments.seeds > terminal.MAX_SEED + 1:
        options.error(f"--seed {arguments.seed} leaves no {arguments.seeds} seeds up to {terminal.MAX_SEED}")
    arguments.temperatures, arguments.alphas = sorted({*arguments.temperatures}), sorted({*arguments.alphas})
    return arguments


def plan(arguments, dataset, teacher, folder):
    """{path of a student: its settings} of the whole grid, seed by seed."""
    shared = student.settings_from(arguments, dataset)
    shared |= {"validation": files.fingerprint(*dataset.validation)}
    shared |= {"teacher": models.fingerprint(*teacher)}
    wanted = {}
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    for seed, temperature, alpha in itertools.product(seeds, arguments.temperatures, arguments.alphas):
        path = folder / f"T{temperature}_alpha{alpha}_seed{seed}.keras"
        wanted[path] = shared | {"seed": seed, "temperature": temperature, "alpha": alpha}
    return wanted


def run_grid(dataset, logits, wanted, own):
    """Train those of {path: settings} that are not there yet; returns {path: errors on the validation images}. own: --student."""
    missing = [path for path, settings in wanted.items() if not models.is_made_with(path, settings)]
    if len(missing) < len(wanted):
        print(f"{len(wanted) - len(missing)} of {len(wanted)} students are there already")
    start = time.perf_counter()
    for number, path in enumerate(missing, 1):
        settings = wanted[path]
        loss = functools.partial(distill.distillation_loss, **pick(settings, ["temperature", "alpha"]))
        name = f"{number:3}/{len(missing)}  {path.stem:<24}"
        report = lambda row, epochs, name=name: terminal.progress(f"{name} epoch {row.epoch}/{epochs}")
        net, history = student.train_student(dataset, settings, loss, logits, own, report=report)
        errors = models.count_errors(net, dataset.validation)
        models.save(net, path, settings | {"validation_errors": errors}, history)
        minutes = (time.perf_counter() - start) / 60 * (len(missing) / number - 1)
        print(
            f"{name} {errors:4} wrong of {len(dataset.validation.labels):,} validation images  {minutes:.1f} min left",
            flush=True,
        )
    return {path: models.load_training(path)[0]["validation_errors"] for path in wanted}


def main():
    arguments = parse_arguments()
    terminal.print_settings(arguments)
    out = files.output_folder(arguments.out)
    dataset = data.load(arguments.data, arguments.validation)
    print(f"data: {dataset}", flush=True)
    if not len(dataset.validation.labels):
        raise UserError("there are no validation images to choose on: leave --validation out, or raise it")
    teacher = distill.load_teacher(arguments, dataset, out)
    views = pick(vars(arguments), ["translate", "distort"])
    logits = distill.teacher_logits(teacher, dataset.train.images, **views, cache=out, pixels=arguments.teacher_pixels)
    folder = out / "sweep"
    folder.mkdir(exist_ok=True)
    files.lock(folder)
    wanted = plan(arguments, dataset, teacher, folder)
    errors = run_grid(dataset, logits, wanted, arguments.student)

    temperatures, alphas = arguments.temperatures, arguments.alphas
    grid = np.array([errors[path] for path in wanted]).reshape(arguments.seeds, len(temperatures), len(alphas))
    figure = out / "plots" / f"sweep.{arguments.format}"
    counted = f"errors in {len(dataset.validation.labels):,} validation images"
    plots.error_lines(
        temperatures,
        {f"alpha = {alpha:g}": grid[:, :, place].T for place, alpha in enumerate(alphas)},
        figure,
        xlabel="temperature",
        ylabel=counted,
        title=f"Mean and range of {arguments.seeds} seeds; alpha is the weight of the teacher's part",
    )
    header, rows = ["T", *(f"alpha {alpha:g}" for alpha in alphas)], []
    for row, temperature in enumerate(temperatures):
        cells = (f"{wrong.mean():.1f} ({wrong.min()}-{wrong.max()})" for wrong in grid[:, row].T)
        rows.append([f"{temperature:g}", *cells])
    terminal.print_table(f"\n{counted}: mean of {arguments.seeds} seeds (least-most)", header, rows)
    row, column = np.unravel_index(grid.mean(0).argmin(), grid.shape[1:])
    best = {"temperature": temperatures[row], "alpha": alphas[column]}
    print(f"chosen: --temperature {temperatures[row]:g} --alpha {alphas[column]:g}", flush=True)

    # Only now is the test set used, and for the chosen students alone.
    test_errors = [
        models.count_errors(models.load(path, dataset.image_shape, dataset.num_classes), dataset.test)
        for path, settings in wanted.items()
        if not models.differing(settings, best)
    ]
    runs = [settings | {"validation_errors": errors[path]} for path, settings in wanted.items()]
    found = {"chosen": best | {"test_errors": test_errors}, "header": header, "rows": rows, "runs": runs}
    files.write_json(out / "sweep.json", found)
    print(f"saved {out / 'sweep.json'} and {figure}")
    mean, each = statistics.mean(test_errors), ", ".join(map(str, test_errors))
    print(f"the chosen: {mean:.1f} test errors in {len(dataset.test.labels):,} images, mean of the seeds ({each})")


if __name__ == "__main__":
    terminal.run(main)
