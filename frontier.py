"""Small dense nets: test errors against parameters, distilled and on labels alone, and what each part of the recipe does.

    python frontier.py                     everything, 5 seeds each: about 4 hours on two cores, beside the teachers' hour
    python frontier.py small               one of the experiments; python frontier.py --list names them
    python frontier.py --seeds 1 --quick   a small version of everything, in minutes, into artifacts/paper/quick/

Trains on all 60,000 images, as `--validation 0` does, and counts test errors. The teacher is paper.py's on distorted images, of
the same seed. A run that is finished goes into results/frontier.json at once and is never run again, so stop it whenever you
like. Temperature, alpha and length were chosen on the last 5,000 training images, for 76-64-64 units that were pooled and not
cropped; crop, units and learning rate then by the loss on training images.
"""

from pathlib import Path

import common  # before TensorFlow: it keeps the start-up quiet

import numpy as np

import experiments
import metrics
import plots
import student
from experiments import DISTORTED, STUDENT, TEACHER, distilled

RESULTS = Path(__file__).with_name("results")
SIZES = {  # units of the hidden layers: what else such a net is trained with
    (24, 20): {"crop": 4, "pool": 3},
    (40, 34, 30): {"crop": 4, "pool": 3},
    (52, 40, 28): {"crop": 3, "pool": 2},
    (105, 72, 50): {"crop": 3, "pool": 2},
    (64, 64): {"pool": 1, "learning_rate": 5e-3},
    (220, 170, 128): {"crop": 3, "pool": 2},
    (300, 300): {"pool": 1, "epochs": 100, "learning_rate": 2e-3},
    (800, 800): {"pool": 1, "epochs": 40, "learning_rate": 2e-3},
    (1200, 1200): {"pool": 1, "epochs": 40, "learning_rate": 2e-3},
}
RECIPE = {"translate": 1, "epochs": 300, "learning_rate": 1e-2}
TEMPERATURE, ALPHA = 6, 0.9
CHOSEN = (105, 72, 50)  # of SIZES, whose parts are tried
UNCROPPED, UNPOOLED = (76, 64, 64), (48, 20, 16)  # have as many parameters as CHOSEN
DEFAULTS = TEACHER | {  # by teacher.py's defaults
    "kind": "defaults",
    "dropout": 0.4,
    "input_dropout": 0.1,
    "epochs": 30,
    "weight_decay": 0.0,
}
PUBLISHED = [  # (net, parameters, test errors), by others
    ("BitNetMCU", 25_216, 100),
    ("Hinton et al., labels alone", 1_276_810, 146),
    ("Hinton et al., distilled", 1_276_810, 74),
    ("Hinton et al., teacher", 2_395_210, 67),
]


def parameters(hidden):
    """How many a net of SIZES has, for MNIST."""
    return student.build_student(
        (28, 28), 10, hidden, SIZES[hidden]["pool"], SIZES[hidden].get("crop", 0)
    ).count_params()


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
    """What each part of the recipe does for CHOSEN: one change at a time. 12 minutes a seed, beside its teachers' 12."""
    recipe, alone = rows_of([CHOSEN]).values()
    short = {"epochs": recipe["epochs"] // 5}
    return {
        "the recipe": recipe,
        "labels alone": alone,
        f"not cropped, {'-'.join(map(str, UNCROPPED))}": recipe | {"hidden": list(UNCROPPED), "crop": 0},
        f"not pooled, {'-'.join(map(str, UNPOOLED))}": recipe | {"hidden": list(UNPOOLED), "pool": 1},
        "SiLU instead of ReLU": recipe | {"activation": "silu"},
        "half the learning rate": recipe | {"learning_rate": recipe["learning_rate"] / 2},
        "not moved": recipe | {"translate": 0},
        "moved by up to 2 pixels": recipe | {"translate": 2},
        f"{recipe['epochs'] * 3} epochs": recipe | {"epochs": recipe["epochs"] * 3},
        f"{short['epochs']} epochs": recipe | short,
        f"{short['epochs']} epochs, distorted by 0.5": recipe | short | {"translate": 0, "distort": 0.5},
        "the teacher of teacher.py's defaults": recipe | {"teacher": DEFAULTS},
        f"T {TEMPERATURE // 2}": recipe | {"temperature": TEMPERATURE // 2},
        f"T {TEMPERATURE * 2}": recipe | {"temperature": TEMPERATURE * 2},
        "alpha 0.5": recipe | {"alpha": 0.5},
        "alpha 1": recipe | {"alpha": 1.0},
    }


def tried():
    """An average of the weights, and the losses of variants.py. 5 minutes a seed, beside its teacher's 9."""
    recipe = distilled(DISTORTED, TEMPERATURE, ALPHA, **RECIPE | SIZES[CHOSEN] | {"hidden": list(CHOSEN)})
    return {
        "moving average of the weights, over 2,000 steps": recipe | {"ema": 0.9995},
        "logit standardisation": recipe | {"loss": "standardised"},
        "weighted transformed teacher": recipe | {"loss": "transformed"},
        "decoupled distillation": recipe | {"loss": "decoupled"},
    }


EXPERIMENTS = {run.__name__: run for run in (small, large, parts, tried)}


def rows(experiment, quick):
    """{row: settings} of an experiment."""
    return {row: experiments.quickly(found) if quick else found for row, found in EXPERIMENTS[experiment]().items()}


def against(records, reference):
    """How many more errors than these records a change of the recipe makes: '+1.0 (p 0.4)', image by image, same seeds."""
    wrong, right = experiments.wrong_counts(records), experiments.wrong_counts(reference[: len(records)])
    return f"{(wrong.sum() - right.sum()) / len(records):+.1f} (p {metrics.paired(wrong, right):.2g})"


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
        print(f"{'errors, test images':<64}{'':>8}{'mean':>10}{'sd':>8}  each seed")
        found = {row: [lab.find(settings, seed) for seed in range(seeds)] for row, settings in table.items()}
        for row, records in found.items():
            cost = f"{np.median([record['seconds_an_epoch'] for record in records]):.2f} s an epoch"
            experiments.print_row(f"{row}, {cost}", None, [record["errors"] for record in records])
        for row, records in list(found.items())[1:] if name == "parts" else ():
            print(f"{row}: {against(records, found['the recipe'])} errors")
    if {"small", "large"} <= tables.keys():
        draw(lab, tables["small"] | tables["large"], seeds, lab.results.with_suffix(".png"))
    print(f"\nevery run is in {lab.results}")


if __name__ == "__main__":
    common.run(main)
