"""Small dense nets: test errors against parameters, distilled and on labels alone, and what each part of the recipe does.

    python frontier.py                     everything, 5 seeds each: about 4 hours on two cores, beside the teachers' hour
    python frontier.py small               one of the experiments; python frontier.py --list names them
    python frontier.py --seeds 1 --quick   a small version of everything, in minutes, into artifacts/paper/quick/

Trains on all 60,000 images, as `--validation 0` does, and counts test errors. The teacher is paper.py's on distorted images, of
the same seed. A run that is finished goes into results/frontier.json at once and is never run again, so stop it whenever you
like. The settings were chosen on the last 5,000 training images, with 76-64-64 hidden units behind 2x2 pooling.
"""

from pathlib import Path

import common  # before TensorFlow: it keeps the start-up quiet

import numpy as np

import experiments
import plots
import student
from experiments import DISTORTED, STUDENT, TEACHER, distilled

RESULTS = Path(__file__).with_name("results")
SIZES = {  # units of the hidden layers: what else such a net is trained with
    (24, 20): {"pool": 4},
    (32, 24, 20): {"pool": 3},
    (38, 28, 28): {"pool": 2},
    (76, 64, 64): {"pool": 2},
    (64, 64): {"pool": 1},
    (200, 160, 128): {"pool": 2},
    (300, 300): {"pool": 1, "epochs": 100, "learning_rate": 2e-3},
    (800, 800): {"pool": 1, "epochs": 40, "learning_rate": 2e-3},
    (1200, 1200): {"pool": 1, "epochs": 40, "learning_rate": 2e-3},
}
RECIPE = {"translate": 1, "epochs": 300, "learning_rate": 5e-3}
TEMPERATURE, ALPHA = 6, 0.9
CHOSEN = (76, 64, 64)  # of SIZES, on which the settings were chosen
UNPOOLED = (30, 20, 20)  # has as many parameters
PUBLISHED = [  # (net, parameters, test errors), by others
    ("BitNetMCU", 25_216, 100),
    ("Hinton et al., labels alone", 1_276_810, 146),
    ("Hinton et al., distilled", 1_276_810, 74),
    ("Hinton et al., teacher", 2_395_210, 67),
]


def parameters(hidden):
    """How many a net of SIZES has, for MNIST."""
    return student.build_student((28, 28), 10, hidden, SIZES[hidden]["pool"]).count_params()


def rows_of(sizes):
    """{row: settings} of nets of these sizes, distilled and on labels alone."""
    rows = {}
    for hidden in sizes:
        changes = RECIPE | SIZES[hidden] | {"hidden": list(hidden)}
        rows[f"{parameters(hidden):,} parameters, distilled"] = distilled(DISTORTED, TEMPERATURE, ALPHA, **changes)
        rows[f"{parameters(hidden):,} parameters, labels alone"] = STUDENT | changes
    return rows


def small():
    """Nets of up to 100,000 parameters. 8 minutes a seed, beside its teacher's 9."""
    return rows_of(hidden for hidden in SIZES if parameters(hidden) <= 100_000)


def large():
    """Those of more. 16 minutes a seed, beside its teacher's 9."""
    return rows_of(hidden for hidden in SIZES if parameters(hidden) > 100_000)


def parts():
    """What each part of the recipe does for CHOSEN: one change at a time. 20 minutes a seed, beside its teachers' 15."""
    recipe, alone = rows_of([CHOSEN]).values()
    epochs = recipe["epochs"]
    return {
        "the recipe": recipe,
        "labels alone": alone,
        f"not pooled, {'-'.join(map(str, UNPOOLED))}": recipe | {"hidden": list(UNPOOLED), "pool": 1},
        "not moved": recipe | {"translate": 0},
        "moved by up to 2 pixels": recipe | {"translate": 2},
        "distorted by 0.5, the teacher asked about each view": recipe | {"translate": 0, "distort": 0.5},
        f"{epochs // 5} epochs": recipe | {"epochs": epochs // 5},
        f"{epochs * 3} epochs": recipe | {"epochs": epochs * 3},
        "the teacher on translated images": recipe | {"teacher": TEACHER},
        f"T {TEMPERATURE // 2}": recipe | {"temperature": TEMPERATURE // 2},
        f"T {TEMPERATURE * 2}": recipe | {"temperature": TEMPERATURE * 2},
        "alpha 0.5": recipe | {"alpha": 0.5},
        "alpha 1": recipe | {"alpha": 1.0},
    }


EXPERIMENTS = {run.__name__: run for run in (small, large, parts)}


def rows(experiment, quick):
    """{row: settings} of an experiment."""
    return {row: experiments.quickly(found) if quick else found for row, found in EXPERIMENTS[experiment]().items()}


def draw(lab, table, seeds, path):
    """The figure of all sizes in {row: settings}, every one of them run."""
    lines = {}
    for kind in ("distilled", "labels alone"):
        settings = [settings for row, settings in table.items() if row.endswith(kind)]
        lines[kind] = np.array([[lab.find(one, seed)["errors"] for seed in range(seeds)] for one in settings])
    plots.spread(
        [parameters(tuple(settings["hidden"])) for settings in table.values()][::2],
        lines,
        path,
        log=True,
        points=PUBLISHED,
        xlabel="parameters",
        ylabel=f"errors in {len(lab.digits.test.labels):,} test images",
        title=f"Dense nets on MNIST: mean and range over seeds ({seeds})",
    )


def main():
    arguments = experiments.parse_arguments(__doc__, EXPERIMENTS)
    lab, seeds, quick = experiments.open_lab(arguments, RESULTS / "frontier.json"), arguments.seeds, arguments.quick
    tables = {name: rows(name, quick) for name in arguments.experiments}
    experiments.run_all(lab, experiments.plan(tables, seeds))
    for name, table in tables.items():
        print(f"\n{name}: {EXPERIMENTS[name].__doc__}")
        print(f"{'errors, test images':<72}{'mean':>10}{'sd':>8}  each seed")
        for row, settings in table.items():
            records = [lab.find(settings, seed) for seed in range(seeds)]
            cost = f"{np.median([record['seconds_an_epoch'] for record in records]):.2f} s an epoch"
            experiments.print_row(f"{row}, {cost}", None, [record["errors"] for record in records])
    if {"small", "large"} <= tables.keys():
        draw(lab, tables["small"] | tables["large"], seeds, lab.results.with_suffix(".png"))
    print(f"\nevery run is in {lab.results}")


if __name__ == "__main__":
    common.run(main)
