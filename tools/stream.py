"""Distil from a folder of images that is never in memory as a whole, by Keras' own Distiller, on one or several GPUs.

    python tools/stream.py photos --teacher big.keras --student small.keras

photos holds train/CLASS/* and test/CLASS/*; or CLASS/* alone, of which a fifth becomes the test part. Teacher and
student may want images of different sizes. The student is trained twice from its initial weights: on labels alone, and
distilled. A stopped run goes on after its last finished epoch when the same command is given again; a student that is
there already is trained anew if the code has changed since.

An epoch takes longer than with tools/convert.py and distill.py: use those where the images fit in memory. A net is
trained on one machine: MultiWorkerMirroredStrategy does not work with `fit` in Keras 3.15. Dask trains many nets on
many machines: tools/sweep.py --cluster.

Writes student.keras, distilled.keras, their histories and plots/learning_curves_distilled.png to artifacts/.
"""

import contextlib
import csv
import hashlib
import math
import re
import shutil
import sys
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import UserError, classifier, files, images, model_files, plots, teacher_logits, terminal, training
from support.recipe import integer

import keras
import numpy as np
import tensorflow as tf

import data
import distill

SHUFFLED = 1000  # images of a cache, which keeps one order, from which the next one is drawn
GPU_MEGABYTES = 8000  # of a GPU, shared by the logical devices of --devices


SETTINGS = ("temperature", "alpha", "seed", "epochs", "batch_size", "learning_rate")  # of the students
DEFAULTS = distill.DistillRecipe(epochs=20, batch_size=64, learning_rate=1e-3)


class Photos(NamedTuple):
    """A folder of images. train, test: tf.data.Datasets of batches (images uint8 (n, h, w, c), labels (n,))."""

    train: tf.data.Dataset
    test: tf.data.Dataset
    num_train: int
    num_test: int
    sample: tf.Tensor  # the images of a test batch
    class_names: list[str]
    fingerprint: str  # of the files' names and sizes


def parse_arguments():
    others = {field.name for field in fields(distill.DistillRecipe)}.difference(SETTINGS)
    options = terminal.parser(__doc__, "out teacher_pixels student_pixels", DEFAULTS, without=others)
    options.add_argument(
        "folder", type=Path, metavar="FOLDER", help="the images: train/CLASS/*, test/CLASS/*; or CLASS/*"
    )
    options.add_argument("--teacher", type=Path, required=True, metavar="FILE", help="a .keras file")
    help_text = "a .keras file with initial weights"
    options.add_argument("--student", type=Path, required=True, metavar="FILE", help=help_text)
    help_text = "of the images as they are read (default: the larger of what the nets take)"
    options.add_argument("--size", type=integer(1), nargs=2, metavar=("HEIGHT", "WIDTH"), help=help_text)
    options.add_argument("--cache", action="store_true", help="keep the decoded images in files in --out")
    options.add_argument("--mixed-precision", action="store_true", help="compute in float16, which is faster on a GPU")
    help_text = "divide the GPU, or the processor, into N devices to train on (default: train on all GPUs)"
    options.add_argument("--devices", type=integer(1, 64), metavar="N", help=help_text)
    options.add_argument("--tensorboard", action="store_true", help="write logs for TensorBoard to --out")
    return options.parse_args()


def strategy_on(num_devices):
    """The tf.distribute.Strategy: all GPUs; or the first one, else the processor, as so many logical devices."""
    gpus = tf.config.list_physical_devices("GPU")
    if num_devices is None:
        return tf.distribute.MirroredStrategy() if len(gpus) > 1 else tf.distribute.get_strategy()
    device = (gpus or tf.config.list_physical_devices("CPU"))[0]
    memory = GPU_MEGABYTES // num_devices if gpus else None
    logical = [tf.config.LogicalDeviceConfiguration(memory_limit=memory)] * num_devices
    tf.config.set_logical_device_configuration(device, logical)
    return tf.distribute.MirroredStrategy([f"{device.device_type}:{number}" for number in range(num_devices)])


def image_form(nets, size):
    """((height, width), channels) of the images to be read: `size`, or the larger of what the nets take."""
    shapes = [classifier.single_shape(net.inputs) or () for net in nets]
    sizes = [shape[:2] for shape in shapes if len(shape) > 1 and None not in shape[:2]]
    if not (size or sizes):
        raise UserError("neither teacher nor student has a fixed height and width: give --size HEIGHT WIDTH")
    size = tuple(size or max(sizes, key=math.prod))
    in_colour = [shape[2:] in ((3,), (None,)) or shape == (3 * math.prod(size),) for shape in shapes]
    return size, 3 if any(in_colour) else 1


def read_folder(folder, size, num_channels, recipe, cache):
    """The Photos of a folder. Without a test part, a fifth of the images become it, the same as of tools/convert.py.

    size: (height, width) of the images. cache: a folder for the decoded images, or None.
    """
    found = images.find(folder)
    if "val" in found.paths:
        print("the validation part is not used", flush=True)
    batches, paths, labels = {}, {}, {}
    for part, (source, rows) in data.with_test(found.labels, 0.2).items():
        paths[part], labels[part] = [found.paths[source][row] for row in rows], found.labels[source][rows]
    if len(paths["train"]) < recipe.batch_size:
        problem = f"--batch-size {recipe.batch_size} is larger than the {len(paths['train'])} training images"
        raise UserError(f"{problem}: lower it")
    sizes = {path: Path(path).stat().st_size for part in ("train", "test") for path in paths[part]}
    fingerprint = hashlib.sha256(repr((size, num_channels, sizes)).encode()).hexdigest()
    for part in ("train", "test"):
        is_train = part == "train"
        listed = tf.data.Dataset.from_tensor_slices((paths[part], labels[part]))
        listed = listed.shuffle(len(paths[part]), seed=recipe.seed) if is_train else listed
        listed = listed.batch(recipe.batch_size, drop_remainder=is_train and not cache)
        read = listed.map(reader(size, num_channels), terminal.num_cores())
        if cache:
            cache.mkdir(exist_ok=True)
            for lock_file in cache.glob("*.lockfile"):  # of a run that was stopped
                lock_file.unlink()
            read = read.cache(str(cache / f"{part}_{fingerprint[:8]}")).unbatch()
            read = read.shuffle(SHUFFLED, seed=recipe.seed) if is_train else read
            read = read.batch(recipe.batch_size, drop_remainder=is_train)
        batches[part] = read.prefetch(tf.data.AUTOTUNE)
    sample = next(iter(batches["test"]))[0]
    counts = [len(paths[part]) for part in batches]
    return Photos(*batches.values(), *counts, sample, found.class_names, fingerprint)


def reader(size, num_channels):
    """A function (paths (n,), labels (n,)) -> (images uint8 (n, h, w, c), labels) for tf.data.Dataset.map."""

    def read(paths):
        batch = np.empty((len(paths), *size, num_channels), np.uint8)
        for place, path in enumerate(paths):
            image = images.read(path.decode(), size, "RGB" if num_channels == 3 else "L")
            batch[place] = image.reshape(batch.shape[1:])
        return batch

    def read_in_graph(paths, labels):  # whole batches: TensorFlow takes as long to call Python as Pillow to read
        batch = tf.numpy_function(read, [paths], tf.uint8, stateful=False)
        return tf.ensure_shape(batch, (None, *size, num_channels)), labels

    return read_in_graph


def logits_model(net, photos, pixels):
    """A model around `net`, with its weights, from Photos' batches to logits (batch, C) float32.

    It gives the net its own size, channels, axes and pixels. pixels: see classifier.pixels_for.
    """
    taken, shape = classifier.single_shape(net.inputs) or (), tuple(photos.sample.shape[1:])
    layers = [keras.Input(shape), keras.layers.Rescaling(1 / 255, dtype="float32")]
    if len(taken) > 1 and None not in taken[:2] and taken[:2] != shape[:2]:
        layers.append(keras.layers.Resizing(*taken[:2], dtype="float32"))
    if shape[2] == 3 and (len(taken) == 2 or taken[2:] == (1,)):
        layers.append(keras.layers.Lambda(tf.image.rgb_to_grayscale, dtype="float32"))
    resize = keras.Sequential(layers, name="stream_resize")
    feed, read = classifier.adapters(net, resize(photos.sample), pixels)
    inputs = keras.Input(shape)
    outputs = net(keras.layers.Lambda(feed, dtype="float32", name="stream_feed")(resize(inputs)))
    model = keras.Model(inputs, keras.layers.Lambda(read, dtype="float32", name="stream_read")(outputs))
    if model.output_shape[1] != len(photos.class_names):
        problem = f"a net has {model.output_shape[1]} classes, and the folder {len(photos.class_names)}"
        raise UserError(f"{problem}: choose another net, or other images")
    return model


def check_teacher(model, photos, batch_size):
    """Raises UserError: the teacher, as `logits_model` returns it, is no better than chance on training images."""
    shown, labels = zip(*photos.train.take(1 + teacher_logits.TEACHER_CHECK_EXAMPLES // batch_size))
    remedy = "check its pixels (--teacher-pixels 255) and whether its classes are in the order of the folders' names"
    teacher_logits.check_teacher(
        model.predict(np.concatenate(shown), verbose=0).argmax(-1), np.concatenate(labels), remedy
    )


@contextlib.contextmanager
def float16(net, wanted):
    """Have the layers of `net` compute in float16, if wanted, until the block ends; their weights stay float32."""
    layers = [layer for layer in net._flatten_layers() if wanted]
    policies = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers:
            layer.dtype_policy = keras.DTypePolicy("mixed_float16")
        yield
    finally:
        for layer, policy in zip(layers, policies):
            layer.dtype_policy = policy


def fit(model, photos, recipe, folder, tensorboard):
    """Train a Keras model on the images, or go on where an earlier call was stopped; returns a list of Epoch.

    folder: keeps the state after each epoch; to be removed once the model is saved.
    """
    num_steps = recipe.epochs * (photos.num_train // recipe.batch_size)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(training.adam(recipe.learning_rate, num_steps), loss, metrics=["accuracy"])
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.csv"
    callbacks = [keras.callbacks.BackupAndRestore(folder / "state", delete_checkpoint=False)]
    callbacks += [keras.callbacks.CSVLogger(log, append=True)]
    callbacks += [keras.callbacks.TensorBoard(tensorboard)] if tensorboard else []
    model(photos.sample)  # builds a Distiller, as BackupAndRestore wants it
    verbose = 1 if sys.stdout.isatty() else 2
    model.fit(photos.train, epochs=recipe.epochs, callbacks=callbacks, shuffle=False, verbose=verbose)
    with open(log, encoding="utf-8") as file:
        rows = {int(row["epoch"]): row for row in csv.DictReader(file)}  # an epoch that was stopped may have two
    history = [(epoch + 1, float(row["loss"]), float(row["accuracy"])) for epoch, row in sorted(rows.items())]
    if not math.isfinite(history[-1][1]):
        shutil.rmtree(folder)
        raise UserError("the loss is no longer finite: lower --learning-rate")
    return [model_files.Epoch(*row, validation_accuracy=math.nan, seconds=math.nan) for row in history]


def count_errors(model, photos):
    """How many test images a model puts into another class."""
    predict = tf.function(model)
    return sum(int(np.sum(predict(shown).numpy().argmax(-1) != labels)) for shown, labels in photos.test)


def main():
    arguments = parse_arguments()
    terminal.print_settings(arguments)
    strategy, out = strategy_on(arguments.devices), files.output_folder(arguments.out)
    if arguments.mixed_precision:
        keras.mixed_precision.set_global_policy("mixed_float16")  # so that Keras scales the loss
    try:
        with strategy.scope():
            train_both(arguments, DEFAULTS.updated(vars(arguments)), out)
    except tf.errors.OpError as error:
        if damaged := re.search("UserError: (.+)", str(error)):  # raised by the function that reads the images
            raise UserError(damaged[1]) from error
        raise


def train_both(arguments, recipe, out):
    """Train the student on labels alone and distilled, unless they are there, and print the result."""
    teacher, student = (model_files.load(path) for path in (arguments.teacher, arguments.student))
    form, cache = image_form([teacher, student], arguments.size), out / "cache" if arguments.cache else None
    photos = read_folder(arguments.folder, *form, recipe, cache)
    counts = f"{photos.num_train:,} training, {photos.num_test:,} test images, {len(photos.class_names)} classes"
    print(f"data: {counts}, read as {form[0][0]}x{form[0][1]} with {form[1]} channels", flush=True)
    teacher_pixels, pixels = arguments.teacher_pixels or 1.0, arguments.student_pixels or 1.0
    settings = recipe.only(*SETTINGS) | {"data": photos.fingerprint, "student": model_files.weights_sha256(student)}
    settings |= {"student_pixels": pixels, "mixed_precision": arguments.mixed_precision}
    settings |= {"stream": files.code_sha256("tools/stream.py")}
    taught_by = {"teacher": model_files.weights_sha256(teacher), "teacher_pixels": teacher_pixels}
    runs = {"student": settings | {"temperature": None, "alpha": None}, "distilled": settings | taught_by}
    errors, histories = {}, {}
    with float16(teacher, arguments.mixed_precision):
        teacher_model = logits_model(teacher, photos, teacher_pixels)
        check_teacher(teacher_model, photos, recipe.batch_size)
        errors["teacher"] = count_errors(teacher_model, photos)
        for name, wanted in runs.items():
            path = out / f"{name}.keras"
            if model_files.is_made_with(path, wanted):
                print(f"{path} was trained with these settings")
            else:
                print(f"training {path}", flush=True)
                net = model_files.load(arguments.student)
                with float16(net, arguments.mixed_precision):
                    model = logits_model(net, photos, pixels)
                    if name == "distilled":
                        loss = distill.SoftTargetLoss(recipe.temperature)
                        weight = {"student_loss_weight": 1 - recipe.alpha}
                        model = keras.distillation.Distiller(teacher_model, model, loss, **weight)
                    key = hashlib.sha256(repr(wanted).encode()).hexdigest()[:8]
                    tensorboard = out / "tensorboard" / name if arguments.tensorboard else None
                    folder = out / f"training_{name}_{key}"
                    history = fit(model, photos, recipe, folder, tensorboard)
                model_files.save(net, path, wanted, history)
                shutil.rmtree(folder)
                print(f"saved {path}, {net.count_params():,} parameters", flush=True)
            net, histories[name] = model_files.load(path), model_files.load_training(path)[1]
            if name == "student":
                runs["distilled"]["baseline"] = model_files.weights_sha256(net)
            errors["baseline" if name == "student" else name] = count_errors(logits_model(net, photos, pixels), photos)
    plots.learning_curves(histories, out / "plots" / "learning_curves_distilled.png")
    print(f"\n{distill.describe_result(errors, photos.num_test)}")


if __name__ == "__main__":
    terminal.run(main)
