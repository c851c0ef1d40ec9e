"""What the scripts share. Importing any of it imports TensorFlow and Keras, without their messages on the screen."""

import contextlib
import importlib.util
import os
import sys
from pathlib import Path


class UserError(Exception):
    """A problem that the user can fix. Its message is one line: what is wrong, and what to do."""


_redirected = []  # the real stderr while `quiet` is active: file descriptors, the innermost last


@contextlib.contextmanager
def quiet():
    """Discard what the block writes to stderr.

    TensorFlow writes some of it from C++ before it reads any logging option, so the file descriptor itself is
    redirected.
    """
    sys.stderr.flush()
    _redirected.append(os.dup(2))
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(_redirected[-1], 2)
        os.close(_redirected.pop())


def stderr_descriptor():
    """The file descriptor of the real stderr, inside `quiet` too."""
    return _redirected[-1] if _redirected else 2


def _print_in_one_line(kind, error, trace):
    advice = ": activate the environment (. .venv/bin/activate), or pip install -r requirements.txt"
    problem = "stopped" if kind is KeyboardInterrupt else f"error: {error}{advice}"
    print(f"{Path(sys.argv[0]).name}: {problem}", file=sys.stderr)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"
_backend = os.environ.get("MPLBACKEND", "").removeprefix("module://").split(".")[0]
if "module://" in os.environ.get("MPLBACKEND", "") and importlib.util.find_spec(_backend) is None:
    del os.environ["MPLBACKEND"]  # a notebook's, whose terminal has another environment; the figures here need none
for _name in ("stdout", "stderr"):
    if getattr(sys, _name) is None:  # it is closed: `python student.py >&-`
        setattr(sys, _name, open(os.devnull, "w"))  # noqa: SIM115 - open until the program ends
try:
    with quiet():
        import keras  # noqa: F401
        import matplotlib.figure  # noqa: F401
        import tensorflow
    tensorflow.get_logger().setLevel("ERROR")  # it warns about each new graph after the first few
except (KeyboardInterrupt, ModuleNotFoundError):
    sys.excepthook = _print_in_one_line  # for scripts; whoever imports this module gets the exception itself
    raise
