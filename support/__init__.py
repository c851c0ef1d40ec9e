"""What the scripts share. Importing any of it loads TensorFlow and Keras, without their start-up messages."""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType


class UserError(Exception):
    """A problem that the user can fix. Its message is one line: what is wrong, and what to do.

    Any function that takes what a user gave (a file, an array, a net, an option) may raise it; docstrings say so only
    where that is all that a function does.
    """


_saved_stderr = []  # copies of the file descriptor of stderr, one for each active `quiet`, the innermost last


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discard what the block writes to stderr.

    TensorFlow writes some of its messages from C++, before it reads any logging option. So this redirects the file
    descriptor.
    """
    sys.stderr.flush()
    _saved_stderr.append(os.dup(2))
    try:
        with open(os.devnull, "w") as devnull:
            os.dup2(devnull.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(_saved_stderr[-1], 2)
        os.close(_saved_stderr.pop())


def stderr_descriptor() -> int:
    """The file descriptor of the real stderr, even inside `quiet`."""
    return _saved_stderr[0] if _saved_stderr else 2


def _print_in_one_line(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    advice = ": activate the environment (. .venv/bin/activate), or pip install -r requirements.txt"
    problem = "stopped" if kind is KeyboardInterrupt else f"error: {error}{advice}"
    print(f"{Path(sys.argv[0]).name}: {problem}", file=sys.stderr)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"
_backend = os.environ.get("MPLBACKEND", "").removeprefix("module://").split(".")[0]
if "module://" in os.environ.get("MPLBACKEND", "") and importlib.util.find_spec(_backend) is None:
    del os.environ["MPLBACKEND"]  # set by a notebook that has another environment; the figures here need no backend
for _name in ("stdout", "stderr"):
    if getattr(sys, _name) is None:  # closed by the caller: `python student.py >&-`
        setattr(sys, _name, open(os.devnull, "w"))  # noqa: SIM115 - open until the program ends
try:
    with quiet():
        import keras  # noqa: F401
        import matplotlib.figure  # noqa: F401
        import tensorflow
    tensorflow.get_logger().setLevel("ERROR")  # else it warns about each new graph after the first few
except (KeyboardInterrupt, ModuleNotFoundError):
    sys.excepthook = _print_in_one_line  # for scripts; other importers can still catch the exception
    raise
