"""How fast, side by side with what a user would pick instead.

    pip install -r benchmarks/requirements.txt
    python teacher.py && python benchmarks/speed.py

Starts every contender of contenders.py in a process of its own, lets each train EPOCHS epochs in turn, ROUNDS times, in
another order each time, and then times the scripts. Prints medians and ratios against the goals and writes
results/speed.json with every raw time. Takes about 25 minutes on two cores; nothing else should run meanwhile.
"""

import argparse
import itertools
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROUNDS = 5
EPOCHS = {"distilling": 3, "sizes": 3, "teaching": 2, "logits": 1}  # of a contender in a round
OTHERS = ["keras_distiller", "keras_example", "torch_loader", "torch_memory"]
CHANGED = ["best_fit", "without_xla", "gathered_in_the_graph", "logits_1_view"]
DISTILLING = ["ours", *OTHERS, "ours_translated", *CHANGED, "floor_student"]
SIZES = ["ours_15000", "ours_30000", "ours", "ours_120000", "ours_240000"]
ABLATIONS = ["teacher_with_keras_adam", "teacher_with_keras_dropout", "teacher_with_plain_crop", "teacher_under_xla"]
TEACHING = ["ours_teacher", "keras_teacher", "torch_teacher", "floor_teacher", *ABLATIONS]
LOGITS = ["logits_25_views", "floor_logits_25_views"]
RACES = {"distilling": DISTILLING, "sizes": SIZES, "teaching": TEACHING, "logits": LOGITS}


class Contender:
    """A process of contenders.py that trains when it is asked to."""

    def __init__(self, name, teacher):
        command = [sys.executable, ROOT / "benchmarks" / "contenders.py", name, teacher]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name, self.start = name, self.answer()
        self.seconds, self.test_errors = [], []

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended before it answered: see its error above")
        return json.loads(line)

    def train(self, epochs):
        self.process.stdin.write(f"{epochs}\n")
        self.process.stdin.flush()
        answer = self.answer()
        self.seconds += answer["seconds"]
        self.test_errors.append(answer["test_errors"])

    def result(self):
        self.process.stdin.close()
        self.process.wait()
        return self.start | {"seconds": self.seconds, "test_errors": self.test_errors}


def race(names, teacher, epochs):
    """{name: its times} of contenders that train in turn, so many epochs each, ROUNDS times."""
    results, running = {}, []
    for name in names:
        print(f"starting {name}", flush=True)
        contender = Contender(name, teacher)
        if "missing" in contender.start:
            results[name] = contender.start
        else:
            running.append(contender)
    for number in range(ROUNDS):
        for contender in random.Random(number).sample(running, len(running)):  # nobody always follows the same one
            contender.train(epochs)
        seconds = ", ".join(f"{contender.name} {contender.seconds[-1]:.2f}" for contender in running)
        print(f"round {number + 1}/{ROUNDS}: {seconds} s", flush=True)
    return results | {contender.name: contender.result() for contender in running}


def watch(*command):
    """Run a command: {"seconds": in all, "first_epoch_seconds": until the first epoch began, "peak_bytes": of memory}."""
    start, first_epoch = time.perf_counter(), None
    process = subprocess.Popen(
        [sys.executable, "-u", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )
    line = ""
    for line in process.stdout:
        if first_epoch is None and line.startswith("epoch"):
            first_epoch = time.perf_counter() - start - float(line.split()[-2])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(map(str, command))} ended with status {os.waitstatus_to_exitcode(status)}: {line}")
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "first_epoch_seconds": first_epoch, "peak_bytes": usage.ru_maxrss * 1024}


def watch_scripts(teacher):
    """The scripts' start-up and memory, in a folder of their own; `import tensorflow` beside each, in turn."""
    results = {name: [] for name in ("import_tensorflow", "distill.py", "distill.py --translate 2")}
    with tempfile.TemporaryDirectory() as folder:
        shared = ["--out", folder, "--epochs", 1]
        results["teacher.py"] = [watch("teacher.py", *shared)]
        shutil.copy(teacher, Path(folder) / "teacher.keras")
        for _ in range(ROUNDS):
            for file in Path(folder).iterdir():  # only the teacher is there, as at a user's first time
                if file.is_file() and file.name != "teacher.keras":
                    file.unlink()
            results["import_tensorflow"].append(watch("-c", "import tensorflow"))
            results["distill.py"].append(watch("distill.py", *shared))
        results["distill.py --translate 2"] = [watch("distill.py", *shared, "--translate", 2)]
        results["student.py"] = [watch("student.py", *shared)]
        results["evaluate.py"] = [watch("evaluate.py", "--out", folder)]
        results["sweep.py"] = [watch("sweep.py", *shared)]
        results["export.py"] = [watch("export.py", "--out", folder)]
    return results


def median(result, key="seconds"):
    return statistics.median(result[key])


def print_race(title, race, ours):
    print(f"\n{title}: median seconds of an epoch")
    for name, result in race.items():
        if "missing" in result:
            print(f"  {name:<24} not measured: the package {result['missing']} is missing")
            continue
        errors = result["test_errors"][-1]
        print(
            f"  {name:<24} {median(result):8.3f}  {median(result) / median(race[ours]):6.2f} times ours"
            f"  warm after {result['warm_seconds']:5.1f} s" + ("" if errors is None else f"  {errors:,} test errors")
        )


def goals(measured):
    """[(goal, measured value, bound, whether higher is better)] of all that could be measured."""
    distilling, teaching, logits = measured["distilling"], measured["teaching"], measured["logits"]
    sizes = [median(measured["sizes"][name]) for name in SIZES]
    scripts = measured["scripts"]
    startup = statistics.median(
        script["first_epoch_seconds"] - plain["seconds"]
        for script, plain in zip(scripts["distill.py"], scripts["import_tensorflow"])
    )
    peak = max(row["peak_bytes"] for rows in scripts.values() for row in rows)
    ratios = [later / earlier for earlier, later in itertools.pairwise(sizes)]

    def ratio(race, above, below):
        known = "missing" not in race[above] and "missing" not in race[below]
        return median(race[above]) / median(race[below]) if known else None

    return [
        ("keras.distillation.Distiller / ours", ratio(distilling, "keras_distiller", "ours"), 20, True),
        ("PyTorch at its best / ours", ratio(distilling, "torch_memory", "ours"), 4, True),
        ("ours translated / ours", ratio(distilling, "ours_translated", "ours"), 1.5, False),
        ("teacher's logits of 25 views: share of matmul's rate", ratio(logits, LOGITS[1], LOGITS[0]), 0.85, True),
        ("teacher epoch / its floor", ratio(teaching, "ours_teacher", "floor_teacher"), 1.15, False),
        ("PyTorch's teacher / ours", ratio(teaching, "torch_teacher", "ours_teacher"), 1, True),
        ("distill.py to its first epoch, less import tensorflow (s)", startup, 3, False),
        ("peak memory of any script (GB)", peak / 1e9, 1.5, False),
        ("2 x the images, times: least", min(ratios), 1.8, True),
        ("2 x the images, times: most", max(ratios), 2.2, False),
    ]


def processor():
    """The processor's name where the system tells it, its architecture where not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--teacher", type=Path, default=ROOT / "artifacts" / "teacher.keras", metavar="PATH")
    teacher = options.parse_args().teacher.resolve()
    if not teacher.exists():
        sys.exit("speed.py: error: there is no teacher yet: run `python teacher.py`, or name one with --teacher")
    with tempfile.TemporaryDirectory() as folder:  # the logits that contenders keep beside their teacher go with it
        teacher = shutil.copy(teacher, folder)
        measured = {
            **{name: race(names, teacher, EPOCHS[name]) for name, names in RACES.items()},
            "scripts": watch_scripts(teacher),
        }
    print_race("an epoch of distilling 784-64-64-10, batch 250", measured["distilling"], "ours")
    print_race("the same, with 15,000 to 240,000 images", measured["sizes"], "ours")
    print_race("an epoch of the teacher 784-1200-1200-10, batch 500", measured["teaching"], "ours_teacher")
    print_race("the teacher's logits of all 25 views", measured["logits"], LOGITS[0])
    print(f"\n{'goal':<60} measured    bound")
    results = []
    for name, value, bound, higher in goals(measured):
        met = value is not None and (value >= bound if higher else value <= bound)
        shown = "unknown" if value is None else f"{value:.2f}"
        print(f"{name:<60} {shown:>8}  {'>=' if higher else '<='} {bound:<5} {'met' if met else 'NOT MET'}")
        results.append({"goal": name, "measured": value, "bound": bound, "higher_is_better": higher, "met": met})
    versions = subprocess.run(
        [sys.executable, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True
    ).stdout
    wanted = {"tensorflow", "keras", "numpy", "torch"}
    measured["machine"] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{row["name"]: row["version"] for row in json.loads(versions) if row["name"] in wanted},
    }
    (ROOT / "results").mkdir(exist_ok=True)
    (ROOT / "results" / "speed.json").write_text(json.dumps({"goals": results} | measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
