"""Model files: a .keras file with the settings and the history of its training, loaded without trusting it.

Keras' older HDF5 files are loaded too. Of all else that people have, the error says what it is and what to do.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import json
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from support import UserError, building, files
from support.classifier import build, fitting_advice, fitting_shape, single_shape

import h5py
import keras

TRAINING = "training.json"  # the member of a .keras archive that holds the settings and the history of its training
MODEL_NAME = "model.keras"  # of a temporary file
HDF5 = b"\x89HDF\r\n\x1a\n"  # how such files begin
OUTPUTS = (
    "a teacher's outputs for x_train and x_test will do: numpy.savez('logits.npz', train=..., test=...), then"
    " --teacher logits.npz"
)
KEEP_ROWS = "if it is a teacher's outputs for x_train, numpy.savez('logits.npz', train=numpy.load('PATH'))"
ADD_WEIGHTS = "build it in Python, or by keras.models.model_from_json(open('PATH').read()); model.load_weights(FILE)"
# No models of Keras: how the file's name ends, or how it begins; what it is; what to do, where PATH is its path.
OTHER_FILES = [
    ((".npy",), "an array of NumPy", f"{KEEP_ROWS}, then --teacher logits.npz"),
    ((".npz",), "a file of arrays", "a teacher's logits.npz is for --teacher; other nets must be .keras files"),
    ((".pt", ".pth", ".safetensors"), "a file of PyTorch", OUTPUTS),
    ((".onnx",), "an ONNX model", OUTPUTS),
    ((".tflite",), "a LiteRT (TensorFlow Lite) model", OUTPUTS),
    ((".pb",), "a graph of TensorFlow", OUTPUTS),
    ((".pkl", ".pickle", ".joblib"), "a pickle, which is Python code and is not loaded", OUTPUTS),
    ((".ckpt", ".index", ".data-00000-of-00001"), "a checkpoint, which has weights only", OUTPUTS),
    ((".json",), "a net's layers without their weights", f"{ADD_WEIGHTS}; model.save('NAME.keras')"),
    ((b"version https://git-lfs",), "a pointer of Git LFS, not the model itself", "git lfs pull gets that"),
    ((b"<",), "a web page, not the model", "download the file itself (on GitHub: 'Download raw file')"),
]


class Epoch(NamedTuple):
    """A row of a training history. Accuracies are fractions."""

    epoch: int  # from 1
    loss: float
    training_accuracy: float  # measured while training, so with dropout; nan without labels
    validation_accuracy: float  # nan without validation images
    seconds: float  # of the training, without the validation


def weights_sha256(*models: keras.Model) -> str:
    """The SHA-256 of each model's weights, in one string that does not depend on the order of the models."""
    return "+".join(sorted(files.sha256(*model.get_weights()) for model in models))


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
        with (
            files.atomic_write(path.with_suffix(".csv")) as scratch_csv,
            open(scratch_csv, "w", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file).writerows([Epoch._fields, *history])


def to_bytes(model: keras.Model, settings: dict[str, Any], history: list[Epoch]) -> bytes:
    """The file that `save` writes, as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL_NAME
        save(model, path, settings, history)
        return path.read_bytes()


def from_bytes(saved: bytes, example_shape: tuple[int, ...], num_classes: int) -> tuple[keras.Model, list[Epoch]]:
    """The model and the history in the bytes of a model file. The rest: see `load`, whose errors it raises."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL_NAME
        path.write_bytes(saved)
        return load(path, example_shape, num_classes), load_training(path)[1]


def check(model: keras.Model, name: str, example_shape: tuple[int, ...], num_classes: int) -> None:
    """Check, before it is trained, that a net can be saved, loaded and used with such data. name: for the message."""
    build(model, example_shape)
    try:
        from_bytes(to_bytes(model, {}, []), example_shape, num_classes)
    except UserError as error:
        problem = re.search(rf"{MODEL_NAME}:? (cannot be read \(.*\)|.*?): ", str(error))[1]  # the remedy is for files
        raise UserError(f"{name}: {problem}: let it fit the data, and have layers of Keras alone") from error


def differing(settings: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """The names in `wanted` that `settings` lacks or has with another value: [] for a model made as wanted."""
    return [name for name, value in wanted.items() if name not in settings or settings[name] != value]


def load(path: str | Path, example_shape: tuple[int, ...] | None = None, num_classes: int | None = None) -> keras.Model:
    """Load a .keras or HDF5 file, saved by this project or by anyone, in Keras' safe mode: no Lambdas, no pickles."""

    def read(archive: zipfile.ZipFile | None) -> keras.Model:
        with keras.saving.custom_object_scope(building.TF_NN):
            return _from_hdf5(path) if archive is None else _from_archive(path, archive)

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
    """The settings and the history that `save` put into a model file; ({}, []) for a model from elsewhere."""

    def parse(archive: zipfile.ZipFile | None) -> tuple[dict[str, Any], list[Epoch]]:
        if archive is None or TRAINING not in archive.namelist():
            return {}, []
        saved = json.loads(archive.read(TRAINING))
        return dict(saved["settings"]), [Epoch(*row) for row in saved["history"]]

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


def _read(path: str | Path, read: Callable[[zipfile.ZipFile | None], Any]) -> Any:
    """read(archive) of a .keras file, every member of which has passed its checksum; read(None) of an HDF5 file."""
    missing = "there is no such model file"
    with files.reading(path, missing, "train or save it again"):
        path = Path(path)
        if path.is_dir() or path.name == "saved_model.pb" and path.exists():
            raise _folder_refused(path)
        with open(path, "rb") as file:
            start = file.read(64)
        if start.startswith(HDF5):
            return read(None)
        start = start.removeprefix(codecs.BOM_UTF8).lstrip()
        for signs, kind, remedy in OTHER_FILES:
            if path.name.lower().endswith(signs) if isinstance(signs[0], str) else start.startswith(signs):
                raise UserError(f"{path} is {kind}: {remedy.replace('PATH', str(path))}")
        if path.suffix != ".keras":  # Keras would take it for another format
            remedy = f"if Keras saved it so, rename it to NAME.keras; otherwise, {OUTPUTS}"
            raise UserError(f"{path} cannot be read (its name does not end in .keras): {remedy}")
        with zipfile.ZipFile(path) as archive:
            files.check_expansion(path, archive)
            if "config.json" not in archive.namelist():
                raise ValueError("it has no config.json")
            if damaged := archive.testzip():  # it compares every member with its checksum
                raise ValueError(f"its {damaged} is damaged")
            return read(archive)


def _folder_refused(path: Path) -> UserError:
    """What to raise for a folder, or for the saved_model.pb in it."""
    folder = path if path.is_dir() else path.parent
    if (folder / "saved_model.pb").exists():
        run = f"net = keras.layers.TFSMLayer('{folder}', call_endpoint='serving_default')"
        problem = "is a SavedModel of TensorFlow, which Keras 3 can run, but not turn into a model"
        return UserError(f"{path} {problem}: {run}; (outputs,) = net(x).values(); {OUTPUTS}")
    if (folder / "config.json").exists():
        code = f"import shutil; shutil.move(shutil.make_archive('NAME', 'zip', '{folder}'), 'NAME.keras')"
        return UserError(f'{path} is a .keras file that was unpacked: python -c "{code}" packs it again')
    return UserError(f"{path} is a folder: name a model file, NAME.keras")


# ---- what Keras makes of them ----------------------------------------------------------------------------------------


def _from_archive(path: str | Path, archive: zipfile.ZipFile) -> keras.Model:
    """The model in a .keras file. Raises UserError or ValueError: see `_explained`."""
    config = json.loads(archive.read("config.json"))
    metadata = json.loads(archive.read("metadata.json")) if "metadata.json" in archive.namelist() else {}
    saved_by = metadata.get("keras_version", keras.__version__)
    with _explained(path, config, saved_by):
        return keras.models.load_model(path, compile=False, safe_mode=True)


def _from_hdf5(path: str | Path) -> keras.Model:
    """The model in an HDF5 file, Keras' older format. Raises UserError or ValueError: see `_explained`."""
    with h5py.File(path) as file:
        saved, saved_by = (file.attrs.get(name, b"") for name in ("model_config", "keras_version"))
        if not saved:
            raise UserError(f"{path} has no model, at most a model's weights: {_rebuild(path, file)}")
    config, saved_by = json.loads(saved), saved_by if isinstance(saved_by, str) else saved_by.decode()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        copy = shutil.copy(path, Path(folder) / "model.h5")  # Keras goes by the name
        with _explained(path, config, saved_by):
            first = next(_layers(config))
            if first["class_name"] != "InputLayer" and "batch_input_shape" in first["config"]:
                raise ValueError("its first layer has a batch_input_shape")  # Keras 3 takes it for an input_shape
            return keras.models.load_model(copy, compile=False, safe_mode=True)


@contextlib.contextmanager
def _explained(path: str | Path, config: dict[str, Any], saved_by: str) -> Iterator[None]:
    """Turn any error of the block, in which Keras loads a model, into one that says what can be done.

    config: the model's configuration; saved_by: the version of Keras that saved it. Raises UserError: it has a layer
    that Keras cannot make, or Keras 2 saved it. Raises ValueError: anything else, such as damaged weights.
    """
    try:
        yield
    except Exception as error:
        versions = f"; Keras {saved_by or 1} saved it, and this is {keras.__version__}"
        versions = "" if saved_by == keras.__version__ else versions
        problem = next(filter(None, map(_problem, _layers(config))), None)
        if problem:
            remedy = f"{_rebuild(path)}; or {OUTPUTS}"
            raise UserError(f"{path} cannot be read ({problem}{versions}): {remedy}") from error
        problem = files.cause(error) + versions
        version = re.match(r"2\.\d+", saved_by)
        if not version:
            raise ValueError(problem) from error
        install, module = "pip install tf-keras", "tf_keras"
        if version[0] in ("2.12", "2.13", "2.14") and zipfile.is_zipfile(path):  # tf-keras does not find their weights
            install, module = f"in another environment, pip install tensorflow=={version[0]}.*", "keras"
        code = f"import {module}; {module}.models.load_model('{path}', compile=False).save('NEW.h5')"
        remedy = f'{install}; python -c "{code}" makes NEW.h5, which can be used'
        raise UserError(f"{path} cannot be read ({problem}): {remedy}") from error


def _layers(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The configurations of a model's layers, and of those of the models in it."""
    inside = config["config"]  # of a Sequential of Keras before 2.3: its layers
    inside = inside if isinstance(inside, list) else inside.get("layers")
    if config["class_name"] not in ("Sequential", "Functional", "Model") or inside is None:
        yield config
    else:
        for layer in inside:
            yield from _layers(layer)


def _problem(layer: dict[str, Any]) -> str | None:
    """Why Keras cannot make a layer of its configuration; None if it can."""
    name = layer["class_name"]
    if name == "Lambda":
        return "it has a Lambda layer, which is Python code and is not loaded"
    of_keras_2 = ("batch_input_shape", "axis")  # which Keras mends in HDF5 files
    options = {key: value for key, value in layer["config"].items() if key not in of_keras_2}
    described = {"module": "keras.layers", "registered_name": None} | layer  # in HDF5 files a layer has neither
    try:
        if name != "InputLayer":
            keras.saving.deserialize_keras_object(described | {"config": options, "build_config": None})
    except Exception as error:  # noqa: BLE001 - Keras raises many kinds
        if hasattr(keras.layers, name):
            return f"layer {name}: {files.cause(error)}"
        module = described["module"] or "a script"
        return f"Keras {keras.__version__} has no layer {name}" + f" of {module}" * (not module.startswith("keras."))
    return None


def _rebuild(path: str | Path, file: h5py.File | None = None) -> str:
    """What to do with a file of which only the weights are of use. file: it, if it is an HDF5 file without a model."""
    name, is_zip = Path(path).name, zipfile.is_zipfile(path)
    is_new = file is not None and "model_weights" not in file and "layer_names" not in file.attrs  # of Keras 3
    suffix = ".weights.h5" if is_new else ".h5"  # Keras' load_weights goes by the name, too
    fits = is_zip or name.endswith(".h5") and name.endswith(".weights.h5") == is_new
    rename = "" if fits else f"rename it to NAME{suffix}; "
    load = f"model.load_weights('{path if fits else 'NAME' + suffix}')"
    return f"{rename}build the same net in Python of Keras' own layers; {load}; model.save('NAME.keras')"
