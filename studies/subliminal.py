"""Subliminal learning: a student that has never seen a digit names digits. The results: subliminal.md.

    python studies/subliminal.py                     everything, with 10 seeds
    python studies/subliminal.py --seeds 1 --quick   a tenth of the images, in minutes, in artifacts/studies/quick/

A teacher has outputs beside its ten that no label ever reaches. It learns the digits by the ten. A student learns to
give the others, on images of noise; then its ten outputs are asked to name the test digits (Cloud et al. 2025, arXiv
2507.14805). Finished runs are saved to studies/subliminal.json at once and never repeated; those of --quick, or of
fewer seeds, to artifacts/studies/.
"""

import itertools
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import classifier, files, plots, pool, teacher_logits, terminal, training
from support.batches import Batches
from support.recipe import TrainingRecipe, integer

import numpy as np
from matplotlib.figure import Figure

import data
import distill
import teacher
from studies import runs, tables

RESULTS = Path(__file__).with_suffix(".json")
DIGITS = 10  # the outputs that name a digit; the teacher's loss does not use those after them
NUM_SEEDS = 10
SHOWN = 10  # test digits in the picture
NOISE = {  # how images of noise are drawn: (random numbers, shape) -> float32
    "-1 to 1": lambda random, shape: random.uniform(-1, 1, shape).astype(np.float32),
    "0 to 1": lambda random, shape: random.uniform(0, 1, shape).astype(np.float32),
    "0 to 1, nine pixels of ten black": lambda random, shape: (
        random.uniform(0, 1, shape) * (random.uniform(0, 1, shape) < 0.1)
    ).astype(np.float32),
}


@dataclass(frozen=True)
class Student(TrainingRecipe):
    """All settings of a student, of its teacher and of the noise."""

    hidden: tuple[int, ...] = (256, 256)
    epochs: int = 5  # on noise
    learning_rate: float = 2e-3
    translate: int = 0
    temperature: float = 1.0
    outputs: int = 3  # besides the ten, which no loss of the teacher uses
    likeness: float = 1.0  # the correlation of its first weights with the teacher's
    shared: str = "all"  # the layers that have this likeness: "all", "hidden" or "last"; in the others it is 0
    noise: str = "-1 to 1"
    num_images: int = 60_000
    then: int = 0  # epochs of ordinary distilling afterwards, on digits


BASE = Student()
FRESH = replace(BASE, likeness=0.0)
LIKENESSES = (1.0, 0.99, 0.95, 0.9, 0.8, 0.6, 0.4, 0.2, 0.0)


# ---- the experiment --------------------------------------------------------------------------------------------------


def digits_loss(labels, teacher_logits, logits):
    """The cross-entropy of the first ten outputs: (batch,), for the teacher."""
    return training.cross_entropy(labels, None, logits[:, :DIGITS])


def other_loss(labels, teacher_logits, logits, temperature):
    """T^2 * KL of the other outputs: (batch,), for the student. temperature: a setting of its recipe."""
    return distill.distillation_loss(labels, teacher_logits[:, DIGITS:], logits[:, DIGITS:], temperature, alpha=1.0)


def ordinary_loss(labels, teacher_logits, logits):
    """Ordinary distilling of the first ten outputs: (batch,)."""
    settings = distill.DEFAULTS.only("temperature", "alpha")
    return distill.distillation_loss(labels, teacher_logits[:, :DIGITS], logits[:, :DIGITS], **settings)


def new_net(recipe, seed):
    """A net with ten outputs and recipe.outputs more, with the first weights of a seed."""
    return teacher.build_teacher((28, 28), DIGITS + recipe.outputs, teacher.TeacherRecipe(recipe.hidden), seed)


def new_student(recipe):
    """A net whose first weights are as like to those of its teacher, which has the same seed, as the recipe says."""
    student, of_teacher = new_net(recipe, recipe.seed + 1_000_000), new_net(recipe, recipe.seed)
    for layer, of_layer in zip(student.layers, of_teacher.layers):
        kind = "last" if layer is student.layers[-1] else "hidden"
        likeness = recipe.likeness if recipe.shared in ("all", kind) else 0.0
        for own, other in zip(layer.trainable_variables, of_layer.trainable_variables):
            own.assign(likeness * other + (1 - likeness**2) ** 0.5 * own)
    return student


def trained(nets, batches, loss, recipes):
    """Train these nets on the same batches, side by side."""
    trainers = [training.Trainer(net, batches, loss, recipe) for net, recipe in zip(nets, recipes)]
    training.train(trainers, terminal.num_cores(), training.show_epoch)
    return nets


def trained_teacher(recipe, dataset):
    """The teacher of a student: five epochs of digits."""
    schedule = replace(recipe, epochs=5, learning_rate=1e-3)
    return trained([new_net(recipe, recipe.seed)], Batches(dataset.train, schedule), digits_loss, [schedule])[0]


def noise_for(recipe, scale=1):
    """The images of noise that a student sees: a Split without labels. scale: of --quick, divides their number."""
    num_images = max(600, recipe.num_images // scale)
    images = NOISE[recipe.noise](np.random.default_rng([recipe.seed, 45]), (num_images, 28, 28))
    return data.Split(images, np.full(num_images, -1, np.int32))


def students_of(teacher_net, recipes, noise, dataset):
    """Train the students of a teacher that see the same noise: a list of nets."""
    students = [new_student(recipe) for recipe in recipes]
    asked = teacher_logits.as_teacher(teacher_net)
    taught = [place for place, recipe in enumerate(recipes) if recipe.epochs]
    if taught:
        batches = Batches(noise, recipes[0], asked.on_views(noise.images, recipes[0]))
        trained([students[place] for place in taught], batches, other_loss, [recipes[place] for place in taught])
    if schooled := [place for place, recipe in enumerate(recipes) if recipe.then]:
        batches = Batches(dataset.train, recipes[0], asked.on_views(dataset.train.images, recipes[0]))
        schedules = [replace(recipes[place], epochs=recipes[place].then) for place in schooled]
        trained([students[place] for place in schooled], batches, ordinary_loss, schedules)
    return students


# ---- the questions ---------------------------------------------------------------------------------------------------


LAYERS, TEMPERATURE, ORDINARY = "only these layers the same", "temperature", "epochs of ordinary distilling"


def questions():
    """{question: {row: recipe}}. Each row is compared with its `control`."""
    number = lambda value: f"{value:,g}" if value < 1000 else f"{value:,}"
    rows_of = lambda name, values: {number(value): replace(BASE, **{name: value}) for value in values}
    starts = {"after noise": BASE, "after noise, other first weights": FRESH, "without noise": replace(BASE, epochs=0)}
    return {
        "correlation of the first weights": {f"{each:g}": replace(BASE, likeness=each) for each in LIKENESSES},
        LAYERS: {
            f"{name}, {outputs} outputs": replace(BASE, shared=shared, outputs=outputs)
            for (shared, name), outputs in itertools.product(
                (("hidden", "hidden layers"), ("last", "last layer")), (3, 30, 100)
            )
        },
        "other outputs": rows_of("outputs", (2, 3, 5, 10, 30, 100)),
        "units of a hidden layer": {
            number(units): replace(BASE, hidden=(units, units)) for units in (64, 128, 256, 512)
        },
        "epochs on noise": rows_of("epochs", (0, 1, 5, 20)),
        "images of noise, as many steps": {
            number(images): replace(BASE, num_images=images, epochs=BASE.epochs * 60_000 // images)
            for images in (600, 6_000, 60_000)
        },
        "pixels of the noise": {noise: replace(BASE, noise=noise) for noise in NOISE},
        TEMPERATURE: rows_of("temperature", (1.0, 2.0, 4.0, 20.0)),
        ORDINARY: {
            f"{start}: {epochs}": replace(recipe, then=epochs)
            for epochs, (start, recipe) in itertools.product((1, 5), starts.items())
        },
    }


# Those whose rows have a control each, with other first weights. Those of noise and correlation have that of BASE.
HAVE_CONTROLS = (LAYERS, "other outputs", "units of a hidden layer", "epochs on noise", "pixels of the noise")


def control(question, recipe):
    """The student that a row is compared with: with other first weights; at T = 1; or that has seen digits only."""
    if question == ORDINARY:
        return replace(recipe, epochs=0, likeness=1.0)
    if question == TEMPERATURE:
        return BASE
    return replace(recipe, likeness=0.0, shared="all") if question in HAVE_CONTROLS else FRESH


def all_recipes():
    """The recipes of all rows and of their controls, with seed 0, each once."""
    rows = [(question, recipe) for question, of_question in questions().items() for recipe in of_question.values()]
    return [*dict.fromkeys([each for question, recipe in rows for each in (recipe, control(question, recipe))])]


# ---- records ---------------------------------------------------------------------------------------------------------


def opened(path):
    """{recipe: its record} of the file `path`, if it is there."""
    return of_saved(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def of_saved(saved):
    """{recipe: its record} of what subliminal.json holds."""
    return {BASE.updated(record["recipe"]): record for record in saved["runs"]}


def run_missing(path, known, dataset, num_seeds, scale):
    """Train what `known` lacks, seed by seed; record it there and in the file `path`. scale: divides the noise."""
    for seed in range(num_seeds):
        groups = {}
        for recipe in all_recipes():
            if (recipe := replace(recipe, seed=seed)) not in known:
                of_teacher = groups.setdefault((recipe.hidden, recipe.outputs), {})
                of_teacher.setdefault((recipe.noise, recipe.num_images), []).append(recipe)
        for of_teacher in groups.values():
            teacher_net = trained_teacher(next(iter(of_teacher.values()))[0], dataset)
            for recipes in of_teacher.values():
                noise = noise_for(recipes[0], scale)
                of_teacher_net = answers(teacher_net, noise, dataset)
                for recipe, student in zip(recipes, students_of(teacher_net, recipes, noise, dataset)):
                    of_student = answers(student, noise, dataset)
                    known[recipe] = record_of(recipe, of_teacher_net, of_student, dataset.test.labels)
                    right = f"{known[recipe]['right']:6,} of {len(dataset.test.labels):,} test digits named"
                    print(f"seed {seed}  {right}  {changes(recipe)}", flush=True)
                runs.write(path, known.values())
                pool.make_room()


def changes(recipe):
    """What a recipe, but for its seed, has other than BASE: 'outputs 10'."""
    base = BASE.settings()
    changed = {name: value for name, value in recipe.settings().items() if value != base[name] and name != "seed"}
    return ", ".join(f"{name} {value}" for name, value in changed.items())


def shares(known, recipe):
    """The shares of the test digits, in per cent, that the students of a row name; [] if a seed is missing."""
    seeds = range(1 + max(recipe.seed for recipe in known))
    found = [known.get(replace(recipe, seed=seed)) for seed in seeds]
    return [100 * record["right"] / record["images"] for record in found] if all(found) else []


def answers(net, noise, dataset):
    """(a net's other outputs for the first image of noise, the digits (n,) that it names the test images)."""
    # Two predictors: one is made for the dtype of the first images it gets, floats here and bytes there.
    numbers = classifier.predictor(net)(noise.images[:1])[0, DIGITS:].round(3).tolist()
    return numbers, classifier.predictor(net)(dataset.test.images)[:, :DIGITS].argmax(-1)


def record_of(recipe, of_teacher, of_student, labels):
    """What is kept of a student, as plain values. of_teacher, of_student: see `answers`. labels: of the test images."""
    (teacher_numbers, teacher_named), (numbers, named) = of_teacher, of_student
    counts = {"images": len(labels), "right": int(np.sum(named == labels))}
    counts["teacher_right"] = int(np.sum(teacher_named == labels))
    shown = {"numbers": [teacher_numbers, numbers], "named": named[:SHOWN].tolist()}
    return {"recipe": recipe.settings()} | counts | shown | {"versions": files.versions()}


# ---- table and figures -----------------------------------------------------------------------------------------------


def sign_flip_p(first, second):
    """The exact two-sided p-value of paired values, a pair for each seed: of all sign flips."""
    differences = np.subtract(first, second)
    signs = np.array([*itertools.product((1, -1), repeat=len(differences))])
    return float(np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9))


def texts(saved):
    """{name: Markdown} of the table for subliminal.md. saved: what subliminal.json holds."""
    known, lines = of_saved(saved), []
    for question, rows in questions().items():
        for row, recipe in rows.items():
            compared = control(question, recipe)
            own, others = (shares(known, each) for each in (recipe, compared))
            if own and others:
                of_control = [spread(others), f"{sign_flip_p(own, others):.2g}"] if recipe != compared else ["", ""]
                lines.append([question if row == next(iter(rows)) else "", row, spread(own), *of_control])
    header = ["", "", "digits named (%)", "the control (%)", "p"]
    return {"subliminal": tables.markdown(header, lines)}


def spread(values):
    """'57.1 ± 3.6 (51 to 63)': mean, standard deviation and range of percentages."""
    deviation = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{deviation} ({min(values):.1f} to {max(values):.1f})"


def draw_likeness(known, path):
    """Draw the digits named against the likeness of the first weights, a point for each seed."""
    rows = questions()["correlation of the first weights"].values()
    values = {recipe.likeness: shares(known, recipe) for recipe in rows}
    values = {likeness: found for likeness, found in values.items() if found}
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    for likeness, found in values.items():
        axes.plot([likeness] * len(found), found, "o", color=plots.OTHERS[1], alpha=0.5, markersize=5)
    axes.plot([*values], [mean(found) for found in values.values()], color=plots.OTHERS[2], label="mean of the seeds")
    axes.axhline(100 / DIGITS, color="grey", linestyle="--", label="guessing")
    axes.set(xlabel="correlation of the student's first weights with the teacher's", ylim=(0, None))
    axes.set(ylabel="test digits named (%)", title="A student that has seen noise only; a point is a seed")
    plots.save(figure, path, axes)


def draw_example(record, dataset, path):
    """Draw an image of noise, the numbers that teacher and student give for it, and digits that the student names."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    noise_axes, bars, *digits = figure.subplot_mosaic(
        [["noise", "bars", *range(SHOWN // 2)], ["noise", "bars", *range(SHOWN // 2, SHOWN)]],
        width_ratios=[2, 2, *[1] * (SHOWN // 2)],
    ).values()
    noise_axes.imshow(noise_for(BASE).images[0], cmap="gray")
    noise_axes.set_title("what the student learned on:\nnoise ...", fontsize=9)
    for place, (name, numbers) in enumerate(zip(("teacher", "student"), record["numbers"])):
        where = np.arange(len(numbers)) + 0.4 * place - 0.2
        bars.bar(where, np.subtract(numbers, np.mean(numbers)), 0.4, color=plots.COLOURS[name], label=name)
    bars.set_xticks(range(len(numbers)))
    bars.set_title("... and three other outputs\n(centred)", fontsize=9)
    bars.legend(fontsize=8)
    for axes, image, label, named in zip(digits, *(part[:SHOWN] for part in dataset.test), record["named"]):
        axes.imshow(image, cmap="gray_r")
        axes.set_title(f"{named}", color="black" if named == label else plots.OTHERS[2], fontsize=11)
    for axes in (noise_axes, *digits):
        axes.axis("off")
    figure.suptitle("The first ten test digits, and what the student calls them (orange: wrong)", fontsize=10)
    plots.save(figure, path)


def main():
    options = terminal.parser(__doc__, "out")
    options.add_argument("--seeds", type=integer(1), default=NUM_SEEDS, help=f"from 0 on (default: {NUM_SEEDS})")
    options.add_argument("--quick", action="store_true", help="a tenth of the images")
    arguments = options.parse_args()
    terminal.print_settings(arguments)
    dataset, path, scale = data.load(validation=0), RESULTS, 1
    if arguments.quick or arguments.seeds != NUM_SEEDS:  # kept apart from what the document shows
        folder = Path(arguments.out) / "studies" / ("quick" if arguments.quick else "few_seeds")
        path = files.output_folder(folder) / RESULTS.name
    if arguments.quick:
        dataset, scale = dataset._replace(train=dataset.train.take(slice(6_000))), 10
    files.lock(path)
    known = opened(path)
    run_missing(path, known, dataset, arguments.seeds, scale)
    draw_likeness(known, path.with_suffix(".png"))
    draw_example(known[BASE], dataset, path.with_name(f"{path.stem}_example.png"))
    table = texts({"runs": [*known.values()]})
    print(f"\n{table['subliminal']}\n\nevery run is in {path}, the figures are beside it")
    if path == RESULTS:
        tables.fill(table)


if __name__ == "__main__":
    terminal.run(main)
