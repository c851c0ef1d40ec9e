"""Small dense nets: test errors against parameters, distilled and on labels alone. The results: small_nets.md.

    python studies/small_nets.py                     everything, 5 seeds each: about 4 hours on two cores, and the teachers' hour
    python studies/small_nets.py small               one of the experiments; --list names them
    python studies/small_nets.py --seeds 1 --quick   a small version of everything, in minutes, in artifacts/studies/quick/

Trains on all 60,000 images and counts test errors. The teacher is that of paper.py on distorted images, of the same seed. A
finished run is saved to studies/small_nets.json at once and never repeated, so stop it whenever you like. small_nets.md says
how the settings were chosen.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import plots, terminal

import numpy as np

import student
from studies import lab, tables
from studies.lab import DISTORTED, STUDENT, TEACHER, distilled

SIZES = {  # units of the hidden layers: what else such a net is trained with
    (24, 20): {"crop": 4, "pool": 3, "activation": "silu", "temperature": 2},
    (40, 34, 30): {"crop": 4, "pool": 3, "activation": "silu", "temperature": 2},
    (52, 40, 28): {"crop": 3, "pool": 2, "activation": "silu", "temperature": 2},
    (105, 72, 50): {"crop": 3, "pool": 2, "activation": "silu"},
    (64, 64): {"learning_rate": 5e-3},
    (300, 300): {"epochs": 100, "learning_rate": 2e-3},
    (800, 800): {"epochs": 20, "learning_rate": 2e-3},
    (1200, 1200): {"epochs": 20, "learning_rate": 2e-3},
}
RECIPE = {"translate": 1, "epochs": 300, "learning_rate": 1e-2, "pool": 1, "crop": 0, "temperature": 6}
ALPHA = 0.9
CHOSEN = (105, 72, 50)  # of SIZES, of which `parts` changes one thing at a time
UNCROPPED, UNPOOLED = (76, 64, 64), (48, 20, 16)  # have as many parameters as CHOSEN
WORSE_TEACHER = TEACHER | {  # the default of teacher.py until November 2026
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
    """The number of parameters of a net of SIZES, for MNIST."""
    inputs = RECIPE | SIZES[hidden]
    return student.build_student((28, 28), 10, hidden, inputs["pool"], inputs["crop"]).count_params()


def architecture(hidden):
    """The units of a net of SIZES, such as '11x11-52-40-28-10'."""
    inputs = RECIPE | SIZES[hidden]
    side = -(-(28 - 2 * inputs["crop"]) // inputs["pool"])
    return "-".join(map(str, [784 if side == 28 else f"{side}x{side}", *hidden, 10]))


def rows_of(sizes):
    """{row: settings} of nets of these sizes, distilled and on labels alone."""
    rows = {}
    for hidden in sizes:
        changes = RECIPE | SIZES[hidden] | {"hidden": list(hidden)}
        temperature = changes.pop("temperature")
        rows[f"{parameters(hidden):,} parameters, distilled"] = distilled(DISTORTED, temperature, ALPHA, **changes)
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
        "ReLU instead of SiLU": recipe | {"activation": "relu"},
        "not moved": recipe | {"translate": 0},
        "moved by up to 2 pixels": recipe | {"translate": 2},
        f"{recipe['epochs'] * 3} epochs": recipe | {"epochs": recipe["epochs"] * 3},
        f"{short['epochs']} epochs": recipe | short,
        f"{short['epochs']} epochs, distorted by 0.5": recipe | short | {"translate": 0, "distort": 0.5},
        "a teacher on shifted images, 30 epochs": recipe | {"teacher": WORSE_TEACHER},
        f"T {recipe['temperature'] // 2}": recipe | {"temperature": recipe["temperature"] // 2},
        f"T {recipe['temperature'] * 2}": recipe | {"temperature": recipe["temperature"] * 2},
        "alpha 0.5": recipe | {"alpha": 0.5},
        "alpha 1": recipe | {"alpha": 1.0},
    }


EXPERIMENTS = {run.__name__: run for run in (small, large, parts)}


# ---- tables and the figure -------------------------------------------------------------------------------------------


def texts(store):
    """{name: Markdown} of the tables for small_nets.md: the rows whose runs are there."""
    lines = []
    for hidden in SIZES:
        pair = [store.records(settings) for settings in store.rows(lambda hidden=hidden: rows_of([hidden])).values()]
        if all(pair):  # a distilled net without its baseline says nothing
            lines.append([architecture(hidden), f"{parameters(hidden):,}", *map(_cell, pair), lab.against(*pair)])
    header = ["net", "parameters", "distilled", "labels alone", "errors saved by the teacher, and the p-value"]
    return {"small_nets_sizes": tables.markdown(header, lines), "small_nets_parts": _parts_table(store)}


def _parts_table(store):
    lines, table = [], store.rows(parts)
    recipe = [store.find(table["the recipe"], seed) for seed in range(store.seeds)]
    for row, settings in table.items():
        records = [record for seed in range(store.seeds) if (record := store.find(settings, seed))]
        same_seeds = [recipe[record["seed"]] for record in records]
        if records and all(same_seeds):
            cost = f"{np.median([record['seconds_an_epoch'] for record in records]):.2f}"
            lines.append([row, _cell(records), "" if row == "the recipe" else lab.against(same_seeds, records), cost])
    return tables.markdown(
        ["change", "test errors", "more than the recipe, and the p-value", "seconds an epoch"], lines
    )


def _cell(records):
    return tables.spread_and_each([record["errors"] for record in records])


def draw(store):
    """Draw errors against parameters for all sizes, if their runs are complete."""
    table = store.rows(small) | store.rows(large)
    lines = {}
    for kind, name in (("distilled", "distilled"), ("labels alone", "student on labels alone")):
        records = [store.records(settings) for row, settings in table.items() if row.endswith(kind)]
        if not all(records):
            return
        lines[name] = np.array([[record["errors"] for record in found] for found in records])
    plots.error_lines(
        sorted(map(parameters, SIZES)),
        lines,
        store.results.with_suffix(".png"),
        log=True,
        points=[point[1:] for point in PUBLISHED],
        xlabel="parameters",
        ylabel=f"errors in {len(store.dataset.test.labels):,} test images",
        title=f"Dense nets on MNIST: mean and range of {store.seeds} seeds",
    )


def main():
    arguments = lab.parse_arguments(__doc__, EXPERIMENTS)
    store = lab.open_store(arguments, "small_nets")
    if arguments.check:
        return lab.check(store, arguments)
    runs = lab.plan(store, {name: store.rows(EXPERIMENTS[name]) for name in arguments.experiments})
    lab.run_all(store, runs, arguments)
    draw(store)
    lab.report(store, texts(store))


if __name__ == "__main__":
    terminal.run(main)
