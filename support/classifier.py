"""The logits of any Keras classifier: which shape and pixels it takes, and what its outputs are."""

from __future__ import annotations

import contextlib
import functools
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support import UserError, files, terminal

import keras
import numpy as np
import tensorflow as tf

if TYPE_CHECKING:  # for the hints only
    from data import Split

PROBED = 100  # examples on which a model is tried before it is compiled
TINY = float(np.finfo(np.float32).tiny)  # the smallest probability whose logarithm is taken
EPSILON = {"float16": 2**-10, "bfloat16": 2**-7}  # machine epsilon of a net's compute dtype; FLOAT32_EPSILON of others
FLOAT32_EPSILON = 2**-23
PIXELS = (1 / 255, 1.0, 255.0)  # factors by which a model may need its inputs multiplied
LISTED_CLASSES = 20  # of up to so many classes, a message lists the order
TRANSPARENT = ("Flatten", "Reshape", "Identity", "Dropout", "Squeeze", "ExpandDims")  # layers that change no number
# Activations whose outputs are not probabilities.
LOGITS = (
    "linear",
    "log_softmax",
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "silu",
    "swish",
    "softplus",
    "tanh",
)


def to_unit(images: np.ndarray | tf.Tensor) -> tf.Tensor:
    """What the nets see, float32: uint8 images scaled to [0, 1], and floats as they are."""
    return tf.cast(images, tf.float32) / (255.0 if images.dtype == tf.uint8 else 1.0)


# ---- what a model takes ----------------------------------------------------------------------------------------------


def single_shape(tensors: list[keras.KerasTensor] | None) -> tuple[int | None, ...] | None:
    """The shape, without the batch axis, of a model's only input or output; None if it has several, or none."""
    return tuple(tensors[0].shape[1:]) if tensors and len(tensors) == 1 else None


def fitting_shape(model: keras.Model, example_shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape, without the batch axis, in which a Keras model takes an example of this shape; None if it cannot.

    Axes of size 1 are added or removed; an example is flattened, or a flat one is given its axes. (28, 28) fits a
    model that takes (28, 28), (28, 28, 1), (784,) or (None, None, 1), but not (14, 56), which would scramble the
    pixels.
    """
    declared = single_shape(getattr(model, "inputs", None))
    if declared is None:  # several inputs, or a model built by a call, which does not record the shape
        return None if getattr(model, "inputs", None) or not model.built else tuple(example_shape)
    shape = tuple(given if size is None else size for size, given in zip(declared, (*example_shape, 1)))
    if len(shape) != len(declared) or math.prod(shape) != math.prod(example_shape):
        return None
    model_axes = [size for size in shape if size != 1]
    example_axes = [size for size in example_shape if size != 1]
    one_is_flat = min(len(model_axes), len(example_axes)) <= 1
    return shape if model_axes == example_axes or one_is_flat else None


def fitting_advice(model: keras.Model, example_shape: tuple[int, ...]) -> str:
    """What the user can do where `fitting_shape` is None."""
    model_sizes = Counter(size for size in single_shape(model.inputs) or () if size != 1)
    example_sizes = Counter(size for size in example_shape if size != 1)
    if model_sizes == example_sizes:
        return "transpose them: the axes are in another order"
    return "choose another model, or the --data that it is for"


def build(model: keras.Model, example_shape: tuple[int, ...]) -> None:
    """Build a Keras model for examples of this shape, unless it is built."""
    if model.built:
        return
    try:
        if isinstance(model, keras.Sequential):
            model.build((None, *example_shape))
        else:  # a subclass of keras.Model
            model(tf.zeros((1, *example_shape)))
    except Exception as error:
        problem = files.cause(error)
        advice = f"call it once on a batch of them, or give it a keras.Input({tuple(example_shape)})"
        raise UserError(
            f"the model cannot be built for examples of {tuple(example_shape)} ({problem}): {advice}"
        ) from error


def pixels_for(model: keras.Model, examples: np.ndarray | tf.Tensor, pixels: float) -> float:
    """The factor for examples: 255 if they are in [0, 1], the model takes integers and `pixels` is 1; else `pixels`."""
    values = np.asarray(examples)
    in_unit = 0 <= values.min() and values.max() <= 1 and (values % 1).any()
    return 255.0 if pixels == 1 and in_unit and takes_integers(model) else pixels


def takes_integers(model: keras.Model) -> bool:
    """Whether the model declares an integer input."""
    inputs = getattr(model, "inputs", None)
    return bool(inputs) and tf.as_dtype(inputs[0].dtype).is_integer


def feeder(model: keras.Model, examples: np.ndarray | tf.Tensor, pixels: float = 1.0) -> Callable[[tf.Tensor], Any]:
    """Returns feed(examples (n, *shape) float32) -> the model's input, with its axes, pixels, dtype and structure.

    examples: some of the examples to come. pixels: a factor for the inputs, see `pixels_for`.
    """
    example_shape = tuple(examples.shape[1:])
    build(model, example_shape)
    shape = fitting_shape(model, example_shape)
    if shape is None:
        input_shapes = ", ".join(str(tuple(tensor.shape)) for tensor in model.inputs)
        problem = f"a model that takes {input_shapes} cannot take examples of shape {example_shape}"
        raise UserError(f"{problem}: {fitting_advice(model, example_shape)}")
    scale = pixels_for(model, examples, pixels)
    structure = getattr(model, "_inputs_struct", None)

    def feed(examples: tf.Tensor) -> Any:
        examples = tf.reshape(examples, (-1, *shape))
        examples = examples if scale == 1 else scale * examples
        if takes_integers(model):
            examples = tf.cast(tf.round(examples), model.inputs[0].dtype)
        # A model may want its only input in a list or a dict.
        return examples if structure is None else tf.nest.map_structure(lambda _: examples, structure)

    return feed


# ---- what a model returns --------------------------------------------------------------------------------------------


def last_activation(model: keras.Model) -> str | None:
    """The name of a model's last activation, such as "softmax" or "linear"; None where the model does not show it."""
    try:
        operation, node, index = model.outputs[0]._keras_history
        while True:
            if getattr(operation, "outputs", None):  # a model inside the model
                operation, node, index = operation.outputs[index]._keras_history
                continue
            activation = _activation_name(operation)
            is_linear = activation == "linear" and not operation.weights
            if not is_linear and type(operation).__name__ not in TRANSPARENT:
                return activation
            operation, node, index = operation._inbound_nodes[node].input_tensors[0]._keras_history
    except (AttributeError, TypeError, IndexError):  # a subclass of keras.Model, or another version of Keras
        return None


def _activation_name(operation: keras.Operation) -> str | None:
    """The name of a layer's or operation's activation; None if it has none, or several."""
    kind = type(operation).__name__
    if kind in ("Softmax", "LogSoftmax", "Sigmoid"):
        return "log_softmax" if kind == "LogSoftmax" else kind.lower()
    activation = getattr(operation, "activation", None)
    if activation is None or hasattr(operation, "recurrent_activation"):
        return None
    name = getattr(activation, "__name__", type(activation).__name__.lower())
    return name.removesuffix("_v2")  # that of tf.nn.softmax is softmax_v2


def output_kind(model: keras.Model, outputs: np.ndarray) -> str:
    """What a model's outputs (n, C) for real examples are: "softmax", "sigmoid" or "logits".

    If the last activation is a sigmoid or one of LOGITS, that decides. Otherwise, and to confirm a softmax, the
    outputs decide: whether they sum to 1, within the precision of the model's coarsest layer.
    """
    activation = last_activation(model)
    if activation == "sigmoid":
        return "sigmoid"
    if activation in LOGITS:
        return "logits"
    tolerance = max(1e-3, 16 * _epsilon(model))
    in_unit = outputs.min() >= 0 and outputs.max() <= 1 + tolerance
    if outputs.shape[1] > 1 and in_unit and np.allclose(outputs.sum(-1), 1, rtol=0, atol=tolerance):
        return "softmax"
    if activation == "softmax" and np.isfinite(outputs).all() or in_unit:
        raise UserError(
            "a model's outputs are from 0 to 1, but no probabilities that sum to 1 over the classes:"
            " let it end in a softmax, in a sigmoid, or in a layer without activation"
        )
    return "logits"


def _epsilon(model: keras.Model) -> float:
    """The largest machine epsilon of the dtypes in which a model's layers compute."""
    return max(EPSILON.get(layer.compute_dtype, FLOAT32_EPSILON) for layer in model._flatten_layers())


def adapters(
    model: keras.Model, examples: np.ndarray | tf.Tensor, pixels: float = 1.0
) -> tuple[Callable[[tf.Tensor], Any], Callable[[Any], tf.Tensor]]:
    """Returns feed, see `feeder`, and read(what the model returns) -> logits (n, C) float32, for any classifier.

    The probabilities p of a softmax become log p, whose softmax is p again; those of sigmoids log p - log(1 - p). A
    model with a single output x, or sigmoid of x, scores class 1 of two: its logits are (0, x). examples: some
    real examples, on which the model is tried. pixels: a factor for the inputs, see `pixels_for`.
    """
    examples = examples[:PROBED]
    feed = feeder(model, examples, pixels)
    try:
        outputs = tf.nest.flatten(model(feed(tf.convert_to_tensor(examples)), training=False))
    except Exception as error:
        problem = files.cause(error)
        raise UserError(f"the model cannot be run on examples of {tuple(examples.shape[1:])} ({problem})") from error
    if len(outputs) != 1 or len(outputs[0].shape) != 2:
        shapes = ", ".join(str(tuple(output.shape)) for output in outputs)
        raise UserError(f"a classifier returns one row of numbers for an example, this model {shapes}: use another one")
    kind = output_kind(model, np.asarray(outputs[0], np.float32))
    smallest = _epsilon(model) / 2  # 1 - p is 0, or at least this

    def read(outputs: Any) -> tf.Tensor:
        (outputs,) = tf.nest.flatten(outputs)  # a model may return its only output in a list or a dict
        outputs = tf.cast(outputs, tf.float32)
        if kind != "logits":
            log_complement = tf.math.log(tf.maximum(1 - outputs, smallest)) if kind == "sigmoid" else 0.0
            outputs = tf.math.log(tf.maximum(outputs, TINY)) - log_complement
        return tf.pad(outputs, [[0, 0], [1, 0]]) if outputs.shape[1] == 1 else outputs

    return feed, read


def as_function(model: keras.Model, examples: np.ndarray | tf.Tensor, pixels: float = 1.0) -> Callable[..., tf.Tensor]:
    """Returns logits(examples (n, *shape) float32, training=False) -> (n, C) float32. The rest: see `adapters`."""
    feed, read = adapters(model, examples, pixels)
    return lambda examples, training=False: read(model(feed(examples), training=training))


def mean_logits(logits: list[np.ndarray] | list[tf.Tensor]) -> np.ndarray | tf.Tensor:
    """Ensemble logits (n, C): the log of the mean probability of several models' logits; those of one as they are."""
    if len(logits) == 1:
        return logits[0]
    return tf.reduce_logsumexp(tf.nn.log_softmax(logits), 0) - math.log(len(logits))


def predictor(
    model: keras.Model | list[keras.Model], batch_size: int = 1000, pixels: float = 1.0
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns predict(examples (n, ...)) -> logits (n, C) float32, at inference (no dropout).

    model: a classifier, see `adapters`; or a list of them, whose probabilities are averaged. pixels: a factor for the
    inputs, see `pixels_for`.
    """
    compiled = None

    def compile_for(examples: np.ndarray) -> Callable[[np.ndarray], tf.Tensor]:
        probe = to_unit(examples[:PROBED])
        nets = model if isinstance(model, list) else [model]
        calls = [as_function(net, probe, pixels) for net in nets]
        if len(nets) > 1 and len({call(probe).shape[1] for call in calls}) > 1:
            raise UserError("the teachers have different numbers of classes: they cannot be averaged")

        @tf.function(input_signature=[tf.TensorSpec((None, *examples.shape[1:]), examples.dtype)])
        def logits(examples: tf.Tensor) -> tf.Tensor:
            return mean_logits([call(to_unit(examples)) for call in calls])

        return logits

    def predict(examples: np.ndarray) -> np.ndarray:
        nonlocal compiled
        compiled = compiled or compile_for(examples)
        return np.concatenate([compiled(examples[i : i + batch_size]) for i in range(0, len(examples), batch_size)])

    return predict


# ---- how good a model is, and what it costs --------------------------------------------------------------------------


def count_errors(model: keras.Model | list[keras.Model], split: Split, pixels: float = 1.0) -> int:
    """The number of examples that the model assigns to a wrong class. model, pixels: see `predictor`."""
    return int(np.sum(predictor(model, pixels=pixels)(split.images).argmax(-1) != split.labels))


def describe_errors(errors: int, num_images: int) -> str:
    """'93 test errors in 10,000 images, accuracy 99.07%'."""
    return f"{errors:,} test errors in {num_images:,} images, accuracy {1 - errors / num_images:.2%}"


def order_warning(classes: np.ndarray, labels: np.ndarray) -> str | None:
    """A sentence, if a model's classes are clearly in another order than the labels'; else None.

    Clearly: each predicted class is mostly one class of the labels, each another one, and renaming them leaves less
    than half of the errors, and less than half of those of always naming the commonest class. classes: predicted for
    labelled examples (n,); labels: (n,).
    """
    size = 1 + max(classes.max(), labels.max())
    counts = np.bincount(size * classes + labels, minlength=size**2).reshape(size, size)  # predicted, true
    order, is_predicted = counts.argmax(1), counts.any(1)
    errors, renamed_errors = len(labels) - np.trace(counts), len(labels) - counts.max(1).sum()
    commonest_class_errors = len(labels) - counts.sum(0).max()
    is_one_to_one = len({*order[is_predicted]}) == is_predicted.sum()
    if not is_one_to_one or renamed_errors >= min(errors, commonest_class_errors) / 2:
        return None
    accuracy, renamed_accuracy = 1 - errors / len(labels), 1 - renamed_errors / len(labels)
    listed, put_right = "", "outputs with their columns in the order of the data's classes"
    if is_predicted.all() and size <= LISTED_CLASSES:
        listed, put_right = f", {', '.join(map(str, order))}", f"outputs[:, {np.argsort(order).tolist()}]"
    return (
        f"right on {accuracy:.0%} of {len(labels):,} examples, but on {renamed_accuracy:.0%} if its classes are in"
        f" another order{listed} (Keras and torchvision sort folders as text: 0, 1, 10, 2). Put its outputs right: a"
        f" teacher can be given as logits.npz, with train={put_right}"
    )


def warn_of_pixels(path: Path, model: keras.Model, split: Split, pixels: float, option: str) -> None:
    """Print what `pixels_warning` says, if anything, about the model of the file at `path`."""
    if problem := pixels_warning(model, split, pixels, option):
        terminal.clear_progress()
        print(f"warning: {path}: {problem}", flush=True)


def pixels_warning(model: keras.Model, split: Split, pixels: float, option: str) -> str | None:
    """A sentence that says what to do, if a model is much better with other inputs than `pixels` times the examples.

    Other inputs: with another factor, which `option` sets; pixels from -1 to 1; or with mean 0 and deviation 1. Much
    better: less than half of the errors, by three standard errors of their number, and less than half of those of
    always naming the commonest class. split: some labelled examples. None: `pixels` will do.
    """
    images = to_unit(split.images)
    rescaling = [layer.scale for layer in model._flatten_layers() if isinstance(layer, keras.layers.Rescaling)]
    if rescaling and np.max(rescaling[0]) * pixels_for(model, images, pixels) * np.max(images) < 1 / 100:
        return f"its layer Rescaling leaves next to nothing of pixels up to {np.max(images):.3g}: give {option} 255"

    def num_errors(factor: float, offset: float) -> int:
        inputs, factor = (factor * images + offset, 1.0) if offset else (images, factor)
        return int(np.sum(as_function(model, inputs, factor)(inputs).numpy().argmax(-1) != split.labels))

    others = {(factor, 0.0): f"{option} {factor:.6g}: give that option" for factor in PIXELS}
    if np.min(images) >= 0 and 1 >= np.max(images) > np.min(images):
        mean, deviation = np.mean(images), np.std(images)
        offsets = {"from -1 to 1": (2.0, -1.0), "with mean 0 and deviation 1": (1 / deviation, -mean / deviation)}
        for name, (factor, offset) in offsets.items():
            layers = f"keras.Input({single_shape(model.inputs)}), keras.layers.Rescaling({factor:.4g}, {offset:.4g})"
            saved = f"keras.Sequential([{layers}, model]).save('scaled.keras')"
            others[factor, offset] = f"pixels {name}: use a model that makes them so, {saved}"
    given, num_images, errors = num_errors(pixels, 0.0), len(split.labels), {}
    for factor, offset in others:
        with contextlib.suppress(UserError):  # its outputs are then neither probabilities nor logits
            errors[factor, offset] = num_errors(factor, offset)
    best = min(errors, key=errors.get)
    commonest_class_errors = num_images - np.bincount(split.labels).max()
    if errors[best] >= min(given / 2, given - 3 * math.sqrt(given), commonest_class_errors / 2):
        return None
    accuracy, best_accuracy = 1 - given / num_images, 1 - errors[best] / num_images
    return f"right on {accuracy:.0%} of {num_images:,} examples, but on {best_accuracy:.0%} with {others[best]}"


def multiply_adds(model: keras.Model, example_shape: tuple[int, ...]) -> int | None:
    """Multiply-adds for one example in a model's dense and convolutional layers.

    None if layers of other kinds, such as recurrent ones, multiply matrices too.
    """
    shape = fitting_shape(model, example_shape)
    call = tf.function(functools.partial(model, training=False))
    graph = call.get_concrete_function(tf.TensorSpec((1, *shape), model.inputs[0].dtype)).graph
    summed = {"MatMul": 1, "Conv2D": 3, "DepthwiseConv2dNative": 2}  # how many kernel axes are summed over
    total = 0
    for op in graph.get_operations():
        if op.type in summed:
            total += math.prod(op.outputs[0].shape) * math.prod(op.inputs[1].shape[: summed[op.type]])
        elif op.type.startswith(("Conv", "Einsum", "BatchMatMul", "While", "StatelessWhile", "CudnnRNN")):
            return None
    return total
