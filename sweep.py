"""Distil at every temperature and alpha of a grid, with several seeds, and choose on the validation images.

    python sweep.py        (after python teacher.py)

6 temperatures x 3 alphas x 3 seeds of the default student, each trained as distill.py does, to rounding, in 8 minutes on two
cores. It chose T = 3 and alpha = 0.5, the defaults of distill.py. Keeps each student in artifacts/sweep/ and goes on where
it was stopped. Writes sweep.json and plots/sweep.png to artifacts/.
"""

import itertools
import json
import time

import common  # before TensorFlow: it keeps the start-up quiet

import numpy as np
import tensorflow as tf

import data
import distill
import plots
import student
import training


def parse_arguments():
    options = common.parser(__doc__)
    distill.add_teacher_option(options)
    options.add_argument(
        "--temperatures", type=common.number(1e-3, 1e6), nargs="+", default=[1.0, 2.0, 3.0, 4.0, 8.0, 16.0], metavar="T"
    )
    options.add_argument(
        "--alphas", type=common.fraction, nargs="+", default=[0.5, 0.9, 1.0], metavar="ALPHA", help="soft term's weight"
    )
    options.add_argument("--seeds", type=common.whole(1), default=3, help="so many, from --seed on (default: 3)")
    student.add_student_options(options)
    common.add_format_option(options)
    arguments = options.parse_args()
    if arguments.seed + arguments.seeds > 2**32:
        options.error(f"--seed {arguments.seed} leaves no {arguments.seeds} seeds up to 4294967295")
    arguments.temperatures = sorted(set(arguments.temperatures))
    arguments.alphas = sorted(set(arguments.alphas))
    return arguments


def plan(arguments, digits, teacher, folder):
    """{path of a student: its settings} of the whole grid, seed by seed."""
    wanted = {}
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        recipe = student.recipe(arguments, digits) | {"seed": seed}
        for temperature, alpha in itertools.product(arguments.temperatures, arguments.alphas):
            path = folder / f"T{temperature}_alpha{alpha}_seed{seed}.keras"
            wanted[path] = recipe | {"temperature": temperature, "alpha": alpha, "teacher": teacher}
    return wanted


def finished(path, settings):
    """How many validation images the student at `path` has wrong, if it was trained with these settings; None if not."""
    found = training.settings_of(path)
    return found.get("validation_errors") if found | settings == found else None


def distil_all(digits, logits, wanted, report):
    """Distil the students of one seed, {path: settings}, and save each; report(path, errors on the validation images).

    One compiled loop serves them all: temperature and alpha are variables of it.
    """
    recipe = next(iter(wanted.values()))
    net, batches = student.prepare(digits, recipe, logits)
    first_weights = net.get_weights()
    temperature, alpha = tf.Variable(1.0), tf.Variable(1.0)
    optimizer = training.adam(recipe["learning_rate"], recipe["epochs"] * batches.num_steps)
    run_epoch = training.compile_epoch(net, optimizer, batches, distill.loss_at(temperature, alpha))
    predict = training.predictor(net)
    for path, settings in wanted.items():
        net.set_weights(first_weights)
        for variable in optimizer.variables:
            variable.assign(tf.zeros_like(variable))
        temperature.assign(settings["temperature"])
        alpha.assign(settings["alpha"])
        history = training.run_epochs(run_epoch, recipe["epochs"], path.stem)
        errors = int(np.sum(predict(digits.validation.images).argmax(-1) != digits.validation.labels))
        training.save(net, path, settings | {"validation_errors": errors}, history)
        report(path, errors)


def run_grid(digits, logits, wanted):
    """Train what is not finished yet of {path: settings}; returns {path: errors on the validation images}."""
    errors = {path: finished(path, settings) for path, settings in wanted.items()}
    missing = [path for path in wanted if errors[path] is None]
    if len(missing) < len(wanted):
        print(f"{len(wanted) - len(missing)} of {len(wanted)} students are there already")
    start, number = time.perf_counter(), itertools.count(1)

    def report(path, wrong):
        errors[path] = wrong
        done = next(number)
        left = (time.perf_counter() - start) / done * (len(missing) - done)
        common.clear_progress()
        print(
            f"{done:3}/{len(missing)}  {path.stem:<24} {wrong:4} wrong of {len(digits.validation.labels):,} validation images"
            f"  {left / 60:.1f} min left",
            flush=True,
        )

    for _, paths in itertools.groupby(missing, key=lambda path: wanted[path]["seed"]):
        distil_all(digits, logits, {path: wanted[path] for path in paths}, report)
    return errors


def main():
    arguments = parse_arguments()
    common.print_settings(arguments)
    out = common.make_folder(arguments.out)
    digits = data.load(arguments.data, arguments.validation)
    print(f"data: {digits}")
    if not len(digits.validation.labels):
        raise common.UserError("there are no validation images to choose on: leave --validation out, or raise it")
    teacher, logits = distill.ask_teacher(arguments, digits, out)
    folder = out / "sweep"
    folder.mkdir(exist_ok=True)
    common.claim(folder)
    wanted = plan(arguments, digits, common.fingerprint(*teacher.get_weights()), folder)
    errors = run_grid(digits, logits, wanted)

    temperatures, alphas = arguments.temperatures, arguments.alphas
    shape = (arguments.seeds, len(temperatures), len(alphas))  # the order of `plan`
    table = np.array([errors[path] for path in wanted]).reshape(shape)
    figure = out / "plots" / f"sweep.{arguments.format}"
    plots.spread(
        temperatures,
        {f"alpha = {alpha:g}": table[:, :, place].T for place, alpha in enumerate(alphas)},
        figure,
        xlabel="temperature",
        ylabel=f"wrong of {len(digits.validation.labels):,} validation images",
        title=f"Mean of {arguments.seeds} seeds, and their range; alpha weighs the soft term",
    )
    print(
        f"\nwrong of {len(digits.validation.labels):,} validation images: mean of {arguments.seeds} seeds (least-most)"
    )
    print("T       " + "".join(f"{f'alpha {alpha:g}':>20}" for alpha in alphas))
    for row, temperature in enumerate(temperatures):
        cells = (f"{wrong.mean():.1f} ({wrong.min()}-{wrong.max()})" for wrong in table[:, row].T)
        print(f"{temperature:<8g}" + "".join(f"{cell:>20}" for cell in cells))
    row, column = np.unravel_index(table.mean(0).argmin(), shape[1:])
    chosen = {"temperature": temperatures[row], "alpha": alphas[column]}
    print(f"chosen: --temperature {temperatures[row]:g} --alpha {alphas[column]:g}", flush=True)

    # Only now is the test set opened, and for the chosen students alone.
    chosen["test_errors"] = [
        training.count_errors(training.load(path, digits.image_shape, digits.num_classes), digits.test)
        for path, settings in wanted.items()
        if settings | chosen == settings
    ]
    runs = [settings | {"validation_errors": errors[path]} for path, settings in wanted.items()]
    with common.replacing(out / "sweep.json") as scratch:
        found = {"chosen": chosen, "validation_images": len(digits.validation.labels), "runs": runs}
        scratch.write_text(json.dumps(found | {"versions": common.versions()}, indent=1) + "\n")
    print(f"saved {out / 'sweep.json'} and {figure}")
    mean = float(np.mean(chosen["test_errors"]))
    print(
        f"the chosen: {mean:.1f} test errors in {len(digits.test.labels):,} images, accuracy"
        f" {1 - mean / len(digits.test.labels):.2%}, mean of {arguments.seeds} seeds {chosen['test_errors']}"
    )


if __name__ == "__main__":
    common.run(main)
