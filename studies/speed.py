"""How fast this project trains, beside the alternatives: Keras, PyTorch, JAX. The results: speed.md.

    pip install -r studies/requirements.txt
    python teacher.py && python studies/speed.py
    python studies/speed.py side_by_side    measures only that part again; --help names the others
    python studies/speed.py --quick         one round of the race alone, in minutes; nothing is saved

Starts every contender of contenders.py in a process of its own. They train in turn, a few epochs each, in ROUNDS
rounds, each in another order; then the scripts are timed, and a sweep with one worker and with two. Writes every raw
time to studies/speed.json and updates the tables of speed.md. Takes about an hour on two cores; nothing else should
run meanwhile. Linux only: peak memory (ru_maxrss, in kB) and the number of cores (sched_getaffinity) are read the
Linux way.
"""

import functools
import importlib.metadata
import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from support import UserError, files, terminal

from studies import tables

RESULTS = ROOT / "studies" / "speed.json"
ROUNDS = 5
EPOCHS = {"distilling": 3, "sizes": 3, "teaching": 2, "logits": 1}  # of a contender in a round
DISTILLING = {  # contender: what the tables call it
    "ours": "distilling: **this project**",
    "jax_scan": "JAX, `jit` of a `lax.scan` over the epoch, cached logits",
    "torch_compile": "PyTorch, in memory, cached logits, `torch.compile` of the step",
    "torch_memory": "PyTorch, in memory, cached logits, fused Adam",
    "torch_loader": "PyTorch, `DataLoader`, teacher run on each batch",
    "keras_distiller": "`keras.distillation.Distiller`",
    "keras_example": "keras.io's example",
    "floor_student": "the student's matrix products alone",
}
TEACHING = {
    "ours_teacher": "the teacher: **this project**",
    "keras_teacher": "Keras' `fit`, tf.data, `RandomTranslation`",
    "torch_teacher": "PyTorch, in memory, fused Adam",
    "floor_teacher": "the teacher's multiply-adds at the best rate of a matrix product",
}
CHANGES = {  # this project without something: that
    "logits_1_view": "student: the teacher's logits are cached",
    "best_fit": "student: our loop inside the graph, not Keras' `fit`",
    "without_xla": "student: compiled by XLA",
    "gathered_in_the_graph": "student: an epoch's images are gathered before the graph runs",
    "teacher_under_xla": "teacher: not compiled by XLA, because of its dropout",
}
CONTENDERS = {
    "distilling": [*DISTILLING, "ours_translated", *(name for name in CHANGES if "teacher" not in name)],
    "sizes": ["ours_15000", "ours_30000", "ours", "ours_120000", "ours_240000"],
    "teaching": [*TEACHING, *(name for name in CHANGES if "teacher" in name)],
    "logits": ["logits_25_views", "floor_logits_25_views"],
}
TEMPERATURES, ALPHAS, SEEDS = (1, 2, 3, 4, 8, 16), (0.3, 0.5, 0.9), 3  # of the sweep that is timed
SWEEP = ["--temperatures", *TEMPERATURES, "--alphas", *ALPHAS, "--seeds", SEEDS, "--epochs", 30]
SWEPT = len(TEMPERATURES) * len(ALPHAS) * SEEDS  # students
# A student for each of two workers.
ONE_EACH = ["--temperatures", 1, "--alphas", 0.3, 0.9, "--seeds", 1, "--epochs", 30]
SWEEPS = 3  # rounds


# ---- measuring -------------------------------------------------------------------------------------------------------


def answer(process, request=""):
    """What a process of contenders.py answers to a request."""
    process.stdin.write(request)
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        status = process.wait()
        signalled = f"signal {-status}; if it is PyTorch's, see studies/requirements.txt"
        why = signalled if status < 0 else "see its error above"
        raise UserError(f"{process.args[2]} ended before it answered: {why}")
    return json.loads(line)


def race(names, teacher, epochs, rounds=ROUNDS):
    """{name: what was measured} of contenders that train in turn, so many epochs each, in so many rounds."""
    processes, results = {}, {}
    for name in names:
        print(f"starting {name}", flush=True)
        command = [sys.executable, ROOT / "studies" / "contenders.py", name, teacher]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        results[name] = answer(process) | {"seconds": [], "test_errors": []}
        if "missing" not in results[name]:
            processes[name] = process
    for number in range(rounds):
        for name in random.Random(number).sample(list(processes), len(processes)):  # nobody always follows the same one
            found = answer(processes[name], f"{epochs}\n")
            results[name]["seconds"] += found["seconds"]
            results[name]["test_errors"].append(found["test_errors"])
            print(f"round {number + 1}/{rounds}  {found['seconds'][-1]:6.2f} s  {name}", flush=True)
    for process in processes.values():
        process.communicate()
    return results


def watch(*command):
    """Run a command: {"seconds": in all, "first_epoch_seconds": until the first epoch began, "peak_bytes": of
    memory}.
    """
    start, first_epoch, line = time.perf_counter(), None, ""
    command = [sys.executable, "-u", *map(str, command)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    for line in process.stdout:
        if first_epoch is None and line.startswith("epoch"):  # 'epoch   1/1  loss 0.4  training 90.00%  0.2 s'
            first_epoch = time.perf_counter() - start - float(line.split()[-2])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise UserError(f"{' '.join(command)} ended with status {process.returncode}: {line}")
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "first_epoch_seconds": first_epoch, "peak_bytes": usage.ru_maxrss * 1024}


def watch_scripts(teacher):
    """{script: [its times and memory]}, in a folder of their own; `import tensorflow` beside distill.py, in turn."""
    results = {"import_tensorflow": [], "distill.py": []}
    with tempfile.TemporaryDirectory() as folder:
        out, short = ["--out", folder], ["--epochs", 1]
        results["teacher.py"] = [watch("teacher.py", *out, *short)]
        shutil.copy(teacher, Path(folder) / "teacher.keras")
        for _ in range(ROUNDS):
            for file in Path(folder).iterdir():  # only the teacher is there, as at a user's first time
                if file.is_file() and file.name != "teacher.keras":
                    file.unlink()
            results["import_tensorflow"].append(watch("-c", "import tensorflow"))
            results["distill.py"].append(watch("distill.py", *out, *short))
        results["distill.py --translate 2"] = [watch("distill.py", *out, *short, "--translate", 2)]
        results |= {script: [watch(script, *out, *short)] for script in ("student.py", "tools/sweep.py")}
        results |= {script: [watch(script, *out)] for script in ("evaluate.py", "tools/export.py")}
    return results


def side_by_side(teacher):
    """{how: seconds} of a sweep of SWEPT students, SWEEPS times in turn with one worker, with two, and on a cluster;
    {"one each": seconds} of a sweep of two students with two workers; {"finished", "one each finished": seconds} of
    both, with all students there.
    """
    import distributed

    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(teacher, Path(folder) / "teacher.keras")
        sweep = ["tools/sweep.py", "--out", folder]
        watch(*sweep, "--seeds", 1, "--epochs", 1)  # computes the teacher's logits

        def fresh(*options):
            shutil.rmtree(Path(folder) / "sweep")
            seconds = watch(*sweep, *options)["seconds"]
            print(f"{seconds:6.1f} s  {' '.join(map(str, options))}", flush=True)
            return seconds

        found = {"one worker": [], "two workers": [], "a Dask cluster of two workers on this machine": []}
        one, two, on_cluster = found.values()
        for _ in range(SWEEPS):
            one.append(fresh(*SWEEP, "--workers", 1))
            two.append(fresh(*SWEEP, "--workers", 2))
            options = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": 0, "dashboard_address": ":0"}
            with distributed.LocalCluster(**options) as cluster:
                on_cluster.append(fresh(*SWEEP, "--cluster", cluster.scheduler_address))
        found["finished"] = watch(*sweep, *SWEEP, "--workers", 1)["seconds"]
        found["one each"] = fresh(*ONE_EACH, "--workers", 2)
        return found | {"one each finished": watch(*sweep, *ONE_EACH, "--workers", 1)["seconds"]}


def machine():
    """The processor, and the versions of everything that was measured."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), None)
    versions = {found.name: found.version for found in importlib.metadata.distributions()}
    others = {name: versions.get(name) for name in ("torch", "jax", "distributed")}
    return {"processor": processor} | files.versions() | others


PARTS = {part: functools.partial(race, names, epochs=EPOCHS[part]) for part, names in CONTENDERS.items()}
PARTS |= {"scripts": watch_scripts, "side_by_side": side_by_side}


# ---- tables ----------------------------------------------------------------------------------------------------------


def epochs(measured, statistic=median):
    """{contender: the median, or another statistic, of its seconds an epoch}, of those that were measured."""
    found = measured["distilling"] | measured["teaching"] | measured.get("logits", {})
    return {name: statistic(result["seconds"]) for name, result in found.items() if result.get("seconds")}


def race_rows(measured, statistic=median):
    seconds, found = epochs(measured, statistic), measured["distilling"] | measured["teaching"]
    for name, called in (DISTILLING | TEACHING).items():
        if name in seconds:
            ours = seconds["ours" if name in DISTILLING else "ours_teacher"]
            yield [called, f"{seconds[name]:.2f}", f"{seconds[name] / ours:.1f}"]
        elif name in found:
            yield [called, f"not measured: the package {found[name]['missing']} is missing", ""]


def change_rows(measured):
    seconds = epochs(measured)
    for name, called in CHANGES.items():
        ours = seconds["ours_teacher" if "teacher" in name else "ours"]
        without = seconds[name] + (ours if name == "logits_1_view" else 0)
        yield [called, f"{without:.2f}", f"{ours:.2f}", f"{without / ours:.2f}"]


def goal_rows(measured):
    seconds, scripts = epochs(measured), measured["scripts"]
    ratio = lambda above, below="ours": seconds.get(above, math.nan) / seconds[below]
    torch = [ratio(name) for name in ("torch_memory", "torch_compile") if name in seconds]
    sizes = [median(result["seconds"]) for result in measured["sizes"].values()]
    growth = [later / earlier for earlier, later in itertools.pairwise(sizes)]
    logits = ratio("floor_logits_25_views", "logits_25_views")
    pairs = zip(scripts["distill.py"], scripts["import_tensorflow"])
    startup = median(script["first_epoch_seconds"] - plain["seconds"] for script, plain in pairs)
    peak = max(row["peak_bytes"] for rows in scripts.values() for row in rows)
    for goal, sign, bound, value in (
        ("an epoch of keras.distillation.Distiller / ours", "at least", 20, ratio("keras_distiller")),
        ("an epoch of the faster PyTorch in memory / ours", "at least", 4, min(torch, default=math.nan)),
        ("ours on shifted images / ours", "at most", 1.5, ratio("ours_translated")),
        (
            "the teacher's logits of 25 shifts of each image: share of the speed of the matrix products alone",
            "at least",
            0.85,
            logits,
        ),
        (
            "the teacher's epoch / its multiply-adds at the best rate",
            "at most",
            1.15,
            ratio("ours_teacher", "floor_teacher"),
        ),
        ("an epoch of PyTorch's teacher / ours", "at least", 1, ratio("torch_teacher", "ours_teacher")),
        ("distill.py: seconds until its first epoch, without `import tensorflow`", "at most", 3, startup),
        ("peak memory of any script (GB)", "at most", 1.5, peak / 1e9),
        ("twice the images: an epoch takes how many times as long, at least", "at least", 1.8, min(growth)),
        ("twice the images: an epoch takes how many times as long, at most", "at most", 2.2, max(growth)),
    ):
        met = value >= bound if sign == "at least" else value <= bound  # neither is true of nan
        shown = "not measured" if math.isnan(value) else f"{value:.2f}"
        yield [goal, f"{sign} {bound:g}", shown, "met" if met else "**missed**"]


def side_by_side_rows(measured):
    """How much faster than one worker, by the medians; on many cores, from a sweep with a student on each of two."""
    seconds = measured["side_by_side"]
    times = {how: each for how, each in seconds.items() if isinstance(each, list)}
    for how, each in times.items():
        shown = ", ".join(f"{value:.0f}" for value in each)
        yield [how, shown, f"{median(times['one worker']) / median(each):.2f}"]
    on_many = seconds["one each"] + seconds["finished"] - seconds["one each finished"]  # more students to report
    many = f"64 cores, {SWEPT} of them used (computed)"
    yield [many, f"{on_many:.0f}", f"{median(times['one worker']) / on_many:.2f}"]


def race_table(measured, statistic=median):
    return tables.markdown(["an epoch of", "seconds", "times ours"], race_rows(measured, statistic))


def texts(measured):
    """{name: Markdown} of the tables of speed.md. measured: what speed.json holds."""
    changes = ["what", "seconds an epoch without it", "with it", "ratio"]
    side_by_side = ["the sweep with", "seconds, each time", "times as fast"]
    return {
        "speed_race": race_table(measured),
        "speed_changes": tables.markdown(changes, sorted(change_rows(measured), key=lambda row: -float(row[-1]))),
        "speed_goals": tables.markdown(["goal", "bound", "measured", ""], goal_rows(measured)),
        "speed_best": race_table(measured, min),
        "speed_side_by_side": tables.markdown(side_by_side, side_by_side_rows(measured)),
    }


def main():
    options = terminal.parser(__doc__)
    options.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)} (default: all)")
    options.add_argument("--teacher", type=Path, default=ROOT / "artifacts" / "teacher.keras", metavar="PATH")
    options.add_argument("--quick", action="store_true", help="one round of the race alone; nothing is saved")
    arguments = options.parse_args()
    for part in arguments.parts:
        if part not in PARTS:
            options.error(f"there is no part {part!r}: choose from {', '.join(PARTS)}")
    teacher = arguments.teacher
    if not teacher.exists():
        raise UserError(f"there is no {teacher}: run `python teacher.py`, or name another with --teacher")
    with tempfile.TemporaryDirectory() as folder:  # the logits that contenders cache beside their teacher go with it
        teacher = shutil.copy(teacher, Path(folder) / "teacher.keras")
        if arguments.quick:
            raced = {"distilling": DISTILLING, "teaching": TEACHING}
            measured = {part: race(names, teacher, EPOCHS[part], rounds=1) for part, names in raced.items()}
            print(f"\n{race_table(measured)}")
            return
        measured = json.loads(RESULTS.read_text(encoding="utf-8"))
        for part in arguments.parts or PARTS:
            measured[part] = PARTS[part](teacher)
            measured["machines"][part] = machine()
            with files.atomic_write(RESULTS) as scratch:
                scratch.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    for text in texts(measured).values():
        print(f"\n{text}")
    tables.fill(texts(measured))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: sys.exit(terminal.STOPPED))  # so that the temporary folders are removed
    terminal.run(main)
