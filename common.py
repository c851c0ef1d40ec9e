"""What every script owes the person at the terminal: a quiet start, options that are spelled alike, progress,
files written whole or not at all, and an answer of one line where something went wrong.

Importing it imports TensorFlow and Keras, so import it before them: they log to the screen while they load, and this module
is what keeps them quiet.
"""

import argparse
import contextlib
import hashlib
import os
import platform
import shutil
import signal
import sys
import tempfile
import zipfile
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows: there, two runs into one folder are the user's to avoid
    fcntl = None

MOST_BYTES = 2**30  # of any file that is read, unpacked: a small file may unpack to more than there is memory
STOPPED = 130  # the shell's exit status for "ended by Ctrl-C"
_screens = []  # what `quiet` has turned stderr away from


@contextlib.contextmanager
def quiet():
    """Keep off the screen what the block writes to stderr.

    Some of that is written from C++ before any logging setting is read, so the file descriptor itself is turned away.
    """
    sys.stderr.flush()
    screen = os.dup(2)
    _screens.append(screen)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(screen, 2)
        os.close(_screens.pop())


def _import_quietly():
    """Load what takes seconds to load, and logs to the screen meanwhile."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    try:
        with quiet():
            import keras  # noqa: F401
            import matplotlib.figure  # noqa: F401
            import tensorflow
        tensorflow.get_logger().setLevel("ERROR")  # it warns of the graphs of a second net, and a third
    except KeyboardInterrupt:
        _stop()
    except ModuleNotFoundError as error:
        sys.exit(f"{error}: activate the environment (. .venv/bin/activate), or pip install -r requirements.txt")


class UserError(Exception):
    """Something the user can mend. Its message is one line: what is wrong, and what to do."""


def run(main):
    """Call `main()` as a script: what the user can mend ends in one line on stderr and status 1, Ctrl-C in status 130."""
    from tensorflow.errors import ResourceExhaustedError

    sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold what the terminal cannot show
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nohup's is another
        signal.signal(signal.SIGINT, _stop)
    try:
        with _claims:
            main()
        sys.stdout.flush()
    except BrokenPipeError:  # `python evaluate.py | head`: the reader has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (UserError, OSError) as error:
        sys.exit(_error(str(error)))
    except (MemoryError, ResourceExhaustedError):
        sys.exit(_error("not enough memory: lower --hidden, --batch-size or --translate, or the number of images"))


def _error(message):
    clear_progress()
    return f"{Path(sys.argv[0]).name}: error: {' '.join(message.split())}"


def _stop(*_):
    """End the script here and now. KeyboardInterrupt would be lost where it comes up in a callback of HDF5's or Python's own."""
    message = f"{Path(sys.argv[0]).name}: stopped; every file is whole, the one from before or the new one\n"
    try:
        for scratch in list(_scratches):
            scratch.unlink(missing_ok=True)
        with contextlib.suppress(OSError, RuntimeError):  # nobody reads it; Ctrl-C came in the middle of a print
            clear_progress()
            sys.stdout.flush()
        os.write(_screens[0] if _screens else 2, message.encode())
    finally:
        os._exit(STOPPED)


def versions():
    """What a result depends on beside code, data and settings: a dict of plain values."""
    import keras
    import numpy
    import tensorflow

    packages = {"tensorflow": tensorflow, "keras": keras, "numpy": numpy}
    return {name: package.__version__ for name, package in packages.items()} | {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }


# ---- options ---------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message):  # argparse prints its usage first, which hides the one line that matters
        self.exit(2, f"{self.prog}: error: {message} (see `python {self.prog} --help`)\n")


def plain_parser(description):
    """An argument parser with the option of every script: --out."""
    options = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    options.add_argument("--out", default="artifacts", metavar="FOLDER", help="where files go (default: %(default)s)")
    return options


def parser(description):
    """An argument parser for scripts that take any data: --out, --data and --validation."""
    options = plain_parser(description)
    options.add_argument(
        "--data",
        metavar="FILE.npz",
        help="your own set: x_train, x_test (n, height, width) uint8; y_train, y_test (n,) integers 0...C-1 "
        "(default: the shipped MNIST)",
    )
    options.add_argument(
        "--validation",
        type=whole(0),
        metavar="IMAGES",
        help="the last so many training images are for validation (default: 5000, a twelfth of a smaller set)",
    )
    return options


def add_training_options(options, *, epochs, batch_size, learning_rate, translate):
    """Add the options of a training run, with this script's defaults."""
    default = " (default: %(default)s)"
    options.add_argument("--seed", type=whole(0, 2**32 - 1), default=0, help="first weights, order, noise" + default)
    options.add_argument("--epochs", type=whole(1), default=epochs, help="passes over the images" + default)
    options.add_argument("--batch-size", type=whole(1), default=batch_size, help="images in a step" + default)
    options.add_argument(
        "--learning-rate",
        type=number(1e-12, 1e6),
        default=learning_rate,
        help="of Adam, at the top of its cosine" + default,
    )
    views = options.add_mutually_exclusive_group()
    views.add_argument(
        "--translate", type=whole(0), default=translate, metavar="PIXELS", help="move digits by up to this" + default
    )
    views.add_argument(
        "--distort",
        type=number(0, 10),
        default=0.0,
        action=_Distort,
        metavar="STRENGTH",
        help="instead, turn, scale, move and bend them: at 1 by up to 10 degrees, 10 %%, 1.5 pixels, and 1.2 pixels rms"
        + default,
    )


class _Distort(argparse.Action):
    def __call__(self, parser, arguments, strength, option_string=None):
        arguments.distort, arguments.translate = strength, 0


def add_format_option(options):
    """Add --format, the kind of file that figures are."""
    options.add_argument("--format", choices=["png", "svg", "pdf"], default="png", help="of figures (default: png)")


def whole(least, most=10**6):
    """An argparse type: a whole number from `least` to `most`."""

    def parse(text):
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least} to {most}")
        return value

    return parse


def number(least, most):
    """An argparse type: a number from `least` to `most`."""

    def parse(text):
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least:g} to {most:g}")
        return value

    return parse


fraction = number(0, 1)


def dropout_rate(text):
    """An argparse type: a number from 0 up to, but not, 1."""
    rate = fraction(text)
    if rate == 1:
        raise argparse.ArgumentTypeError("1 would drop everything: it must be below 1")
    return rate


def print_settings(arguments):
    """Print every option with its value."""
    print("settings")
    for name, value in vars(arguments).items():
        shown = "default" if value in (None, []) else " ".join(map(str, value)) if isinstance(value, list) else value
        print(f"  {name.replace('_', '-'):<15} {shown}")
    print(flush=True)


# ---- progress --------------------------------------------------------------------------------------------------------


def progress(text):
    """Show `text`, if a person is watching, on a line that the next call overwrites; `clear_progress` before a print."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1  # a full line would wrap
        print(f"\r{text[:width]:<{width}}", end="", flush=True)


def clear_progress():
    """Take the progress line off the screen."""
    progress("")
    if sys.stdout.isatty():
        print(end="\r", flush=True)


# ---- files -----------------------------------------------------------------------------------------------------------


def make_folder(path):
    """Make the folder and its plots/, see that files can be written there, before anybody waits for a training run, and claim it.

    Raises UserError: the folder cannot be made or written, or another run has it.
    """
    try:
        for folder in (Path(path), Path(path) / "plots"):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"cannot write to {path} ({error.strerror}): choose another folder with --out") from error
    claim(Path(path))
    return Path(path)


def fingerprint(*arrays):
    """SHA-256, in hexadecimal, of the arrays' dtypes, shapes and bytes: the same only for the same contents."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def refuse_large(num_bytes):
    """Raise ValueError: what is about to be read takes more than MOST_BYTES."""
    if num_bytes > MOST_BYTES:
        raise ValueError(f"it takes {num_bytes:,} bytes of memory, where {MOST_BYTES:,} are the most")


def unpacked_bytes(archive):
    """What the members of a zipfile.ZipFile say that they unpack to; zipfile reads no more than they say."""
    return sum(member.file_size for member in archive.infolist())


def read_npz(path, names=None):
    """{name: array} of these names in an .npz file, or of all: no pickles, and no more than MOST_BYTES.

    Raises OSError; KeyError: it lacks one of them; and whatever NumPy, zipfile and zlib each have for a damaged file.
    """
    with zipfile.ZipFile(path) as archive:
        refuse_large(unpacked_bytes(archive))
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in names or file.files}


def save_arrays(path, **arrays):
    """Write arrays to `path` (.npz), whole or not at all, for `load_arrays`."""
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    with replacing(path) as scratch:
        np.savez(scratch, sha256=fingerprint(np.array([*arrays]), *arrays.values()), **arrays)


def load_arrays(path):
    """{name: array} of what `save_arrays` wrote.

    Raises UserError: the file is missing, damaged or from elsewhere; PermissionError.
    """
    try:
        arrays = read_npz(path)
        if arrays.pop("sha256") == fingerprint(np.array([*arrays]), *arrays.values()):
            return arrays
        problem = "its contents have changed"
    except PermissionError:  # it may well be whole
        raise
    except Exception as error:  # noqa: BLE001 - read_npz has no kind of its own
        problem = str(error) or type(error).__name__
    raise UserError(f"{path} is damaged ({problem}): remove it")


_claims = contextlib.ExitStack()
_scratches = set()  # what `replacing` has not moved into place yet


def claim(path):
    """Keep other runs off the folder or file `path` until this one ends, in whatever way, and remove what a killed one left.

    Raises UserError: another run has it.
    """
    lock, leftovers = path.with_name(f".{path.name}.lock"), [*path.parent.glob(f".{path.stem}.partial-*")]
    if path.is_dir():  # not in all folders below it: they may be another run's
        lock = path / ".lock"
        leftovers = [found for folder in (path, path / "plots") for found in folder.glob(".*.partial-*")]
    file = _claims.enter_context(open(lock, "a+"))  # noqa: SIM115 - open until the run ends
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise UserError(
            f"{path} is in use by {file.read() or 'another run'}: wait until it ends, or write elsewhere with --out"
        ) from None
    except OSError:  # a file system that knows no locks
        pass
    file.truncate(0)
    file.write(f"{Path(sys.argv[0]).name}, process {os.getpid()}")
    file.flush()
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path):
    """Yield a scratch path beside `path`; move it over `path` when the block succeeds, remove it when it does not.

    So `path` is always the old file or the new one, whole, whatever ends the program.
    """
    path = Path(path)
    # A dot keeps it from being taken for a result, the process number from being shared; Keras wants the suffix.
    scratch = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    _scratches.add(scratch)
    try:
        yield scratch
        with open(scratch, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
        _scratches.discard(scratch)


_import_quietly()

import numpy as np
