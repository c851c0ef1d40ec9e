"""When does a teacher help? Dense students of several sizes, on three kinds of views, distilled and on labels alone.

    python studies/when_it_helps.py                     everything, with 5 seeds
    python studies/when_it_helps.py --seeds 1 --quick   two sizes of everything, in minutes, in artifacts/studies/quick/

Trains on all 60,000 images and counts test errors. The teacher has teacher.py's default recipe, and the student's
seed. A finished run is saved to studies/when_it_helps.json at once and never repeated, so stop it whenever you like.

Both of a pair have the same net, views, epochs and learning rate. Activation, epochs and learning rate were chosen
for the labels alone (`alone`), then T and alpha (`taught`), each on 5,000 images held out of training, with one seed.
"""

import functools
import itertools
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import terminal

import distill
import student
from studies import figures, runs, study, tables
from studies.runs import Images, Run

VALIDATION = 0  # trained on all 60,000 images: settings are chosen on HELD_OUT
SIZES = {  # units of the hidden layers: how much of the image's edges is cut off, and which squares are averaged
    (26, 18): {"crop": 4, "pool": 3},
    (40, 34, 30): {"crop": 4, "pool": 3},
    (52, 40, 28): {"crop": 3, "pool": 2},
    (105, 72, 50): {"crop": 3, "pool": 2},
    (64, 64): {},
    (800, 800): {},
}
LARGE = (800, 800)  # slow to train: fewer epochs, and fewer settings to choose from
QUICK_SIZES = [(26, 18), (64, 64)]
VIEWS = {"as they are": {}, "shifted": {"translate": 1}, "distorted": {"distort": 0.6}}
ACTIVATIONS, EPOCHS, RATES = ("relu", "silu"), (100, 300), (5e-3, 1e-2)  # to choose from, for the labels alone
MORE_EPOCHS = {((26, 18), "shifted"): (1000,)}  # the smallest net underfits
LARGE_EPOCHS, LARGE_RATES = (20,), (1e-3, 2e-3)  # and for LARGE, with ReLU
TEMPERATURES, ALPHAS = (1, 2, 4, 8), (0.5, 0.9)  # to choose from, for the distilled
HELD_OUT = Images(held_out=5000)  # training images to choose on
LIMITS = (0.02, 1)  # per cent of the training images wrong, on labels alone: of the rule of thumb in when_it_helps.md
TEACHER = Run(runs.EVERY_IMAGE)
CHOSEN = {  # (units, views): activation, epochs and learning rate, by `alone`; temperature and alpha, by `taught`
    ((26, 18), "as they are"): ("silu", 100, 0.01, 2, 0.5),
    ((26, 18), "shifted"): ("silu", 1000, 0.005, 1, 0.9),
    ((26, 18), "distorted"): ("relu", 300, 0.005, 2, 0.9),
    ((40, 34, 30), "as they are"): ("relu", 100, 0.01, 2, 0.5),
    ((40, 34, 30), "shifted"): ("silu", 100, 0.01, 4, 0.9),
    ((40, 34, 30), "distorted"): ("silu", 300, 0.01, 1, 0.9),
    ((52, 40, 28), "as they are"): ("relu", 100, 0.01, 8, 0.9),
    ((52, 40, 28), "shifted"): ("silu", 100, 0.01, 4, 0.5),
    ((52, 40, 28), "distorted"): ("relu", 300, 0.01, 1, 0.9),
    ((105, 72, 50), "as they are"): ("relu", 300, 0.01, 8, 0.5),
    ((105, 72, 50), "shifted"): ("silu", 300, 0.005, 2, 0.5),
    ((105, 72, 50), "distorted"): ("silu", 300, 0.01, 4, 0.5),
    ((64, 64), "as they are"): ("silu", 100, 0.01, 8, 0.9),
    ((64, 64), "shifted"): ("silu", 100, 0.005, 1, 0.9),
    ((64, 64), "distorted"): ("silu", 300, 0.005, 2, 0.5),
    ((800, 800), "as they are"): ("relu", 20, 0.002, 4, 0.9),
    ((800, 800), "shifted"): ("relu", 20, 0.001, 4, 0.5),
    ((800, 800), "distorted"): ("relu", 20, 0.001, 4, 0.5),
}
PUBLISHED = [  # (net, parameters, test errors), dense nets by others; Ciresan et al. state their sizes in millions
    ("BitNetPDK", 1_700, 508),
    ("BitNetPDK", 4_400, 304),
    ("pruned LeNet-300-100", 4_800, 199),
    ("BitNetPDK", 8_800, 196),
    ("BitNetMCU", 25_856, 97),
    ("BitNetMCU", 34_080, 96),
    ("Simard et al.", 636_010, 70),
    ("Hinton et al., distilled", 1_276_810, 74),
    ("Ciresan et al.", 1_340_000, 49),
    ("Ciresan et al.", 12_110_000, 35),
]
BEST_PUBLISHED = dict(
    zip(
        SIZES,
        (
            "508 (1,700)",
            "304 (4,400); 199 (pruned to 4,800)",
            "196 (8,800)",
            "97 (25,856)",
            "96 (34,080)",
            "70 (636,010); 74 (same net); 49 (1.34 million)",
        ),
    )
)


@functools.cache  # it builds the net, and every row of every experiment has it in its name
def parameters(hidden):
    """The number of parameters of a net of SIZES, for MNIST."""
    return student.build_student((28, 28), 10, student.StudentRecipe(hidden, **SIZES[hidden])).count_params()


def shape_of(hidden):
    """The units of a net of SIZES, such as '11x11-52-40-28-10'."""
    side = -(-(28 - 2 * SIZES[hidden].get("crop", 0)) // SIZES[hidden].get("pool", 1))
    return "-".join(map(str, [784 if side == 28 else f"{side}x{side}", *hidden, 10]))


def student_on(hidden, views, activation, epochs, learning_rate, **loss):
    """The recipe of the student of this size on these views. loss: its other settings; by default, on labels alone."""
    views = {"translate": 0} | VIEWS[views]
    schedule = {"activation": activation, "epochs": epochs, "learning_rate": learning_rate}
    return distill.DistillRecipe(hidden, **SIZES[hidden], **views, **schedule, **loss or {"loss": "labels"})


# ---- the experiments: {row: run} -------------------------------------------------------------------------------------


def alone():
    """Activation, epochs and learning rate for the labels alone, on images held out of training. One seed only."""
    rows = {}
    for hidden, views in itertools.product(SIZES, VIEWS):
        lengths = EPOCHS + MORE_EPOCHS.get((hidden, views), ())
        grid = (("relu",), LARGE_EPOCHS, LARGE_RATES) if hidden == LARGE else (ACTIVATIONS, lengths, RATES)
        for activation, epochs, rate in itertools.product(*grid):
            name = f"{parameters(hidden):,} {views}: {activation}, {epochs} epochs, {rate:g}"
            rows[name] = Run(student_on(hidden, views, activation, epochs, rate), None, HELD_OUT)
    return rows


def taught():
    """T and alpha of the distilled students, on images held out of training. One seed only."""
    rows, taught_by = {}, replace(TEACHER, images=HELD_OUT)
    for (hidden, views), chosen in CHOSEN.items():
        for t, alpha in itertools.product(TEMPERATURES, ALPHAS):
            name = f"{parameters(hidden):,} {views}: T {t}, alpha {alpha}"
            rows[name] = Run(student_on(hidden, views, *chosen[:3], temperature=t, alpha=alpha), taught_by, HELD_OUT)
    return rows


def pairs():
    """Each size on each kind of views, distilled and on labels alone, on all 60,000 images."""
    rows = {}
    for hidden, views in CHOSEN:
        for kind, run in pair(hidden, views).items():
            rows[f"{parameters(hidden):,} {views}: {kind}"] = run
    return rows


def pair(hidden, views):
    """{kind: run} of the two students of a size on these views."""
    *schedule, temperature, alpha = CHOSEN[hidden, views]
    distilled = student_on(hidden, views, *schedule, temperature=temperature, alpha=alpha)
    return {"labels alone": Run(student_on(hidden, views, *schedule)), "distilled": Run(distilled, TEACHER)}


EXPERIMENTS = (alone, taught, pairs)


# ---- tables and figures ----------------------------------------------------------------------------------------------


def complete_pairs(here):
    """{(units, views): (records on labels alone, records distilled)}, of those whose runs are all there."""
    complete = {}
    for hidden, views in CHOSEN:
        rows = here.rows(functools.partial(pair, hidden, views))
        records = [here.of(run) for run in rows.values()]
        if all(records):
            complete[hidden, views] = records
    return complete


def training_error(here, records):
    """The share of the training images that these nets have wrong, in per cent, in the mean."""
    return mean(100 * record["train_errors"] / len(here.records.dataset.train.labels) for record in records)


def texts(here):
    """{name: Markdown} of the tables for when_it_helps.md: the pairs whose runs are complete."""
    pair_lines, chosen_lines, of_size = [], [], {}
    for (hidden, views), (alone, distilled) in complete_pairs(here).items():
        alone_errors, distilled_errors = ([record["errors"] for record in records] for records in (alone, distilled))
        name = f"{parameters(hidden):,}"
        pair_lines.append(
            [
                name,
                views,
                tables.spread_and_each(alone_errors),
                tables.spread_and_each(distilled_errors),
                runs.difference(alone, distilled),
                f"{100 * (1 - sum(distilled_errors) / sum(alone_errors)):+.0f}%",
                f"{training_error(here, alone):.2f}%",
            ]
        )
        chosen_lines.append([shape_of(hidden), name, views, *map(str, CHOSEN[hidden, views])])
        results = of_size.setdefault(hidden, [])
        results.append((mean(alone_errors), f"labels alone, {views}"))
        results.append((mean(distilled_errors), f"distilled, {views}"))
    best_lines = []
    for hidden, results in of_size.items():
        errors, how = min(results)
        cells = [shape_of(hidden), f"{parameters(hidden):,}", f"{errors:.1f}", how, BEST_PUBLISHED[hidden]]
        best_lines.append(cells)
    pair_header = ["parameters", "images", "labels alone", "distilled", "errors saved by the teacher (p)", "saved"]
    pair_header += ["training error, labels alone"]
    best_header = ["net", "parameters", "errors", "by", "best published dense net (parameters)"]
    chosen_header = ["net", "parameters", "images", "activation", "epochs", "learning rate", "T", "alpha"]
    return {
        "when_it_helps_pairs": tables.markdown(pair_header, pair_lines),
        "when_it_helps_best": tables.markdown(best_header, best_lines),
        "when_it_helps_chosen": tables.markdown(chosen_header, chosen_lines),
    }


def draw(here):
    """Draw both figures, of the sizes whose runs are complete."""
    complete = complete_pairs(here)
    sizes = [hidden for hidden in SIZES if all((hidden, views) in complete for views in VIEWS)]
    if not sizes:
        return
    panels, points = {}, {}
    for views in VIEWS:
        lines = {"student on labels alone": [], "distilled": []}
        for hidden in sizes:
            alone, distilled = complete[hidden, views]
            for line, records in zip(lines.values(), (alone, distilled)):
                line.append([record["errors"] for record in records])
            saved = [before["errors"] - after["errors"] for before, after in zip(alone, distilled)]
            deviation = stdev(saved) / len(saved) ** 0.5 if len(saved) > 1 else 0
            to_percent = 100 / mean(record["errors"] for record in alone)
            point = parameters(hidden), training_error(here, alone), to_percent * mean(saved), to_percent * deviation
            points.setdefault(f"images {views}", []).append(point)
        panels[f"images {views}"] = lines
    figures.error_panels(
        [*map(parameters, sizes)],
        panels,
        here.figure(),
        log=True,
        points=[(size, errors) for _, size, errors in PUBLISHED if size < 2 * parameters(sizes[-1])],
        xlabel="parameters",
        ylabel=f"errors in {len(here.records.dataset.test.labels):,} test images: mean, range of seeds",
    )
    figures.saved_errors(
        points,
        LIMITS,
        here.figure("_saved"),
        xlabel="training error of the net on labels alone (%; logarithmic from 0.01 on). Dashed: the rule's limits",
        ylabel="share of the test errors saved by the teacher",
        title="A point is a pair of nets of so many parameters; bars are standard errors over seeds",
    )


def main():
    # Two sizes are enough to see everything run.
    in_quick = lambda run: run.recipe.hidden in QUICK_SIZES
    study.main(__doc__, "when_it_helps", EXPERIMENTS, texts, draw, in_quick=in_quick, validation=VALIDATION)


if __name__ == "__main__":
    terminal.run(main)
