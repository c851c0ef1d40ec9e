"""Export a model as LiteRT (TensorFlow Lite) files, float32 and int8, and evaluate them on the test set.

    python tools/export.py                (artifacts/distilled.keras; after python distill.py)
    python tools/export.py MODEL.keras

Every test image goes through LiteRT's interpreter, one at a time. Takes some seconds. Writes NAME.tflite, NAME_int8.tflite
and export.json to artifacts/. The int8 file takes and returns int8 and needs no floating-point unit.
"""

import statistics
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import UserError, files, models, quiet, terminal

import numpy as np
import tensorflow as tf

import data

CALIBRATION_IMAGES = 20_000  # training images on which the converter measures the ranges of the activations


def convert(model, path, **options):
    """Write the model to `path` (.tflite). options: of tf.lite.TFLiteConverter.

    Raises UserError: the converter cannot.
    """
    try:
        with files.atomic_write(path) as scratch, quiet(), warnings.catch_warnings(action="ignore"):
            model.export(scratch, format="litert", verbose=False, **options)
    except OSError:  # a full disk is not the model's fault
        raise
    except Exception as error:  # of any kind
        problem = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot convert this model to {path.name} ({problem}): export another one") from error


def int8_options(examples):
    """Options of `convert` for int8 throughout, its ranges measured on examples (n, ...) float32."""
    return {
        "optimizations": [tf.lite.Optimize.DEFAULT],
        "representative_dataset": lambda: ([example[None]] for example in examples),
        "target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]},
        "inference_input_type": tf.int8,
        "inference_output_type": tf.int8,
    }


def find_interpreter():
    """The class of LiteRT's interpreter. Raises UserError: there is none."""
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
    """(the classes (n,) that a .tflite file gives inputs (n, ...) float32, the median microseconds for one of them)."""
    made = interpreter(path)
    source, target = made.get_input_details()[0], made.get_output_details()[0]
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
            terminal.progress(f"{path}  {number / len(inputs):4.0%}")
    terminal.clear_progress()
    return classes, 1e6 * statistics.median(seconds)


def main():
    options = terminal.parser(__doc__, terminal.DATA)
    help_text = "a .keras file (default: distilled.keras in --out)"
    options.add_argument("model", nargs="?", type=Path, metavar="PATH", help=help_text)
    arguments = options.parse_args()
    terminal.print_settings(arguments)
    out = files.output_folder(arguments.out)
    find_interpreter()  # before anyone waits
    dataset = data.load(arguments.data, arguments.validation)
    source = arguments.model or out / "distilled.keras"
    model = models.load(source, dataset.image_shape, dataset.num_classes)
    expected = models.predictor(model)(dataset.test.images).argmax(-1)
    paths = {"float32": out / f"{source.stem}.tflite", "int8": out / f"{source.stem}_int8.tflite"}
    shape = (-1, *models.fitting_shape(model, dataset.image_shape))
    train = models.to_unit(data.sample(dataset.train, CALIBRATION_IMAGES).images).numpy().reshape(shape)
    options = {"float32": {}, "int8": int8_options(train)}
    for kind, path in paths.items():
        print(f"converting {source} to {kind}: {path}", flush=True)
        convert(model, path, **options[kind])

    labels = dataset.test.labels
    rows = {source.name: {"bytes": source.stat().st_size, "test_errors": int(np.sum(expected != labels))}}
    for path in paths.values():
        classes, microseconds = run_file(path, models.to_unit(dataset.test.images).numpy().reshape(shape))
        rows[path.name] = {
            "bytes": path.stat().st_size,
            "test_errors": int(np.sum(classes != labels)),
            "classes_unlike_keras": int(np.sum(classes != expected)),
            "microseconds_for_one_image": round(microseconds, 1),
        }
    files.write_json(out / "export.json", rows)
    print(f"saved {', '.join(map(str, paths.values()))} and {out / 'export.json'}\n")
    lines = []
    for name, row in rows.items():
        others = [row.get("classes_unlike_keras", ""), row.get("microseconds_for_one_image", "")]
        accuracy = f"{1 - row['test_errors'] / len(labels):.2%}"
        lines.append([name, f"{row['bytes']:,}", f"{row['test_errors']:,}", accuracy, *map(str, others)])
    header = ["file", "bytes", "test errors", "accuracy", "classes unlike Keras'", "us for one image"]
    terminal.print_table(f"the {len(labels):,} test images, one at a time, on one thread", header, lines)


if __name__ == "__main__":
    terminal.run(main)
