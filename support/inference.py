"""Any Keras classifier asked for its logits: the shape and the pixels that it takes, and what it returns."""

import contextlib
import functools
import math
from collections import Counter
from dataclasses import dataclass

from support import UserError, files, terminal
from support.recipe import Recipe, factor, setting

import keras
import numpy as np
import tensorflow as tf

PROBED = 100  # examples on which a model is tried, before it is compiled
TINY = float(np.finfo(np.float32).tiny)  # the least probability whose logarithm is taken
EPS = {"float16": 2**-10, "bfloat16": 2**-7}  # the steps between 1 and 2 of the dtypes that a net may compute in; else
EPS_FLOAT32 = 2**-23
PIXELS = (1 / 255, 1.0, 255.0)  # what a model may want its examples multiplied by
TRANSPARENT = ("Flatten", "Reshape", "Identity", "Dropout", "Squeeze", "ExpandDims")  # they leave each number as it is
# What ends in one of these is no probability.
LOGITS = ("linear", "log_softmax", "relu", "leaky_relu", "elu", "gelu", "silu", "tanh")


def to_unit(images):
    """What the nets see, float32: images of uint8 as numbers in [0, 1]; examples of floats as they are."""
    return tf.cast(images, tf.float32) / (255.0 if images.dtype == tf.uint8 else 1.0)


@dataclass(frozen=True)
class TeacherPixels(Recipe):
    """An option of the scripts that load a teacher."""

    teacher_pixels: float | None = setting(
        1.0, factor, "multiply the teacher's inputs by this: 255 for nets trained on 0...255", metavar="FACTOR"
    )


@dataclass(frozen=True)
class StudentPixels(Recipe):
    """An option of the scripts that load nets, but for training, where it is one of the StudentRecipe's settings."""

    student_pixels: float | None = setting(
        None,
        factor,
        "multiply the inputs of each model but the teacher by this (default: as its file says, or 1)",
        metavar="FACTOR",
    )


# ---- what a model takes ----------------------------------------------------------------------------------------------


def single_shape(tensors):
    """The shape, without the batch, of a model's only input or output; None if it has several, or none."""
    return tuple(tensors[0].shape[1:]) if tensors and len(tensors) == 1 else None


def fitting_shape(model, example_shape):
    """The shape, without the batch, in which a Keras model takes an example of this shape; None if it cannot.

    Axes of size 1 are added and removed, and an example is made flat, or a flat one is given its axes: (28, 28) fits
    a model that takes (28, 28), (28, 28, 1), (784,) or (None, None, 1). It does not fit (14, 56): the pixels would be
    scrambled.
    """
    wanted = single_shape(getattr(model, "inputs", None))
    if wanted is None:  # of several inputs, or built by a call, which leaves no trace of the shape
        return None if getattr(model, "inputs", None) or not model.built else tuple(example_shape)
    shape = tuple(given if size is None else size for size, given in zip(wanted, (*example_shape, 1)))
    if len(shape) != len(wanted) or math.prod(shape) != math.prod(example_shape):
        return None
    taken, given = ([size for size in sizes if size != 1] for sizes in (shape, example_shape))
    return shape if taken == given or min(len(taken), len(given)) <= 1 else None


def fitting_advice(model, example_shape):
    """What to do where `fitting_shape` is None."""
    wanted = single_shape(model.inputs) or ()
    sizes = [Counter(size for size in shape if size != 1) for shape in (wanted, example_shape)]
    if sizes[0] == sizes[1]:
        return "transpose them: the axes are in another order"
    return "choose another model, or other data"


def build(model, example_shape):
    """Build a Keras model that has not been built, for examples of this shape. Raises UserError: it cannot be."""
    if model.built:
        return
    try:
        if isinstance(model, keras.Sequential):
            model.build((None, *example_shape))
        else:  # of a class of one's own
            model(tf.zeros((1, *example_shape)))
    except Exception as error:
        problem = files.cause(error)
        advice = f"call it once on a batch of them, or give it a keras.Input({tuple(example_shape)})"
        raise UserError(
            f"the model cannot be built for examples of {tuple(example_shape)} ({problem}): {advice}"
        ) from error


def pixels_for(model, examples, pixels):
    """What examples are multiplied by: `pixels`, or 255 for images in [0, 1] and a model that takes whole numbers."""
    values = np.asarray(examples)
    in_unit = 0 <= values.min() and values.max() <= 1 and (values % 1).any()
    return 255.0 if pixels == 1 and in_unit and takes_integers(model) else pixels


def takes_integers(model):
    """Whether the model's input is declared to be whole numbers."""
    inputs = getattr(model, "inputs", None)
    return bool(inputs) and tf.as_dtype(inputs[0].dtype).is_integer


def feeder(model, examples, pixels=1.0):
    """Returns feed(examples (n, *shape) float32) -> what the model takes, in its axes, pixels and dtype.

    examples: some of them. pixels: see `pixels_for`. Raises UserError: the model does not take such examples.
    """
    example_shape = tuple(examples.shape[1:])
    build(model, example_shape)
    shape = fitting_shape(model, example_shape)
    if shape is None:
        taken = ", ".join(str(tuple(one.shape)) for one in model.inputs)
        problem = f"a model that takes {taken} cannot take examples of shape {example_shape}"
        raise UserError(f"{problem}: {fitting_advice(model, example_shape)}")
    factor = pixels_for(model, examples, pixels)
    structure = getattr(model, "_inputs_struct", None)

    def feed(examples):
        examples = tf.reshape(examples, (-1, *shape))
        examples = examples if factor == 1 else factor * examples
        if takes_integers(model):
            examples = tf.cast(tf.round(examples), model.inputs[0].dtype)
        # A model may want its only input in a list or a dict.
        return examples if structure is None else tf.nest.map_structure(lambda _: examples, structure)

    return feed


# ---- what a model returns --------------------------------------------------------------------------------------------


def last_activation(model):
    """'softmax', 'sigmoid' or another name of what a model ends in; None where the model does not show it."""
    try:
        operation, node, place = model.outputs[0]._keras_history
        while True:
            if getattr(operation, "outputs", None):  # a model in the model
                operation, node, place = operation.outputs[place]._keras_history
            elif (
                type(operation).__name__ in TRANSPARENT
                or _activation_name(operation) == "linear"
                and not operation.weights
            ):
                operation, node, place = operation._inbound_nodes[node].input_tensors[0]._keras_history
            else:
                return _activation_name(operation)
    except (AttributeError, TypeError, IndexError):  # a model of a class of one's own, or another Keras
        return None


def _activation_name(operation):
    """The name of the activation that a layer or operation ends in; None if it has none, or more than that."""
    if type(operation).__name__ in ("Softmax", "LogSoftmax", "Sigmoid"):
        return {"LogSoftmax": "log_softmax"}.get(type(operation).__name__, type(operation).__name__.lower())
    activation = getattr(operation, "activation", None)
    if activation is None or hasattr(operation, "recurrent_activation"):
        return None
    return getattr(activation, "__name__", type(activation).__name__.lower())


def output_kind(model, outputs):
    """'softmax', 'sigmoid' or 'logits': what a model's outputs (n, C) of real examples are.

    A sigmoid, or an activation of LOGITS, as the last one decides it. Otherwise, and to confirm a softmax, the
    outputs do: whether they sum to 1, to the precision of the model's coarsest layer.

    Raises UserError: they are from 0 to 1, but neither the probabilities of a softmax nor of sigmoids.
    """
    name = last_activation(model)
    if name == "sigmoid" or name in LOGITS:
        return "sigmoid" if name == "sigmoid" else "logits"
    tolerance = max(1e-3, 16 * _eps(model))
    in_unit = outputs.min() >= 0 and outputs.max() <= 1 + tolerance
    if outputs.shape[1] > 1 and in_unit and np.allclose(outputs.sum(-1), 1, rtol=0, atol=tolerance):
        return "softmax"
    if name == "softmax" and np.isfinite(outputs).all() or in_unit:
        raise UserError(
            "a model's outputs are from 0 to 1, but no probabilities that sum to 1 over the classes:"
            " let it end in a layer with a softmax or a sigmoid, or in one without activation"
        )
    return "logits"


def _eps(model):
    """The relative precision of the coarsest of the dtypes that a model's layers compute in."""
    return max(EPS.get(layer.compute_dtype, EPS_FLOAT32) for layer in model._flatten_layers())


def adapters(model, examples, pixels=1.0):
    """Returns feed, see `feeder`, and read(what the model returns) -> logits (n, C) float32, of any classifier.

    A softmax gives the logarithms of its probabilities p, which are logits: a softmax gives the probabilities back. A
    sigmoid gives log p - log(1 - p) for each class. A single output x, or sigmoid of x, scores class 1 of two: its
    logits are (0, x). examples: some real ones, on which the model is tried. pixels: see `pixels_for`.

    Raises UserError: the model does not take such examples, or does not return one row of numbers for each; see
    `output_kind`.
    """
    examples = examples[:PROBED]
    feed = feeder(model, examples, pixels)
    try:
        outputs = tf.nest.flatten(model(feed(tf.convert_to_tensor(examples)), training=False))
    except Exception as error:
        problem = files.cause(error)
        raise UserError(f"the model cannot be run on examples of {tuple(examples.shape[1:])} ({problem})") from error
    if len(outputs) != 1 or len(outputs[0].shape) != 2:
        shapes = ", ".join(str(tuple(one.shape)) for one in outputs)
        raise UserError(f"a classifier returns one row of numbers for an example, this model {shapes}: use another one")
    kind = output_kind(model, np.asarray(outputs[0], np.float32))
    least = _eps(model) / 2  # 1 - p is 0, or at least this

    def read(outputs):
        (outputs,) = tf.nest.flatten(outputs)  # it may return its only output in a list or a dict
        outputs = tf.cast(outputs, tf.float32)
        if kind != "logits":
            against = tf.math.log(tf.maximum(1 - outputs, least)) if kind == "sigmoid" else 0.0
            outputs = tf.math.log(tf.maximum(outputs, TINY)) - against
        return tf.pad(outputs, [[0, 0], [1, 0]]) if outputs.shape[1] == 1 else outputs

    return feed, read


def caller(model, examples, pixels=1.0):
    """Returns logits(examples (n, *shape) float32, training=False) -> (n, C) float32. The rest: see `adapters`."""
    feed, read = adapters(model, examples, pixels)
    return lambda examples, training=False: read(model(feed(examples), training=training))


def mean_logits(each):
    """Ensemble logits: the log of the mean probability. each: a list of logits (n, C); a single one is returned."""
    return tf.reduce_logsumexp(tf.nn.log_softmax(each), 0) - math.log(len(each)) if len(each) > 1 else each[0]


def predictor(model, batch_size=1000, pixels=1.0):
    """Returns predict(examples (n, ...)) -> logits (n, C) float32, both NumPy arrays, at inference (no dropout).

    model: see `adapters`; or a list of models, of whose probabilities the mean is taken. pixels: a number by which
    the examples are multiplied, see `pixels_for`.
    """
    compiled = None

    def compile_for(examples):
        known = to_unit(examples[:PROBED])
        calls = [caller(one, known, pixels) for one in (model if isinstance(model, list) else [model])]

        @tf.function(input_signature=[tf.TensorSpec((None, *examples.shape[1:]), examples.dtype)])
        def logits(examples):
            return mean_logits([call(to_unit(examples)) for call in calls])

        return logits

    def predict(examples):
        nonlocal compiled
        compiled = compiled or compile_for(examples)
        return np.concatenate([compiled(examples[i : i + batch_size]) for i in range(0, len(examples), batch_size)])

    return predict


# ---- what a model is worth -------------------------------------------------------------------------------------------


def count_errors(model, split, pixels=1.0):
    """How many examples of a data.Split the model puts into another class. model, pixels: see `predictor`."""
    return int(np.sum(predictor(model, pixels=pixels)(split.images).argmax(-1) != split.labels))


def describe_errors(errors, num_images):
    """A sentence: the test errors, and the accuracy."""
    return f"{errors:,} test errors in {num_images:,} images, accuracy {1 - errors / num_images:.2%}"


def warn_of_pixels(path, model, split, pixels, option):
    """Print what `pixels_warning` says about the model of the file at `path`."""
    if problem := pixels_warning(model, split, pixels, option):
        terminal.clear_progress()
        print(f"warning: {path}: {problem}", flush=True)


def pixels_warning(model, split, pixels, option):
    """A sentence, where a model is much better with its examples multiplied by another number than `pixels`; else None.

    Much better: less than half of the errors, and less than half of those of always naming the commonest class.
    split: some labelled examples, as a data.Split. option: the one to name.
    """
    images = to_unit(split.images)
    rescaling = [layer.scale for layer in model._flatten_layers() if isinstance(layer, keras.layers.Rescaling)]
    if rescaling and np.max(rescaling[0]) * pixels_for(model, images, pixels) * np.max(images) < 1 / 100:
        return f"its layer Rescaling leaves next to nothing of pixels up to {np.max(images):.3g}: give {option} 255"

    def num_errors(value):
        return int(np.sum(caller(model, images, value)(images).numpy().argmax(-1) != split.labels))

    errors, number = {pixels: num_errors(pixels)}, len(split.labels)
    for value in PIXELS:
        with contextlib.suppress(UserError):  # its outputs are then neither probabilities nor logits
            errors[value] = num_errors(value)
    best = min(errors, key=errors.get)
    if not errors[best] < min(errors[pixels], number - np.bincount(split.labels).max()) / 2:
        return None
    now, then = (1 - errors[value] / number for value in (pixels, best))
    return f"right on {now:.0%} of {number:,} examples, but on {then:.0%} with {option} {best:.6g}: give that option"


def multiply_adds(model, example_shape):
    """Multiply-adds of one example in a model's dense and convolutional layers; None if others (such as recurrent
    ones) multiply.
    """
    shape = fitting_shape(model, example_shape)
    call = tf.function(functools.partial(model, training=False))
    graph = call.get_concrete_function(tf.TensorSpec((1, *shape), model.inputs[0].dtype)).graph
    summed = {"MatMul": 1, "Conv2D": 3, "DepthwiseConv2dNative": 2}  # the kernel's dimensions that are summed over
    total = 0
    for op in graph.get_operations():
        if op.type in summed:
            total += math.prod(op.outputs[0].shape) * math.prod(op.inputs[1].shape[: summed[op.type]])
        elif op.type.startswith(("Conv", "Einsum", "BatchMatMul", "While", "StatelessWhile", "CudnnRNN")):
            return None
    return total
