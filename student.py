"""Train the student, a small dense net, on the labels alone, and save it: the baseline that distillation has to beat.

    python student.py

784-64-64-10, ReLU, on images shifted by up to a pixel, anew in each epoch. It makes 139 test errors in 10,000 (mean
of 5 seeds; 130 to 149), in 30 seconds on two cores. `python distill.py` trains it too, unless it is there already.

Writes student.keras, its history student.csv and plots/learning_curves_student.png to artifacts/.
"""

from dataclasses import dataclass
from pathlib import Path

from support import UserError, building, files, inference, model_files, plots, terminal, training
from support.recipe import Recipe, Training, factor, integer, setting

import keras

import data


@dataclass(frozen=True)
class StudentRecipe(Training):
    """All that decides a student on labels alone, besides the data and a net of one's own."""

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
    """The option for a student of one's own."""

    student: Path | None = setting(None, Path, "your own student: a .keras file with its first weights", metavar="FILE")


MNIST = StudentRecipe()
OWN_DATA = StudentRecipe(translate=0)  # a shifted example of other data may be of another class


def build_student(image_shape, num_classes, recipe=MNIST, seed=None):
    """A dense net from images (batch, *image_shape) float32 in [0, 1] to logits (batch, num_classes).

    recipe: a StudentRecipe, of which this takes hidden, activation, crop (so many pixels at each edge are ignored)
    and pool (each square of pool x pool pixels of the rest is replaced by its mean). Most parameters of a small net
    are in its first layer: 28x28 pixels, cropped by 3, are 22x22, and pooled by 2 then 11x11, less than a sixth.
    seed: decides the first weights; None: Keras' own random state does.
    """
    seeds = building.layer_seeds(seed)
    layers = []
    if (recipe.crop or recipe.pool > 1) and len(image_shape) == 2:
        layers.append(keras.layers.Reshape((*image_shape, 1), dtype="float32"))
    if recipe.crop:
        layers.append(keras.layers.Cropping2D(recipe.crop, **building.FIXED))
    if recipe.pool > 1:
        layers.append(keras.layers.AveragePooling2D(recipe.pool, padding="same", **building.FIXED))
    layers.append(keras.layers.Flatten(**building.FIXED))
    layers += [building.dense(units, recipe.activation, next(seeds)) for units in recipe.hidden]
    inputs, outputs = keras.Input(image_shape, dtype="float32"), building.dense(num_classes, None, next(seeds))
    return keras.Sequential([inputs, *layers, outputs], name="student")


def settings_from(recipe, own_path, dataset):
    """All that decides a student on labels alone, a dict of plain values: the StudentRecipe, and fingerprints of data
    and --student.

    own_path: of --student, or None. Raises UserError: --crop or --pool is not for such examples; --student cannot be
    used with the data.
    """
    shape = dataset.image_shape
    if (recipe.crop or recipe.pool > 1) and (len(shape) not in (2, 3) or 2 * recipe.crop >= min(shape[:2])):
        raise UserError(f"--crop and --pool leave nothing of examples of shape {shape}: lower them, or leave them out")
    own = own_path and model_files.load(own_path, shape, dataset.num_classes)
    if own:
        training.check_trainable(own, own_path)
        inference.warn_of_pixels(own_path, own, data.sample(dataset.train), recipe.student_pixels, "--student-pixels")
    about = {"data": files.fingerprint(*dataset.train), "student": own and own.to_json() + model_files.fingerprint(own)}
    return StudentRecipe.of(recipe.settings()).settings() | about


def train_student(dataset, recipe, loss=training.cross_entropy, teacher_logits=None, path=None, **options):
    """Build and train a student as a StudentRecipe says; returns (model, history).

    Baseline and distilled student are both made here: the recipe alone decides their first weights, batches and
    schedule, so that only `loss` and `teacher_logits` (see data.Batches) differ. Without teacher_logits, examples
    without a label are left out. path: of a .keras file, a student of your own, whose weights are the first ones.
    training.Run takes the options.

    Raises UserError as model_files.load, data.Batches and training.Run do.
    """
    student = first_student(dataset, recipe, path)
    split = dataset.train.labelled() if teacher_logits is None else dataset.train
    views = recipe.only("batch_size", "seed", "translate", "distort")
    batches = data.Batches(split, **views, teacher_logits=teacher_logits)
    options |= recipe.only("epochs", "learning_rate") | {"pixels": recipe.student_pixels}
    return student, training.train(student, batches, loss, **options, validation=dataset.validation)


def first_student(dataset, recipe, path=None):
    """The student before its training. recipe, path: see `train_student`."""
    shape = dataset.image_shape, dataset.num_classes
    if not path:
        return build_student(*shape, recipe, recipe.seed)
    loaded = model_files.load(path, *shape)
    for state, seed in zip(building.dropout_states(loaded), building.layer_seeds(recipe.seed)):
        state.assign([seed, 0])  # Keras does not save them, and draws others whenever it loads a model
    return loaded


def train_baseline(dataset, recipe, settings, out, path=None):
    """Train the student on the labels alone and save it with its history and learning curves; returns (model, history).

    settings: see `settings_from`; the rest: see `train_student`.
    """
    student, history = train_student(dataset, recipe, path=path)
    model_files.save(student, out / "student.keras", settings, history)
    plots.learning_curves({"student": history}, out / "plots" / "learning_curves_student.png")
    print(f"saved {out / 'student.keras'}, {student.count_params():,} parameters", flush=True)
    return student, history


def main():
    options = terminal.parser(__doc__, terminal.Files(), OwnStudent(), MNIST, own_data=OWN_DATA)
    arguments = options.parse_args()
    terminal.print_settings(arguments)
    recipe, out = StudentRecipe.of(vars(arguments)), files.output_folder(arguments.out)
    dataset = data.load(arguments.data, arguments.validation)
    print(f"data: {dataset}", flush=True)
    settings = settings_from(recipe, arguments.student, dataset)
    student, _ = train_baseline(dataset, recipe, settings, out, arguments.student)
    errors = inference.count_errors(student, dataset.test, recipe.student_pixels)
    print(f"student, labels alone: {inference.describe_errors(errors, len(dataset.test.labels))}")


if __name__ == "__main__":
    terminal.run(main)
