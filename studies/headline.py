"""Run teacher.py, distill.py, evaluate.py and tools/export.py with several seeds. The results: README.md and headline.md.

    python studies/headline.py               3 seeds, about 15 minutes on two cores
    python studies/headline.py --sweep       and tools/sweep.py with the first seed's teacher, about 12 minutes more

Nothing but the seed differs from the quick start. Keeps the models in artifacts/headline/ and what the scripts report in
studies/headline.json; updates the tables of README.md and headline.md, and their figures.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import UserError, files, terminal

import distill
import evaluate
from studies import tables

NETS = {
    "teacher": "teacher, 784-1200-1200-10",
    "student": "student, 784-64-64-10, on labels alone",
    "distilled": "the same student, distilled",
}
FIGURES = ("what_the_teacher_knows", "reliability", "sweep")
RESULTS = tables.ROOT / "studies" / "headline.json"


def run_script(*command):
    """Run a script of the project, its output on the screen. Raises UserError: it failed."""
    print(f"\n$ python {' '.join(map(str, command))}", flush=True)
    if subprocess.run([sys.executable, *map(str, command)], cwd=tables.ROOT, check=False).returncode:
        raise UserError(f"{command[0]} failed: see above")


def run_seed(seed, out):
    """Run the scripts with this seed in the folder `out`; returns {"seed", "metrics", "export"}: what they report."""
    for command in (
        ["teacher.py", "--seed", seed],
        ["distill.py", "--seed", seed],
        ["evaluate.py"],
        ["tools/export.py"],
    ):
        run_script(*command, "--out", out)
    return {"seed": seed} | {name: json.loads((out / f"{name}.json").read_text()) for name in ("metrics", "export")}


def texts(found):
    """{name: Markdown} of the tables and sentences for README.md and headline.md. found: what headline.json holds."""
    runs, sweep, chosen = [run["metrics"] for run in found["runs"]], found["sweep"], found["sweep"]["chosen"]
    rows = {name: [run["models"][name] for run in runs] for name in NETS}
    errors = {name: [row["test_errors"] for row in its] for name, its in rows.items()}
    saved = 1 - mean(errors["distilled"]) / mean(errors["student"])
    chances = ", ".join(f"{run['comparisons']['student -> distilled']['mcnemar_p']:.2g}" for run in runs)
    first = {"teacher": errors["teacher"][0], "baseline": errors["student"][0], "distilled": errors["distilled"][0]}
    result = []
    for name, its in rows.items():
        counts = f"**{tables.spread(errors[name])}** ({tables.each(errors[name])})"
        result.append([NETS[name], f"{its[0]['parameters']:,}", counts, *means(its, ["accuracy", "nll"])])
    header = ["net", "parameters", "test errors in 10,000 (each seed)", "accuracy", "negative log-likelihood (nats)"]
    trust = ["nll", "ece", "best_temperature", "nll_at_best", "ece_at_best", "kl_to_teacher", "agreement"]
    return {
        "quick_start": "\n".join(f"    {line}" for line in distill.describe_result(first, 10_000).splitlines()),
        "result": tables.markdown(header, result),
        "gain": f"Distillation saves {saved:.0%} of the student's test errors (mean of {len(runs)} seeds). The p-values of the"
        f" exact McNemar test, which pairs the two students image by image, are {chances}.",
        "calibration": tables.markdown(
            ["model", *(name.replace("_", " ") for name in trust)],
            [[name, *means(its, trust)] for name, its in rows.items()],
        ),
        "sweep": tables.markdown(sweep["header"], sweep["rows"]),
        "sweep_choice": f"The lowest mean is that of `--temperature {chosen['temperature']:g} --alpha {chosen['alpha']:g}`. Only"
        f" then was the test set used: {mean(chosen['test_errors']):.1f} test errors ({tables.each(chosen['test_errors'])}).",
        "export": export_table([run["export"] for run in found["runs"]]),
    }


def means(rows, names):
    """The means over seeds of these metrics, as evaluate.py prints them."""
    return [format(mean(row[name] for row in rows), evaluate.METRICS[name][0]) for name in names]


def export_table(exports):
    keys = ["test_errors", "classes_unlike_keras", "microseconds_for_one_image"]
    lines = []
    for name in ("distilled.keras", "distilled.tflite", "distilled_int8.tflite"):
        cells = [", ".join(str(export[name][key]) for export in exports if key in export[name]) for key in keys]
        lines.append([name, f"{exports[0][name]['bytes']:,}", *cells])
    return tables.markdown(["file", "bytes", *(key.replace("_", " ") for key in keys)], lines)


def main():
    options = terminal.parser(__doc__, {"out": "artifacts"})
    options.add_argument("--seeds", type=terminal.integer(1), default=3, help="so many, from 0 on (default: 3)")
    options.add_argument("--sweep", action="store_true", help="run tools/sweep.py too")
    arguments = options.parse_args()
    terminal.print_settings(arguments)
    out = files.output_folder(arguments.out) / "headline"
    runs = [run_seed(seed, out / str(seed)) for seed in range(arguments.seeds)]
    if arguments.sweep:
        run_script("tools/sweep.py", "--out", out / "0")
    source = out / "0" / "sweep.json" if arguments.sweep else RESULTS
    sweep = json.loads(source.read_text())
    found = {"runs": runs, "sweep": sweep if arguments.sweep else sweep["sweep"]}
    files.write_json(RESULTS, found)
    for name in FIGURES:
        if (figure := out / "0" / "plots" / f"{name}.png").exists():
            shutil.copy(figure, RESULTS.with_name(f"headline_{name}.png"))
    for text in texts(found).values():
        print(f"\n{text}")
    tables.fill(texts(found))


if __name__ == "__main__":
    terminal.run(main)
