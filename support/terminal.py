"""The terminal: options spelled alike in all scripts, progress, tables, and errors in one line."""

import argparse
import builtins
import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path

from support import UserError, files, stderr_descriptor

import tensorflow as tf

STOPPED = 130  # the exit status of a program that Ctrl-C ended, as shells have it


_in_script = False  # whether `run` is active; functions that are called from elsewhere print nothing


def run(main):
    """Call `main()` as a script: a problem that the user can fix ends in one line and status 1, Ctrl-C in status 130."""
    global _in_script
    in_notebook = hasattr(builtins, "__IPYTHON__")  # `%run student.py`: there, Ctrl-C must not end the program
    try:
        _in_script = True
        _prepare(in_notebook)
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # `python evaluate.py | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (UserError, OSError) as error:
        sys.exit(_error_line(str(error)))
    except (MemoryError, tf.errors.ResourceExhaustedError):
        sys.exit(_error_line("not enough memory: lower --hidden, --batch-size or --translate, or use fewer images"))
    finally:
        _in_script = False
        files.release_locks()


def _prepare(in_notebook):
    if hasattr(sys.stdout, "reconfigure"):  # a path may hold what the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    for gpu in tf.config.list_physical_devices("GPU"):  # take memory as it is needed, not all of it at once
        tf.config.experimental.set_memory_growth(gpu, True)
    handled = signal.getsignal(signal.SIGINT) is not signal.default_int_handler  # nohup, for one, sets another
    if not (handled or in_notebook):
        signal.signal(signal.SIGINT, _stop)


def _error_line(message):
    clear_progress()
    return f"{Path(sys.argv[0]).name}: error: {' '.join(message.split())}"


def _stop(*_):
    """End the program at once. An exception would be lost if it came up inside a callback of HDF5 or of Python itself."""
    message = f"{Path(sys.argv[0]).name}: stopped; every file is complete, either the old one or the new one\n"
    try:
        files.remove_scratch_files()
        with contextlib.suppress(OSError, RuntimeError):  # stdout is closed; Ctrl-C came in the middle of a print
            clear_progress()
            sys.stdout.flush()
        os.write(stderr_descriptor(), message.encode())
    finally:
        os._exit(STOPPED)


# ---- options ---------------------------------------------------------------------------------------------------------


def integer(least, most=10**6):
    """An argparse type: a whole number from `least` to `most`."""
    return _between(int, "a whole number", least, most)


def number(least, most):
    """An argparse type: a number from `least` to `most`."""
    return _between(float, "a number", least, most)


def _between(kind, called, least, most):
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {called}") from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least:g} to {most:.10g}")
        return value

    return parse


fraction = number(0, 1)


def dropout_rate(text):
    """An argparse type: a number from 0 to below 1."""
    if fraction(text) == 1:
        raise argparse.ArgumentTypeError("1 would drop everything: it must be below 1")
    return float(text)


MAX_SEED = 2**32 - 1
TEMPERATURE = number(1e-3, 1e6)
DATA_HELP = "your own .npz file, or fashion_mnist, cifar10, cifar100 (default: MNIST)"
TEACHER_HELP = "the teacher: Keras classifiers, of several the mean (default: teacher.keras in --out)"
VALIDATION_HELP = (
    "hold out IMAGES training images, drawn from all classes (default: 5000, or a twelfth of a smaller set; 0: none)"
)
DISTORT_HELP = (
    "in place of --translate: rotate (STRENGTH 1: up to 10 degrees), scale (10 %%), shift and bend each image"
)
OPTIONS = {  # what argparse's add_argument takes, for options that several scripts share
    "out": {"metavar": "FOLDER", "help": "folder for all files"},
    "data": {"metavar": "DATA", "help": DATA_HELP},
    "validation": {"type": integer(0), "metavar": "IMAGES", "help": VALIDATION_HELP},
    "teacher": {"type": Path, "nargs": "+", "action": "extend", "metavar": "FILE", "help": TEACHER_HELP},
    "teacher_pixels": {
        "type": number(1e-6, 1e6),
        "metavar": "WHITE",
        "help": "multiply the teacher's inputs by this: 255 for nets trained on 0...255",
    },
    "student_pixels": {
        "type": number(1e-6, 1e6),
        "metavar": "WHITE",
        "help": "the same for the student, or for every model but the teacher",
    },
    "student": {"type": Path, "metavar": "FILE", "help": "your own student: a .keras file with its first weights"},
    "hidden": {"type": integer(1), "nargs": "+", "metavar": "UNITS", "help": "units of each hidden layer"},
    "dropout": {"type": dropout_rate, "metavar": "RATE", "help": "share of the hidden units set to 0"},
    "input_dropout": {"type": dropout_rate, "metavar": "RATE", "help": "share of the pixels set to 0"},
    "crop": {"type": integer(0), "metavar": "PIXELS", "help": "cut PIXELS off each edge of the image"},
    "pool": {
        "type": integer(1, 1000),
        "metavar": "PIXELS",
        "help": "then replace each square of PIXELS x PIXELS by its mean",
    },
    "activation": {"choices": ["relu", "gelu", "silu"], "help": "activation of the hidden units"},
    "seed": {"type": integer(0, MAX_SEED), "help": "decides first weights, order of the images, and noise"},
    "epochs": {"type": integer(1), "help": "passes over the training images"},
    "batch_size": {"type": integer(1), "metavar": "IMAGES", "help": "images in a step"},
    "learning_rate": {"type": number(1e-12, 1e6), "metavar": "RATE", "help": "peak learning rate of Adam"},
    "weight_decay": {
        "type": number(0, 1e3),
        "metavar": "SHARE",
        "help": "each step takes SHARE x learning rate off each weight",
    },
    "translate": {"type": integer(0), "metavar": "PIXELS", "help": "shift each image by up to so many pixels"},
    "distort": {"type": number(0, 10), "metavar": "STRENGTH", "help": DISTORT_HELP},
    "temperature": {"type": TEMPERATURE, "metavar": "T", "help": "divides the logits of both nets"},
    "alpha": {"type": fraction, "help": "weight of the teacher's part of the loss; the labels' part has 1 - ALPHA"},
    "format": {"choices": ["png", "svg", "pdf"], "help": "file format of the figures"},
}
DATA = {"out": "artifacts", "data": None, "validation": None}  # the options of every script that takes any data


class _Parser(argparse.ArgumentParser):
    def error(self, message):  # argparse would print its usage first, and hide the one line that matters
        self.exit(2, f"{self.prog}: error: {message} (see `python {sys.argv[0]} --help`)\n")

    def parse_args(self, *args):
        """As argparse does; --data and the exclusion of --translate and --distort decide some of the defaults."""
        arguments = super().parse_args(*args)
        if "distort" in arguments:
            if arguments.translate and arguments.distort:
                self.error("--translate and --distort exclude each other: give one of them")
            if arguments.translate or arguments.distort:
                arguments.translate, arguments.distort = arguments.translate or 0, arguments.distort or 0.0
        for name, default in (self.defaults | (self.own_data if vars(arguments).get("data") else {})).items():
            if getattr(arguments, name) is None:
                setattr(arguments, name, default)
        return arguments


def parser(description, defaults, own_data=None):
    """An argparse.ArgumentParser. defaults: {name in OPTIONS: default value}; own_data: the defaults that --data changes."""
    options = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    options.defaults, options.own_data = defaults, own_data or {}
    for name, default in defaults.items():
        settings = dict(OPTIONS[name])
        if default is not None:
            with_data = f"; with --data {_shown(own_data[name])}" if name in options.own_data else ""
            settings["help"] += f" (default: {_shown(default)}{with_data})"
        options.add_argument(f"--{name.replace('_', '-')}", **settings)  # parse_args sets the default
    return options


def print_settings(arguments):
    """Print every option with its value, and the device."""
    print("settings")
    for name, value in (vars(arguments) | {"device": device()}).items():
        print(f"  {name.replace('_', '-'):<15} {_shown(value)}")
    print(flush=True)


def device():
    """Where TensorFlow computes: 'NVIDIA H100', say, or 'processor, 2 cores'."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        return ", ".join(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus)
    return f"processor, {num_cores()} cores"


def num_cores():
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _shown(value):
    if value in (None, []):
        return "default"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


# ---- progress and tables ---------------------------------------------------------------------------------------------


def say(text):
    """Print a line, if a script runs."""
    if _in_script:
        print(text, flush=True)


def progress(text):
    """Show `text` on a line that the next call overwrites, if a script runs in a terminal; `clear_progress` before a print."""
    if _in_script and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1  # a full line would wrap
        print(f"\r{text[:width]:<{width}}", end="", flush=True)


def clear_progress():
    """Erase the line of `progress`."""
    progress("")
    if _in_script and sys.stdout.isatty():
        print(end="\r", flush=True)


def print_table(caption, header, rows):
    """Print aligned columns, the first to the left and the others to the right. header, rows: lists of strings."""
    table = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*table)]
    print(caption)
    for first, *others in table:
        print(f"{first:<{widths[0]}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(others, widths[1:])))
    print(flush=True)
