"""Train the teacher, a large dense net, and save it.

    python teacher.py

784-1200-1200-10, ReLU: the net of Hinton, Vinyals & Dean (2015), section 3, here on images that are rotated, scaled, shifted
and bent, anew in each epoch. It makes 56 test errors in 10,000 (mean of 5 seeds; 51 to 64), in about 3 minutes on two cores.
Its labels are not smoothed: that helps a teacher and hurts its student (Mueller et al. 2019).

Writes teacher.keras, its history teacher.csv and plots/learning_curves_teacher.png to artifacts/; until then, its state
after each epoch to teacher_checkpoint.npz, from which --resume goes on.
"""

from support import files, inference, models, pick, plots, terminal, training

import keras

import data

RECIPE = {  # all that decides a teacher, besides the data
    "hidden": [1200, 1200],
    "dropout": 0.0,
    "input_dropout": 0.0,
    "seed": 0,
    "epochs": 45,
    "batch_size": 500,
    "learning_rate": 2e-3,
    "weight_decay": 0.5,
    "translate": 0,
    "distort": 1.0,
}
OWN_DATA = {  # the defaults that change with --data: a distorted example may be of another class
    "dropout": 0.4,
    "input_dropout": 0.1,
    "weight_decay": 0.0,
    "distort": 0.0,
}


def build_teacher(image_shape, num_classes, hidden=(1200, 1200), dropout=0.0, input_dropout=0.0, seed=None):
    """A dense ReLU net from images (batch, *image_shape) float32 in [0, 1] to logits (batch, num_classes).

    hidden: units of each layer. dropout: the share of each hidden layer's outputs that is set to 0; input_dropout: of the pixels.
    seed: decides the first weights and what is dropped; None: Keras' own random state does.
    """
    seeds = models.layer_seeds(seed)
    layers = [keras.layers.Flatten(**models.FIXED)]
    if input_dropout:
        layers.append(keras.layers.Dropout(input_dropout, seed=next(seeds), dtype="float32"))
    for units in hidden:
        layers.append(models.dense(units, "relu", next(seeds)))
        if dropout:
            layers.append(keras.layers.Dropout(dropout, seed=next(seeds), dtype="float32"))
    return keras.Sequential(
        [keras.Input(image_shape, dtype="float32"), *layers, models.dense(num_classes, None, next(seeds))],
        name="teacher",
    )


def train_teacher(dataset, recipe, loss=training.cross_entropy, **options):
    """Build and train a teacher as `recipe`, a dict like RECIPE, says; returns (model, history).

    loss(labels, logits): see training.train, which takes the options too. Raises UserError as that does.
    """
    sizes = pick(recipe, ["hidden", "dropout", "input_dropout", "seed"])
    teacher = build_teacher(dataset.image_shape, dataset.num_classes, **sizes)
    batches = data.Batches(dataset.train.labelled(), **pick(recipe, ["batch_size", "seed", "translate", "distort"]))
    schedule = pick(recipe, ["epochs", "learning_rate", "weight_decay"])
    history = training.train(teacher, batches, loss, **schedule, validation=dataset.validation, **options)
    return teacher, history


def main():
    options = terminal.parser(__doc__, terminal.DATA | RECIPE, OWN_DATA)
    options.add_argument("--resume", action="store_true", help="go on from the last finished epoch of a stopped run")
    arguments = options.parse_args()
    terminal.print_settings(arguments)
    out = files.output_folder(arguments.out)
    dataset = data.load(arguments.data, arguments.validation)
    print(f"data: {dataset}\nteacher: if stopped, --resume goes on from its last finished epoch", flush=True)

    settings = pick(vars(arguments), RECIPE) | {"data": files.fingerprint(*dataset.train)}
    # Another version's optimizer may have its variables in another order.
    versions = {name: files.versions()[name] for name in ("tensorflow", "keras")}
    checkpoint = training.Checkpoint(out / "teacher_checkpoint.npz", settings | versions, arguments.resume)
    teacher, history = train_teacher(dataset, settings, checkpoint=checkpoint)
    models.save(teacher, out / "teacher.keras", settings, history)
    plots.learning_curves({"teacher": history}, out / "plots" / "learning_curves_teacher.png")
    checkpoint.path.unlink(missing_ok=True)
    print(f"saved {out / 'teacher.keras'}, {teacher.count_params():,} parameters")
    errors = inference.count_errors(teacher, dataset.test)
    print(f"teacher: {models.describe_errors(errors, len(dataset.test.labels))}")


if __name__ == "__main__":
    terminal.run(main)
