"""Take a model out of Python: write it as LiteRT (TensorFlow Lite) files, float32 and int8, and try them on the test set.

    python export.py                (artifacts/distilled.keras; after python distill.py)
    python export.py MODEL.keras

Every image of the test set goes through the interpreter, one at a time. For the default student float32 answers as Keras does,
and int8, a quarter of its bytes, makes 4 test errors fewer to 6 more (seeds 0, 1, 2). Takes some seconds. Writes NAME.tflite,
NAME_int8.tflite and export.json to artifacts/; the second takes and gives int8 and needs no floating-point unit.
"""

import json
import statistics
import time
import warnings
from pathlib import Path

import common  # before TensorFlow: it keeps the start-up quiet

import numpy as np
import tensorflow as tf

import data
import training

CALIBRATION_IMAGES = 20_000  # training images that the converter measures the ranges of activations on


def scaled(images):
    return images.astype(np.float32) / 255


def convert(model, path, **options):
    """Write the model at `path` (.tflite), whole or not at all. options: of tf.lite.TFLiteConverter.

    Raises UserError: the converter does not know how.
    """
    try:
        with common.replacing(path) as scratch, common.quiet(), warnings.catch_warnings(action="ignore"):
            model.export(scratch, format="litert", verbose=False, **options)
    except OSError:  # a full disk is no fault of the model's
        raise
    except Exception as error:  # the converter raises what it likes
        problem = (str(error).splitlines() or [type(error).__name__])[0]
        raise common.UserError(f"cannot convert this model to {path.name} ({problem}): export another one") from error


def int8_options(images):
    """The options of a conversion to int8 from end to end, its ranges measured on images (n, h, w) uint8."""
    return {
        "optimizations": [tf.lite.Optimize.DEFAULT],
        "representative_dataset": lambda: ([image[None]] for image in scaled(images)),
        "target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]},
        "inference_input_type": tf.int8,
        "inference_output_type": tf.int8,
    }


def find_interpreter():
    """The class of LiteRT's interpreter. Raises UserError: no package has one."""
    if hasattr(tf.lite, "Interpreter"):
        return tf.lite.Interpreter
    try:  # TensorFlow has announced that its own will leave
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError:
        raise common.UserError("this TensorFlow has no LiteRT interpreter: pip install ai-edge-litert") from None
    return Interpreter


def interpreter(path):
    """LiteRT's interpreter of the file at `path`, on one thread."""
    with common.quiet(), warnings.catch_warnings(action="ignore"):
        made = find_interpreter()(str(path), num_threads=1)
        made.allocate_tensors()
    return made


def run_file(path, images):
    """Classes (n,) that the .tflite file gives images (n, h, w) uint8, and the median microseconds of one image."""
    made = interpreter(path)
    source, target = made.get_input_details()[0], made.get_output_details()[0]
    inputs = scaled(images)
    if source["dtype"] == np.int8:
        scale, zero = source["quantization"]
        inputs = np.clip(np.round(inputs / scale + zero), -128, 127).astype(np.int8)
    classes, seconds = np.empty(len(inputs), int), []
    for number, image in enumerate(inputs):
        start = time.perf_counter()
        made.set_tensor(source["index"], image[None])
        made.invoke()
        classes[number] = made.get_tensor(target["index"])[0].argmax()
        seconds.append(time.perf_counter() - start)
        if number % 1000 == 0:
            common.progress(f"{path}  {number / len(inputs):4.0%}")
    common.clear_progress()
    return classes, 1e6 * statistics.median(seconds)


def parse_arguments():
    options = common.parser(__doc__)
    options.add_argument(
        "model", nargs="?", type=Path, metavar="PATH", help="a .keras file (default: distilled.keras in --out)"
    )
    return options.parse_args()


def main():
    arguments = parse_arguments()
    common.print_settings(arguments)
    out = common.make_folder(arguments.out)
    find_interpreter()  # before anybody waits
    digits = data.load(arguments.data, arguments.validation)
    source = arguments.model or out / "distilled.keras"
    model = training.load(source, digits.image_shape, digits.num_classes)
    expected = training.predictor(model)(digits.test.images).argmax(-1)
    paths = {"float32": out / f"{source.stem}.tflite", "int8": out / f"{source.stem}_int8.tflite"}
    options = {"float32": {}, "int8": int8_options(digits.train.images[:CALIBRATION_IMAGES])}
    for kind, path in paths.items():
        print(f"converting {source} to {kind}: {path}", flush=True)
        convert(model, path, **options[kind])

    labels = digits.test.labels
    rows = {source.name: {"bytes": source.stat().st_size, "test_errors": int(np.sum(expected != labels))}}
    for path in paths.values():
        classes, microseconds = run_file(path, digits.test.images)
        rows[path.name] = {
            "bytes": path.stat().st_size,
            "test_errors": int(np.sum(classes != labels)),
            "answers_unlike_keras": int(np.sum(classes != expected)),
            "microseconds_for_one_image": round(microseconds, 1),
        }
    with common.replacing(out / "export.json") as scratch:
        scratch.write_text(json.dumps(rows | {"versions": common.versions()}, indent=1) + "\n")
    print(f"saved {', '.join(map(str, paths.values()))} and {out / 'export.json'}")

    print(f"\non the {len(labels):,} test images, one at a time, on one thread")
    widest = max(map(len, rows))
    print(f"{'file':<{widest}}       bytes  test errors  accuracy  answers unlike Keras'  us for one image")
    for name, row in rows.items():
        others = ""
        if "answers_unlike_keras" in row:
            others = f"  {row['answers_unlike_keras']:>21,}  {row['microseconds_for_one_image']:>16,.1f}"
        accuracy = 1 - row["test_errors"] / len(labels)
        print(f"{name:<{widest}}  {row['bytes']:>10,}  {row['test_errors']:>11,}  {accuracy:>8.2%}{others}")


if __name__ == "__main__":
    common.run(main)
