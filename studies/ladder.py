"""What each step from the paper's setting to the default does for the student. The results: headline.md.

    python studies/ladder.py                     5 seeds, about an hour on two cores
    python studies/ladder.py --quick --seeds 1   a small version, in minutes, kept apart

Each row of the table adds a step to the row above it; distorted images are added to row 5. A step may bring settings
that fit it: T and alpha where the images change, and all of the better teacher's; they are listed below the table in
headline.md. Both the student on labels alone and the distilled one are trained with it, on 55,000 images as by
teacher.py and distill.py. Every run is saved to studies/ladder.json at once and never repeated.
"""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import terminal

import distill
import teacher
from studies import figures, runs, study, tables
from studies.runs import Run

EVERY_IMAGE, TEACHER = distill.DistillRecipe(), Run(runs.EVERY_IMAGE)  # the defaults before selective training
OLD = replace(EVERY_IMAGE, temperature=2.0, alpha=0.5)  # before T and alpha were chosen by cross-validation
DISTORTED = replace(EVERY_IMAGE, translate=0, distort=0.6, temperature=1.0, alpha=0.7)
SHIFTED = {"translate": 2, "distort": 0.0, "dropout": 0.4, "input_dropout": 0.1, "weight_decay": 0.0, "epochs": 30}
OLD_TEACHER = Run(replace(runs.EVERY_IMAGE, **SHIFTED))
CHOSEN_STEP = "+ T = 3 and alpha = 0.3"
DISTORTED_STEP = "row 5 + distorted images instead of shifted ones"
STEPS = {  # the teacher, and the distilled student's recipe
    "images as they are, 60 epochs": (OLD_TEACHER, replace(EVERY_IMAGE, translate=0, epochs=60, alpha=0.5)),
    "+ shifts by a pixel": (OLD_TEACHER, replace(OLD, epochs=60)),
    "+ 150 epochs instead of 60": (OLD_TEACHER, OLD),
    "+ the better teacher": (TEACHER, OLD),
    CHOSEN_STEP: (TEACHER, EVERY_IMAGE),
    "+ trained on the hard images: the default run": (Run(teacher.DEFAULTS), distill.DEFAULTS),
    DISTORTED_STEP: (TEACHER, DISTORTED),
    "+ SiLU": (TEACHER, replace(DISTORTED, activation="silu")),
}


def pair(step):
    """(the student on labels alone, the distilled one) of a step."""
    taught_by, recipe = STEPS[step]
    return Run(replace(recipe, **EVERY_IMAGE.only("temperature", "alpha"), loss="labels")), Run(recipe, taught_by)


def ladder():
    """Every step, on labels alone and distilled. About 12 minutes a seed."""
    rows = {}
    for step in STEPS:
        rows[f"{step}: labels alone"], rows[f"{step}: distilled"] = pair(step)
    return rows


def pairs_here(here):
    """{step: (run on labels alone, run distilled)} of the steps whose runs are complete, as they are run here."""
    rows, complete = here.rows(ladder), {}
    for step in STEPS:
        runs_of_step = rows[f"{step}: labels alone"], rows[f"{step}: distilled"]
        if all(map(here.of, runs_of_step)):
            complete[step] = runs_of_step
    return complete


def texts(here):
    """{name: Markdown} of the table for headline.md."""
    lines, above, pairs = [], (), pairs_here(here)
    for step, pair_here in pairs.items():
        above, cells = pairs.get(CHOSEN_STEP, ()) if step == DISTORTED_STEP else above, []
        for place, run in enumerate(pair_here):
            cells.append(tables.spread_and_each(here.errors(run)))
            cells.append(runs.difference(here.of(run), here.of(above[place])) if above else "")
        alone, distilled = map(here.of, pair_here)
        lines.append([step, *cells, runs.difference(distilled, alone)])
        above = pair_here
    to_above = "to the row above"
    header = ["", "labels alone", to_above, "distilled", to_above, "distilled less labels alone"]
    return {"ladder": tables.markdown(header, lines)}


def draw(here):
    """Draw the errors of each step."""
    errors = {}
    for step, pair_here in pairs_here(here).items():
        errors[step] = {name: here.errors(run) for name, run in zip(("student", "distilled"), pair_here)}
    title = "784-64-64-10, on labels alone (student) and distilled: mean and range of the seeds"
    if errors:
        figures.error_bars(errors, here.figure(), xlabel="errors in 10,000 test images", title=title)


if __name__ == "__main__":
    terminal.run(lambda: study.main(__doc__, "ladder", [ladder], texts, draw))
