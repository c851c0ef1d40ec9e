"""Files: written completely or not at all, locked against a second run, read without trusting them."""

import contextlib
import functools
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from support import UserError

import keras
import numpy as np
import tensorflow as tf

try:
    import fcntl
except ModuleNotFoundError:  # Windows: there, keeping two runs out of one folder is up to the user
    fcntl = None

SMALL_BYTES = 2**30  # what any file may expand to; a larger file may expand to EXPANSION times its own size
EXPANSION = 20
_locks = contextlib.ExitStack()
_scratch_files = set()  # what `atomic_write` has not moved into place yet


@contextlib.contextmanager
def atomic_write(path):
    """Yield a scratch path beside `path`; move it over `path` when the block succeeds, delete it when it fails.

    So whenever the program is stopped or killed, `path` is the complete old file or the complete new one.
    """
    path = Path(path)
    # The leading dot keeps it out of every listing, the process number makes it unique; Keras needs the suffix.
    scratch = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    _scratch_files.add(scratch)
    try:
        yield scratch
        with open(scratch, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
        _scratch_files.discard(scratch)


def remove_scratch_files():
    """Delete what `atomic_write` has begun and not finished, for a program that is about to be ended."""
    for scratch in list(_scratch_files):
        scratch.unlink(missing_ok=True)


def write_json(path, values):
    """Write a dict of plain values, and `versions()`, to `path`."""
    with atomic_write(path) as scratch:
        scratch.write_text(
            json.dumps(values | {"versions": versions()}, allow_nan=False, indent=1) + "\n", encoding="utf-8"
        )


def versions():
    """What a result depends on besides data and settings: packages, machine and the commit, a dict of plain values."""
    packages = {"tensorflow": tf, "keras": keras, "numpy": np}
    return {name: package.__version__ for name, package in packages.items()} | {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "commit": _commit(),
    }


@functools.cache
def _commit():
    """The commit of this project's files, with -dirty if its code was changed since; None where git cannot tell."""

    def git(*command):
        run = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=True)
        return run.stdout.strip()

    root = Path(__file__).parents[1]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        # Only the code: a study changes its records and documents while it runs.
        return git("rev-parse", "--short=12", "HEAD") + (
            "-dirty" if git("diff", "--name-only", "HEAD", "--", "*.py") else ""
        )
    return None


def save_arrays(path, **arrays):
    """Write arrays to `path` (.npz) with a checksum, for `load_arrays`."""
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    with atomic_write(path) as scratch:
        np.savez(scratch, sha256=fingerprint(np.array([*arrays]), *arrays.values()), **arrays)


@contextlib.contextmanager
def reading(path, missing, advice):
    """Raise a UserError of one line in place of any error of the block, which reads the file at `path`.

    Damaged and hostile files make NumPy, zipfile, HDF5 and Keras raise errors of many kinds. missing: what to say if
    there is no such file; advice: what to do about a damaged one. PermissionError passes: that file may well be fine.
    """
    try:
        yield
    except (UserError, PermissionError):
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: {missing}") from None
    except Exception as error:
        raise UserError(f"{path} cannot be read ({cause(error)}): {advice}") from error


def cause(error):
    """What an exception's message says was wrong, in one line: Keras puts it last, after all that it tried to read."""
    *_, message = (str(error) or type(error).__name__).rpartition("Exception encountered: ")
    lines = [line.strip() for line in message.partition("Full object config:")[0].splitlines() if line.strip()]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:500]


def load_arrays(path):
    """{name: array} of what `save_arrays` wrote. Raises UserError as `reading` does."""
    with reading(path, "there is no such file", "remove it"):
        arrays = read_npz(path)
        if arrays.pop("sha256") != fingerprint(np.array([*arrays]), *arrays.values()):
            raise ValueError("its contents have changed")
        return arrays


def read_npz(path, names=None):
    """{name: array} of an .npz file, of these names only or of all. Pickled objects are refused. To be called in
    `reading`.
    """
    with zipfile.ZipFile(path) as archive:
        check_expansion(path, unpacked_bytes(archive))
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if names is None or name in names}


def unpacked_bytes(archive):
    """The unpacked size of a zipfile.ZipFile, according to its own list of contents; zipfile never reads more than
    that.
    """
    return sum(member.file_size for member in archive.infolist())


def check_expansion(path, num_bytes):
    """Raise ValueError: the file at `path` would take far more memory than its size justifies (a "zip bomb")."""
    limit = max(SMALL_BYTES, EXPANSION * os.path.getsize(path))
    if num_bytes > limit:
        raise ValueError(f"it would take {num_bytes:,} bytes of memory; for its size, {limit:,} is the limit")


def fingerprint(*arrays):
    """SHA-256, in hexadecimal, of the arrays' dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def output_folder(path):
    """Create the folder and its plots/, check that files can be written there, and lock it; returns its Path.

    Raises UserError: it cannot be created or written, or another run uses it.
    """
    path = Path(path)
    try:
        for folder in (path, path / "plots"):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"cannot write to {path} ({error.strerror}): choose another folder with --out") from error
    lock(path)
    return path


def lock(path):
    """Lock the folder or file `path` until the program ends, and remove the scratch files of a killed run.

    The system releases the lock of a killed program. Raises UserError: another run has locked it.
    """
    if path.is_dir():  # but not in its other folders, which another run may use
        lock_file = path / ".lock"
        leftovers = [found for folder in (path, path / "plots") for found in folder.glob(".*.partial-*")]
    else:
        lock_file, leftovers = path.with_name(f".{path.name}.lock"), [*path.parent.glob(f".{path.stem}.partial-*")]
    file = _locks.enter_context(open(lock_file, "a+"))  # noqa: SIM115 - open until the program ends
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        user = file.read() or "another run"
        raise UserError(f"{path} is in use by {user}: wait until it ends, or choose another --out") from None
    except OSError:  # a file system without locks
        pass
    file.truncate(0)
    file.write(f"{Path(sys.argv[0]).name}, process {os.getpid()}")
    file.flush()
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)


def release_locks():
    """Release every lock: a program that goes on after its script, such as a test, may then start another."""
    _locks.close()
