"""Model files: a .keras file with the settings and the history of its training, loaded without trusting it."""

import csv
import hashlib
import json
import math
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from support import UserError, files
from support.inference import fitting_advice, fitting_shape, single_shape

import keras

TRAINING = "training.json"  # the member of a .keras archive that holds the settings and the history of its training
DIGESTS = "sha256.json"  # the SHA-256 of the other members: a zip file's own checksums have 32 bits only
MAX_JSON_BYTES = 2**24  # of a member that is parsed, which takes Python ten times as much memory
HDF5, LFS_POINTER = b"\x89HDF\r\n\x1a\n", b"version https://git-lfs"  # how such files begin


class Epoch(NamedTuple):
    """A row of a training history. Accuracies are fractions. Of a Stack, loss and accuracies are lists."""

    epoch: int  # from 1
    loss: float
    training_accuracy: float  # measured while training, so with dropout; nan without labels
    validation_accuracy: float  # nan without validation images
    seconds: float  # of the training, without the validation

    def of_student(self, place: int) -> "Epoch":
        """The row of one student of a Stack; its seconds are those of all."""
        return Epoch(*(value[place] if isinstance(value, list) else value for value in self))


def fingerprint(*models: keras.Model) -> str:
    """The SHA-256 of each model's weights, in one string that does not depend on the order of the models."""
    return "+".join(sorted(files.fingerprint(*model.get_weights()) for model in models))


def save(model: keras.Model, path: Path, settings: dict[str, Any], history: list[Epoch]) -> None:
    """Save the model at `path` (.keras) and its history beside it (.csv), each completely or not at all.

    settings: plain values, all that decided the training but the code, whose SHA-256 is added to them as "code".
    Settings and history are also in the .keras archive, where `load_training` reads them; the .csv is for people.
    """
    settings = settings | {"code": files.code_sha256()}
    with files.atomic_write(path) as scratch:
        model.save(scratch)
        with zipfile.ZipFile(scratch, "a") as archive:
            archive.writestr(TRAINING, json.dumps({"settings": settings, "history": history}))
            archive.writestr(DIGESTS, json.dumps(_digests(archive)))
        with (
            files.atomic_write(path.with_suffix(".csv")) as scratch_csv,
            open(scratch_csv, "w", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file).writerows([Epoch._fields, *history])


def to_bytes(model: keras.Model, settings: dict[str, Any], history: list[Epoch]) -> bytes:
    """The file that `save` writes, as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        save(model, path, settings, history)
        return path.read_bytes()


def from_bytes(saved: bytes, example_shape: tuple[int, ...], num_classes: int) -> tuple[keras.Model, list[Epoch]]:
    """The model and the history in the bytes of a model file. The rest: see `load`, whose errors it raises."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(saved)
        return load(path, example_shape, num_classes), load_training(path)[1]


def differing(settings: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """The names in `wanted` that `settings` lacks or has with another value: [] for a model made as wanted."""
    return [name for name, value in wanted.items() if name not in settings or settings[name] != value]


def load(path: str | Path, example_shape: tuple[int, ...] | None = None, num_classes: int | None = None) -> keras.Model:
    """Load a .keras file, saved by this project or by anyone, in Keras' safe mode: no Lambda layers, no pickles.

    Raises UserError: it is missing, damaged, no Keras model; or, unless they are None, does not take examples of this
    shape (see inference.fitting_shape), or does not return num_classes numbers for each, or a single one for two.
    """

    def read(archive: zipfile.ZipFile) -> keras.Model:
        try:
            files.check_expansion(path, _declared_bytes(archive))
            return keras.models.load_model(path, compile=False, safe_mode=True)
        except Exception as error:
            metadata = _json(archive, "metadata.json") if "metadata.json" in archive.namelist() else {}
            saved_by = metadata.get("keras_version", keras.__version__)
            if saved_by == keras.__version__:
                raise
            problem = f"{files.cause(error)}; Keras {saved_by} saved it, and this is {keras.__version__}"
            raise ValueError(problem) from error

    model = _read(path, read)
    if example_shape is None:
        return model
    input_shape, output_shape = (single_shape(getattr(model, name, None)) for name in ("inputs", "outputs"))
    if input_shape is None or fitting_shape(model, example_shape) is None:
        problem = f"input_shape is {getattr(model, 'input_shape', None)}, but the data need {(None, *example_shape)}"
        advice = fitting_advice(model, example_shape) if input_shape else "choose another model"
        raise UserError(f"{path}: {problem}: {advice}")
    if output_shape != (num_classes,) and (output_shape, num_classes) != ((1,), 2):
        problem = f"output_shape is {getattr(model, 'output_shape', None)}, but the data need {(None, num_classes)}"
        raise UserError(f"{path}: {problem}: choose another model, or other data")
    return model


def load_training(path: str | Path) -> tuple[dict[str, Any], list[Epoch]]:
    """The settings and the history that `save` put into a model file; ({}, []) for a model from elsewhere.

    Raises UserError: the file is missing, damaged or no .keras file.
    """

    def parse(archive: zipfile.ZipFile) -> tuple[dict[str, Any], list[Epoch]]:
        if TRAINING not in archive.namelist():
            return {}, []
        saved = _json(archive, TRAINING)
        history = [Epoch(*row) for row in saved["history"]]
        if not all(isinstance(value, (int, float)) for row in history for value in row):
            raise ValueError(f"the history in its {TRAINING} holds other things than numbers")
        return dict(saved["settings"]), history

    return _read(path, parse)


def pixels(settings: dict[str, Any], given: float | None = None) -> float:
    """The factor for a model's inputs: `given`, or else that of its saved settings, or 1."""
    return settings.get("student_pixels", 1.0) if given is None else given


def is_made_with(path: Path, wanted: dict[str, Any]) -> bool:
    """Whether there is a sound model file at `path` that was trained with the settings `wanted`, by today's code."""
    try:
        return not differing(load_training(path)[0], wanted | {"code": files.code_sha256()})
    except UserError:
        return False


def _read(path: str | Path, read: Callable[[zipfile.ZipFile], Any]) -> Any:
    """read(archive) of the .keras file at `path`, after every member of it has passed its checksum."""
    missing = "there is no such model file"
    with files.reading(path, missing, "train or save it again"):
        with open(path, "rb") as file:
            start = file.read(64)
        if start.startswith(HDF5):
            rename = "" if Path(path).suffix in (".h5", ".hdf5") else "rename it to NAME.h5; then "
            code = "import keras; keras.saving.load_model('NAME.h5', compile=False).save('NAME.keras')"
            convert = f'{rename}python -c "{code}"'
            raise UserError(
                f"{path} is an HDF5 file, Keras' older format: {convert} turns it into one that can be used here"
            )
        if start.startswith(LFS_POINTER):
            raise UserError(f"{path} is a pointer of Git LFS, not the model itself: git lfs pull gets that")
        if Path(path).suffix != ".keras":
            raise ValueError("its name does not end in .keras")  # Keras would take it for another format
        with zipfile.ZipFile(path) as archive:
            files.check_expansion(path, files.unpacked_bytes(archive))
            outside = [name for name in archive.namelist() if name.startswith("/") or ".." in name.split("/")]
            if outside:
                raise ValueError(f"it holds {outside[0]}, a path that leads out of the archive")
            if "config.json" not in archive.namelist():
                raise ValueError("it has no config.json")
            digests = _digests(archive)  # this reads every member, so zipfile checks their checksums
            if digests.pop(DIGESTS, None):
                expected = _json(archive, DIGESTS)
                changed = {*differing(digests, expected), *differing(expected, digests)}  # added members too
                if changed:
                    raise ValueError(f"changed since it was saved: {', '.join(changed)}")
            return read(archive)


def _json(archive: zipfile.ZipFile, name: str, **options: Any) -> Any:
    """The values in a member of an archive. options: of json.loads. Raises ValueError: it is too large to parse."""
    size = archive.getinfo(name).file_size
    if size > MAX_JSON_BYTES:
        raise ValueError(f"its {name} would take {size:,} bytes; {MAX_JSON_BYTES:,} is the limit")
    return json.loads(archive.read(name), **options)


def _digests(archive: zipfile.ZipFile) -> dict[str, str]:
    """The SHA-256, in hexadecimal, of each member of an archive."""
    digests = {}
    for name in archive.namelist():
        with archive.open(name) as member:
            digests[name] = hashlib.file_digest(member, "sha256").hexdigest()
    return digests


def _declared_bytes(archive: zipfile.ZipFile) -> float:
    """The memory that a model's weights will take according to its config.json, which Keras holds them to."""

    def without_optimizer(values: dict[str, Any]) -> dict[str, Any]:  # which cannot be created in a StatelessScope
        return {name: value for name, value in values.items() if name != "compile_config"}

    config = _json(archive, "config.json", object_hook=without_optimizer)
    declared = math.inf
    try:
        with keras.StatelessScope(initialize_variables=False):
            variables = keras.models.model_from_json(json.dumps(config)).variables
            declared = 4 * sum(math.prod(variable.shape) for variable in variables)
    finally:
        if declared > files.SMALL_BYTES:
            keras.utils.clear_session()  # else Keras would create those variables together with the next model's
    return declared
