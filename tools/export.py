"""Export a model as LiteRT (TensorFlow Lite) files, float32 and int8, and evaluate them on the test set.

    python tools/export.py                (artifacts/distilled.keras; after python distill.py)
    python tools/export.py MODEL.keras

Every test image goes through LiteRT's interpreter, one at a time. Takes some seconds. Writes NAME.tflite,
NAME_int8.tflite and export.json to artifacts/. The int8 file takes and returns int8 and needs no floating-point unit;
if it would be no good because of outliers in the inputs, it clips them.
"""

import contextlib
import re
import statistics
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import UserError, classifier, files, model_files, quiet, terminal

import numpy as np
import tensorflow as tf

import data

WARNED, REFUSED = 0.01, 0.05  # shares of the test images that a file may put into another class than the model does
CALIBRATION_IMAGES = 20_000  # training images on which the converter measures the ranges of the activations
CLIPPED = (0, 0.1, 1)  # per cent of these images' values, at either end, that are clipped if int8 is no good without


def convert(model, path, examples, batch_size=None, **options):
    """Write the model to `path` (.tflite), for batches of this size, or of any.

    examples: some that the model takes, (n, ...). options: of tf.lite.TFLiteConverter.
    """
    signature = [tf.TensorSpec((batch_size, *examples.shape[1:]), examples.dtype)]
    try:
        with files.atomic_write(path) as scratch, quiet(), warnings.catch_warnings(action="ignore"):
            model.export(scratch, format="litert", input_signature=signature, verbose=False, **options)
    except OSError:  # a full disk is not the model's fault
        raise
    except Exception as error:  # of any kind
        lacking = re.search(r"'(tf\.\w+)' op", str(error))
        problem = f"LiteRT cannot do its {lacking[1]}" if lacking else files.cause(error)
        raise UserError(f"cannot convert this model to {path.name} ({problem}): export another one") from error


def convert_and_run(model, path, kind, examples, inputs):
    """Write the model to `path`, and run it as `run_file` does. kind: "float32" or "int8". examples: to calibrate."""
    options = int8_options(examples) if kind == "int8" else {}
    # Recurrent layers need a fixed batch, but with one TensorFlow 2.21 crashes where it converts them to int8.
    for batch_size in (None, 1) if kind == "float32" else (None,):
        convert(model, path, examples, batch_size, **options)
        with contextlib.suppress(RuntimeError):
            return run_file(path, inputs)
    raise UserError(
        f"{path} was written, but LiteRT alone cannot run it: it has operations of TensorFlow (the Flex delegate)"
    )


def int8_options(examples):
    """Options of `convert` for int8 throughout, its ranges measured on examples (n, ...) that the model takes."""
    options = {
        "optimizations": [tf.lite.Optimize.DEFAULT],
        "representative_dataset": lambda: ([example[None]] for example in examples),
        "target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]},
        "inference_output_type": tf.int8,
    }
    return options if examples.dtype.kind in "iu" else options | {"inference_input_type": tf.int8}


def convert_to_int8(model, path, examples, sample, share_unlike):
    """Write the model to `path` as int8, calibrated with examples (n, ...), clipped only if it is no good without.

    All inputs share 256 steps, so a few outliers leave hardly any for the others. share_unlike(outputs for `sample`)
    is the share of the sample in another class than the model's.
    """
    shares = {}
    for percent in CLIPPED:
        outputs, _ = convert_and_run(model, path, "int8", clipped(examples, percent), sample)
        shares[percent] = share_unlike(outputs)
        if shares[percent] <= WARNED:
            break
    best = min(shares, key=shares.get)
    if best != percent:
        convert(model, path, clipped(examples, best), **int8_options(examples))
    if best:
        kept = clipped(examples, best)
        gain = f"{shares[best]:.1%} of {len(sample):,} training examples get another class, without it {shares[0]:.1%}"
        print(f"{path} clips outliers, inputs beyond {kept.min():.3g} to {kept.max():.3g}: {gain}")


def clipped(examples, percent):
    """Examples (n, ...) without so many per cent of their values at either end, which become the next ones."""
    if not percent:
        return examples
    return np.clip(examples, *np.percentile(examples, (percent, 100 - percent)).astype(examples.dtype))


def advice_on_range(examples):
    """What to do about the column of a table (n, d) that takes int8's steps from the others; "" if there is none."""
    ranges = np.ptp(examples, 0)
    if examples.ndim != 2 or ranges.max() <= 4 * np.median(ranges):
        return ""
    k = ranges.argmax()
    problem = f"x_train[:, {k}] has a range of {ranges[k]:.3g}, the columns' median is {np.median(ranges):.3g}"
    advice = "clip its outliers in x_train and x_test (numpy.clip), standardise it, and train again"
    return f": {problem}, and all share 256 steps: {advice}"


def find_interpreter():
    """The class of LiteRT's interpreter."""
    if hasattr(tf.lite, "Interpreter"):
        return tf.lite.Interpreter
    try:  # TensorFlow has announced that it will drop its own
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError:
        raise UserError("this TensorFlow has no LiteRT interpreter: pip install ai-edge-litert") from None
    return Interpreter


def interpreter(path):
    """LiteRT's interpreter for the file at `path`, on one thread."""
    with quiet(), warnings.catch_warnings(action="ignore"):
        made = find_interpreter()(str(path), num_threads=1)
        made.allocate_tensors()
    return made


def run_file(path, inputs):
    """What a .tflite file returns for inputs (n, ...), (n, C) float32; and the median microseconds for one of them."""
    made = interpreter(path)
    source, target = made.get_input_details()[0], made.get_output_details()[0]
    if source["dtype"] == np.int8:
        scale, zero = source["quantization"]
        inputs = np.clip(np.round(inputs / scale + zero), -128, 127).astype(np.int8)
    outputs, seconds = [], []
    for number, image in enumerate(inputs):
        start = time.perf_counter()
        made.set_tensor(source["index"], image[None])
        made.invoke()
        outputs.append(made.get_tensor(target["index"])[0])
        seconds.append(time.perf_counter() - start)
        if number % 1000 == 0:
            terminal.progress(f"{path}  {number / len(inputs):4.0%}")
    terminal.clear_progress()
    outputs = np.float32(outputs)
    if target["dtype"] == np.int8:
        scale, zero = target["quantization"]
        outputs = np.float32(scale) * (outputs - zero)
    return outputs, 1e6 * statistics.median(seconds)


def main():
    options = terminal.parser(__doc__, "data validation out student_pixels")
    help_text = "a .keras file (default: distilled.keras in --out)"
    options.add_argument("model", nargs="?", type=Path, metavar="PATH", help=help_text)
    arguments = options.parse_args()
    terminal.print_settings(arguments)
    out = files.output_folder(arguments.out)
    find_interpreter()  # before anyone waits
    dataset = data.load_for(arguments)
    source = arguments.model or out / "distilled.keras"
    model = model_files.load(source, dataset.image_shape, dataset.num_classes)
    pixels = model_files.pixels(model_files.load_training(source)[0], arguments.student_pixels)
    sample = dataset.train.sample()
    classifier.warn_of_pixels(source, model, sample, pixels, "--student-pixels")
    feed, read = classifier.adapters(model, classifier.to_unit(sample.images), pixels)

    def inputs(split):
        return tf.nest.flatten(feed(classifier.to_unit(split.images)))[0].numpy()

    labels = dataset.test.labels
    predict = classifier.predictor(model, pixels=pixels)
    expected, expected_of_sample = (predict(split.images).argmax(-1) for split in (dataset.test, sample))
    classes_of = lambda outputs: read(outputs).numpy().argmax(-1)
    share_unlike = lambda outputs: np.mean(classes_of(outputs) != expected_of_sample)
    rows = {source.name: {"bytes": source.stat().st_size, "test_errors": int(np.sum(expected != labels))}}
    paths = {"float32": out / f"{source.stem}.tflite", "int8": out / f"{source.stem}_int8.tflite"}
    problems, examples = [], inputs(dataset.train.sample(CALIBRATION_IMAGES))
    for kind, path in paths.items():
        print(f"converting {source} to {kind}: {path}", flush=True)
        try:
            if kind == "int8":
                convert_to_int8(model, path, examples, inputs(sample), share_unlike)
                outputs, microseconds = run_file(path, inputs(dataset.test))
            else:
                outputs, microseconds = convert_and_run(model, path, kind, examples, inputs(dataset.test))
        except UserError as error:  # the other file may be sound
            problems.append(str(error))
            continue
        classes = classes_of(outputs)
        rows[path.name] = {
            "bytes": path.stat().st_size,
            "test_errors": int(np.sum(classes != labels)),
            "classes_unlike_keras": int(np.sum(classes != expected)),
            "microseconds_for_one_image": round(microseconds, 1),
        }
        unlike = np.mean(classes != expected)
        advice = advice_on_range(examples) if kind == "int8" else ""
        if unlike > REFUSED:
            problem = f"{unlike:.0%} of the test images get another class"
            problems.append(f"{path} is not what {source.name} is: {problem}{advice}")
        elif unlike > WARNED:
            problem = f"puts {unlike:.1%} of the test images into another class than {source.name} does"
            print(f"warning: {path} {problem}{advice}")
    files.write_json(out / "export.json", rows)
    print(f"saved {', '.join(str(out / name) for name in [*rows][1:])} and {out / 'export.json'}\n")
    print_report(rows, labels)
    if problems:
        raise UserError("; ".join(problems))


def print_report(rows, labels):
    """Print what export.json holds as a table. rows: {file: metrics}, the .keras file first."""
    lines = []
    for name, row in rows.items():
        compared = [str(row.get(key, "")) for key in ("classes_unlike_keras", "microseconds_for_one_image")]
        accuracy = f"{1 - row['test_errors'] / len(labels):.2%}"
        lines.append([name, f"{row['bytes']:,}", f"{row['test_errors']:,}", accuracy, *compared])
    header = ["file", "bytes", "test errors", "accuracy", "classes unlike Keras'", "us for one image"]
    terminal.print_table(f"the {len(labels):,} test images, one at a time, on one thread", header, lines)


if __name__ == "__main__":
    terminal.run(main)
