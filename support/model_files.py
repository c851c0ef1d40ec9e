"""Model files: a .keras file with the settings and the history of its training, loaded without trusting it."""

import csv
import hashlib
import json
import math
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from support import UserError, files
from support.inference import fitting_advice, fitting_shape, single_shape

import keras

TRAINING = "training.json"  # the member of a .keras archive that holds the settings and the history of its training
MAX_JSON_BYTES = 2**24  # of a member that is parsed: Python takes ten times as much memory for it
HDF5, LFS_POINTER = b"\x89HDF\r\n\x1a\n", b"version https://git-lfs"  # how such files begin
DIGESTS = "sha256.json"  # the SHA-256 of the other members: a zip file's own checksums have 32 bits only


class Epoch(NamedTuple):
    """A row of a training history. Accuracies are fractions; the training accuracy is taken while training, with
    dropout.
    """

    epoch: int  # from 1
    loss: float
    training_accuracy: float  # nan without labels
    validation_accuracy: float  # nan without validation images
    seconds: float  # of the training, without the validation


def fingerprint(*models):
    """The SHA-256 of each model's weights, in one string that does not depend on the order of the models."""
    return "+".join(sorted(files.fingerprint(*model.get_weights()) for model in models))


def save(model, path, settings, history):
    """Save the model at `path` (.keras) and its history beside it (.csv), each completely or not at all.

    settings: a dict of plain values, all that decided the training. They and the history are also in the .keras
    archive, where `load_training` reads them; the .csv is for people.
    """
    with files.atomic_write(path) as scratch:
        model.save(scratch)
        with zipfile.ZipFile(scratch, "a") as archive:
            archive.writestr(TRAINING, json.dumps({"settings": settings, "history": history}))
            archive.writestr(DIGESTS, json.dumps(_digests(archive)))
        with (
            files.atomic_write(path.with_suffix(".csv")) as beside,
            open(beside, "w", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file).writerows([Epoch._fields, *history])


def to_bytes(model, settings, history):
    """The file that `save` writes, as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        save(model, path, settings, history)
        return path.read_bytes()


def from_bytes(saved, example_shape, num_classes):
    """(model, history) of the bytes of a model file. The rest: see `load`, whose errors it raises."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(saved)
        return load(path, example_shape, num_classes), load_training(path)[1]


def differing(settings, wanted):
    """The names in the dict `wanted` for which `settings` has no or another value: empty for a model made as wanted."""
    return [name for name, value in wanted.items() if name not in settings or settings[name] != value]


def load(path, example_shape, num_classes):
    """Load a .keras file, saved by this project or by anyone, in Keras' safe mode: no Lambda layers, no pickles.

    Raises UserError: it is missing, damaged, no Keras model, does not take examples of this shape (see
    inference.fitting_shape), or does not return num_classes numbers for each, or a single one for two classes.
    """

    def read(archive):
        try:
            files.check_expansion(path, _declared_bytes(archive))
            return keras.models.load_model(path, compile=False, safe_mode=True)
        except Exception as error:
            about = _json(archive, "metadata.json") if "metadata.json" in archive.namelist() else {}
            if about.get("keras_version", keras.__version__) == keras.__version__:
                raise
            problem = files.cause(error)
            raise ValueError(
                f"{problem}; Keras {about['keras_version']} saved it, and this is {keras.__version__}"
            ) from error

    model = _read(path, read)
    taken, given = (single_shape(getattr(model, name, None)) for name in ("inputs", "outputs"))
    if taken is None or fitting_shape(model, example_shape) is None:
        shape = f"input_shape is {getattr(model, 'input_shape', None)}, but the data need {(None, *example_shape)}"
        advice = fitting_advice(model, example_shape) if taken else "choose another model"
        raise UserError(f"{path}: {shape}: {advice}")
    if given != (num_classes,) and (given, num_classes) != ((1,), 2):
        shape = f"output_shape is {getattr(model, 'output_shape', None)}, but the data need {(None, num_classes)}"
        raise UserError(f"{path}: {shape}: choose another model, or other data")
    return model


def load_training(path):
    """(settings, history) that `save` put into a model file; ({}, []) for a model from elsewhere. Raises UserError as
    `load`.
    """

    def parse(archive):
        if TRAINING not in archive.namelist():
            return {}, []
        saved = _json(archive, TRAINING)
        history = [Epoch(*row) for row in saved["history"]]
        if not all(isinstance(value, (int, float)) for row in history for value in row):
            raise ValueError(f"the history in its {TRAINING} holds other things than numbers")
        return dict(saved["settings"]), history

    return _read(path, parse)


def pixels(settings, given=None):
    """What a model's examples are multiplied by: `given`, or else what the settings in its file say, or 1."""
    return settings.get("student_pixels", 1.0) if given is None else given


def is_made_with(path, wanted, defaults):
    """Whether there is a sound model file at `path` that was trained with the settings `wanted`. What it lacks has
    its default.
    """
    try:
        return not differing(defaults | load_training(path)[0], wanted)
    except UserError:
        return False


def _read(path, read):
    """read(archive) of the .keras file at `path`, after every member of it has passed its checksum."""
    missing = "there is no such model file: `python teacher.py` and `python distill.py` make them"
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
            found = _digests(archive)  # this reads every member, and so zipfile checks its checksum
            if found.pop(DIGESTS, None):
                expected = _json(archive, DIGESTS)
                changed = {*differing(found, expected), *differing(expected, found)}  # added members too
                if changed:
                    raise ValueError(f"changed since it was saved: {', '.join(changed)}")
            return read(archive)


def _json(archive, name, **options):
    """The values in a member of an archive. Raises ValueError: it is too large to be parsed."""
    size = archive.getinfo(name).file_size
    if size > MAX_JSON_BYTES:
        raise ValueError(f"its {name} would take {size:,} bytes; {MAX_JSON_BYTES:,} is the limit")
    return json.loads(archive.read(name), **options)


def _digests(archive):
    digests = {}
    for name in archive.namelist():
        with archive.open(name) as member:
            digests[name] = hashlib.file_digest(member, "sha256").hexdigest()
    return digests


def _declared_bytes(archive):
    """The memory that the weights of a model will take, as its config.json declares them; Keras checks those in the
    file.
    """
    # Without the optimizer, which cannot be created in a StatelessScope.
    without = lambda found: {key: value for key, value in found.items() if key != "compile_config"}
    config = _json(archive, "config.json", object_hook=without)
    declared = math.inf
    try:
        with keras.StatelessScope(initialize_variables=False):
            variables = keras.models.model_from_json(json.dumps(config)).variables
            declared = 4 * sum(math.prod(variable.shape) for variable in variables)
    finally:
        if declared > files.SMALL_BYTES:
            keras.utils.clear_session()  # else Keras would create those variables together with the next model's
    return declared
