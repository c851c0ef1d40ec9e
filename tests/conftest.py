"""What the tests share: a tiny data set that is learnt in a second, and ways to run a script."""

import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

from support import files, plots, terminal, training
from support.batches import Batches
from support.recipe import TrainingRecipe
from support.teacher_logits import as_teacher, looked_up

import numpy as np
import pytest
import tensorflow as tf

import data
import distill
import student

ROOT = Path(__file__).parent.parent
SMALL = student.StudentRecipe(hidden=(8,), epochs=2, batch_size=20, learning_rate=0.01, translate=0)
BROWSER = [shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")]


def pytest_collection_modifyitems(config, items):
    """Leave out the tests in a browser where there is none."""
    if not all(BROWSER):
        left_out = [item for item in items if item.get_closest_marker("browser")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter):
    if not all(BROWSER):
        terminalreporter.write_line("tests in a browser: left out, as chromium and chromedriver are not both installed")


@pytest.fixture(scope="session")
def browser():
    """The paths of Chromium and of its driver."""
    return BROWSER


def make_arrays(num_train=240, num_test=60, shape=(12, 10), num_classes=3, seed=0):
    """The four arrays of a data file: class c is a bright stripe in row 2 * c + 2, under noise."""
    random = np.random.default_rng(seed)
    arrays = {}
    for part, number in (("train", num_train), ("test", num_test)):
        labels = random.integers(num_classes, size=number)
        labels[:num_classes] = np.arange(num_classes)
        images = random.integers(0, 160, size=(number, *shape))
        images[np.arange(number), 2 * labels + 2] += random.integers(20, 96, size=(number, 1))
        arrays |= {f"x_{part}": images.astype(np.uint8), f"y_{part}": labels.astype(np.uint8)}
    return arrays


def make_dataset(*arguments):
    """A data.Dataset of `make_arrays`, without validation images."""
    arrays = make_arrays(*arguments)
    train, test = (data.Split(arrays[f"x_{part}"], arrays[f"y_{part}"].astype(np.int32)) for part in ("train", "test"))
    return data.Dataset(train, data.Split(train.images[:0], train.labels[:0]), test, int(train.labels.max()) + 1)


def batches_of(split, batch_size, teacher=None, augment=None, **settings):
    """The Batches of a split, as the images are unless `settings` shift or distort them."""
    return Batches(split, TrainingRecipe(**{"translate": 0, "batch_size": batch_size} | settings), teacher, augment)


def logits_of(teacher, images, translate=0, pixels=1.0, **options):
    """What a teacher says of all shifts of the images: (n, shifts, C)."""
    return as_teacher(teacher, pixels).on_shifts(images, translate, **options)


def distilled(dataset, recipe, logits, path=None):
    """(net, history) of a student, alone, with these logits of all shifts (n, shifts, C). path: that of --student."""
    batches = Batches(dataset.train, recipe, looked_up(logits))
    return distill.train_students(dataset, [recipe], batches, 1, training.show_epoch, path)[0]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The path of a data file of 12x10 images in 3 classes."""
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, **make_arrays())
    return path


@pytest.fixture(scope="session")
def digits(tiny):
    """The data.Dataset of `tiny`: 220 training, 20 validation and 60 test images."""
    return data.load(tiny)


@pytest.fixture(scope="session")
def knowing(digits, tmp_path_factory):
    """The path of a net, saved by Keras alone, that has learnt these images."""
    net, _ = student.train_student(digits, replace(SMALL, hidden=(32,), epochs=60))
    path = tmp_path_factory.mktemp("knowing") / "knowing.keras"
    net.save(path)
    return path


@pytest.fixture(autouse=True)
def ctrl_c():
    """Restore what Ctrl-C does: a script that a test runs in this process changes it."""
    ours = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, ours)


@pytest.fixture
def eager():
    """Compile nothing: that would take most of the time of a net that trains in a second."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def cheap(eager, monkeypatch):
    """Compile nothing and leave every figure's file empty: most of the time of a script on tiny data."""
    monkeypatch.setattr(plots, "save", lambda figure, path, *with_legend: files.write_bytes(path, b""))


@pytest.fixture
def printed(monkeypatch, capsys):
    """printed(main, *options) -> stdout of a script that is run in this process."""

    def run(main, *options):
        monkeypatch.setattr(sys, "argv", [f"{main.__module__.split('.')[-1]}.py", *map(str, options)])
        terminal.run(main)
        return capsys.readouterr().out

    return run


@pytest.fixture
def ended(monkeypatch, capsys):
    """ended(main, *options) -> (exit status, stderr) of a script that is run in this process."""

    def run(main, *options):
        monkeypatch.setattr(sys, "argv", [f"{main.__module__.split('.')[-1]}.py", *map(str, options)])
        status, message = 0, ""
        try:
            terminal.run(main)
        except SystemExit as end:
            status = end.code
            if isinstance(status, str):  # what Python prints to stderr, and exits with 1
                status, message = 1, status + "\n"
        return status, capsys.readouterr().err + message

    return run


@pytest.fixture
def refusal(ended):
    """refusal(main, *options) -> (exit status, the line on stderr) of a script that ends in an error."""

    def run(main, *options):
        status, stderr = ended(main, *options)
        assert status != 0
        assert stderr.count("\n") == 1, stderr
        assert stderr.startswith(f"{main.__module__.split('.')[-1]}.py: error: "), stderr
        return status, stderr

    return run


def python(*arguments, folder=ROOT, **options):
    """Python as a process of its own, in the project's folder; returns it when it has ended, its output as text."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=folder, **options)


def same_weights(one, other):
    """Whether two models have the same weights, bit for bit."""
    return all(np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True))


def read_zip(file):
    """{name: content} of the members of a zip archive, which is what .keras and .npz files are."""
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(file, members):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
