"""Models: saved with how they were made, loaded safely, asked for their logits, and counted."""

import csv
import hashlib
import json
import math
import random
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from support import UserError, files

import keras
import numpy as np
import tensorflow as tf

TRAINING = "training.json"  # the member of a .keras archive that holds the settings and the history of its training
TINY = float(np.finfo(np.float32).tiny)  # the least probability whose logarithm is taken
DIGESTS = "sha256.json"  # the SHA-256 of the other members: a zip file's own checksums have 32 bits only


class Epoch(NamedTuple):
    """A row of a training history. Accuracies are fractions; the training accuracy is taken while training, with dropout."""

    epoch: int  # from 1
    loss: float
    training_accuracy: float  # nan without labels
    validation_accuracy: float  # nan without validation images
    seconds: float  # of the training, without the validation


def layer_seeds(seed):
    """Yields a seed for each layer that draws numbers; without end, None if `seed` is None.

    They are those that keras.utils.set_random_seed(seed) would lead to. But that sets Python's random state for the whole process,
    and a Dask worker's other threads draw from it.
    """
    source = random.Random(seed)
    while True:
        yield None if seed is None else source.randint(1, 10**9)


def dropout_states(model):
    """The variables, two integers each, from which a model's dropout and other random layers draw: a seed, and how often it was used."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def dense(units, activation, seed):
    """A dense layer whose first weights this seed decides: Keras' default distribution."""
    return keras.layers.Dense(units, activation, kernel_initializer=keras.initializers.GlorotUniform(seed))


def to_unit(images):
    """What the nets see, float32: images of uint8 as numbers in [0, 1]; examples of floats as they are."""
    return tf.cast(images, tf.float32) / (255.0 if images.dtype == tf.uint8 else 1.0)


def fitting_shape(model, example_shape):
    """The shape, without the batch, in which a Keras model takes an example of this shape; None if it cannot.

    (28, 28) fits a model that takes (28, 28), (28, 28, 1), (784,) or (None, None, 1), say.
    """
    wanted = getattr(model, "input_shape", None)  # a model that was never built has none, one of several inputs a list
    if not isinstance(wanted, tuple):
        return None
    wanted = wanted[1:]
    shape = (*example_shape, 1)[: len(wanted)] if None in wanted else wanted
    if len(shape) != len(wanted) or math.prod(shape) != math.prod(example_shape):
        return None
    return shape if all(size in (None, given) for size, given in zip(wanted, shape)) else None


def caller(model, example_shape, pixels=1.0):
    """Returns logits(examples (n, *example_shape) float32, training=False) -> (n, C) float32 of any Keras classifier.

    A model that ends in a softmax gives the logarithms of its probabilities, which are logits: a softmax gives the
    probabilities back. pixels: what the model takes for white; the examples are multiplied by it.

    Raises UserError: the model does not take such examples.
    """
    shape = fitting_shape(model, example_shape)
    if shape is None:
        taken = getattr(model, "input_shape", None)
        raise UserError(
            f"a model that takes {taken} cannot take examples of shape {tuple(example_shape)}: reshape them"
        )
    few = np.random.default_rng(0).random((4, *shape), np.float32) * pixels
    ends_in_softmax = are_probabilities(np.asarray(model(few, training=False), np.float32))

    def logits(examples, training=False):
        examples = tf.reshape(examples, (-1, *shape))
        outputs = tf.cast(model(examples if pixels == 1 else pixels * examples, training=training), tf.float32)
        return tf.math.log(tf.maximum(outputs, TINY)) if ends_in_softmax else outputs

    return logits


def mean_logits(each):
    """The logits of the mean of the probabilities of several models: a list of their logits (n, C) -> (n, C); of one its own."""
    return tf.reduce_logsumexp(tf.nn.log_softmax(each), 0) - math.log(len(each)) if len(each) > 1 else each[0]


def predictor(model, batch_size=1000, pixels=1.0):
    """Returns predict(examples (n, ...)) -> logits (n, C) float32, both NumPy arrays, at inference (no dropout).

    model: see `caller`; or a list of models, of whose probabilities the mean is taken.
    """
    compiled = None

    def compile_for(examples):
        calls = [caller(one, examples.shape[1:], pixels) for one in (model if isinstance(model, list) else [model])]

        @tf.function(input_signature=[tf.TensorSpec((None, *examples.shape[1:]), examples.dtype)])
        def logits(examples):
            return mean_logits([call(to_unit(examples)) for call in calls])

        return logits

    def predict(examples):
        nonlocal compiled
        compiled = compiled or compile_for(examples)
        return np.concatenate([compiled(examples[i : i + batch_size]) for i in range(0, len(examples), batch_size)])

    return predict


def count_errors(model, split, pixels=1.0):
    """How many examples of a data.Split the model puts into a class other than their label. model, pixels: see `predictor`."""
    return int(np.sum(predictor(model, pixels=pixels)(split.images).argmax(-1) != split.labels))


def fingerprint(*models):
    """The SHA-256 of each model's weights, in one string."""
    return "+".join(files.fingerprint(*model.get_weights()) for model in models)


def describe_errors(errors, num_images):
    """A sentence: the test errors, and the accuracy."""
    return f"{errors:,} test errors in {num_images:,} images, accuracy {1 - errors / num_images:.2%}"


def are_probabilities(outputs):
    """Whether outputs (n, C) are probabilities, as of a model that ends in a softmax, rather than logits."""
    return bool(outputs.min() >= 0 and np.allclose(outputs.sum(-1), 1, atol=1e-3))


def multiply_adds(model):
    """Multiply-adds of one image in a model's dense and convolutional layers; None if others (such as recurrent ones) multiply."""
    call = tf.function(lambda image: model(image, training=False))
    graph = call.get_concrete_function(tf.TensorSpec((1, *model.input_shape[1:]))).graph
    summed = {"MatMul": 1, "Conv2D": 3, "DepthwiseConv2dNative": 2}  # the kernel's dimensions that are summed over
    total = 0
    for op in graph.get_operations():
        if op.type in summed:
            total += math.prod(op.outputs[0].shape) * math.prod(op.inputs[1].shape[: summed[op.type]])
        elif op.type.startswith(("Conv", "Einsum", "BatchMatMul", "While", "StatelessWhile", "CudnnRNN")):
            return None
    return total


def save(model, path, settings, history):
    """Save the model at `path` (.keras) and its history beside it (.csv), each completely or not at all.

    settings: a dict of plain values, all that decided the training. They and the history are also in the .keras archive, where
    `load_training` reads them; the .csv is for people.
    """
    with files.atomic_write(path) as scratch:
        model.save(scratch)
        with zipfile.ZipFile(scratch, "a") as archive:
            archive.writestr(TRAINING, json.dumps({"settings": settings, "history": history}))
            archive.writestr(DIGESTS, json.dumps(_digests(archive)))
        with files.atomic_write(path.with_suffix(".csv")) as beside, open(beside, "w", newline="") as file:
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

    Raises UserError: it is missing, damaged, no Keras model, does not take examples of this shape (see `fitting_shape`), or
    does not return num_classes numbers for each.
    """

    def read(archive):
        files.check_expansion(path, _declared_bytes(archive))
        return keras.models.load_model(path, compile=False, safe_mode=True)

    model = _read(path, read)
    shapes = {what: getattr(model, what, None) for what in ("input_shape", "output_shape")}  # None: it was never built
    for what, needed, fits in (
        ("input_shape", (None, *example_shape), fitting_shape(model, example_shape) is not None),
        ("output_shape", (None, num_classes), shapes["output_shape"] == (None, num_classes)),
    ):
        if not fits:
            raise UserError(
                f"{path}: {what} is {shapes[what]}, but the data need {needed}: choose other --data or model"
            )
    return model


def load_training(path):
    """(settings, history) that `save` put into a model file; ({}, []) for a model from elsewhere. Raises UserError as `load`."""

    def parse(archive):
        if TRAINING not in archive.namelist():
            return {}, []
        saved = json.loads(archive.read(TRAINING))
        return dict(saved["settings"]), [Epoch(*row) for row in saved["history"]]

    return _read(path, parse)


def is_made_with(path, wanted):
    """Whether there is a sound model file at `path` that was trained with the settings `wanted`."""
    try:
        return not differing(load_training(path)[0], wanted)
    except UserError:
        return False


def _read(path, read):
    """read(archive) of the .keras file at `path`, after every member of it has passed its checksum."""
    missing = "there is no such model file: `python teacher.py` and `python distill.py` make them"
    with files.reading(path, missing, "train or save it again"):
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
                expected = json.loads(archive.read(DIGESTS))
                changed = {*differing(found, expected), *differing(expected, found)}  # added members too
                if changed:
                    raise ValueError(f"changed since it was saved: {', '.join(changed)}")
            return read(archive)


def _digests(archive):
    digests = {}
    for name in archive.namelist():
        with archive.open(name) as member:
            digests[name] = hashlib.file_digest(member, "sha256").hexdigest()
    return digests


def _declared_bytes(archive):
    """The memory that the weights of a model will take, as its config.json declares them; Keras checks those in the file."""
    # Without the optimizer, which cannot be created in a StatelessScope.
    config = json.loads(
        archive.read("config.json"),
        object_hook=lambda found: {key: value for key, value in found.items() if key != "compile_config"},
    )
    declared = math.inf
    try:
        with keras.StatelessScope(initialize_variables=False):
            variables = keras.models.model_from_json(json.dumps(config)).variables
            declared = 4 * sum(math.prod(variable.shape) for variable in variables)
    finally:
        if declared > files.SMALL_BYTES:
            keras.utils.clear_session()  # else Keras would create those variables together with the next model's
    return declared
