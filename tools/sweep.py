"""Distil at every temperature and alpha of a grid, and choose on images that no net was trained on.

    python tools/sweep.py --folds 5      cross-validation: students and teacher are tested on images they never saw
    python tools/sweep.py                3 seeds on the validation images (after python teacher.py): quick, but noisy
    python tools/sweep.py --folds 5 --grid epochs=60,150 --grid activation=relu,silu      other settings too

For each setting it prints the errors on the held-out images, the difference to the best setting's, and the standard
error of that difference, computed image by image. Of all within one standard error of the best it chooses the lowest
temperature, then the lowest alpha. The student on labels alone is always there too.

The students of a seed or a fold are trained side by side, on all cores; each is the one that distill.py trains. Keeps
every net, and what is recorded of it, in artifacts/sweep/ and goes on where it was stopped; nets that other code made,
such as another build_student, are trained anew. Writes sweep.json and plots/sweep.png to artifacts/. On two cores the
first command takes a quarter of an hour, the second seven minutes. --cluster has the machines of a Dask cluster do it.
"""

import argparse
import dataclasses
import itertools
import statistics
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import UserError, classifier, files, model_files, teacher_logits, terminal, training
from support.recipe import MAX_SEED, any_temperature, fraction, integer

import numpy as np

import data
import distill
import student
import teacher
from studies import figures, runs
from studies.runs import Images, Run

TEMPERATURES, ALPHAS = [1.0, 2.0, 3.0, 6.0], [0.3, 0.9]  # distill.py's own are among them
LISTED = ("temperature", "alpha")  # settings with an option of their own, which takes several values
NOT_IN_GRID = ("seed", *LISTED)


def parse_arguments():
    shared = "data validation out teacher teacher_pixels student format cluster"
    options = terminal.parser(__doc__, shared, distill.DEFAULTS, distill.OWN_DATA_DEFAULTS, without=LISTED)
    options.add_argument("--temperatures", type=any_temperature, nargs="+", default=TEMPERATURES, metavar="T")
    options.add_argument("--alphas", type=fraction, nargs="+", default=ALPHAS, metavar="ALPHA")
    help_text = "values of another setting to try, such as epochs=60,150; hidden=64-64,128; again for more settings"
    options.add_argument("--grid", type=parse_grid, action="append", default=[], metavar="NAME=V1,V2", help=help_text)
    either = options.add_mutually_exclusive_group()
    either.add_argument("--seeds", type=integer(1), default=3, help="so many, from --seed on (default: 3)")
    help_text = "cross-validation on all training images, in N parts; trains a teacher for each"
    either.add_argument("--folds", type=integer(2, 100), metavar="N", help=help_text)
    arguments = options.parse_args()
    if arguments.folds and {"teacher", "validation", "teacher_pixels"} & arguments.given:
        problem = "--folds trains teachers and holds images out by itself: leave out --validation, --teacher and"
        options.error(f"{problem} --teacher-pixels (a teacher of your own may have seen the images of each fold)")
    arguments.seeds = arguments.folds or arguments.seeds  # a seed for each fold
    if arguments.seed + arguments.seeds > MAX_SEED + 1:
        options.error(f"--seed {arguments.seed} leaves no {arguments.seeds} seeds up to {MAX_SEED}")
    arguments.temperatures, arguments.alphas = sorted({*arguments.temperatures}), sorted({*arguments.alphas})
    names = [name for name, _ in arguments.grid]
    if len({*names}) < len(names):
        options.error("--grid names a setting twice: list all its values in one, such as --grid epochs=60,150")
    arguments.grid = dict(arguments.grid)
    return arguments


def parse_grid(text):
    """An argparse type: (the name of a field of DistillRecipe, the values to try)."""
    name, _, listed = text.partition("=")
    name = name.removeprefix("--").replace("-", "_")
    fields = dataclasses.fields(distill.DistillRecipe)
    known = {field.name: field.metadata for field in fields if field.name not in NOT_IN_GRID}
    if name not in known:
        problem = f"{name} is not a setting for --grid, which are {', '.join(known)}"
        raise argparse.ArgumentTypeError(f"{problem}; T and alpha have --temperatures and --alphas")
    options, values = known[name], []
    for value in listed.split(","):
        if value not in options.get("choices", [value]):
            raise argparse.ArgumentTypeError(f"{name}={value}: choose from {', '.join(options['choices'])}")
        parse = options.get("type", str)
        values.append(tuple(map(parse, value.split("-"))) if "nargs" in options else parse(value))
    return name, [*dict.fromkeys(values)]


# ---- the grid --------------------------------------------------------------------------------------------------------


def candidates(arguments):
    """The DistillRecipes to choose from: for all values of --grid, labels alone, then each temperature and alpha."""
    recipes = []
    for values in itertools.product(*arguments.grid.values()):
        base = replace(distill.DEFAULTS.updated(vars(arguments)), **dict(zip(arguments.grid, values)))
        if base.translate and base.distort:  # they exclude each other
            base = replace(base, **({"translate": 0} if "distort" in arguments.grid else {"distort": 0.0}))
        recipes.append(replace(base, loss="labels"))
        for temperature, alpha in itertools.product(arguments.temperatures, arguments.alphas):
            recipes.append(replace(base, temperature=temperature, alpha=alpha))
    return [*dict.fromkeys(map(with_defaults, recipes))]


def unused(recipe):
    """The settings of other losses, such as the temperature, that the loss of this recipe does without."""
    asked_for = {name: training.settings_of(loss, recipe) for name, loss in distill.LOSSES.items()}
    return {*itertools.chain(*asked_for.values())}.difference(asked_for[recipe.loss])


def with_defaults(recipe):
    """The recipe with the defaults of its `unused` settings: recipes that differ in these alone are the same."""
    return replace(recipe, **distill.DEFAULTS.only(*unused(recipe)))


def plan(arguments, dataset, recipes, teacher_sha256):
    """{recipe: its runs, one for each seed or fold}. teacher_sha256: of the teacher that all have, without folds."""
    planned = {recipe: [] for recipe in recipes}
    teacher_recipe = teacher.OWN_DATA_DEFAULTS if arguments.data else teacher.DEFAULTS
    teacher_recipe = replace(teacher_recipe, batch_size=data.fitting_batch_size(teacher_recipe.batch_size, dataset))
    for number, recipe in itertools.product(range(arguments.folds or arguments.seeds), recipes):
        images = Images(fold=(number, arguments.folds)) if arguments.folds else Images(validation=True)
        taught_by = Run(teacher_recipe, None, images) if arguments.folds else teacher_sha256
        planned[recipe].append(Run(recipe, taught_by, images).with_seed(arguments.seed + number))
    return planned


def is_alone(recipe):
    """Whether a student is trained on labels alone."""
    return recipe.loss == "labels"


def grid_texts(arguments, recipe):
    """{name: value as one types it} of the settings of --grid."""
    values = recipe.only(*arguments.grid)
    return {name: "-".join(map(str, value)) if isinstance(value, tuple) else value for name, value in values.items()}


# ---- choosing --------------------------------------------------------------------------------------------------------


def shares_wrong(of_recipe):
    """For each held-out image, the share of a recipe's nets that have it wrong.

    of_recipe: its records, one for each fold, on other images; or one for each seed, on the same images.
    """
    if of_recipe[0]["run"]["images"]["fold"]:
        return np.concatenate([runs.wrong_counts([record]) for record in of_recipe])
    return runs.wrong_counts(of_recipe) / len(of_recipe)


def compare(shares, best):
    """{recipe: (errors, how many more than the best, the standard error of that difference)}; see `shares_wrong`."""
    compared = {}
    for recipe, share in shares.items():
        more = share - shares[best]
        compared[recipe] = share.sum(), more.sum(), np.sqrt(len(more)) * more.std()
    return compared


def choose(shares):
    """(the chosen recipe, {recipe: see `compare`}): of all within a standard error of the best, the lowest T and alpha.

    Those of another loss than the best are not to be chosen, as its T and alpha mean something else; nor are labels
    alone, unless there is nothing else.
    """
    taught = [recipe for recipe in shares if not is_alone(recipe)] or list(shares)
    best = min(taught, key=lambda recipe: shares[recipe].sum())
    compared = compare(shares, best)
    within = [recipe for recipe in taught if recipe.loss == best.loss and compared[recipe][1] <= compared[recipe][2]]
    return min(within, key=lambda recipe: (recipe.temperature, recipe.alpha, compared[recipe][0])), compared


def show(arguments, compared, num_images, figure):
    """Print and draw the errors, the best first. compared: see `compare`."""
    counted = f"errors in {num_images:,} held-out images"
    header, rows = [*arguments.grid, "T", "alpha", counted, "more than the best distilled", "standard error"], []
    for recipe in sorted(compared, key=lambda recipe: compared[recipe][0]):
        names = ["" if name in unused(recipe) else f"{getattr(recipe, name):g}" for name in LISTED]
        names = ["", "labels alone"] if is_alone(recipe) else names
        counts = (f"{value:,.1f}".removesuffix(".0") for value in compared[recipe])
        rows.append([*map(str, grid_texts(arguments, recipe).values()), *names, *counts])
    terminal.print_table("", header, rows)
    lines, temperatures = {}, arguments.temperatures
    for recipe, (errors, _, deviation) in compared.items():
        parts = [
            "student on labels alone" if is_alone(recipe) else f"alpha = {recipe.alpha:g}"
        ]  # the former has a colour
        parts += [f"{key} {text}" for key, text in grid_texts(arguments, recipe).items()]
        band = [errors - deviation, errors, errors + deviation]
        lines.setdefault(", ".join(parts), []).append(band)
    for bands in lines.values():  # a loss without a temperature is a level line
        bands.extend(bands[:1] * (len(temperatures) - len(bands)))
    title = "Band: standard error of the difference from the best; alpha is the weight of the soft term"
    figures.error_lines(temperatures, lines, figure, title=title, xlabel="temperature", ylabel=counted)


def options_of(recipe, names):
    """These settings of a recipe as one types them: '--temperature 3.0 --alpha 0.3'."""
    texts = {
        name: " ".join(map(str, value)) if name == "hidden" else value for name, value in recipe.only(*names).items()
    }
    return " ".join(f"--{name.replace('_', '-')} {text}" for name, text in texts.items())


def report(arguments, records, planned, out):
    """Choose, open the test set for the chosen students and those on labels alone, and write sweep.json."""
    shares = {recipe: shares_wrong([records.finished[run] for run in of]) for recipe, of in planned.items()}
    chosen, compared = choose(shares)
    figure = out / "plots" / f"sweep.{arguments.format}"
    show(arguments, compared, len(shares[chosen]), figure)
    settings = chosen.only(*arguments.grid, *LISTED)
    rule = "of all within a standard error of the best, the lowest T, then the lowest alpha"
    print(f"chosen: {options_of(chosen, [name for name in settings if name not in unused(chosen)])} ({rule})")
    to_test = {"chosen": chosen, "labels alone": with_defaults(replace(chosen, loss="labels"))}
    # The other settings of --grid were chosen for the distilled student: others may be better without a teacher.
    best_alone = min((recipe for recipe in planned if is_alone(recipe)), key=lambda recipe: shares[recipe].sum())
    if best_alone not in to_test.values():
        to_test[f"labels alone, best with {options_of(best_alone, arguments.grid)}"] = best_alone
    for name, recipe in [*to_test.items()][1:]:
        errors, more, deviation = compare(shares, chosen)[recipe]
        more_or_fewer = f"{abs(more):,.0f} {'more' if more >= 0 else 'fewer'} than the chosen"
        print(f"{name}: {errors:,.0f} errors, {more_or_fewer} (standard error {deviation:.0f})")
    result = {"chosen": settings, "test_errors": {}, "compared": [], "runs": []}
    for recipe, values in compared.items():
        counts = dict(zip(("errors", "more", "standard_error"), map(float, values)))
        alone = {"alpha": 0.0} if is_alone(recipe) else {}
        result["compared"].append(recipe.only(*settings) | alone | counts)
    for run in itertools.chain(*planned.values()):
        values = {"net": records.net(run).name, "validation_errors": records.finished[run]["errors"]}
        result["runs"].append(run.recipe.settings() | {"fold": run.images.fold} | values)
    if arguments.folds:
        teachers = [records.finished[run.teacher] for run in planned[chosen] if run.teacher in records.finished]
        if len(teachers) == arguments.folds:  # they need not, where all students are there or on labels alone
            result["teachers_errors"] = sum(record["errors"] for record in teachers)
            print(f"the teachers: {result['teachers_errors']:,} errors")
    for name, recipe in to_test.items():
        test_errors = []
        for run in planned[recipe]:
            net = model_files.load(records.net(run), *records.dataset.form)
            test_errors.append(classifier.count_errors(net, records.dataset.test, recipe.student_pixels))
        result["test_errors"][name] = test_errors
        mean, listed = statistics.mean(test_errors), ", ".join(map(str, test_errors))
        num_images = len(records.dataset.test.labels)
        print(f"{name}: {mean:.1f} test errors in {num_images:,} images, mean of the nets ({listed})")
    files.write_json(out / "sweep.json", result)
    print(f"saved {out / 'sweep.json'} and {figure}")


def main():
    arguments = parse_arguments()
    terminal.print_settings(arguments)
    out, teacher_files = files.output_folder(arguments.out), {}
    arguments.validation = 0 if arguments.folds else arguments.validation
    dataset = data.load_for(arguments)
    if not arguments.folds:
        if not len(dataset.validation.labels):
            raise UserError("there are no validation images to choose on: give --folds 5, or another --validation")
        loaded = teacher_logits.load(arguments, distill.DEFAULTS.updated(vars(arguments)), dataset, out)
        paths, pixels = arguments.teacher or [out / "teacher.keras"], arguments.teacher_pixels or 1.0
        contents, suffixes = zip(*((path.read_bytes(), path.suffix) for path in paths))
        teacher_files = {f"{loaded.sha256} {pixels}": runs.TeacherFiles(contents, suffixes, pixels)}
    recipes = candidates(arguments)
    nets = dict.fromkeys(with_defaults(replace(recipe, loss="labels")) for recipe in recipes)
    own, *_ = (student.check_student(dataset, recipe, arguments.student) for recipe in nets)
    folder = out / "sweep"
    folder.mkdir(exist_ok=True)
    files.lock(folder)
    context = f"{files.sha256(*dataset.train, *dataset.validation, np.array(own or ''))} {files.code_sha256()}"
    records = runs.Records(folder / "records.json", folder, dataset, context, keeps=True)
    planned, names = plan(arguments, dataset, recipes, next(iter(teacher_files), None)), {}
    for recipe, of_recipe in planned.items():
        shown = "labels alone" if is_alone(recipe) else options_of(recipe, LISTED)
        others = [name for name in arguments.grid if name != "loss" or not is_alone(recipe)]
        described = " ".join([shown, options_of(recipe, others)]).strip()
        names |= {run: f"{described}, seed {run.recipe.seed}" for run in of_recipe}
    names = dict(sorted(names.items(), key=lambda item: item[0].recipe.seed))
    own_bytes = arguments.student.read_bytes() if arguments.student else None
    # Of the folds' teachers in their own folder: those of distill.py's teacher stay.
    runs.run_all(records, names, arguments.cluster, teacher_files, own_bytes, cache=None if arguments.folds else out)
    report(arguments, records, planned, out)


if __name__ == "__main__":
    terminal.run(main)
