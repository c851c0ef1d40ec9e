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
from pathlib import Path
from statistics import mean, stdev

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import pick, terminal

import student
import teacher
from studies import figures, lab, tables
from studies.lab import STUDENT, TEACHER, distilled

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
HELD_OUT = 5000  # training images to choose on
LIMITS = (0.02, 1)  # per cent of the training images wrong, on labels alone: of the rule of thumb in when_it_helps.md
TAUGHT_BY = (
    TEACHER
    | {"kind": "default"}
    | pick(teacher.MNIST.settings(), TEACHER.keys() - {"net", "kind", "smoothing", "held_out"})
)
CHOICES = ("activation", "epochs", "learning_rate", "temperature", "alpha")
ROWS = {  # (units, views): what `alone` and `taught` chose, of CHOICES
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
CHOSEN = {key: dict(zip(CHOICES, values)) for key, values in ROWS.items()}
PUBLISHED = [  # (net, parameters, test errors), dense nets by others
    ("BitNetPDK", 1_700, 508),
    ("BitNetPDK", 4_400, 304),
    ("pruned LeNet-300-100", 4_800, 199),
    ("BitNetPDK", 8_800, 196),
    ("BitNetMCU", 25_856, 97),
    ("BitNetMCU", 34_080, 96),
    ("Hinton et al., distilled", 1_276_810, 74),
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
            "74 (1,276,810)",
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


def net_on(hidden, views):
    """What a student of this size on these views is trained with, whatever else is chosen for it."""
    return {"hidden": list(hidden)} | SIZES[hidden] | VIEWS[views]


def schedule_on(hidden, views):
    """Its net, and what was chosen for the labels alone."""
    return net_on(hidden, views) | pick(CHOSEN[hidden, views], ["activation", "epochs", "learning_rate"])


# ---- the experiments: {row: settings} --------------------------------------------------------------------------------


def alone():
    """Activation, epochs and learning rate for the labels alone, on images held out of training. One seed only."""
    rows = {}
    for hidden, views in itertools.product(SIZES, VIEWS):
        lengths = EPOCHS + MORE_EPOCHS.get((hidden, views), ())
        grid = (("relu",), LARGE_EPOCHS, LARGE_RATES) if hidden == LARGE else (ACTIVATIONS, lengths, RATES)
        for activation, epochs, rate in itertools.product(*grid):
            schedule = {"activation": activation, "epochs": epochs, "learning_rate": rate, "held_out": HELD_OUT}
            name = f"{parameters(hidden):,} {views}: {activation}, {epochs} epochs, {rate:g}"
            rows[name] = STUDENT | net_on(hidden, views) | schedule
    return rows


def taught():
    """T and alpha of the distilled students, on images held out of training. One seed only."""
    rows = {}
    for hidden, views in CHOSEN:
        schedule = schedule_on(hidden, views)
        for t, alpha in itertools.product(TEMPERATURES, ALPHAS):
            its_teacher = TAUGHT_BY | {"held_out": HELD_OUT}
            settings = distilled(its_teacher, t, alpha, **schedule, held_out=HELD_OUT)
            rows[f"{parameters(hidden):,} {views}: T {t}, alpha {alpha}"] = settings
    return rows


def pairs():
    """Each size on each kind of views, distilled and on labels alone, on all 60,000 images."""
    rows = {}
    for hidden, views in CHOSEN:
        rows |= {f"{parameters(hidden):,} {views}: {kind}": its for kind, its in pair(hidden, views).items()}
    return rows


def pair(hidden, views):
    """{kind: settings} of the two students of a size on these views."""
    chosen, schedule = CHOSEN[hidden, views], schedule_on(hidden, views)
    taught = distilled(TAUGHT_BY, chosen["temperature"], chosen["alpha"], **schedule)
    return {"labels alone": STUDENT | schedule, "distilled": taught}


EXPERIMENTS = {run.__name__: run for run in (alone, taught, pairs)}


# ---- tables and figures ----------------------------------------------------------------------------------------------


def complete_pairs(store):
    """{(units, views): (records on labels alone, records distilled)}, of those whose runs are all there."""
    found = {}
    for hidden, views in CHOSEN:
        rows = store.rows(functools.partial(pair, hidden, views))
        records = [store.records(its) for its in rows.values()]
        if all(records):
            found[hidden, views] = records
    return found


def training_error(store, records):
    """The share of the training images that these nets have wrong, in per cent, in the mean."""
    return mean(100 * record["train_errors"] / len(store.dataset.train.labels) for record in records)


def texts(store):
    """{name: Markdown} of the tables for when_it_helps.md: the pairs whose runs are complete."""
    lines, chosen_lines, of_size = [], [], {}
    for (hidden, views), (without, taught) in complete_pairs(store).items():
        errors = [[record["errors"] for record in records] for records in (without, taught)]
        cells = [tables.spread_and_each(counts) for counts in errors]
        name = f"{parameters(hidden):,}"
        share = f"{100 * (1 - sum(errors[1]) / sum(errors[0])):+.0f}%"
        saved = [lab.against(taught, without), share]
        lines.append([name, views, *cells, *saved, f"{training_error(store, without):.2f}%"])
        chosen = CHOSEN[hidden, views]
        names = ["activation", "epochs", "learning_rate", "temperature", "alpha"]
        chosen_lines.append([shape_of(hidden), name, views, *(str(chosen[key]) for key in names)])
        of_size.setdefault(hidden, []).extend(zip(map(mean, errors), ("labels alone", "distilled"), [views] * 2))
    best_lines = []
    for hidden, found in of_size.items():
        errors, kind, views = min(found)
        best_lines.append(
            [shape_of(hidden), f"{parameters(hidden):,}", f"{errors:.1f}", f"{kind}, {views}", BEST_PUBLISHED[hidden]]
        )
    header = [
        "parameters",
        "images",
        "labels alone",
        "distilled",
        "errors saved by the teacher (p)",
        "saved",
        "training error, labels alone",
    ]
    names = ["net", "parameters", "images", "activation", "epochs", "learning rate", "T", "alpha"]
    return {
        "when_it_helps_pairs": tables.markdown(header, lines),
        "when_it_helps_best": tables.markdown(
            ["net", "parameters", "errors", "by", "best published dense net (parameters)"], best_lines
        ),
        "when_it_helps_chosen": tables.markdown(names, chosen_lines),
    }


def draw(store):
    """Draw both figures, of the pairs whose runs are complete."""
    found = complete_pairs(store)
    sizes = [hidden for hidden in SIZES if all((hidden, views) in found for views in VIEWS)]
    if not sizes:
        return
    panels, groups = {}, {}
    for views in VIEWS:
        lines = {"student on labels alone": [], "distilled": []}
        for hidden in sizes:
            without, taught = found[hidden, views]
            for line, records in zip(lines.values(), (without, taught)):
                line.append([record["errors"] for record in records])
            saved = [one["errors"] - other["errors"] for one, other in zip(without, taught)]
            deviation = stdev(saved) / len(saved) ** 0.5 if len(saved) > 1 else 0
            of_all = 100 / mean(record["errors"] for record in without)
            groups.setdefault(f"images {views}", []).append(
                (parameters(hidden), training_error(store, without), of_all * mean(saved), of_all * deviation)
            )
        panels[f"images {views}"] = lines
    wrong = f"errors in {len(store.dataset.test.labels):,} test images: mean, range of seeds"
    figures.error_panels(
        [*map(parameters, sizes)],
        panels,
        store.figure(),
        log=True,
        points=[(size, errors) for _, size, errors in PUBLISHED if size < 2 * parameters(sizes[-1])],
        xlabel="parameters",
        ylabel=wrong,
    )
    figures.saved_errors(
        groups,
        LIMITS,
        store.figure("_saved"),
        xlabel="training error of the net on labels alone (%; logarithmic from 0.01 on). Dashed: the rule's limits",
        ylabel="share of the test errors saved by the teacher",
        title="A point is a pair of nets of so many parameters; bars are standard errors over seeds",
    )


def main():
    arguments = lab.parse_arguments(__doc__, EXPERIMENTS)
    store = lab.open_store(arguments, "when_it_helps")
    if arguments.check:
        return lab.check(store, arguments)
    runs = lab.plan(store, {name: store.rows(EXPERIMENTS[name]) for name in arguments.experiments})
    if arguments.quick:  # two sizes are enough to see everything run
        runs = [run for run in runs if run[0]["net"] == "teacher" or tuple(run[0]["hidden"]) in QUICK_SIZES]
    lab.run_all(store, runs, arguments)
    draw(store)
    lab.report(store, texts(store))


if __name__ == "__main__":
    terminal.run(main)
