"""Run teacher.py, distill.py, evaluate.py and tools/export.py with several seeds. The results: README.md and headline.md.

    python studies/headline.py               3 seeds, TODO minutes on two cores
    python studies/headline.py --sweep       and tools/sweep.py with the first seed's teacher, TODO minutes more

Nothing but the seed differs from the quick start. Keeps the models in artifacts/headline/, and what the scripts report in
studies/headline.json; updates the tables of README.md and headline.md, and headline.md's figures.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from support import UserError, files, terminal

import distill
from studies import tables

NETS = {
    "teacher": "teacher, 784-1200-1200-10",
    "student": "student, 784-64-64-10, on labels alone",
    "distilled": "the same student, distilled",
}
FIGURES = ("what_the_teacher_knows", "reliability", "sweep")


def run_seed(seed, out):
    """Run the scripts with this seed in the folder `out`; returns {"seed", "metrics", "export"}: what they report."""
    for command in (
        ["teacher.py", "--seed", seed],
        ["distill.py", "--seed", seed],
        ["evaluate.py"],
        ["tools/export.py"],
    ):
        run_script(*command, "--out", out)
    reports = {name: json.loads((out / f"{name}.json").read_text()) for name in ("metrics", "export")}
    return {"seed": seed, **reports}


def run_script(*command):
    """Run a script of the project, its output on the screen. Raises UserError: it failed."""
    print(f"\n$ python {' '.join(map(str, command))}", flush=True)
    if subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, check=False).returncode:
        raise UserError(f"{command[0]} failed: see above")


# ---- tables ----------------------------------------------------------------------------------------------------------


def texts(found):
    """{name: Markdown} of the tables and sentences for README.md and headline.md. found: what headline.json holds."""
    runs = [run["metrics"] for run in found["runs"]]
    rows = {name: [run["models"][name] for run in runs] for name in NETS}
    errors = {name: [row["test_errors"] for row in its] for name, its in rows.items()}
    saved = 1 - mean(errors["distilled"]) / mean(errors["student"])
    chances = [f"{run['comparisons']['student -> distilled']['mcnemar_p']:.2g}" for run in runs]
    gain = (
        f"Distillation saves {saved:.0%} of the student's test errors (mean of {len(runs)} seeds). The exact McNemar p-values of"
        f" the seeds' pairs are {', '.join(chances)}."
    )
    first = {name: numbers[0] for name, numbers in errors.items()}
    last_lines = distill.describe_result(
        {"teacher": first["teacher"], "baseline": first["student"], "distilled": first["distilled"]}, 10_000
    )
    return {
        "quick_start": "\n".join(f"    {line}" for line in last_lines.splitlines()),
        "result": result_table(rows, errors),
        "gain": gain,
        "calibration": calibration_table(rows),
        "sweep": tables.markdown(found["sweep"]["header"], found["sweep"]["rows"]),
        "sweep_choice": sweep_choice(found["sweep"]),
        "export": export_table([run["export"] for run in found["runs"]]),
    }


def result_table(rows, errors):
    lines = []
    for name, its in rows.items():
        counts = f"**{tables.spread(errors[name])}** ({tables.each(errors[name])})"
        means = [f"{mean(row[key] for row in its):{form}}" for key, form in (("accuracy", ".2%"), ("nll", ".4f"))]
        lines.append([NETS[name], f"{its[0]['parameters']:,}", counts, *means])
    header = ["net", "parameters", "test errors in 10,000 (each seed)", "accuracy", "negative log-likelihood (nats)"]
    return tables.markdown(header, lines)


def calibration_table(rows):
    columns = {
        "NLL": ("nll", ".4f"),
        "ECE": ("ece", ".2%"),
        "best T": ("best_temperature", ".2f"),
        "NLL at best T": ("nll_at_best_temperature", ".4f"),
        "ECE at best T": ("ece_at_best_temperature", ".2%"),
        "KL to the teacher": ("kl_to_teacher", ".4f"),
        "agreement with the teacher": ("agreement", ".2%"),
    }
    lines = [
        [name, *(f"{mean(row[key] for row in its):{form}}" for key, form in columns.values())]
        for name, its in rows.items()
    ]
    return tables.markdown(["model", *columns], lines)


def sweep_choice(sweep):
    chosen = sweep["chosen"]
    return (
        f"The lowest mean is that of `--temperature {chosen['temperature']:g} --alpha {chosen['alpha']:g}`. Only then was the test"
        f" set used: {mean(chosen['test_errors']):.1f} test errors ({tables.each(chosen['test_errors'])}), with the teacher of"
        " the first seed."
    )


def export_table(exports):
    lines = []
    for name in ("distilled.keras", "distilled.tflite", "distilled_int8.tflite"):
        files_of_name = [export[name] for export in exports]
        line = [name, f"{files_of_name[0]['bytes']:,}"]
        for key in ("test_errors", "classes_unlike_keras", "microseconds_for_one_image"):
            line.append(", ".join(str(row[key]) for row in files_of_name if key in row))
        lines.append(line)
    return tables.markdown(
        ["file", "bytes", "test errors", "classes unlike Keras'", "microseconds for one image"], lines
    )


def main():
    options = terminal.parser(__doc__, {"out": "artifacts"})
    options.add_argument("--seeds", type=terminal.integer(1), default=3, help="so many, from 0 on (default: 3)")
    options.add_argument("--sweep", action="store_true", help="run tools/sweep.py too")
    arguments = options.parse_args()
    terminal.print_settings(arguments)
    out = files.output_folder(arguments.out) / "headline"
    results = ROOT / "studies" / "headline.json"
    sweep = json.loads(results.read_text())["sweep"] if results.exists() else None
    runs = [run_seed(seed, out / str(seed)) for seed in range(arguments.seeds)]
    if arguments.sweep or not sweep:
        run_script("tools/sweep.py", "--out", out / "0")
        sweep = json.loads((out / "0" / "sweep.json").read_text())
    found = {"runs": runs, "sweep": sweep}
    files.write_json(results, found)
    for name in FIGURES:
        figure = out / "0" / "plots" / f"{name}.png"
        if figure.exists():
            shutil.copy(figure, ROOT / "studies" / f"headline_{name}.png")
    for text in texts(found).values():
        print(f"\n{text}")
    tables.fill(texts(found))


if __name__ == "__main__":
    terminal.run(main)
