"""The terminal: options spelled alike in all scripts, progress, tables, and errors in one line."""

import argparse
import builtins
import contextlib
import os
import shutil
import signal
import sys
from dataclasses import dataclass, fields
from pathlib import Path

from support import UserError, files, stderr_descriptor
from support.recipe import Recipe, integer, setting

import tensorflow as tf

FORMATS = ["png", "svg", "pdf"]  # of figures
STOPPED = 130  # the exit status of a program that Ctrl-C ended, as shells have it


_in_script = False  # whether `run` is active; functions that are called from elsewhere print nothing


def run(main):
    """Call `main()` as a script: a problem that the user can fix ends in one line and status 1, Ctrl-C in status
    130.
    """
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
    """End the program at once. An exception would be lost if it came up inside a callback of HDF5 or of Python
    itself.
    """
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


@dataclass(frozen=True)
class Output(Recipe):
    """The option of every script."""

    out: str = setting("artifacts", str, "folder for all files", metavar="FOLDER")


@dataclass(frozen=True)
class Files(Output):
    """The options of every script that takes any data."""

    data: str | None = setting(
        None, str, "your own .npz file, or fashion_mnist, cifar10, cifar100 (default: MNIST)", metavar="DATA"
    )
    validation: int | None = setting(
        None,
        integer(0),
        "hold out IMAGES training images, from all classes (default: 5000, or a twelfth of a smaller set; 0: none)",
        metavar="IMAGES",
    )


@dataclass(frozen=True)
class Figures(Recipe):
    """The option of scripts that draw."""

    format: str = setting("png", FORMATS, "file format of the figures")


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


def parser(description, *recipes, own_data=None):
    """An argparse.ArgumentParser whose options are the fields of these Recipe instances, which have the defaults.

    own_data: the one to take in the place of the last recipe with --data. The parsed arguments are what Recipe.of
    takes.
    """
    options = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    options.defaults = {name: value for recipe in recipes for name, value in recipe.settings().items()}
    options.own_data = own_data.settings() if own_data else {}
    for recipe in recipes:
        for each in fields(recipe):
            settings, default = dict(each.metadata), options.defaults[each.name]
            if default is not None:
                other = options.own_data.get(each.name, default)
                with_data = "" if other == default else f"; with --data {_shown(other)}"
                settings["help"] += f" (default: {_shown(default)}{with_data})"
            options.add_argument(f"--{each.name.replace('_', '-')}", **settings)  # parse_args sets the default
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
    """Show `text` on a line that the next call overwrites, if a script runs in a terminal; `clear_progress` before a
    print.
    """
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
