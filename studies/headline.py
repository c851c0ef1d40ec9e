"""The default run with several seeds. The results: README.md, headline.md.

    python studies/headline.py               teacher.py, distill.py, evaluate.py, export.py: 5 seeds, about 15 minutes
    python studies/headline.py --sweep       and tools/sweep.py --folds 5, about half an hour more
    python studies/headline.py --seeds 1 --quick    a small version, in minutes, in artifacts/headline/quick/

The quick start's commands with nothing changed but the seed. Keeps the models in artifacts/headline/, where a command
that has finished is not run again. With five seeds, writes what they report to studies/headline.json and updates the
tables of README.md and headline.md, and their figures; otherwise writes it beside the models. Minutes are those of
two cores.
"""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import UserError, files, model_files, terminal
from support.recipe import integer

import distill
import evaluate
from studies import ladder, runs, selection, tables

NETS = {
    "teacher": "teacher, 784-1200-1200-10",
    "student": "student, 784-64-64-10, on labels alone",
    "distilled": "the same student, distilled",
}
TRAINED_ON = {"teacher": "distorted", "student": "shifted", "distilled": "shifted"}  # by the default recipes
FIGURES = ("0/plots/what_the_teacher_knows.png", "0/plots/reliability.png", "plots/sweep.png")  # of seed 0; the sweep's
RESULTS = tables.ROOT / "studies" / "headline.json"
SWEEP = "--folds 5 --temperatures 1 1.5 2 3 4 8 --alphas 0.3 0.5 0.7 0.9"
QUICK = {  # what --quick adds to each command: a tenth of the epochs
    "teacher.py": ["--epochs", "4"],
    "distill.py": ["--epochs", "15"],
    "tools/sweep.py": ["--epochs", "15"],
}


# ---- running ---------------------------------------------------------------------------------------------------------


def is_there(path):
    """Whether today's code has made the model or the report at `path`."""
    if path.suffix == ".keras":
        return model_files.is_made_with(path, {})
    if not path.exists():
        return False
    return json.loads(path.read_text(encoding="utf-8"))["versions"].get("code") == files.code_sha256()


def run_script(makes, script, *options, quick):
    """Run a script of the project, its output on the screen, unless the file that it `makes` is there."""
    command = [script, "--out", makes.parent, *options, *(QUICK.get(script, []) if quick else [])]
    if is_there(makes):
        return
    print(f"\n$ python {' '.join(map(str, command))}", flush=True)
    if subprocess.run([sys.executable, *map(str, command)], cwd=tables.ROOT, check=False).returncode:
        raise UserError(f"{script} failed: see above")


def run_seed(seed, out, quick):
    """Run the quick start's commands with this seed in the folder `out`; returns their settings and reports."""
    run_script(out / "teacher.keras", "teacher.py", "--seed", seed, quick=quick)
    run_script(out / "distilled.keras", "distill.py", "--seed", seed, quick=quick)
    run_script(out / "metrics.json", "evaluate.py", quick=quick)
    run_script(out / "export.json", "tools/export.py", quick=quick)
    settings = {name: model_files.load_training(out / f"{name}.keras")[0] for name in NETS}
    reports = {name: json.loads((out / f"{name}.json").read_text(encoding="utf-8")) for name in ("metrics", "export")}
    return {"seed": seed, "settings": settings} | reports


# ---- tables and figures ----------------------------------------------------------------------------------------------


def texts(results):
    """{name: Markdown} of the tables and sentences for README.md and headline.md. results: what headline.json holds."""
    metrics, sweep = [run["metrics"] for run in results["runs"]], results["sweep"]
    rows = {name: [each["models"][name] for each in metrics] for name in NETS}
    errors = {name: [row["test_errors"] for row in of_net] for name, of_net in rows.items()}
    saved = 1 - mean(errors["distilled"]) / mean(errors["student"])
    fewer = [baseline - distilled for baseline, distilled in zip(errors["student"], errors["distilled"])]
    highest = max(run["comparisons"]["student -> distilled"]["mcnemar_p"] for run in metrics)
    first = {"teacher": errors["teacher"][0], "baseline": errors["student"][0], "distilled": errors["distilled"][0]}
    result = []
    by_row = {NETS[name]: (TRAINED_ON[name], rows[name][0]["parameters"], errors[name]) for name in NETS}
    # The best student on labels alone by its validation errors, and one on distorted images.
    of_selection = runs.recorded(RESULTS.with_name("selection.json"), "test_errors")
    best_alone = of_selection[selection.students()["every image, 64 epochs: labels alone"]]
    untaught = runs.recorded(RESULTS.with_name("ladder.json"), "errors")[ladder.pair(ladder.DISTORTED_STEP)[0]]
    by_row["labels alone, 64 epochs of every image"] = "shifted", rows["student"][0]["parameters"], best_alone
    by_row["labels alone, 150 epochs of every image"] = "distorted", rows["student"][0]["parameters"], untaught
    for row, (images, parameters, counts) in by_row.items():
        cells = [f"**{tables.spread(counts)}** ({tables.each(counts)})", f"{1 - mean(counts) / 10_000:.2%}"]
        result.append([row, images, f"{parameters:,}", *cells])
    header = ["net", "images it was trained on", "parameters", "test errors in 10,000 (each seed)", "accuracy"]
    trust = ["nll", "ece", "best_temperature", "nll_at_best", "ece_at_best", "kl_to_teacher", "agreement"]
    return {
        "quick_start": "\n".join(f"    {line}" for line in distill.describe_result(first, 10_000).splitlines()),
        "result": tables.markdown(header, result),
        "gain": f"Distillation saves {mean(fewer):.0f} errors ({saved:.0%}) in the mean of {len(metrics)} seeds,"
        f" {min(fewer)} to {max(fewer)} depending on the seed. For\n"
        "every seed the exact McNemar test, which pairs the two students image by image, gives a p-value of\n"
        f"at most {rounded_up(highest)}.",
        "calibration": tables.markdown(
            ["model", *(name.replace("_", " ") for name in trust)],
            [[name, *means(of_net, trust)] for name, of_net in rows.items()],
        ),
        "sweep": sweep_table(sweep["compared"]),
        "sweep_choice": sweep_choice(sweep),
        "export": export_table([run["export"] for run in results["runs"]]),
    }


def rounded_up(p):
    """A p-value with two digits, of which it is true that p is at most this: 0.0025 for 0.00245."""
    unit = 10 ** (math.floor(math.log10(p)) - 1)
    return f"{math.ceil(p / unit) * unit:.2g}"


def means(rows, names):
    """The means over seeds of these metrics, as evaluate.py prints them."""
    return [format(mean(row[name] for row in rows), evaluate.METRICS[name][0]) for name in names]


def sweep_table(compared):
    """Errors by temperature and alpha, and those of labels alone. compared: what sweep.json holds."""
    rows = {}
    for each in compared:
        cell = f"{each['errors']:,.0f} ({each['more']:+.0f}±{each['standard_error']:.0f})"
        rows.setdefault(f"{each['temperature']:g}" if each["alpha"] else "labels alone", {})[each["alpha"]] = cell
    alphas = sorted({each["alpha"] for each in compared if each["alpha"]})
    rows["labels alone"] = {alphas[0]: rows["labels alone"][0.0]}
    cells = [[name, *(row.get(alpha, "") for alpha in alphas)] for name, row in rows.items()]
    return tables.markdown(["T", *(f"alpha {alpha:g}" for alpha in alphas)], cells)


def sweep_choice(sweep):
    """Which T and alpha the sweep chose, the test errors of its nets, and the default. sweep: what sweep.json holds."""
    temperature, alpha = sweep["chosen"]["temperature"], sweep["chosen"]["alpha"]
    default = default_in(sweep)
    errors = {name: f"{mean(each):.1f} ({tables.each(each)})" for name, each in sweep["test_errors"].items()}
    return (
        f"Of those within a standard error of the best, the lowest T and alpha: {temperature:g} and {alpha:g}. Test"
        f" errors,\nopened then: {errors['chosen']}; labels alone {errors['labels alone']}.\n"
        f"The default, {default['temperature']:g} and {default['alpha']:g}, makes {default['more']:.0f} ±"
        f" {default['standard_error']:.0f} held-out errors more than the best; the teachers\n"
        f"make {sweep['teachers_errors']:,}."
    )


def default_in(sweep):
    """What the sweep found of the default T and alpha. sweep: what sweep.json holds."""
    names = ("temperature", "alpha")
    default = distill.DEFAULTS.only(*names)
    (found,) = (each for each in sweep["compared"] if {name: each[name] for name in names} == default)
    return found


def export_table(exports):
    keys = ["test_errors", "classes_unlike_keras", "microseconds_for_one_image"]
    lines = []
    for name in ("distilled.keras", "distilled.tflite", "distilled_int8.tflite"):
        cells = [", ".join(str(export[name][key]) for export in exports if key in export[name]) for key in keys]
        lines.append([name, f"{exports[0][name]['bytes']:,}", *cells])
    return tables.markdown(["file", "bytes", *(key.replace("_", " ") for key in keys)], lines)


def main():
    options = terminal.parser(__doc__, "out")
    options.add_argument("--seeds", type=integer(1), default=5, help="so many, from 0 on (default: 5)")
    options.add_argument("--quick", action="store_true", help="a tenth of the epochs, kept apart")
    options.add_argument("--sweep", action="store_true", help="run tools/sweep.py too")
    arguments = options.parse_args()
    terminal.print_settings(arguments)
    quick, committed = arguments.quick, arguments.seeds == 5 and not arguments.quick
    out = files.output_folder(arguments.out).resolve() / "headline" / ("quick" if quick else "")
    path = RESULTS if committed else out / "headline.json"
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    results["runs"] = [run_seed(seed, out / str(seed), quick) for seed in range(arguments.seeds)]
    if arguments.sweep:
        options = ["--teacher", out / "0" / "teacher.keras", "--seeds", 1] if quick else SWEEP.split()
        run_script(out / "sweep.json", "tools/sweep.py", *options, quick=quick)
        results["sweep"] = sweep = json.loads((out / "sweep.json").read_text(encoding="utf-8"))
        kept = ("seed", "loss", "temperature", "alpha", "validation_errors")  # the other settings are alike
        sweep["runs"] = [{name: run[name] for name in kept if name in run} for run in sweep["runs"]]
    files.write_json(path, results)
    for name in FIGURES:
        if (out / name).exists():
            shutil.copy(out / name, path.with_name(f"headline_{Path(name).name}"))
    for text in texts(results).values():
        print(f"\n{text}")
    if not arguments.sweep:
        print("\nthe sweep above is the committed one: --sweep runs it")
    if committed:
        tables.fill(texts(results))
    print(f"\nevery run is in {path}")


if __name__ == "__main__":
    terminal.run(main)
