"""The terminal: options spelled alike in all scripts, progress, tables, and errors in one line."""

import argparse
import builtins
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Collection
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from support import UserError, files, stderr_descriptor
from support.recipe import Recipe, factor, integer

import tensorflow as tf

FORMATS = ["png", "svg", "pdf"]  # of figures
STOPPED = 130  # the exit status of a program that Ctrl-C ended, as in shells


_in_script = False  # whether `run` is active; the functions of the scripts print nothing when others call them


def run(main: Callable[[], None]) -> None:
    """Call main() as a script: a problem that the user can fix becomes one line and status 1, Ctrl-C status 130."""
    global _in_script
    in_notebook = hasattr(builtins, "__IPYTHON__")  # `%run student.py`: there, Ctrl-C must not end the program
    try:
        _in_script = True
        _prepare(in_notebook)
        files.code_sha256()  # which keeps it: that of the code that runs, even if somebody edits it meanwhile
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


def _prepare(in_notebook: bool) -> None:
    if hasattr(sys.stdout, "reconfigure"):  # a path may hold characters that the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    for gpu in tf.config.list_physical_devices("GPU"):  # take memory as it is needed, not all of it at once
        tf.config.experimental.set_memory_growth(gpu, True)
    is_handled = signal.getsignal(signal.SIGINT) is not signal.default_int_handler  # nohup, for one, ignores it
    if not (is_handled or in_notebook):
        signal.signal(signal.SIGINT, _stop)


def _error_line(message: str) -> str:
    clear_progress()
    return f"{Path(sys.argv[0]).name}: error: {' '.join(message.split())}"


def _stop(*_: object) -> None:
    """End the program at once, as Ctrl-C asks: an exception would be lost inside a callback of HDF5 or Python."""
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


SHARED = {  # options of several scripts, as argparse's add_argument takes them
    "data": {"help": "your own .npz file, or fashion_mnist, cifar10, cifar100 (default: MNIST)", "metavar": "DATA"},
    "validation": {
        "type": integer(0),
        "help": "hold out IMAGES training images, stratified by class (default: 5000, or a twelfth if that is less;"
        " 0: none)",
        "metavar": "IMAGES",
    },
    "out": {"default": "artifacts", "help": "folder for all files", "metavar": "FOLDER"},
    "teacher": {
        "type": Path,
        "help": "the teacher: Keras models (several are averaged), or an .npz of logits (default: teacher.keras in"
        " --out)",
        "nargs": "+",
        "action": "extend",
        "metavar": "FILE",
    },
    "teacher_pixels": {
        "type": factor,
        "help": "multiply the teacher's inputs by this: 255 for nets trained on 0...255 (default: 1;"
        " in reports, as saved in its file)",
        "metavar": "FACTOR",
    },
    "student": {
        "type": Path,
        "help": "your own student: a .keras file with initial weights",
        "metavar": "FILE",
    },
    "student_pixels": {  # in scripts that train a student, it is a setting of the StudentRecipe
        "type": factor,
        "help": "multiply the inputs of all models but the teacher by this (default: as saved in the model file, or 1)",
        "metavar": "FACTOR",
    },
    "cluster": {"help": "the address of a running Dask cluster, such as tcp://10.0.0.1:8786", "metavar": "ADDRESS"},
    "format": {"choices": FORMATS, "default": "png", "help": "file format of the figures"},
}


class _Parser(argparse.ArgumentParser):
    """A parser that sets the defaults after parsing, because some of them depend on other options."""

    defaults: dict[str, Any]  # by the name of the option
    own_data: dict[str, Any]  # those that replace them with --data

    def error(self, message: str) -> NoReturn:  # argparse would print the usage first, and hide the line that matters
        self.exit(2, f"{self.prog}: error: {message} (see `python {sys.argv[0]} --help`)\n")

    def parse_args(self, *args: Any) -> argparse.Namespace:
        """As argparse does. Then options that were not given get their defaults; `given` has the names of the others.

        With --data, those of `own_data` come first. Of --translate and --distort, giving one turns the other off.
        """
        arguments = super().parse_args(*args)
        given = {name for name, value in vars(arguments).items() if value is not None}
        if "distort" in arguments:
            if arguments.translate and arguments.distort:
                self.error("--translate and --distort exclude each other: give one of them")
            if arguments.translate or arguments.distort:
                arguments.translate, arguments.distort = arguments.translate or 0, arguments.distort or 0.0
        defaults = self.defaults | (self.own_data if vars(arguments).get("data") else {})
        for name, default in defaults.items():
            if getattr(arguments, name) is None:
                setattr(arguments, name, default)
        arguments.given = given
        return arguments


def parser(
    description: str,
    shared: str = "",
    defaults: Recipe | None = None,
    own_data: Recipe | None = None,
    without: Collection[str] = (),
) -> argparse.ArgumentParser:
    """A parser with the options of SHARED named in `shared`, and one for each setting of the recipe `defaults`.

    own_data: a recipe, whose values are the defaults when --data is given. without: settings that get no option.
    Recipe.updated takes the parsed arguments (`vars` of them).
    """
    options = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    declared = {name: dict(SHARED[name]) for name in shared.split()}
    options.defaults = {name: settings.pop("default", None) for name, settings in declared.items()}
    options.own_data = dict(options.defaults)
    if defaults:
        fields_of = {field.name: field for field in fields(defaults) if field.name not in without}
        declared |= {name: dict(field.metadata) for name, field in fields_of.items()}
        for recipe, values in ((defaults, options.defaults), (own_data or defaults, options.own_data)):
            settings = recipe.settings()
            values |= {name: settings[name] for name in fields_of}
    for name, settings in declared.items():
        default, own_default = options.defaults[name], options.own_data[name]
        if default is not None:
            with_data = "" if own_default == default else f"; with --data {_shown(own_default)}"
            settings["help"] += f" (default: {_shown(default)}{with_data})"
        options.add_argument(f"--{name.replace('_', '-')}", **settings)  # parse_args sets the default
    return options


def print_settings(arguments: argparse.Namespace) -> None:
    """Print every option with its value, and the device."""
    print("settings")
    for name, value in (vars(arguments) | {"device": device()}).items():
        if name != "given":
            print(f"  {name.replace('_', '-'):<15} {_shown(value)}")
    print(flush=True)


def device() -> str:
    """Where TensorFlow computes: 'NVIDIA H100' or 'processor, 2 cores', for example."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        return ", ".join(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus)
    return f"processor, {num_cores()} cores"


def num_cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _shown(value: Any) -> str:
    if value in (None, []):
        return "default"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


# ---- progress and tables ---------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """Print a line, if a script runs."""
    if _in_script:
        print(text, flush=True)


def progress(text: str) -> None:
    """Show `text` on a line that the next call overwrites, if a script runs in a terminal.

    Call `clear_progress` before printing anything.
    """
    if _in_script and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1  # a full line would wrap
        print(f"\r{text[:width]:<{width}}", end="", flush=True)


def clear_progress() -> None:
    """Erase the line of `progress`."""
    progress("")
    if _in_script and sys.stdout.isatty():
        print(end="\r", flush=True)


def print_table(caption: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a table in aligned columns, the first to the left and the others to the right."""
    table = [header, *rows]
    first_width, *widths = [max(map(len, column)) for column in zip(*table)]
    print(caption)
    for name, *cells in table:
        aligned = [f"{cell:>{width}}" for cell, width in zip(cells, widths)]
        print("  ".join([f"{name:<{first_width}}", *aligned]))
    print(flush=True)
