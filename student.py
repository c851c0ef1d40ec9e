"""Train the student, a small dense net, on the labels alone, and save it: the baseline that distillation has to beat.

    python student.py

784-64-64-10, ReLU. In each epoch its images are shifted at random by up to a pixel. It makes 134 test errors in 10,000
(mean of 5 seeds; 123 to 141), in 30 seconds on two cores. `python distill.py` trains it too, unless it exists already.

Writes student.keras, its history student.csv and plots/learning_curves_student.png to artifacts/.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import UserError, building, files, inference, model_files, plots, terminal, training
from support.recipe import Recipe, Training, factor, integer, setting

import keras
import tensorflow as tf

import data


@dataclass(frozen=True)
class StudentRecipe(Training):
    """All settings of a student on labels alone, apart from the data and --student."""

    crop: int = setting(0, integer(0), "cut PIXELS off each edge of the image", metavar="PIXELS")
    pool: int = setting(
        1, integer(1, 1000), "then replace each square of PIXELS x PIXELS by its mean", metavar="PIXELS"
    )
    activation: str = setting("relu", ["relu", "gelu", "silu"], "activation of the hidden units")
    student_pixels: float = setting(
        1.0, factor, "multiply the student's inputs by this: 255 for nets trained on 0...255", metavar="FACTOR"
    )


@dataclass(frozen=True)
class OwnStudent(Recipe):
    """The option for the user's own student."""

    student: Path | None = setting(None, Path, "your own student: a .keras file with initial weights", metavar="FILE")


NET_SETTINGS = ("hidden", "crop", "pool", "activation")  # what `build_student` uses
MNIST = StudentRecipe()
OWN_DATA = StudentRecipe(translate=0)  # a shifted example of other data may belong to another class


def build_student(
    image_shape: tuple[int, ...], num_classes: int, recipe: StudentRecipe = MNIST, seed: int | None = None
) -> keras.Model:
    """A dense net from images (batch, *image_shape) float32 in [0, 1] to logits (batch, num_classes).

    Of the recipe, it uses NET_SETTINGS: crop pixels at each edge are ignored, and each square of pool x pool of the
    remaining pixels is replaced by its mean. Most parameters of a small net are in its first
    layer: 28x28 pixels cropped by 3 are 22x22, and then pooled by 2 are 11x11, less than a sixth. seed: decides the
    initial weights; None leaves them to Keras' random state.
    """
    seeds = building.layer_seeds(seed)
    layers = [keras.Input(image_shape, dtype="float32")]
    if (recipe.crop or recipe.pool > 1) and len(image_shape) == 2:
        layers.append(keras.layers.Reshape((*image_shape, 1), dtype="float32"))
    if recipe.crop:
        layers.append(keras.layers.Cropping2D(recipe.crop, **building.FIXED))
    if recipe.pool > 1:
        layers.append(keras.layers.AveragePooling2D(recipe.pool, padding="same", **building.FIXED))
    layers.append(keras.layers.Flatten(**building.FIXED))
    layers += [building.dense(units, recipe.activation, next(seeds)) for units in recipe.hidden]
    layers.append(building.dense(num_classes, None, next(seeds)))
    return keras.Sequential(layers, name="student")


def settings_from(recipe: StudentRecipe, own_path: Path | None, dataset: data.Dataset) -> dict[str, Any]:
    """All that decides a baseline, as plain values: its StudentRecipe, and fingerprints of the data and of --student.

    own_path: the file of --student. Raises UserError: --crop or --pool does not fit the examples; --student cannot be
    trained, or cannot be used with the data.
    """
    shape = dataset.image_shape
    if (recipe.crop or recipe.pool > 1) and (len(shape) not in (2, 3) or 2 * recipe.crop >= min(shape[:2])):
        raise UserError(f"--crop and --pool leave nothing of examples of shape {shape}: lower them, or leave them out")
    fingerprints = {"data": files.fingerprint(*dataset.train), "student": None}
    settings = StudentRecipe.of(recipe.settings()).settings()
    if own_path:
        of_built_nets = {name: MNIST.settings()[name] for name in NET_SETTINGS}
        if settings | of_built_nets != settings:
            print(f"note: --student brings its layers, so {', '.join(NET_SETTINGS)} have no effect")
        settings |= of_built_nets
        own = model_files.load(own_path, shape, dataset.num_classes)
        training.check_trainable(own, own_path)
        inference.warn_of_pixels(own_path, own, data.sample(dataset.train), recipe.student_pixels, "--student-pixels")
        fingerprints["student"] = own.to_json() + model_files.fingerprint(own)
    return settings | fingerprints


def train_student(
    dataset: data.Dataset,
    recipe: StudentRecipe,
    loss: Callable[..., tf.Tensor] = training.cross_entropy,
    teacher_logits: data.TeacherLogits | None = None,
    path: Path | None = None,
    **options: Any,
) -> tuple[keras.Model, list[model_files.Epoch]]:
    """Build and train a student; returns (model, history).

    The baseline and the distilled student are both made here. Recipe and `path` alone decide their initial weights,
    batches and schedule, so that they differ only in `loss` (see training.Run) and `teacher_logits` (see data.Batches).
    Without teacher_logits, unlabelled examples are left out. path: the .keras file of the user's own student, whose
    weights are the initial ones. options: see training.Run.

    Raises UserError as model_files.load, data.Batches and training.Run do.
    """
    student = first_student(dataset, recipe, path)
    split = dataset.train.labelled() if teacher_logits is None else dataset.train
    views = recipe.only("batch_size", "seed", "translate", "distort")
    batches = data.Batches(split, **views, teacher_logits=teacher_logits)
    options |= recipe.only("epochs", "learning_rate") | {"pixels": recipe.student_pixels}
    return student, training.train(student, batches, loss, **options, validation=dataset.validation)


def first_student(dataset: data.Dataset, recipe: StudentRecipe, path: Path | None = None) -> keras.Model:
    """The student before training. path: see `train_student`. Raises UserError as model_files.load does."""
    if not path:
        return build_student(dataset.image_shape, dataset.num_classes, recipe, recipe.seed)
    own = model_files.load(path, dataset.image_shape, dataset.num_classes)
    for state, seed in zip(building.dropout_states(own), building.layer_seeds(recipe.seed)):
        state.assign([seed, 0])  # Keras does not save these, and draws new ones whenever it loads a model
    return own


def train_baseline(
    dataset: data.Dataset, recipe: StudentRecipe, settings: dict[str, Any], out: Path, path: Path | None = None
) -> tuple[keras.Model, list[model_files.Epoch]]:
    """Train the student on labels alone; save it, its history and its learning curves in the folder `out`.

    settings: what `settings_from` returns. Other arguments, return value and errors: see `train_student`.
    """
    student, history = train_student(dataset, recipe, path=path)
    model_files.save(student, out / "student.keras", settings, history)
    plots.learning_curves({"student": history}, out / "plots" / "learning_curves_student.png")
    print(f"saved {out / 'student.keras'}, {student.count_params():,} parameters", flush=True)
    return student, history


def main() -> None:
    options = terminal.parser(__doc__, terminal.Files(), OwnStudent(), MNIST, own_data=OWN_DATA)
    arguments = options.parse_args()
    terminal.print_settings(arguments)
    out, dataset = files.output_folder(arguments.out), data.load_for(arguments)
    recipe = StudentRecipe.of(vars(arguments))
    settings = settings_from(recipe, arguments.student, dataset)
    student, _ = train_baseline(dataset, recipe, settings, out, arguments.student)
    errors = inference.count_errors(student, dataset.test, recipe.student_pixels)
    print(f"student, labels alone: {inference.describe_errors(errors, len(dataset.test.labels))}")


if __name__ == "__main__":
    terminal.run(main)
