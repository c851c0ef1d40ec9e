"""Train the teacher, a large dense net, and save it.

    python teacher.py

784-1200-1200-10, ReLU: the net of Hinton, Vinyals & Dean (2015), section 3. In each epoch its images are rotated,
scaled, shifted and bent at random; after the third, it has only two fifths of them: the hardest, and some at random
(studies/selection.md). It makes 55 test errors in 10,000 (mean of 5 seeds; 52 to 61), in about 2 minutes on two cores.
Its labels are not smoothed: that helps a teacher but hurts its student (Mueller et al. 2019).

Writes teacher.keras, its history teacher.csv and plots/learning_curves_teacher.png to artifacts/. During training the
state after each epoch is in teacher_checkpoint.npz, from which --resume continues.
"""

from dataclasses import dataclass

from support import building, classifier, files, model_files, plots, selection, terminal, training
from support.batches import Batches
from support.callbacks import Checkpoint
from support.recipe import TrainingRecipe, dropout_rate, setting

import keras

import data


@dataclass(frozen=True)
class TeacherRecipe(TrainingRecipe):
    """All settings of a teacher, apart from the data. Those of teacher.py are DEFAULTS."""

    dropout: float = setting(0.0, dropout_rate, "fraction of the hidden units set to 0", metavar="RATE")
    input_dropout: float = setting(0.0, dropout_rate, "fraction of the pixels set to 0", metavar="RATE")


NET = {"hidden": (1200, 1200), "batch_size": 500, "learning_rate": 2e-3, "translate": 0}
DEFAULTS = TeacherRecipe(**NET, epochs=48, select=0.4, weight_decay=0.5, distort=1.0)
# A distorted example of other data may belong to another class, and its hardest may have wrong labels.
OWN_DATA_DEFAULTS = TeacherRecipe(**NET, epochs=45, dropout=0.4, input_dropout=0.1)


def build_teacher(
    image_shape: tuple[int, ...], num_classes: int, recipe: TeacherRecipe = DEFAULTS, seed: int | None = None
) -> keras.Model:
    """A dense ReLU net from images (batch, *image_shape) float32 in [0, 1] to logits (batch, num_classes).

    Of the recipe, it uses hidden, dropout and input_dropout. seed: decides the initial weights and what is dropped;
    None leaves both to Keras' random state.
    """
    seeds = building.layer_seeds(seed)
    layers = [keras.Input(image_shape, dtype="float32"), keras.layers.Flatten(**building.FIXED)]
    if recipe.input_dropout:
        layers.append(keras.layers.Dropout(recipe.input_dropout, seed=next(seeds), dtype="float32"))
    for units in recipe.hidden:
        layers.append(building.dense(units, "relu", next(seeds)))
        if recipe.dropout:
            layers.append(keras.layers.Dropout(recipe.dropout, seed=next(seeds), dtype="float32"))
    layers.append(building.dense(num_classes, None, next(seeds)))
    return keras.Sequential(layers, name="teacher")


def train_teacher(
    dataset: data.Dataset,
    recipe: TeacherRecipe = DEFAULTS,
    checkpoint: Checkpoint | None = None,
    report: training.Report = training.print_epoch,
) -> tuple[keras.Model, list[model_files.Epoch]]:
    """Build and train a teacher; returns (model, history).

    checkpoint: see training.Trainer. report: see training.train.
    """
    keras.utils.set_random_seed(recipe.seed)  # for layers of an edited build_teacher that have no seed of their own
    teacher = build_teacher(*dataset.form, recipe, recipe.seed)
    model_files.check(teacher, "the net of build_teacher", *dataset.form)
    batches = Batches(dataset.train.labelled(), recipe)
    options = {"validation": dataset.validation, "checkpoint": checkpoint}
    trainer = training.Trainer(teacher, batches, training.cross_entropy, recipe, **options)
    return teacher, training.train([trainer], report=report)[0]


def main() -> None:
    options = terminal.parser(__doc__, "data validation out", DEFAULTS, OWN_DATA_DEFAULTS)
    options.add_argument("--resume", action="store_true", help="continue a stopped run after its last finished epoch")
    arguments = options.parse_args()
    terminal.print_settings(arguments)
    out = files.output_folder(arguments.out)
    dataset = data.load_for(arguments)
    print("teacher: if stopped, --resume continues after its last finished epoch", flush=True)

    recipe = DEFAULTS.updated(vars(arguments))
    selection.announce(recipe.select)
    settings = recipe.settings() | {"data": files.sha256(*dataset.train)}
    # Another version's optimizer may have its variables in another order; edited code would train another teacher.
    made_by = {name: files.versions()[name] for name in ("tensorflow", "keras")}
    made_by |= {"code": files.code_sha256("teacher.py")}
    checkpoint = Checkpoint(out / "teacher_checkpoint.npz", settings | made_by, arguments.resume)
    teacher, history = train_teacher(dataset, recipe, checkpoint)
    model_files.save(teacher, out / "teacher.keras", settings, history)
    plots.learning_curves({"teacher": history}, out / "plots" / "learning_curves_teacher.png")
    checkpoint.path.unlink(missing_ok=True)
    print(f"saved {out / 'teacher.keras'}, {teacher.count_params():,} parameters")
    errors = classifier.count_errors(teacher, dataset.test)
    print(f"teacher: {classifier.describe_errors(errors, len(dataset.test.labels))}")


if __name__ == "__main__":
    terminal.run(main)
