"""What the tests share: a tiny data set that is learnt in a second, and ways to run a script."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

from support import terminal

import numpy as np
import pytest
import tensorflow as tf

import data
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
    """The four arrays of a data file: class c is a bright stripe in row 2 * c + 2, under noise that makes some
    ambiguous.
    """
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


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The path of a data file of 12x10 images in 3 classes."""
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, **make_arrays())
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
def ended(monkeypatch, capsys):
    """ended(main, *options) -> (exit status, stderr) of a script that is run in this process."""

    def run(main, *options):
        monkeypatch.setattr(sys, "argv", [f"{main.__module__.split('.')[-1]}.py", *map(str, options)])
        status, said = 0, ""
        try:
            terminal.run(main)
        except SystemExit as end:
            status = end.code
            if isinstance(status, str):  # what Python prints to stderr, and exits with 1
                status, said = 1, status + "\n"
        return status, capsys.readouterr().err + said

    return run


@pytest.fixture
def refusal(ended):
    """refusal(main, *options) -> (status, the line on stderr) of a script that ends in an error, run in this
    process.
    """

    def run(main, *options):
        status, stderr = ended(main, *options)
        assert status != 0
        assert stderr.count("\n") == 1, stderr
        assert stderr.startswith(f"{main.__module__.split('.')[-1]}.py: error: "), stderr
        return status, stderr

    return run


def run_script(script, *options):
    """Run a script as a user does, as a process of its own; returns the finished process with its output as text."""
    return subprocess.run(
        [sys.executable, ROOT / script, *map(str, options)], capture_output=True, text=True, check=False, timeout=120
    )
