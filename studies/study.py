"""A study on MNIST: rows of runs, with several seeds, whose records fill the tables of its write-up.

A study is a file studies/NAME.py. A function for each of its experiments returns {row: Run}; texts(study) returns
{name: Markdown} for the tables of studies/NAME.md; draw(study) draws its figures, if it has any. The shortest one is
ladder.py. Every run is recorded in studies/NAME.json at once and never repeated; see runs.py.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from support import UserError, files, terminal
from support.recipe import integer

import numpy as np

import data
from studies import runs, tables

FOLDER = Path(__file__).parent
VALIDATION = 5000  # images that no run is trained on, as by the scripts; a study may have a VALIDATION of its own


class Study(NamedTuple):
    """A study as it is run now. num_seeds: of a row. is_quick: whether every run is `shortened`."""

    name: str
    records: runs.Records
    num_seeds: int = 5
    is_quick: bool = False

    def rows(self, experiment):
        """{row: run} of an experiment, a function, as they are run here."""
        return {row: self.as_run(run) for row, run in experiment().items()}

    def as_run(self, run):
        """A run as it is run here."""
        return shortened(run) if self.is_quick else run

    def of(self, run):
        """The records of a row, one for each of its seeds, or [] if one is missing."""
        return self.records.of(run, self.seeds(run))

    def seeds(self, run):
        """The seeds of a row. There is one only where errors are counted on training images: it chooses settings."""
        if run.images.fold:
            return [run.images.fold[0]]  # another one for each fold, as in the sweep
        return range(1 if run.images.held_out else self.num_seeds)

    def errors(self, run):
        """The errors of a row, as `of` has the records."""
        return [record["errors"] for record in self.of(run)]

    def fills_documents(self):
        """Whether the documents' tables and figures come from here: from the committed records, with all five seeds."""
        return self.records.path.parent == FOLDER and self.num_seeds == 5

    def figure(self, end=""):
        """Where a figure goes: beside the records; but never over a committed one that has other seeds."""
        beside = self.records.path.parent != FOLDER or self.fills_documents()
        return (self.records.path.parent if beside else self.records.nets) / f"{self.records.path.stem}{end}.png"


def shortened(run):
    """The run, and its teacher, with a tenth of the epochs and of the images held out: for --quick."""
    recipe = replace(run.recipe, epochs=max(1, run.recipe.epochs // 10))
    images = replace(run.images, held_out=run.images.held_out // 10)
    return runs.Run(recipe, run.teacher and shortened(run.teacher), images)


def main(
    description,
    name,
    experiments,
    texts,
    draw=lambda study: None,
    extra=runs.no_extra,
    in_quick=lambda run: True,
    validation=VALIDATION,
):
    """The main function of a study, whose records are in studies/NAME.json.

    experiments: functions that return {row: run}. extra: see runs.train_group. in_quick(run): whether --quick has this
    student. validation: the study's VALIDATION, as in data.load.
    """
    experiments = {experiment.__name__: experiment for experiment in experiments}
    arguments = parse_arguments(description, experiments)
    study = opened(arguments, name, validation)
    if arguments.check:
        return check(study, arguments, extra)
    train(study, arguments, {chosen: experiments[chosen]() for chosen in arguments.experiments}, extra, in_quick)
    draw(study)
    report(study, texts(study))


def train(study, arguments, experiments, extra=runs.no_extra, in_quick=lambda run: True):
    """Train what is missing of {experiment: its {row: run}}. extra, in_quick: see `main`."""
    names = plan(study, experiments)
    if arguments.quick:
        names = {run: name for run, name in names.items() if run.is_teacher or in_quick(run)}
    made_by = [record["versions"].get("code") for run, record in study.records.finished.items() if run in names]
    if by_other_code := len(made_by) - made_by.count(runs.versions()["code"]):
        advice = "--check 5 repeats five of them, --results FILE trains all anew"
        print(f"{by_other_code} finished runs were made by other code than today's: {advice}")
    runs.run_all(study.records, names, arguments.cluster, extra=extra)


def report(study, texts):
    """Print the tables, {name: Markdown}, and fill them into the documents if these runs are for them."""
    filled = {table: text for table, text in texts.items() if text.count("\n") > 1}  # those that have rows
    for table, text in filled.items():
        print(f"\n{table}\n\n{text}")
    if study.fills_documents():
        tables.fill(filled)
    else:
        why = "documents and their figures are those of five seeds in studies/"
        print(f"\nno document was changed: {why}; the figures of this run are in {study.figure().parent}")
    print(f"\nevery run is in {study.records.path}")


def parse_arguments(description, experiments):
    """The options of a study with these experiments: which of them, how many seeds, in full or quick."""
    options = terminal.parser(description, "out cluster")
    options.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="some of those of --list (default: all)")
    options.add_argument("--list", action="store_true", help="list the experiments, and stop")
    options.add_argument("--seeds", type=integer(1), default=5, help="so many, from 0 on (default: 5)")
    options.add_argument("--quick", action="store_true", help="10,000 images and a tenth of the epochs, kept apart")
    help_text = "keep the records of runs there, apart from the committed ones, and the figures beside it"
    options.add_argument("--results", type=Path, metavar="FILE", help=help_text)
    help_text = "repeat N recorded runs, chosen at random, and say which come out the same"
    options.add_argument("--check", type=integer(1), metavar="N", help=help_text)
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


def opened(arguments, name, validation):
    """The Study of this name: of studies/NAME.json, unless --results or --quick say otherwise."""
    folder = files.output_folder(Path(arguments.out) / "studies")
    dataset, results = data.load(validation=validation), arguments.results or FOLDER / f"{name}.json"
    if arguments.quick:
        dataset = dataset._replace(train=dataset.train.take(slice(10_000)))
        print("quick: 10,000 training images, and a tenth of each run's epochs")
        folder = folder / "quick"
        folder.mkdir(exist_ok=True)
        results = arguments.results or folder / results.name
    if not results.parent.is_dir():
        raise UserError(f"{results}: there is no such folder: create it, or choose another --results")
    files.lock(results)
    for leftover in folder.glob(".*.partial-*"):  # of a run that was killed
        leftover.unlink()
    records = runs.Records(results, folder, dataset, context_of(dataset))
    return Study(name, records, arguments.seeds, arguments.quick)


def context_of(dataset):
    """What decides a run besides its settings: see runs.Records."""
    return files.sha256(*dataset.train, *dataset.test)


def plan(study, experiments):
    """{run: its name} of all rows of {experiment: its {row: run}}, seed by seed; see `Study.seeds`."""
    names = {}
    for place in range(study.num_seeds):
        for experiment, rows in experiments.items():
            for row, run in rows.items():
                for seed in study.seeds(run)[place : place + 1]:
                    names.setdefault(study.as_run(run).with_seed(seed), f"{experiment}, {row}, seed {seed}")
    return names


def check(study, arguments, extra=runs.no_extra):
    """Repeat --check recorded runs, chosen at random, and print which are right and wrong on the same images again."""
    recorded = list(study.records.finished.items())
    places = sorted(np.random.default_rng().permutation(len(recorded))[: arguments.check])
    folder = study.records.nets / "check"  # a saved teacher would only be read
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    again = runs.Records(folder / "runs.json", folder, study.records.dataset, study.records.context)
    runs.run_all(again, {recorded[place][0]: f"record {place}" for place in places}, arguments.cluster, extra=extra)
    rows = []
    for place in places:
        run, record = recorded[place]
        repeated = again.finished[run]
        same = "the same" if repeated["wrong"] == record["wrong"] else "other images"
        errors = [f"{one['errors']:,}" for one in (record, repeated)]
        rows.append([f"record {place}", *errors, same, str(record["versions"].get("commit"))])
    header = ["", "recorded", "repeated", "wrong on", "recorded at commit"]
    terminal.print_table("records and repeated runs", header, rows)
