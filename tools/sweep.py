"""Distil at every temperature and alpha of a grid, and choose on images that no net was trained on.

    python tools/sweep.py --folds 5      cross-validation: each training image is held out once, from a teacher too
    python tools/sweep.py                3 seeds on the validation images (after python teacher.py): quick, but noisy
    python tools/sweep.py --folds 5 --grid epochs=60,150 --grid activation=relu,silu      other settings too

Prints errors on the held-out images, how many more they are than those of the best, and the standard error of that
difference, which is paired image by image. Of all within one standard error of the best it chooses the lowest
temperature, then the lowest alpha. The student on labels alone is always there too.

The students of a seed or a fold are trained side by side, on all cores; each is the one that distill.py trains. After
`pip install distributed` (Dask), --workers and --cluster have processes of one core each. Keeps every net in
artifacts/sweep/ and goes on where it was stopped; nets that other code made, such as another build_student, are trained
anew. Writes sweep.json and plots/sweep.png to artifacts/. On two cores the first command takes half an hour, the second
seven minutes.
"""

import argparse
import dataclasses
import functools
import itertools
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import UserError, classifier, files, model_files, parallel, teacher_logits, terminal, training
from support.batches import Batches
from support.recipe import MAX_SEED, VIEWS, any_temperature, fraction, integer

import numpy as np

import data
import distill
import student
import teacher
from studies import figures

TEMPERATURES, ALPHAS = [1.0, 2.0, 3.0, 6.0], [0.3, 0.9]  # distill.py's own are among them
LISTED = ("temperature", "alpha")  # settings with an option of their own, which takes several values
ALONE = distill.DEFAULTS.only(*LISTED) | {"loss": "labels"}  # what a student on labels alone differs in
NOT_IN_GRID = ("seed", *LISTED)
TEACHER_COST = 25  # an epoch of a teacher takes about as long as that many of a student, for the time that is left


class Planned(NamedTuple):
    """A student of the grid."""

    path: Path
    recipe: distill.DistillRecipe
    fold: tuple[int, int] | None  # see data.fold
    settings: dict  # all that decides it, as plain values


def parse_arguments():
    shared = "data validation out teacher teacher_pixels student format"
    options = terminal.parser(__doc__, shared, distill.DEFAULTS, distill.OWN_DATA_DEFAULTS, without=LISTED)
    options.add_argument("--temperatures", type=any_temperature, nargs="+", default=TEMPERATURES, metavar="T")
    options.add_argument("--alphas", type=fraction, nargs="+", default=ALPHAS, metavar="ALPHA")
    help_text = "values of another setting to try, such as epochs=60,150; hidden=64-64,128; again for more settings"
    options.add_argument("--grid", type=parse_grid, action="append", default=[], metavar="NAME=V1,V2", help=help_text)
    either = options.add_mutually_exclusive_group()
    either.add_argument("--seeds", type=integer(1), default=3, help="so many, from --seed on (default: 3)")
    help_text = "cross-validation on all training images, in N parts; trains a teacher for each"
    either.add_argument("--folds", type=integer(2, 100), metavar="N", help=help_text)
    parallel.add_options(options)
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
        recipes.append(replace(base, **ALONE))
        if base.loss != "labels":
            for temperature, alpha in itertools.product(arguments.temperatures, arguments.alphas):
                recipes.append(replace(base, temperature=temperature, alpha=alpha))
    return [*dict.fromkeys(recipes)]


def plan(arguments, dataset, recipes, taught_by, folder):
    """The Planned students of `recipes`, in their order, seed by seed. taught_by: what identifies the teacher."""
    nets = dict.fromkeys(replace(recipe, **distill.DEFAULTS.only(*LISTED)) for recipe in recipes)
    own, *_ = (student.check_student(dataset, recipe, arguments.student) for recipe in nets)
    about = {"data": files.sha256(*dataset.train), "student": own, "teacher": taught_by}
    about["teacher_pixels"] = arguments.teacher_pixels
    about["validation"] = not arguments.folds and files.sha256(*dataset.validation)
    students = []
    for number, recipe in itertools.product(range(arguments.seeds), recipes):
        fold = (number, arguments.folds) if arguments.folds else None
        recipe = replace(recipe, seed=arguments.seed + number)
        parts = ["labels_alone" if is_alone(recipe) else f"T{recipe.temperature}_alpha{recipe.alpha}"]
        parts += [f"{key}{text}" for key, text in grid_texts(arguments, recipe).items()]
        parts += [f"fold{number + 1}of{arguments.folds}"] if fold else []
        path = folder / f"{'_'.join(parts)}_seed{recipe.seed}.keras"
        students.append(Planned(path, recipe, fold, recipe.settings() | about | {"fold": fold and list(fold)}))
    return students


def is_alone(recipe):
    """Whether a student is trained on labels alone."""
    return recipe.loss == "labels"


def grid_texts(arguments, recipe):
    """{name: value as one types it} of the settings of --grid."""
    values = recipe.only(*arguments.grid)
    return {name: "-".join(map(str, value)) if isinstance(value, tuple) else value for name, value in values.items()}


# ---- training: functions of plain values and arrays, which any worker can call ---------------------------------------


def train_teacher(dataset, fold, recipe):
    """A teacher that has not seen a fold, as `train` takes it."""
    dataset = data.fold(dataset, *fold)
    held_out = dataset.validation
    net, history = teacher.train_teacher(dataset._replace(validation=None), recipe, report=training.show_epoch)
    settings = settings_of_teacher(dataset, recipe) | {"validation_errors": classifier.count_errors(net, held_out)}
    return [model_files.to_bytes(net, settings, history)], ["teacher.keras"], 1.0


def settings_of_teacher(dataset, recipe):
    """All that decides a teacher. dataset: without the fold."""
    return recipe.settings() | {"data": files.sha256(*dataset.train)}


def train(dataset, fold, recipes, settings, taught, own_student, cores, cache=None):
    """Train students that see the same images: of each (its errors' indices in the held-out images, history, file).

    taught: the teacher's files, their names, and the factor for its inputs, or None for labels alone. own_student: the
    file of --student as bytes, or None. cache: see Teacher.on_views. Files are .keras files as bytes.
    """
    dataset, views = data.fold(dataset, *fold) if fold else dataset, None
    with tempfile.TemporaryDirectory() as folder:
        if taught:
            views = teacher_of_files(Path(folder), dataset, *taught).on_views(
                dataset.train.images, recipes[0], cache=cache
            )
        path = own_student and Path(folder) / "student.keras"
        if path:
            path.write_bytes(own_student)
        batches = Batches(dataset.train if taught else dataset.train.labelled(), recipes[0], views)
        trained = distill.train_students(dataset, recipes, batches, cores, training.show_epoch, path)
    results = []
    for (net, history), recipe, its_settings in zip(trained, recipes, settings):
        predicted = classifier.predictor(net, pixels=recipe.student_pixels)(dataset.validation.images).argmax(-1)
        wrong = np.flatnonzero(predicted != dataset.validation.labels).tolist()
        results.append((wrong, history, model_files.to_bytes(net, its_settings | {"wrong": wrong}, history)))
    return results


def teacher_of_files(folder, dataset, contents, names, pixels):
    """The Teacher of --teacher's files, which are written to a folder. contents: as bytes."""
    paths = [folder / name for name in names]
    for path, content in zip(paths, contents):
        path.write_bytes(content)
    if stored := teacher_logits.load_stored(paths, dataset):
        return stored
    return teacher_logits.as_teacher([model_files.load(path, *dataset.form) for path in paths], pixels)


def tasks_of(pool, students, dataset, arguments, out):
    """Hand the training of these students to the pool: ({task: its students}, {task: (path, recipe) of a teacher})."""
    shared, own_student = pool.share(dataset), arguments.student and arguments.student.read_bytes()
    teacher_tasks = {}

    @functools.cache
    def taught_by(fold):
        if not fold:
            paths = arguments.teacher or [out / "teacher.keras"]
            names = [f"{number}{path.suffix}" for number, path in enumerate(paths)]
            return pool.share(([path.read_bytes() for path in paths], names, arguments.teacher_pixels or 1.0))
        path, recipe = teacher_of(arguments, dataset, fold, out)
        wanted = settings_of_teacher(data.fold(dataset, *fold), recipe)
        if model_files.is_made_with(path, wanted):
            return pool.share(([path.read_bytes()], ["teacher.keras"], 1.0))
        task = pool.submit(train_teacher, shared, fold, recipe, name=f"the teacher of fold {fold[0] + 1}")
        teacher_tasks[task] = path, recipe
        return task

    groups = {}
    has_unlabelled = (dataset.train.labels < 0).any()  # these are left out on labels alone
    for each in students:
        alone = is_alone(each.recipe) and has_unlabelled
        groups.setdefault((each.fold, tuple(each.recipe.only(*VIEWS).values()), alone), []).append(each)
    tasks, cache = {}, None if arguments.cluster or arguments.workers > 1 else out
    for (fold, _, alone), group in groups.items():
        for chosen in parallel.parts(group, pool.cores):
            recipes, settings = [each.recipe for each in chosen], [each.settings for each in chosen]
            of_task = (
                shared,
                fold,
                recipes,
                settings,
                None if alone else taught_by(fold),
                own_student,
                pool.cores,
                cache,
            )
            name = f"{len(chosen)} students, seed {recipes[0].seed}"
            tasks[pool.submit(train, *of_task, name=name)] = chosen
    return tasks, teacher_tasks


def teacher_of(arguments, dataset, fold, out):
    """(the path, the recipe) of the teacher that has not seen a fold: teacher.py's recipe for these data."""
    recipe = teacher.OWN_DATA_DEFAULTS if arguments.data else teacher.DEFAULTS
    batch_size = data.fitting_batch_size(recipe.batch_size, dataset)
    recipe = replace(recipe, batch_size=batch_size, seed=arguments.seed + fold[0])
    return out / "sweep" / f"teacher_fold{fold[0] + 1}of{fold[1]}_seed{recipe.seed}.keras", recipe


def run_grid(arguments, dataset, students, out):
    """Train those students, and teachers of folds, that are not there yet; prints each."""
    missing = [each for each in students if not model_files.is_made_with(each.path, each.settings)]
    if len(missing) < len(students):
        print(f"{len(students) - len(missing)} of {len(students)} students are there already")
    if not missing:
        return
    start, num_finished, spent = time.perf_counter(), 0, 0

    def describe():
        return f"{num_finished} of {len(missing)} students done{parallel.time_left(start, spent, sum(costs.values()))}"

    with parallel.pool(arguments.workers, arguments.cluster) as pool:
        tasks, teacher_tasks = tasks_of(pool, missing, dataset, arguments, out)
        costs = {task: sum(each.recipe.epochs for each in chosen) for task, chosen in tasks.items()}
        costs |= {task: TEACHER_COST * recipe.epochs for task, (_, recipe) in teacher_tasks.items()}
        for task, result in pool.finished([*teacher_tasks, *tasks], describe):
            spent += costs[task]
            terminal.clear_progress()
            if task in teacher_tasks:
                write(teacher_tasks[task][0], result[0][0])
                print(f"{teacher_tasks[task][0].stem} is trained", flush=True)
                continue
            num_finished += len(result)
            for each, (wrong, history, saved) in zip(tasks[task], result):
                write(each.path, saved)
                epochs = [row.epoch for row in history if not np.isfinite(row.loss)]
                diverged = f"  diverged in epoch {epochs[0]}" if epochs else ""
                print(f"{each.path.stem:<32} {len(wrong):5,} held-out images wrong{diverged}", flush=True)
            print(describe(), flush=True)


def write(path, saved):
    with files.atomic_write(path) as scratch:
        scratch.write_bytes(saved)


# ---- choosing --------------------------------------------------------------------------------------------------------


def count_wrong(errors, recipes, num_images):
    """{recipe: for each held-out image, the share of its students that have it wrong}.

    errors: of each student, as in `plan`, the held-out images that it has wrong, by their place in its fold.
    num_images: of each fold, in order; of the validation images, which all seeds share, a single number.
    """
    shares = {}
    for place, recipe in enumerate(recipes):
        of_recipe = errors[place :: len(recipes)]
        counts = [np.zeros(number) for number in num_images]
        for number, wrong in enumerate(of_recipe):
            counts[number % len(counts)][wrong] += len(counts) / len(of_recipe)
        shares[recipe] = np.concatenate(counts)
    return shares


def compare(shares, best):
    """{recipe: (errors, how many more than the best, the standard error of that difference)}; see `count_wrong`."""
    compared = {}
    for recipe, share in shares.items():
        more = share - shares[best]
        compared[recipe] = share.sum(), more.sum(), np.sqrt(len(more)) * more.std()
    return compared


def choose(shares):
    """(the chosen recipe, {recipe: see `compare`}): of all within a standard error of the best, the lowest T and alpha.

    Labels alone are not to be chosen, unless there is nothing else.
    """
    taught = [recipe for recipe in shares if not is_alone(recipe)] or list(shares)
    compared = compare(shares, min(taught, key=lambda recipe: shares[recipe].sum()))
    within = [recipe for recipe in taught if compared[recipe][1] <= compared[recipe][2]]
    return min(within, key=lambda recipe: (recipe.temperature, recipe.alpha, compared[recipe][0])), compared


def show(arguments, compared, num_images, figure):
    """Print and draw the errors, the best first. compared: see `compare`."""
    counted = f"errors in {num_images:,} held-out images"
    header, rows = [*arguments.grid, "T", "alpha", counted, "more than the best distilled", "standard error"], []
    for recipe in sorted(compared, key=lambda recipe: compared[recipe][0]):
        names = ["", "labels alone"] if is_alone(recipe) else [f"{recipe.temperature:g}", f"{recipe.alpha:g}"]
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
        lines.setdefault(", ".join(parts), []).extend([band] * (len(temperatures) if is_alone(recipe) else 1))
    title = "Band: standard error of the difference from the best; alpha is the weight of the soft term"
    figures.error_lines(temperatures, lines, figure, title=title, xlabel="temperature", ylabel=counted)


def options_of(recipe, names):
    """These settings of a recipe as one types them: '--temperature 3.0 --alpha 0.3'."""
    texts = {
        name: " ".join(map(str, value)) if name == "hidden" else value for name, value in recipe.only(*names).items()
    }
    return " ".join(f"--{name.replace('_', '-')} {text}" for name, text in texts.items())


def report(arguments, dataset, students, recipes, num_images, out):
    """Choose, open the test set for the chosen students and those on labels alone, and write sweep.json."""
    wrong = [model_files.load_training(each.path)[0]["wrong"] for each in students]
    shares = count_wrong(wrong, recipes, num_images)
    chosen, compared = choose(shares)
    figure = out / "plots" / f"sweep.{arguments.format}"
    show(arguments, compared, sum(num_images), figure)
    settings = chosen.only(*arguments.grid, "temperature", "alpha")
    rule = "of all within a standard error of the best, the lowest T, then the lowest alpha"
    print(f"chosen: {options_of(chosen, settings)} ({rule})")
    to_test = {"chosen": chosen, "labels alone": replace(chosen, **ALONE)}
    # The other settings of --grid were chosen for the distilled student: others may be better without a teacher.
    best_alone = min((recipe for recipe in recipes if is_alone(recipe)), key=lambda recipe: shares[recipe].sum())
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
    for each, of_student in zip(students, wrong):
        result["runs"].append(each.settings | {"validation_errors": len(of_student)})
    if arguments.folds:
        paths = [teacher_of(arguments, dataset, (fold, arguments.folds), out)[0] for fold in range(arguments.folds)]
        if all(path.exists() for path in paths):  # they need not, where all students are there or on labels alone
            errors = sum(model_files.load_training(path)[0]["validation_errors"] for path in paths)
            result["teachers_errors"] = errors
            print(f"the teachers: {errors:,} errors")
    for name, recipe in to_test.items():
        test_errors = []
        for each in students[recipes.index(recipe) :: len(recipes)]:
            net = model_files.load(each.path, *dataset.form)
            test_errors.append(classifier.count_errors(net, dataset.test, recipe.student_pixels))
        result["test_errors"][name] = test_errors
        mean, listed = statistics.mean(test_errors), ", ".join(map(str, test_errors))
        print(f"{name}: {mean:.1f} test errors in {len(dataset.test.labels):,} images, mean of the nets ({listed})")
    files.write_json(out / "sweep.json", result)
    print(f"saved {out / 'sweep.json'} and {figure}")


def main():
    arguments = parse_arguments()
    terminal.print_settings(arguments)
    out, folds = files.output_folder(arguments.out), arguments.folds
    arguments.validation = 0 if folds else arguments.validation
    dataset = data.load_for(arguments)
    if folds:
        num_images = [len(data.fold(dataset, number, folds).validation.labels) for number in range(folds)]
        taught_by = teacher_of(arguments, dataset, (0, folds), out)[1].settings()
    elif num_validation := len(dataset.validation.labels):
        loaded = teacher_logits.load(arguments, distill.DEFAULTS.updated(vars(arguments)), dataset, out)
        num_images, taught_by = [num_validation], loaded.sha256
    else:
        raise UserError("there are no validation images to choose on: give --folds 5, or another --validation")
    folder = out / "sweep"
    folder.mkdir(exist_ok=True)
    files.lock(folder)
    recipes = candidates(arguments)
    students = plan(arguments, dataset, recipes, taught_by, folder)
    run_grid(arguments, dataset, students, out)
    report(arguments, dataset, students, recipes, num_images, out)


if __name__ == "__main__":
    terminal.run(main)
