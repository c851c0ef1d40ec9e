"""Train the student, a small dense net, on the labels alone, and save it: the baseline that distillation has to beat.

    python student.py

784-64-64-10, ReLU. In each epoch its images are shifted at random by up to a pixel; after the third, it has only two
fifths of them: the hardest, and some at random. It makes 137 test errors in 10,000 (mean of 5 seeds; 128 to 145), in
half a minute on two cores. `python distill.py` trains it too, beside the distilled one.

Writes student.keras (over that of distill.py), its history student.csv and plots/learning_curves_student.png to
artifacts/.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import UserError, building, classifier, files, model_files, plots, selection, terminal, training
from support.batches import Batches
from support.recipe import TrainingRecipe, factor, integer, setting

import keras

import data


@dataclass(frozen=True)
class StudentRecipe(TrainingRecipe):
    """All settings of a student on labels alone, apart from the data and --student."""

    crop: int = setting(0, integer(0), "cut PIXELS off each edge of the image", metavar="PIXELS")
    pool: int = setting(
        1, integer(1, 1000), "then replace each square of PIXELS x PIXELS by its mean", metavar="PIXELS"
    )
    activation: str = setting("relu", ["relu", "gelu", "silu"], "activation of the hidden units")
    student_pixels: float = setting(
        1.0, factor, "multiply the student's inputs by this: 255 for nets trained on 0...255", metavar="FACTOR"
    )


NET_SETTINGS = ("hidden", "crop", "pool", "activation")  # what `build_student` uses
DEFAULTS = StudentRecipe(epochs=155, select=0.4)
# A shifted example of other data may belong to another class, and its hardest may have wrong labels.
OWN_DATA_DEFAULTS = StudentRecipe(translate=0)


def build_student(
    image_shape: tuple[int, ...], num_classes: int, recipe: StudentRecipe = DEFAULTS, seed: int | None = None
) -> keras.Model:
    """A dense net from images (batch, *image_shape) float32 in [0, 1] to logits (batch, num_classes).

    Of the recipe, it uses NET_SETTINGS: crop pixels at each edge are ignored, and each square of pool x pool of the
    remaining pixels is replaced by its mean. Most parameters of a small net are in its first
    layer: 28x28 pixels cropped by 3 are 22x22, and then pooled by 2 are 11x11, less than a sixth. seed: decides the
    initial weights; None leaves them to Keras' random state.
    """
    if (recipe.crop or recipe.pool > 1) and (len(image_shape) not in (2, 3) or 2 * recipe.crop >= min(image_shape[:2])):
        problem = f"--crop and --pool leave nothing of examples of shape {image_shape}"
        raise UserError(f"{problem}: lower them, or leave them out")
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


def new_student(dataset: data.Dataset, recipe: StudentRecipe, path: Path | None = None) -> keras.Model:
    """The student before training: that of `build_student`, or of the .keras file at `path`, with its weights."""
    keras.utils.set_random_seed(recipe.seed)  # for layers of an edited build_student that have no seed of their own
    if not path:
        return build_student(*dataset.form, recipe, recipe.seed)
    own = model_files.load(path, *dataset.form)
    for state, seed in zip(building.dropout_states(own), building.layer_seeds(recipe.seed)):
        state.assign([seed, 0])  # Keras does not save these, and draws new ones whenever it loads a model
    return own


def check_student(dataset: data.Dataset, recipe: StudentRecipe, path: Path | None) -> str | None:
    """Check the student before anyone waits; returns what identifies that of --student in settings, else None.

    path: the .keras file of the user's own student, or None. Prints what may be a mistake.
    """
    student = new_student(dataset, recipe, path)
    if not path:
        model_files.check(student, "the net of build_student", *dataset.form)
    training.check_trainable(student, path or "the net of build_student")
    if not path:
        return None
    if recipe.only(*NET_SETTINGS) != DEFAULTS.only(*NET_SETTINGS):
        print(f"note: --student brings its layers, so {', '.join(NET_SETTINGS)} have no effect")
    classifier.warn_of_pixels(path, student, dataset.train.sample(), recipe.student_pixels, "--student-pixels")
    return student.to_json() + model_files.weights_sha256(student)


def trainer_for(
    dataset: data.Dataset,
    recipe: StudentRecipe,
    batches: Batches,
    loss: training.Loss = training.cross_entropy,
    path: Path | None = None,
    **options: Any,
) -> training.Trainer:
    """The training.Trainer of a new student: every student of the scripts and studies begins here.

    path: see `new_student`. options: of the Trainer.
    """
    options = {"pixels": recipe.student_pixels, "validation": dataset.validation} | options
    return training.Trainer(new_student(dataset, recipe, path), batches, loss, recipe, **options)


def train_student(
    dataset: data.Dataset, recipe: StudentRecipe, path: Path | None = None
) -> tuple[keras.Model, list[model_files.Epoch]]:
    """Build and train a student on the labels alone; returns (model, history). path: see `new_student`."""
    trainer = trainer_for(dataset, recipe, Batches(dataset.train.labelled(), recipe), path=path)
    return trainer.model, training.train([trainer])[0]


def main() -> None:
    options = terminal.parser(__doc__, "data validation out student", DEFAULTS, OWN_DATA_DEFAULTS)
    arguments = options.parse_args()
    terminal.print_settings(arguments)
    out, dataset = files.output_folder(arguments.out), data.load_for(arguments)
    recipe = DEFAULTS.updated(vars(arguments))
    own = check_student(dataset, recipe, arguments.student)
    selection.announce(recipe.select)
    student, history = train_student(dataset, recipe, arguments.student)
    settings = recipe.settings() | {"data": files.sha256(*dataset.train), "student": own}
    model_files.save(student, out / "student.keras", settings, history)
    plots.learning_curves({"student": history}, out / "plots" / "learning_curves_student.png")
    print(f"saved {out / 'student.keras'}, {student.count_params():,} parameters")
    errors = classifier.count_errors(student, dataset.test, recipe.student_pixels)
    print(f"student, labels alone: {classifier.describe_errors(errors, len(dataset.test.labels))}")


if __name__ == "__main__":
    terminal.run(main)
