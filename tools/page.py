"""Write a page on which you draw a digit and see what teacher, student and distilled student say, at any temperature.

    python tools/page.py                        (teacher.keras, student.keras, distilled.keras; after python distill.py)
    python tools/page.py TEACHER.keras A.keras  (chains of dense, convolutional and pooling layers, the teacher first)

Writes artifacts/page.html: one file, which opens from disk and needs no network. The nets are in it and run in the
browser. Their kernels are stored as float16 (7 MB for the default nets), or with --int8 as int8 (4 MB). Takes some
seconds. If mini-racer, a JavaScript engine, is installed, the page's JavaScript is compared with Keras on 1,000 test
images.
"""

import base64
import itertools
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import UserError, classifier, files, model_files, plots, terminal

import keras
import numpy as np
import tensorflow as tf

import data
import evaluate

ATOB = """const atob = (text) => { // as browsers have it, which the engine does not
  const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", letters = [];
  for (let i = 0, bits = 0; i < text.length && text[i] !== "="; i++) {
    bits = ((bits << 6) | digits.indexOf(text[i])) & 0xffffff;
    if (i % 4) letters.push(String.fromCharCode((bits >> (6 - 2 * (i % 4))) & 255));
  }
  return letters.join("");
};"""
TEMPLATE = Path(__file__).with_suffix(".html")
MARK = '"PAGE DATA"'  # what the data replace in it
NUM_SHOWN = 12  # test images in each group of the page
NUM_CHECKED = 1000  # test images on which the page's arithmetic is compared with Keras'
TOLERANCE = 1e-3  # the largest difference of logits allowed there, as a share of their range


def to_base64(array):
    """The bytes of an array in C order, as a str."""
    return base64.b64encode(array.tobytes()).decode()


def encode(array, kind):
    """An array as the page decodes it, a dict of plain values; and the float32 values that the page will have.

    kind: "float32"; "float16"; or "int8", with a scale for each index of the last axis.
    """
    scale = {}
    if kind == "int8":
        steps = np.abs(array).max(tuple(range(array.ndim - 1))) / 127
        steps = np.where(steps > 0, steps, 1).astype(np.float32)
        scale = {"scale": encode(steps, "float32")[0]}
        stored = np.round(array / steps).astype(np.int8)
        values = stored * steps
    else:
        with np.errstate(over="ignore"):  # which `page_layers` finds
            stored = array.astype(f"<{np.dtype(kind).str[1:]}")
        values = stored.astype(np.float32)
    return {"type": kind, "data": to_base64(stored), **scale}, values


def chain(model, path):
    """The layers of a model, each of which takes what the one before returns."""
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    try:
        ends = [(model.inputs[0], layers[0].input), (layers[-1].output, model.outputs[0])]
        links = [(before.output, after.input) for before, after in itertools.pairwise(layers)]
        is_chain = isinstance(model, keras.Sequential) or all(one is other for one, other in links + ends)
    except (AttributeError, ValueError):  # a layer with several inputs, or called several times
        is_chain = False
    if not is_chain:
        problem = "the page cannot compute models with branches, or with operations between their layers"
        raise UserError(f"{path}: {problem}: name one whose layers form a chain")
    return layers


def check_chain(model, examples, pixels, path):
    """Raises UserError: the model's layers, one after the other, do not give what the model gives for the examples.

    examples: (n, ...), of its data. The page computes layer by layer: what it would leave out shows here, without a
    JavaScript engine.
    """
    feed, _ = classifier.adapters(model, examples, pixels)
    (values,) = tf.nest.flatten(feed(examples))
    (expected,) = (output.numpy() for output in tf.nest.flatten(model(values, training=False)))
    for layer in chain(model, path):
        values = layer(values)
    error = np.abs(values - expected).max() / max(np.ptp(expected), 1e-9)
    if not error <= TOLERANCE:
        raise UserError(f"{path}: the page would leave out a part of this model, whose layers alone give other logits")


def window(layer, size, before, after):
    """How the window of a pooling or convolution layer moves. before, after: shapes with the batch."""
    dilation = getattr(layer, "dilation_rate", (1, 1))
    reach = [
        (n - 1) * step + (k - 1) * apart + 1 for n, step, k, apart in zip(after[1:], layer.strides, size, dilation)
    ]
    padding = [max(need - have, 0) // 2 if layer.padding == "same" else 0 for need, have in zip(reach, before[1:])]
    return {"size": size, "strides": layer.strides, "dilation": dilation, "before": padding}


def relu(slope=0.0, threshold=0.0, most=None):
    """The page's operation for a ReLU, as keras.layers.ReLU has it."""
    return [{"kind": "relu", "slope": slope, "threshold": threshold, "most": 1e38 if most is None else most}]


def activation(function):
    """The page's operations for an activation: a list of dicts. Raises LookupError: the page does not have it."""
    name = getattr(function, "__name__", type(function).__name__)
    if name == "linear":
        return []
    if name not in ("relu", "gelu", "silu", "tanh", "softmax"):
        raise LookupError
    return relu() if name == "relu" else [{"kind": name}]


def operations(layer, before, after):
    """What the page computes for a Keras layer: a list of dicts {"kind": ..., other values, arrays}; [] for nothing.

    before, after: the shapes of its input and output, with the batch. Raises LookupError: the page cannot compute it.
    """
    if getattr(layer, "data_format", None) == "channels_first" or getattr(layer, "groups", 1) != 1:
        raise LookupError
    match type(layer).__name__:
        case "Dropout":
            return []
        case "Flatten" | "Reshape":
            return [{"kind": "reshape"}]
        case "Rescaling":
            factor, offset = (np.broadcast_to(np.float32(value), after[-1]) for value in (layer.scale, layer.offset))
            return [{"kind": "scale", "factor": factor, "offset": offset}]
        case "BatchNormalization" if layer.axis in (-1, len(before) - 1):
            factor = 1 / np.sqrt(np.float32(layer.moving_variance) + layer.epsilon)
            factor = factor * np.float32(layer.gamma) if layer.scale else factor
            offset = -factor * np.float32(layer.moving_mean) + (np.float32(layer.beta) if layer.center else 0)
            return [{"kind": "scale", "factor": factor, "offset": offset}]
        case "Cropping2D":
            moved = {"strides": (1, 1), "dilation": (1, 1), "before": [-low for low, _ in layer.cropping]}
            return [{"kind": "max_pool", "size": (1, 1)} | moved]  # windows of one pixel, which begin inside the image
        case "MaxPooling2D":
            return [{"kind": "max_pool"} | window(layer, layer.pool_size, before, after)]
        case "AveragePooling2D":
            return [{"kind": "average_pool"} | window(layer, layer.pool_size, before, after)]
        case "Conv2D" | "Dense" as name:
            bias = np.float32(layer.bias) if layer.use_bias else np.zeros(after[-1], np.float32)
            moves = window(layer, layer.kernel_size, before, after) if name == "Conv2D" else {}
            kind = {"Conv2D": "convolution", "Dense": "dense"}[name]
            product = {"kind": kind, "kernel": np.float32(layer.kernel), "bias": bias} | moves
            return [product, *activation(layer.activation)]
        case "Activation":
            return activation(layer.activation)
        case "ReLU":
            return relu(layer.negative_slope, layer.threshold, layer.max_value)
        case "Softmax" if layer.axis in (-1, len(before) - 1):
            return [{"kind": "softmax"}]
        case _:
            raise LookupError


def page_layers(model, example_shape, path, kind, pixels=1.0):
    """A model's layers as the page computes them, a list of dicts of plain values.

    The model's kernels are rounded to those of the page: of `kind` "float16" or "int8". The results are the logits of
    classifier.as_function with the same `pixels`.
    """
    shape, layers = (1, *classifier.fitting_shape(model, example_shape)), chain(model, path)
    steps = [{"kind": "reshape", "shape": shape[1:]}]
    if pixels != 1:
        steps.append({"kind": "scale", "factor": np.float32([pixels]), "offset": np.float32([0])})
    for layer in layers:
        before, shape = shape, tuple(layer.compute_output_shape(shape))
        try:
            steps += [operation | {"shape": shape[1:]} for operation in operations(layer, before, shape)]
        except LookupError:
            settings = ", ".join(
                f"{key}={layer.get_config()[key]}" for key in ("activation", "groups") if hasattr(layer, key)
            )
            raise UserError(
                f"{path}: the page cannot compute the layer {layer.name}, {type(layer).__name__}({settings}):"
                " use another model"
            ) from None
    if classifier.last_activation(model) == "softmax":
        steps.append({"kind": "log", "shape": shape[1:]})
    for step in steps:
        for name, value in step.items():
            if isinstance(value, np.ndarray):
                if not np.isfinite(value).all():
                    raise UserError(f"{path}: its {name} has numbers that are not finite: train it again")
                step[name], kept = encode(value, kind if value.ndim > 1 else "float32")
                if not np.isfinite(kept).all():
                    raise UserError(f"{path}: its {name} has numbers that {kind} cannot hold: try --int8")
    for layer in layers:
        if hasattr(layer, "kernel"):
            layer.kernel.assign(encode(np.float32(layer.kernel), kind)[1])
    return steps


def to_bytes(images):
    """Images as uint8, white being 255."""
    if images.dtype == np.uint8:
        return images
    if images.min() < 0 or images.max() > 1:
        raise UserError("the page shows images of uint8, or of floats from 0 to 1, but these are others: scale them")
    return np.round(255 * images).astype(np.uint8)


def example_groups(test, logits):
    """The groups of test images to try, a list of dicts of plain values.

    test: a data.Split of uint8. logits: {model's name: (n, C)}, the teacher first.
    """
    names, classes = list(logits), {name: values.argmax(-1) for name, values in logits.items()}
    groups = {}
    for wrong, right in (names[-2:], names[-2:][::-1]) if len(names) > 1 else ():
        only = (classes[wrong] != test.labels) & (classes[right] == test.labels)
        groups[f"Test images on which {wrong} is wrong and {right} right"] = np.flatnonzero(only)[:NUM_SHOWN]
    ambiguous = evaluate.most_ambiguous(logits[names[0]], test.labels, NUM_SHOWN)
    groups[f"Test images that {names[0]} finds most ambiguous"] = ambiguous

    def shown(i):
        return {"index": int(i), "label": int(test.labels[i]), "pixels": to_base64(test.images[i])}

    return [{"title": title, "images": [*map(shown, chosen)]} for title, chosen in groups.items()]


def page_text(page):
    """The page with its data, a dict of plain values, filled in."""
    try:
        text = json.dumps(page, allow_nan=False)
    except ValueError as error:  # a browser could not read it
        raise UserError("a model has a setting that is not a finite number, such as nan: train it again") from error
    text = text.replace("<", "\\u003c")  # no </script> in a class name
    return TEMPLATE.read_text(encoding="utf-8").replace(MARK, text)


def javascript(text):
    """A JavaScript engine that has run the page's arithmetic on the constant `page`; None where none is installed."""
    try:
        from py_mini_racer import MiniRacer
    except ModuleNotFoundError:
        return None
    engine = MiniRacer()
    engine.eval(ATOB)
    engine.eval(re.search(r'<script id="arithmetic">(.*?)</script>', text, re.DOTALL)[1])
    page = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)[1]
    engine.eval(f"const page = decode({page})")
    return engine


def javascript_logits(engine, number, images):
    """The logits (n, C) that the page's model of this number gives images (n, ...) uint8."""
    logits = []
    for start in range(0, len(images), 100):
        batch = json.dumps([*map(to_base64, images[start : start + 100])])
        call = f"logitsOf(page.models[{number}], Array.from(bytesOf(image), (byte) => byte / 255))"
        logits += json.loads(engine.eval(f"JSON.stringify({batch}.map((image) => {call}))"))
        terminal.progress(f"checking  {start / len(images):4.0%}")
    terminal.clear_progress()
    return np.array(logits)


def check(engine, number, images, expected, path):
    """The largest error of a logit of the page's model of this number, as a share of the range of `expected` (n, C)."""
    error = np.abs(javascript_logits(engine, number, images) - expected).max() / np.ptp(expected)
    if not error <= TOLERANCE:
        raise UserError(f"{path}: a logit of the page is off by {error:.1e} of their range: use another model")
    return error


def page_model(path, name, test, num_classes, kind, pixels):
    """(what the page holds of a model, a dict; its logits on the split `test`; those of the page's net).

    pixels: see classifier.feeder; None: as its file says, or 1.
    """
    model = model_files.load(path, test.images.shape[1:], num_classes)
    settings = model_files.load_training(path)[0]
    pixels = model_files.pixels(settings, pixels)
    predict = classifier.predictor(model, pixels=pixels)
    original = predict(test.images)
    held = {"name": name, "parameters": model.count_params(), "temperature": settings.get("temperature", 0)}
    sample = classifier.to_unit(test.images[:NUM_CHECKED])
    pixels = classifier.pixels_for(model, sample, pixels)
    held["layers"] = page_layers(model, sample.shape[1:], path, kind, pixels)
    check_chain(model, sample, pixels, path)
    return held, original, predict(test.images)


def main():
    options = terminal.parser(__doc__, "data validation out teacher_pixels student_pixels")
    options.add_argument("--int8", action="store_true", help="kernels as int8: a file of half the size")
    help_text = "models, the teacher first (default: teacher.keras, student.keras and distilled.keras in --out)"
    options.add_argument("models", nargs="*", type=Path, metavar="PATH", help=help_text)
    arguments = options.parse_args()
    terminal.print_settings(arguments)
    out = files.output_folder(arguments.out)
    dataset = data.load_for(arguments)
    if not dataset.has_images:
        raise UserError(f"the page shows images, but an example here has shape {dataset.image_shape}: use image data")
    test = data.Split(to_bytes(dataset.test.images), dataset.test.labels)
    kind = "int8" if arguments.int8 else "float16"
    named = evaluate.name_models(arguments.models or [out / f"{name}.keras" for name in evaluate.ORDER])
    models, logits, rows, most_unlike = [], {}, [], 0
    for name, path in named.items():
        terminal.progress(f"reading {path}")
        pixels = arguments.student_pixels if models else arguments.teacher_pixels
        held, original, logits[name] = page_model(path, name, test, dataset.num_classes, kind, pixels)
        models.append(held | {"colour": plots.colour(name, named)})
        predicted = logits[name].argmax(-1)
        counts = (held["parameters"], np.sum(predicted != test.labels), np.sum(predicted != original.argmax(-1)))
        rows.append([name, *(f"{count:,}" for count in counts)])
        most_unlike = max(most_unlike, counts[-1])
    terminal.clear_progress()
    page = {
        "shape": dataset.image_shape,
        "classes": dataset.names,
        "models": models,
        "strip": example_groups(test, logits),
    }
    text = page_text(page | {"can_draw": dataset.image_shape[2:] in ((), (1,))})

    header = ["model", "parameters", "test errors", "classes unlike the file's"]
    engine, checked = javascript(text), test.images[:NUM_CHECKED]
    if engine:
        header.append("largest error of a logit")
        for number, (name, row) in enumerate(zip(named, rows)):
            row.append(f"{check(engine, number, checked, logits[name][: len(checked)], named[name]):.1e}")
    with files.atomic_write(out / "page.html") as scratch:
        scratch.write_text(text, encoding="utf-8")
    caption = f"the page's nets ({kind} kernels) compared with the model files, on {len(test.images):,} test images"
    terminal.print_table(caption, header, rows)
    if most_unlike > len(test.images) / 1000:
        advice = ": leave --int8 out for a closer page" if arguments.int8 else ""
        print(f"the page puts {most_unlike:,} images into another class than a model file does{advice}")
    if engine:
        what = f"of the page's JavaScript, on {len(checked):,} of these images, as a share of the logits' range"
        print(f"largest error: {what}; {TOLERANCE:.0e} is allowed")
    else:
        print("the page's JavaScript was not compared with Keras: pip install mini-racer, and run this again")
    print(f"saved {out / 'page.html'}, {len(text.encode()) / 1e6:.1f} MB: open it in a browser")


if __name__ == "__main__":
    terminal.run(main)
