"""Distil at every temperature and alpha of a grid, and choose on images that no net was trained on.

    python tools/sweep.py --folds 5      cross-validation: each training image is held out once, from a teacher too
    python tools/sweep.py                3 seeds on the validation images (after python teacher.py): quick, but noisy
    python tools/sweep.py --folds 5 --grid epochs=60,150 --grid activation=relu,silu      other settings too

Prints errors on the held-out images, how many more they are than those of the best, and the standard error of that
difference, which is paired image by image. Of all within one standard error of the best it chooses the lowest
temperature, then the lowest alpha. The student on labels alone is always there too.

The students of a seed or a fold are trained at once, on all cores, see support/stack.py; those of --student one by one.
After `pip install distributed` (Dask), --workers and --cluster have processes of one core each. Keeps every net in
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

from support import UserError, files, inference, model_files, parallel, terminal, training
from support.recipe import MAX_SEED, any_temperature, fraction, integer

import numpy as np

import data
import distill
import student
import teacher
import teachers
from studies import figures

TEMPERATURES, ALPHAS = [1.0, 2.0, 3.0, 6.0], [0.3, 0.9]  # distill.py's own are among them
LISTED = ("temperature", "alpha")  # settings with an option of their own, which takes several values
NOT_IN_GRID = ("seed", "teacher_pixels", *LISTED)
TEACHER_COST = 25  # an epoch of a teacher takes about as long as that many of a student, for the time that is left


class Planned(NamedTuple):
    """A student of the grid."""

    path: Path
    recipe: distill.DistillRecipe  # alpha 0: on labels alone
    fold: tuple[int, int] | None  # see data.fold
    settings: dict  # all that decides it, as plain values


def parse_arguments():
    recipes = terminal.Files(), teachers.OwnTeacher(), student.OwnStudent(), terminal.Figures(), distill.MNIST
    options = terminal.parser(__doc__, *recipes, own_data=distill.OWN_DATA, without=LISTED)
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
        base = replace(distill.DistillRecipe.of(vars(arguments)), **dict(zip(arguments.grid, values)))
        if base.translate and base.distort:  # they exclude each other
            base = replace(base, **({"translate": 0} if "distort" in arguments.grid else {"distort": 0.0}))
        recipes.append(replace(base, alpha=0.0))
        for temperature, alpha in itertools.product(arguments.temperatures, arguments.alphas):
            if alpha:
                recipes.append(replace(base, temperature=temperature, alpha=alpha))
    return [*dict.fromkeys(recipes)]


def plan(arguments, dataset, recipes, taught_by, folder):
    """The Planned students of `recipes`, in their order, seed by seed. taught_by: what identifies the teacher."""
    nets = dict.fromkeys(replace(recipe, **distill.MNIST.only(*LISTED)) for recipe in recipes)
    own, *_ = (student.check_student(dataset, recipe, arguments.student) for recipe in nets)
    about = {"data": files.fingerprint(*dataset.train), "student": own, "teacher": taught_by}
    about["validation"] = not arguments.folds and files.fingerprint(*dataset.validation)
    students = []
    for number, recipe in itertools.product(range(arguments.seeds), recipes):
        fold = (number, arguments.folds) if arguments.folds else None
        recipe = replace(recipe, seed=arguments.seed + number)
        parts = [f"T{recipe.temperature}_alpha{recipe.alpha}" if recipe.alpha else "labels_alone"]
        parts += [f"{key}{text}" for key, text in grid_texts(arguments, recipe).items()]
        parts += [f"fold{number + 1}of{arguments.folds}"] if fold else []
        path = folder / f"{'_'.join(parts)}_seed{recipe.seed}.keras"
        students.append(Planned(path, recipe, fold, recipe.settings() | about | {"fold": fold and list(fold)}))
    return students


def grid_texts(arguments, recipe):
    """{name: value as one types it} of the settings of --grid."""
    values = recipe.only(*arguments.grid)
    return {name: "-".join(map(str, value)) if isinstance(value, tuple) else value for name, value in values.items()}


# ---- training: functions of plain values and arrays, which any worker can call ---------------------------------------


def train_teacher(dataset, fold, recipe):
    """A teacher that has not seen a fold: ([its .keras file as bytes], the factor for its inputs)."""
    dataset = data.fold(dataset, *fold)
    held_out = dataset.validation
    net, history = teacher.train_teacher(dataset._replace(validation=None), recipe, report=training.show_epoch)
    settings = settings_of_teacher(dataset, recipe) | {"validation_errors": inference.count_errors(net, held_out)}
    return [model_files.to_bytes(net, settings, history)], 1.0


def settings_of_teacher(dataset, recipe):
    """All that decides a teacher. dataset: without the fold."""
    return recipe.settings() | {"data": files.fingerprint(*dataset.train)}


def load_nets(dataset, taught):
    return [model_files.from_bytes(saved, dataset.image_shape, dataset.num_classes)[0] for saved in taught[0]]


def logits_without_fold(dataset, fold, taught, translate):
    """The teacher's logits of the images that are not in a fold. taught: what train_teacher returns."""
    nets = load_nets(dataset, taught)
    return teachers.teacher_logits(nets, data.fold(dataset, *fold).train.images, translate, pixels=taught[1])


def train(dataset, fold, recipes, settings, taught, logits, own_student, cores):
    """Train students that see the same images: of each (its errors' indices in the held-out images, history, file).

    taught: the teacher's files and the factor for its inputs, or None. logits: see teachers.teacher_logits; None for
    distorted images, whose logits are computed here, and for labels alone. own_student: the file of --student as bytes,
    or None, whose students come alone. Files are .keras files as bytes.
    """
    dataset = data.fold(dataset, *fold) if fold else dataset
    if taught and logits is None:
        nets = load_nets(dataset, taught)
        logits = teachers.teacher_logits(nets, dataset.train.images, distort=recipes[0].distort, pixels=taught[1])
    report = training.show_epoch
    if own_student:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "student.keras"
            path.write_bytes(own_student)
            loss = training.cross_entropy if logits is None else distill.loss_of(*recipes)
            trained = [student.train_student(dataset, *recipes, loss, logits, path, report)]
    else:
        batches = student.batches_for(dataset, recipes[0], logits)
        trained = distill.train_students(dataset, recipes, batches, cores, logits is not None, report)
    results = []
    for (net, history), recipe, its_settings in zip(trained, recipes, settings):
        predicted = inference.predictor(net, pixels=recipe.student_pixels)(dataset.validation.images).argmax(-1)
        wrong = np.flatnonzero(predicted != dataset.validation.labels).tolist()
        results.append((wrong, history, model_files.to_bytes(net, its_settings | {"wrong": wrong}, history)))
    return results


def tasks_of(pool, students, dataset, teacher_net, arguments, out):
    """Hand the training of these students to the pool: ({task: its students}, {task: (path, recipe) of a teacher})."""
    shared, own_student = pool.share(dataset), arguments.student and arguments.student.read_bytes()
    teacher_tasks = {}

    @functools.cache
    def taught_by(fold):
        if not fold:
            paths = arguments.teacher or [out / "teacher.keras"]
            return pool.share(([path.read_bytes() for path in paths], arguments.teacher_pixels))
        path, recipe = teacher_of(arguments, dataset, fold, out)
        wanted = settings_of_teacher(data.fold(dataset, *fold), recipe)
        if model_files.is_made_with(path, wanted):
            return pool.share(([path.read_bytes()], 1.0))
        task = pool.submit(train_teacher, shared, fold, recipe, name=f"the teacher of fold {fold[0] + 1}")
        teacher_tasks[task] = path, recipe
        return task

    @functools.cache
    def logits_of(fold, translate, distort):
        if fold:
            options = shared, fold, taught_by(fold), translate
            return None if distort else pool.submit(logits_without_fold, *options, name="soft targets")
        images, pixels = dataset.train.images, arguments.teacher_pixels
        logits = teachers.teacher_logits(teacher_net, images, translate, distort, cache=out, pixels=pixels)
        return None if callable(logits) else pool.share(logits)

    groups = {}
    has_unlabelled = (dataset.train.labels < 0).any()  # these are left out on labels alone
    for each in students:
        alone = not each.recipe.alpha and has_unlabelled
        groups.setdefault((each.fold, distill.views_of(each.recipe), alone), []).append(each)
    tasks = {}
    for (fold, views, alone), group in groups.items():
        taught = None if alone else taught_by(fold)
        logits = None if alone else logits_of(fold, views.translate, views.distort)
        for chosen in [[each] for each in group] if own_student else parallel.parts(group, pool.cores):
            recipes, settings = [each.recipe for each in chosen], [each.settings for each in chosen]
            of_task = shared, fold, recipes, settings, taught, logits, own_student, pool.cores
            tasks[pool.submit(train, *of_task, name=f"{len(chosen)} students, seed {views.seed}")] = chosen
    return tasks, teacher_tasks


def teacher_of(arguments, dataset, fold, out):
    """(the path, the recipe) of the teacher that has not seen a fold: teacher.py's recipe for these data."""
    recipe = teacher.OWN_DATA if arguments.data else teacher.MNIST
    batch_size = data.fitting_batch_size(recipe.batch_size, dataset)
    recipe = replace(recipe, batch_size=batch_size, seed=arguments.seed + fold[0])
    return out / "sweep" / f"teacher_fold{fold[0] + 1}of{fold[1]}_seed{recipe.seed}.keras", recipe


def run_grid(arguments, dataset, teacher_net, students, out):
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
        tasks, teacher_tasks = tasks_of(pool, missing, dataset, teacher_net, arguments, out)
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
    taught = [recipe for recipe in shares if recipe.alpha] or list(shares)
    compared = compare(shares, min(taught, key=lambda recipe: shares[recipe].sum()))
    within = [recipe for recipe in taught if compared[recipe][1] <= compared[recipe][2]]
    return min(within, key=lambda recipe: (recipe.temperature, recipe.alpha, compared[recipe][0])), compared


def show(arguments, compared, num_images, figure):
    """Print and draw the errors, the best first. compared: see `compare`."""
    counted = f"errors in {num_images:,} held-out images"
    header, rows = [*arguments.grid, "T", "alpha", counted, "more than the best distilled", "standard error"], []
    for recipe in sorted(compared, key=lambda recipe: compared[recipe][0]):
        names = [f"{recipe.temperature:g}", f"{recipe.alpha:g}"] if recipe.alpha else ["", "labels alone"]
        counts = (f"{value:,.1f}".removesuffix(".0") for value in compared[recipe])
        rows.append([*map(str, grid_texts(arguments, recipe).values()), *names, *counts])
    terminal.print_table("", header, rows)
    lines, temperatures = {}, arguments.temperatures
    for recipe, (errors, _, deviation) in compared.items():
        parts = [f"alpha = {recipe.alpha:g}" if recipe.alpha else "student on labels alone"]  # which has its colour
        parts += [f"{key} {text}" for key, text in grid_texts(arguments, recipe).items()]
        band = [errors - deviation, errors, errors + deviation]
        lines.setdefault(", ".join(parts), []).extend([band] * (1 if recipe.alpha else len(temperatures)))
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
    to_test = {"chosen": chosen, "labels alone": replace(chosen, **distill.MNIST.only("temperature"), alpha=0.0)}
    # The other settings of --grid were chosen for the distilled student: others may be better without a teacher.
    best_alone = min((recipe for recipe in recipes if not recipe.alpha), key=lambda recipe: shares[recipe].sum())
    if best_alone not in to_test.values():
        to_test[f"labels alone, best with {options_of(best_alone, arguments.grid)}"] = best_alone
    for name, recipe in [*to_test.items()][1:]:
        errors, more, deviation = compare(shares, chosen)[recipe]
        more_or_fewer = f"{abs(more):,.0f} {'more' if more >= 0 else 'fewer'} than the chosen"
        print(f"{name}: {errors:,.0f} errors, {more_or_fewer} (standard error {deviation:.0f})")
    result = {"chosen": settings, "test_errors": {}, "compared": [], "runs": []}
    for recipe, values in compared.items():
        counts = dict(zip(("errors", "more", "standard_error"), map(float, values)))
        result["compared"].append(recipe.only(*settings) | counts)
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
            net = model_files.load(each.path, dataset.image_shape, dataset.num_classes)
            test_errors.append(inference.count_errors(net, dataset.test, recipe.student_pixels))
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
    dataset, teacher_net = data.load_for(arguments), None
    if folds:
        num_images = [len(data.fold(dataset, number, folds).validation.labels) for number in range(folds)]
        taught_by = teacher_of(arguments, dataset, (0, folds), out)[1].settings()
    elif num_validation := len(dataset.validation.labels):
        num_images, teacher_net = [num_validation], teachers.load_teacher(arguments, dataset, out)
        taught_by = teachers.fingerprint(teacher_net)
    else:
        raise UserError("there are no validation images to choose on: give --folds 5, or another --validation")
    folder = out / "sweep"
    folder.mkdir(exist_ok=True)
    files.lock(folder)
    recipes = candidates(arguments)
    students = plan(arguments, dataset, recipes, taught_by, folder)
    run_grid(arguments, dataset, teacher_net, students, out)
    report(arguments, dataset, students, recipes, num_images, out)


if __name__ == "__main__":
    terminal.run(main)
