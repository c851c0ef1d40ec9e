"""Files: written completely or not at all, locked against a second run, read without trusting them."""

import ast
import contextlib
import functools
import hashlib
import json
import modulefinder
import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from support import UserError

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

try:
    import fcntl
except ModuleNotFoundError:  # Windows: there, keeping two runs out of one folder is up to the user
    fcntl = None

ROOT = Path(__file__).parents[1]
SMALL_BYTES = 2**30  # any file may unpack to this size, and a larger one to EXPANSION times its own size
EXPANSION = 20
_locks = contextlib.ExitStack()  # the open lock files
_scratch_files = set()  # those that `atomic_write` has not moved into place yet


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a scratch path beside `path`; move it over `path` when the block succeeds, delete it when it fails.

    So whenever the program is stopped or killed, `path` is the complete old file or the complete new one.
    """
    path = Path(path)
    # The leading dot hides it from listings, the process number makes it unique, and Keras needs the suffix.
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


def remove_scratch_files() -> None:
    """Delete the unfinished files of every `atomic_write`, before the program is ended."""
    for scratch in list(_scratch_files):
        scratch.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write bytes to `path`, see `atomic_write`."""
    with atomic_write(path) as scratch:
        scratch.write_bytes(content)


def write_json(path: str | Path, values: dict[str, Any]) -> None:
    """Write a dict of plain values, with `versions()` added to it, to `path`."""
    text = json.dumps(values | {"versions": versions()}, allow_nan=False, indent=1)
    with atomic_write(path) as scratch:
        scratch.write_text(text + "\n", encoding="utf-8")


def versions() -> dict[str, str | int | None]:
    """What a result depends on besides data and settings: package versions, machine, commit and code."""
    packages = {"tensorflow": tf, "keras": keras, "numpy": np}
    return {name: package.__version__ for name, package in packages.items()} | {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "commit": _commit(),
        "code": code_sha256(),
    }


@functools.cache
def code_sha256(*scripts: str) -> str:
    """SHA-256, in hexadecimal, of the code of scripts in this project and of all of its modules that they import.

    By default, of teacher.py and distill.py: the code that makes the nets. What is hashed is the parsed code, so
    comments and docstrings do not count. Figures and messages in these modules do.
    """
    finder = modulefinder.ModuleFinder(path=[str(ROOT)])  # it reads imports, and runs nothing
    for script in scripts or ("teacher.py", "distill.py"):
        finder.load_file(str(ROOT / script))
    digest = hashlib.sha256()
    for path in sorted({module.__file__ for module in finder.modules.values() if module.__file__}):
        tree = ast.parse(Path(path).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
                del node.body[0]
        digest.update(f"{Path(path).relative_to(ROOT)} {ast.dump(tree)}".encode())
    return digest.hexdigest()


@functools.cache
def _commit() -> str | None:
    """The commit of this project, with -dirty if its code has been changed since; None where git cannot tell."""

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        return run.stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        changed_code = git("diff", "--name-only", "HEAD", "--", "*.py")  # a study changes its documents while it runs
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if changed_code else commit


def save_arrays(path: str | Path, **arrays: ArrayLike) -> None:
    """Write arrays to `path` (.npz)."""
    with atomic_write(path) as scratch:
        np.savez(scratch, **arrays)


@contextlib.contextmanager
def reading(path: str | Path, missing: str, advice: str) -> Iterator[None]:
    """Turn any error of the block, which reads the file at `path`, into a UserError of one line.

    Damaged and hostile files make NumPy, zipfile, HDF5 and Keras raise many kinds of errors. missing: the message if
    the file does not exist; advice: what to do about a damaged one. A PermissionError passes: the file may be sound.
    """
    try:
        yield
    except (UserError, PermissionError):
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: {missing}") from None
    except Exception as error:
        raise UserError(f"{path} cannot be read ({cause(error)}): {advice}") from error


def cause(error: BaseException) -> str:
    """The part of an exception's message that says what was wrong, in one line of at most 500 characters."""
    message = str(error).strip() or type(error).__name__
    # Keras puts the cause after a list of all that it tried to read, and the layer's configuration after that.
    message = message.rpartition("Exception encountered: ")[-1].partition("Full object config:")[0]
    lines = [line.strip() for line in message.splitlines() if line.strip()] or [type(error).__name__]
    num_lines = 2 if lines[0].endswith(":") else 1
    return " ".join(lines[:num_lines])[:500]


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays that `save_arrays` wrote, by name."""
    with reading(path, "there is no such file", "remove it"):
        return read_npz(path)


def read_npz(
    path: str | Path, names: Collection[str] | None = None, remedies: Mapping[str, str] | None = None
) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name: all of them, or those in `names`.

    Raises UserError: an array holds Python objects; remedies: {name: what else to do about that, after the general
    advice}. Raises ValueError: the file unpacks to far more than its size. Raises many other errors for a damaged file,
    so call it inside `reading`.
    """
    with zipfile.ZipFile(path) as archive:
        check_expansion(path, archive)
    arrays = {}
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:
            if names is None or name in names:
                with refusing_objects(path, name, (remedies or {}).get(name, "")):
                    arrays[name] = file[name]
    return arrays


@contextlib.contextmanager
def refusing_objects(path: str | Path, name: str, remedy: str = "") -> Iterator[None]:
    """Turn NumPy's refusal to unpickle the array `name` into a UserError; remedy: its last words."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Object arrays"):
            raise
        advice = f"save numpy.array({name}.tolist()) in its place{remedy}"
        raise UserError(f"{path}: {name} has the dtype object, which is not read: {advice}") from error


def check_expansion(path: str | Path, archive: zipfile.ZipFile) -> None:
    """Raise ValueError if an archive would take far more memory than its file's size justifies (a "zip bomb").

    Its own list of contents says how much; zipfile never reads more than that.
    """
    num_bytes = sum(member.file_size for member in archive.infolist())
    limit = max(SMALL_BYTES, EXPANSION * os.path.getsize(path))
    if num_bytes > limit:
        raise ValueError(f"it would take {num_bytes:,} bytes of memory; for its size, {limit:,} is the limit")


def sha256(*arrays: np.ndarray) -> str:
    """SHA-256, in hexadecimal, of the arrays' dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def output_folder(path: str | Path) -> Path:
    """Create the folder and its plots/, check that files can be written there, and lock it."""
    path = Path(path)
    try:
        for folder in (path, path / "plots"):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"cannot write to {path} ({error.strerror}): choose another folder with --out") from error
    lock(path)
    return path


def lock(path: Path) -> None:
    """Lock the folder or file `path` until the program ends, and remove the scratch files of a killed run.

    The system releases the lock of a killed program.
    """
    if path.is_dir():
        lock_file = path / ".lock"
        # Not those in other subfolders, which another run may be using.
        leftovers = [*path.glob(".*.partial-*"), *(path / "plots").glob(".*.partial-*")]
    else:
        lock_file = path.with_name(f".{path.name}.lock")
        leftovers = [*path.parent.glob(f".{path.stem}.partial-*")]
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


def release_locks() -> None:
    """Release all locks, so that a program that goes on after its script, such as a test, can start another one."""
    _locks.close()
