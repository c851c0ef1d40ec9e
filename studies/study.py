"""A study: its options, its runs side by side, its tables and figures. For paper.py and when_it_helps.py.

Every run is recorded at once and never repeated; see runs.py.
"""

import functools
import itertools
import math
import shutil
import time
from pathlib import Path

from support import UserError, files, parallel, terminal
from support.recipe import VIEWS, integer

import numpy as np

import data
from studies import tables
from studies.runs import (
    FOLDER,
    RunStore,
    no_extra,
    split_for,
    train_students,
    train_teacher,
    transfer_set,
    versions,
    with_seed,
)


def run_study(description, name, experiments, texts, draw, extra=no_extra, in_quick=lambda run: True):
    """The main function of a study on MNIST, whose records are in studies/NAME.json.

    experiments: {name: function() -> {row: run}}. texts(store): {name: Markdown} of its tables. draw(store): draws
    its figures. extra: see `record_of`. in_quick(run): whether --quick has this student.
    """
    arguments = parse_arguments(description, experiments)
    store = open_store(arguments, name)
    if arguments.check:
        return check(store, arguments, extra)
    names = plan(store, {chosen: store.rows(experiments[chosen]) for chosen in arguments.experiments})
    if arguments.quick:
        names = {run: name for run, name in names.items() if run.net == "teacher" or in_quick(run)}
    run_all(store, names, arguments, extra)
    draw(store)
    report(store, texts(store))


def parse_arguments(description, experiments):
    """The options of a study with these experiments: which of them, how many seeds, in full or quick."""
    options = terminal.parser(description, "out")
    options.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="some of those of --list (default: all)")
    options.add_argument("--list", action="store_true", help="list the experiments, and stop")
    options.add_argument("--seeds", type=integer(1), default=5, help="so many, from 0 on (default: 5)")
    options.add_argument("--quick", action="store_true", help="10,000 images and a tenth of the epochs, kept apart")
    help_text = "keep the records of runs there, apart from the committed ones, and the figures beside it"
    options.add_argument("--results", type=Path, metavar="FILE", help=help_text)
    help_text = "repeat N recorded runs, chosen at random, and say which come out the same"
    options.add_argument("--check", type=integer(1), metavar="N", help=help_text)
    parallel.add_options(options)
    arguments = options.parse_args()
    for name in arguments.experiments:
        if name not in experiments:
            options.error(f"there is no experiment {name!r}: choose from {', '.join(experiments)}")
    if arguments.list:
        for name, function in experiments.items():
            print(f"{name:<14}{function.__doc__}")
        options.exit()
    arguments.experiments = [name for name in experiments if name in arguments.experiments or not arguments.experiments]
    terminal.print_settings(arguments)
    return arguments


def open_store(arguments, name):
    """The RunStore of a study: of studies/NAME.json, unless --results or --quick say otherwise."""
    parallel.use_one_core()  # before anything is computed
    folder = files.output_folder(Path(arguments.out) / "studies")
    dataset, results = data.load(validation=0), arguments.results or FOLDER / f"{name}.json"
    if arguments.quick:
        dataset = dataset._replace(train=dataset.train.take(slice(10_000)))
        print("quick: 10,000 training images, and a tenth of each run's epochs")
        folder = folder / "quick"
        folder.mkdir(exist_ok=True)
        results = arguments.results or folder / results.name
    if not results.parent.is_dir():
        raise UserError(f"{results}: there is no such folder: create it, or choose another --results")
    files.lock(results)
    for leftover in folder.glob("*_seed*/.*.partial-*"):  # of a run that was killed
        leftover.unlink()
    return RunStore(dataset, folder, results, arguments.seeds, arguments.quick)


def check(store, arguments, extra):
    """Repeat --check recorded runs, chosen at random, and print which are right and wrong on the same images again."""
    recorded = list(store.finished.items())
    places = sorted(np.random.default_rng().permutation(len(recorded))[: arguments.check])
    folder = store.folder / "check"  # a saved teacher would only be read
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    again = RunStore(store.dataset, folder, folder / "runs.json")
    run_all(again, {recorded[place][0]: f"record {place}" for place in places}, arguments, extra)
    rows = []
    for place in places:
        run, record = recorded[place]
        repeated = again.finished[run]
        same = "the same" if repeated["wrong"] == record["wrong"] else "other images"
        errors = [f"{one['errors']:,}" for one in (record, repeated)]
        rows.append([f"record {place}", *errors, same, str(record["versions"].get("commit"))])
    header = ["", "recorded", "repeated", "wrong on", "recorded at commit"]
    terminal.print_table("records and repeated runs", header, rows)


def report(store, texts):
    """Print the tables {name: Markdown} that have rows, and fill them into the documents if they are for these."""
    texts = {name: text for name, text in texts.items() if text.count("\n") > 1}
    for name, text in texts.items():
        print(f"\n{name}\n\n{text}")
    if store.fills_documents():
        tables.fill(texts)
    print(f"\nevery run is in {store.results}")


# ---- many runs -------------------------------------------------------------------------------------------------------


def plan(store, experiments):
    """{run: its name} of {experiment: {row: run}}: seed by seed, each teacher before its students.

    Rows with images held out are run with one seed only.
    """
    names = {}
    for seed in range(store.num_seeds):
        for experiment, rows in experiments.items():
            for row, run in rows.items():
                if seed and run.held_out:
                    continue
                run = with_seed(run, seed)
                if run.teacher:
                    names.setdefault(run.teacher, f"its teacher, seed {seed}")
                names.setdefault(run, f"{experiment}, {row}, seed {seed}")
    return names


def grouped(runs, cores):
    """The runs in lists: a teacher alone, students that see the same images together, as parallel.parts has them."""
    groups = {}
    for run in runs:
        shown = "teacher", "held_out", "classes", "labelled", "keep_unlabelled", *VIEWS
        groups.setdefault(tuple(run.only(*shown).values()) if run.net == "student" else run, []).append(run)
    return [part for group in groups.values() for part in parallel.parts(group, cores)]


def submit(pool, store, names, extra):
    """Hand runs, {run: name}, to the pool: {task: its runs}. A teacher that is neither among them nor saved is
    trained too.
    """
    dataset, tasks = pool.share(store.dataset), {}

    @functools.cache
    def teacher_task(run):
        saved, name = store.saved_teacher(run), names.get(run, f"a teacher, seed {run.seed}")
        task = pool.submit(train_teacher, dataset, run, saved and pool.share(saved), extra, name=name)
        tasks[task] = [run]
        return task

    for group in grouped(names, pool.cores):
        run = group[0]
        if run.net == "teacher":
            teacher_task(run)
            continue
        taught = run.teacher and teacher_task(run.teacher)
        of_task = dataset, group, taught, extra, pool.cores
        tasks[pool.submit(train_students, *of_task, name=names[run])] = group
    return tasks


def run_all(store, names, arguments, extra=no_extra):
    """Run those of {run: name} that have no record yet. arguments: as of `parse_arguments`. extra: see `record_of`."""
    missing = {run: name for run, name in names.items() if run not in store.finished}
    print(f"{len(names)} runs, {len(names) - len(missing)} of them finished before")
    made_by = [store.finished[run]["versions"].get("code") for run in names if run in store.finished]
    if by_other_code := len(made_by) - made_by.count(versions()["code"]):
        advice = "--check 5 repeats five of them, --results FILE trains all anew"
        print(f"{by_other_code} of these were made by other code than today's: {advice}")
    if not missing:
        return
    with parallel.pool(arguments.workers, arguments.cluster) as pool:
        tasks, start = submit(pool, store, missing, extra), time.perf_counter()
        costs = {task: cost(store, group) for task, group in tasks.items()}
        num_runs, num_finished, spent = sum(map(len, tasks.values())), 0, 0

        def describe():
            return f"{num_finished} of {num_runs} runs done{parallel.time_left(start, spent, sum(costs.values()))}"

        for task, (records, saved) in pool.finished(list(tasks), describe):
            spent += costs[task]
            for run, record in zip(tasks[task], records):
                if saved:
                    store.save_teacher(run, saved)
                if run not in store.finished:
                    store.save(run, record)
                num_finished += 1
                wrong = f"{record['errors']:5,} wrong of {record['images']:,}  {record['seconds']:6.1f} s"
                terminal.clear_progress()
                print(f"{names.get(run, 'a teacher'):<60} {wrong}  {describe()}", flush=True)


def cost(store, runs):
    """About the multiply-adds of runs that are trained together; 0 for a teacher that is trained already."""
    run = runs[0]
    if run.net == "teacher" and store.saved_teacher(run):
        return 0
    labels = split_for(store.dataset, run.held_out)[0].labels
    num_images = len(transfer_set(labels, run)[0] if run.net == "student" else labels)
    shape = store.dataset.image_shape
    total = sum(3 * each.epochs * (multiply_adds(shape, each) + 15_000) for each in runs)  # 15,000: what steps cost
    if run.distort:  # 200,000: the distortion of an image, roughly; the teacher then runs on each view
        total += max(each.epochs for each in runs) * (
            200_000 + (multiply_adds(shape, run.teacher) if run.teacher else 0)
        )
    return num_images * total


def multiply_adds(image_shape, run):
    """Multiply-adds of one image in the net of a run."""
    crop, pool = (run.crop, run.pool) if run.net == "student" else (0, 1)
    num_pixels = math.prod(math.ceil((size - 2 * crop) / pool) for size in image_shape)
    return sum(math.prod(pair) for pair in itertools.pairwise((num_pixels, *run.hidden, 10)))
