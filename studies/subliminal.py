"""Subliminal learning: a student that has never seen a digit names digits. The results: subliminal.md.

    python studies/subliminal.py                     everything, with 10 seeds
    python studies/subliminal.py --seeds 1 --quick   a tenth of the images, in minutes, in artifacts/studies/quick/

A teacher has outputs beside its ten that no label ever reaches. It learns the digits by the ten. A student learns to
give the others, on images of noise; then its ten outputs are asked to name the test digits (Cloud et al. 2025, arXiv
2507.14805). A finished run is saved to studies/subliminal.json at once and never repeated.
"""

import itertools
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import classifier, files, plots, teacher_logits, terminal, training
from support.batches import Batches
from support.recipe import TrainingRecipe, integer

import numpy as np
from matplotlib.figure import Figure

import data
import distill
import teacher
from studies import tables

RESULTS = Path(__file__).with_suffix(".json")
DIGITS = 10  # the outputs that name a digit; those after them mean nothing
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
    """All settings of a student, of its teacher and of its images. Training images that are digits are in `then`."""

    hidden: tuple[int, ...] = (256, 256)
    epochs: int = 5  # on noise
    learning_rate: float = 2e-3
    translate: int = 0
    temperature: float = 1.0
    outputs: int = 3  # that mean nothing
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
    """T^2 * KL of the outputs that mean nothing: (batch,), for the student. temperature: a setting of its recipe."""
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


def noise_for(recipe):
    """The images of noise that a student sees: a Split without labels."""
    random = np.random.default_rng([recipe.seed, 45])
    images = NOISE[recipe.noise](random, (recipe.num_images, 28, 28))
    return data.Split(images, np.full(recipe.num_images, -1, np.int32))


def students_of(teacher_net, recipes, dataset):
    """Train the students of a teacher that see the same noise: a list of nets."""
    students = [new_student(recipe) for recipe in recipes]
    noise, asked = noise_for(recipes[0]), teacher_logits.as_teacher(teacher_net)
    taught = [place for place, recipe in enumerate(recipes) if recipe.epochs]
    if taught:
        batches = Batches(noise, recipes[0], asked.on_views(noise.images, recipes[0]))
        trained([students[place] for place in taught], batches, other_loss, [recipes[place] for place in taught])
    if schooled := [place for place, recipe in enumerate(recipes) if recipe.then]:
        batches = Batches(dataset.train, recipes[0], asked.on_views(dataset.train.images, recipes[0]))
        schedules = [replace(recipes[place], epochs=recipes[place].then) for place in schooled]
        trained([students[place] for place in schooled], batches, ordinary_loss, schedules)
    return students


def num_right(net, dataset):
    """How many of the test digits the first ten outputs of a net name."""
    named = classifier.predictor(net)(dataset.test.images)[:, :DIGITS].argmax(-1)
    return int(np.sum(named == dataset.test.labels))


# ---- the questions ---------------------------------------------------------------------------------------------------


def questions():
    """{question: {row: recipe}}. Each row but those of likeness has a control: the same with other first weights."""
    number = lambda value: f"{value:,}"
    rows_of = lambda name, values: {number(value): replace(BASE, **{name: value}) for value in values}
    starts = {"after noise": BASE, "after noise, other first weights": FRESH, "without noise": replace(BASE, epochs=0)}
    return {
        "likeness of the first weights": {f"{each:g}": replace(BASE, likeness=each) for each in LIKENESSES},
        "only these layers alike": {
            f"{shared}, {outputs} outputs": replace(BASE, shared=shared, outputs=outputs)
            for shared, outputs in itertools.product(("hidden", "last"), (3, 30, 100))
        },
        "outputs that mean nothing": rows_of("outputs", (2, 3, 5, 10, 30, 100)),
        "units of a hidden layer": {
            number(units): replace(BASE, hidden=(units, units)) for units in (64, 128, 256, 512)
        },
        "epochs on noise": rows_of("epochs", (1, 5, 20)),
        "images of noise, as many steps": {
            number(images): replace(BASE, num_images=images, epochs=BASE.epochs * 60_000 // images)
            for images in (600, 6_000, 60_000)
        },
        "pixels of the noise": {noise: replace(BASE, noise=noise) for noise in NOISE},
        "temperature": rows_of("temperature", (1.0, 2.0, 4.0, 20.0)),
        "epochs of ordinary distilling": {
            f"{start}: {epochs}": replace(recipe, then=epochs)
            for epochs, (start, recipe) in itertools.product((1, 5), starts.items())
        },
    }


# Those whose rows have a control each: the same with other first weights. The others have that of BASE.
HAVE_CONTROLS = ("outputs that mean nothing", "units of a hidden layer", "epochs on noise", "pixels of the noise")
ORDINARY = "epochs of ordinary distilling"


def control(question, recipe):
    """The student that a row is compared with: with other first weights; or, once it has seen digits, without noise."""
    if question == ORDINARY:
        return replace(recipe, epochs=0, likeness=1.0)
    return replace(recipe, likeness=0.0) if question in HAVE_CONTROLS else FRESH


def all_recipes():
    """The recipes of all rows and of their controls, with seed 0, each once."""
    rows = [(question, recipe) for question, of_question in questions().items() for recipe in of_question.values()]
    return [*dict.fromkeys([each for question, recipe in rows for each in (recipe, control(question, recipe))])]


# ---- records ---------------------------------------------------------------------------------------------------------


class Here(NamedTuple):
    """The study as it is run now. known: {recipe: its record} of the file `path`."""

    path: Path
    dataset: data.Dataset
    num_seeds: int
    is_quick: bool
    known: dict

    def seeded(self, recipe):
        """The recipes of a row as they are run here, one for each seed: for --quick with a tenth of the images."""
        num_images = max(600, recipe.num_images // 10) if self.is_quick else recipe.num_images
        return [replace(recipe, num_images=num_images, seed=seed) for seed in range(self.num_seeds)]

    def shares(self, recipe):
        """The shares of the test digits, in per cent, that the students of a row name; [] if one is missing."""
        found = [self.known.get(seeded) for seeded in self.seeded(recipe)]
        return [100 * record["right"] / len(self.dataset.test.labels) for record in found] if all(found) else []

    def is_complete(self):
        """Whether the document's table and figures are made of these runs."""
        return self.num_seeds == NUM_SEEDS and not self.is_quick

    def figure(self, end=""):
        """Where a figure goes: the committed ones have ten seeds."""
        folder = RESULTS.parent if self.is_complete() else self.path.parent / "few_seeds"
        folder.mkdir(exist_ok=True)
        return folder / f"{RESULTS.stem}{end}.png"


def opened(path, dataset, num_seeds, is_quick):
    """The study with the records of a file, if it is there."""
    records = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
    return Here(path, dataset, num_seeds, is_quick, {BASE.updated(each["recipe"]): each for each in records})


def run_missing(here):
    """Train what is missing, seed by seed, and record it."""
    for recipes_of_seed in zip(*map(here.seeded, all_recipes())):
        groups = {}
        for recipe in recipes_of_seed:
            if recipe not in here.known:
                of_teacher = groups.setdefault((recipe.hidden, recipe.outputs), {})
                of_teacher.setdefault((recipe.noise, recipe.num_images), []).append(recipe)
        for of_teacher in groups.values():
            teacher_net = trained_teacher(next(iter(of_teacher.values()))[0], here.dataset)
            for recipes in of_teacher.values():
                for recipe, student in zip(recipes, students_of(teacher_net, recipes, here.dataset)):
                    here.known[recipe] = record_of(recipe, teacher_net, student, here.dataset)
                    right = f"{here.known[recipe]['right']:6,} of {len(here.dataset.test.labels):,} test digits named"
                    print(f"seed {recipe.seed}  {right}  {changes(recipe)}", flush=True)
                lines = ",\n".join(map(json.dumps, here.known.values()))
                files.write_bytes(here.path, ('{"runs": [\n' + lines + "\n]}\n").encode())


def changes(recipe):
    """What a recipe, but for its seed, has other than BASE: 'outputs 10'."""
    base = BASE.settings()
    changed = {name: value for name, value in recipe.settings().items() if value != base[name] and name != "seed"}
    return ", ".join(f"{name} {value}" for name, value in changed.items())


def record_of(recipe, teacher_net, student, dataset):
    """What is kept of a student, as plain values. numbers: of the first image of noise, by teacher and student."""
    noise = noise_for(recipe).images[:1]
    numbers = [classifier.predictor(net)(noise)[0, DIGITS:].round(3).tolist() for net in (teacher_net, student)]
    named = classifier.predictor(student)(dataset.test.images[:SHOWN])[:, :DIGITS].argmax(-1).tolist()
    counts = {"right": num_right(student, dataset), "teacher_right": num_right(teacher_net, dataset)}
    return {"recipe": recipe.settings()} | counts | {"numbers": numbers, "named": named, "versions": files.versions()}


# ---- table and figures -----------------------------------------------------------------------------------------------


def sign_flip_p(first, second):
    """The exact two-sided p-value of paired values, a pair for each seed: of all sign flips."""
    differences = np.subtract(first, second)
    signs = np.array([*itertools.product((1, -1), repeat=len(differences))])
    return float(np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9))


def texts(here):
    """{name: Markdown} of the table for subliminal.md: the rows whose runs are complete."""
    lines = []
    for question, rows in questions().items():
        for row, recipe in rows.items():
            compared = control(question, recipe)
            own, others = (here.shares(each) for each in (recipe, compared))
            if own and others:
                p = "" if recipe == compared else f"{sign_flip_p(own, others):.2g}"
                lines.append([question if row == next(iter(rows)) else "", row, spread(own), spread(others), p])
    header = ["", "", "digits named (%)", "the control (%)", "p"]
    return {"subliminal": tables.markdown(header, lines)}


def spread(values):
    """'57.1 ± 3.6 (51 to 63)': mean, standard deviation and range of percentages."""
    deviation = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{deviation} ({min(values):.0f} to {max(values):.0f})"


def draw_likeness(here):
    """Draw the digits named against the likeness of the first weights, a point for each seed."""
    rows = questions()["likeness of the first weights"].values()
    values = {recipe.likeness: here.shares(recipe) for recipe in rows}
    values = {likeness: found for likeness, found in values.items() if found}
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    for likeness, found in values.items():
        axes.plot([likeness] * len(found), found, "o", color=plots.OTHERS[1], alpha=0.5, markersize=5)
    axes.plot([*values], [mean(found) for found in values.values()], color=plots.OTHERS[2], label="mean of the seeds")
    axes.axhline(100 / DIGITS, color="grey", linestyle="--", label="guessing")
    axes.set(xlabel="correlation of the student's first weights with the teacher's", ylim=(0, None))
    axes.set(ylabel="test digits named (%)", title="A student that has seen noise only; a point is a seed")
    plots.save(figure, here.figure(), axes)


def draw_example(here):
    """Draw an image of noise, the numbers that teacher and student give for it, and digits that the student names."""
    recipe, figure = here.seeded(BASE)[0], Figure(figsize=(11, 3.2), layout="constrained")
    record = here.known[recipe]
    noise_axes, bars, *digits = figure.subplot_mosaic(
        [["noise", "bars", *range(SHOWN // 2)], ["noise", "bars", *range(SHOWN // 2, SHOWN)]],
        width_ratios=[2, 2, *[1] * (SHOWN // 2)],
    ).values()
    noise_axes.imshow(noise_for(recipe).images[0], cmap="gray")
    noise_axes.set_title("what the student learned on:\nnoise ...", fontsize=9)
    for place, (name, numbers) in enumerate(zip(("teacher", "student"), record["numbers"])):
        where = np.arange(len(numbers)) + 0.4 * place - 0.2
        bars.bar(where, np.subtract(numbers, np.mean(numbers)), 0.4, color=plots.COLOURS[name], label=name)
    bars.set_xticks(range(len(numbers)))
    bars.set_title("... and three outputs\nthat mean nothing (centred)", fontsize=9)
    bars.legend(fontsize=8)
    for axes, image, label, named in zip(digits, *(part[:SHOWN] for part in here.dataset.test), record["named"]):
        axes.imshow(image, cmap="gray_r")
        axes.set_title(f"{named}", color="black" if named == label else plots.OTHERS[2], fontsize=11)
    for axes in (noise_axes, *digits):
        axes.axis("off")
    figure.suptitle("The first ten test digits, and what the student calls them (orange: wrong)", fontsize=10)
    plots.save(figure, here.figure("_example"))


def main():
    options = terminal.parser(__doc__, "out")
    options.add_argument("--seeds", type=integer(1), default=NUM_SEEDS, help=f"from 0 on (default: {NUM_SEEDS})")
    options.add_argument("--quick", action="store_true", help="a tenth of the images, kept apart")
    arguments = options.parse_args()
    terminal.print_settings(arguments)
    dataset, path = data.load(validation=0), RESULTS
    if arguments.quick:
        dataset = dataset._replace(train=dataset.train.take(slice(6_000)))
        path = files.output_folder(Path(arguments.out) / "studies" / "quick") / RESULTS.name
    files.lock(path)
    here = opened(path, dataset, arguments.seeds, arguments.quick)
    run_missing(here)
    draw_likeness(here)
    draw_example(here)
    table = texts(here)
    print(f"\n{table['subliminal']}\n\nevery run is in {path}, the figures are in {here.figure().parent}")
    if here.is_complete():
        tables.fill(table)


if __name__ == "__main__":
    terminal.run(main)
