"""Train the student, a small dense net, on the labels alone, and save it: the baseline that distillation has to beat.

    python student.py

784-64-64-10, ReLU, on images shifted by up to a pixel, anew in each epoch. It makes 139 test errors in 10,000 (mean of 5 seeds;
130 to 149), in 30 seconds on two cores.
`python distill.py` trains it too, unless it is there already.

Writes student.keras, its history student.csv and plots/learning_curves_student.png to artifacts/.
"""

from support import UserError, files, inference, models, pick, plots, terminal, training

import keras

import data

RECIPE = {  # all that decides a student on labels alone, besides the data
    "hidden": [64, 64],
    "crop": 0,
    "pool": 1,
    "activation": "relu",
    "seed": 0,
    "epochs": 150,
    "batch_size": 250,
    "learning_rate": 5e-3,
    "translate": 1,
    "distort": 0.0,
}
SIZES = ["hidden", "pool", "crop", "activation"]  # what `build_student` takes
NETS = {"student": None, "student_pixels": 1.0}  # the options for a net of one's own
OWN_DATA = {"translate": 0}  # the default that changes with --data: a shifted example may be of another class


def build_student(image_shape, num_classes, hidden=(64, 64), pool=1, crop=0, activation="relu", seed=None):
    """A dense net from images (batch, *image_shape) float32 in [0, 1] to logits (batch, num_classes).

    hidden: units of each layer. crop: so many pixels at each edge are ignored. pool: each square of pool x pool pixels of the rest
    is replaced by its mean. Most parameters of a small net are in its first layer: 28x28 pixels, cropped by 3, are
    22x22, and pooled by 2 then 11x11, less than a sixth. seed: decides the first weights; None: Keras' own random state does.
    """
    seeds = models.layer_seeds(seed)
    layers = []
    if (crop or pool > 1) and len(image_shape) == 2:
        layers.append(keras.layers.Reshape((*image_shape, 1), dtype="float32"))
    if crop:
        layers.append(keras.layers.Cropping2D(crop, **models.FIXED))
    if pool > 1:
        layers.append(keras.layers.AveragePooling2D(pool, padding="same", **models.FIXED))
    layers += [
        keras.layers.Flatten(**models.FIXED),
        *(models.dense(units, activation, next(seeds)) for units in hidden),
    ]
    return keras.Sequential(
        [keras.Input(image_shape, dtype="float32"), *layers, models.dense(num_classes, None, next(seeds))],
        name="student",
    )


def settings_from(arguments, dataset):
    """All that decides a student on labels alone, from the parsed options: RECIPE's names, and fingerprints of data and --student.

    Raises UserError: --crop or --pool is not for such examples; --student cannot be used with the data.
    """
    shape = dataset.image_shape
    if (arguments.crop or arguments.pool > 1) and (len(shape) not in (2, 3) or 2 * arguments.crop >= min(shape[:2])):
        raise UserError(f"--crop and --pool leave nothing of examples of shape {shape}: lower them, or leave them out")
    own = arguments.student and models.load(arguments.student, shape, dataset.num_classes)
    if own:
        training.check_trainable(own, arguments.student)
        named = arguments.student_pixels, "--student-pixels"
        inference.warn_of_pixels(arguments.student, own, data.sample(dataset.train), *named)
    return pick(vars(arguments), RECIPE) | {
        "data": files.fingerprint(*dataset.train),
        "student": own and own.to_json() + models.fingerprint(own),
        "student_pixels": arguments.student_pixels,
    }


def train_student(dataset, recipe, loss=training.cross_entropy, teacher_logits=None, path=None, **options):
    """Build and train a student as `recipe`, a dict like RECIPE, says; returns (model, history).

    Baseline and distilled student are both made here: the recipe alone decides their first weights, batches and schedule, so
    that only `loss` and `teacher_logits` (see data.Batches) differ. Without teacher_logits, examples without a label are left
    out. path: of a .keras file, a student of your own, whose weights are the first ones. training.train takes the options.

    Raises UserError as models.load, data.Batches and training.train do.
    """
    student = first_student(dataset, recipe, path)
    order = pick(recipe, ["batch_size", "seed", "translate", "distort"])
    split = dataset.train.labelled() if teacher_logits is None else dataset.train
    batches = data.Batches(split, **order, teacher_logits=teacher_logits)
    schedule = pick(recipe, ["epochs", "learning_rate"]) | {"pixels": recipe.get("student_pixels", 1.0)}
    history = training.train(student, batches, loss, **schedule, validation=dataset.validation, **options)
    return student, history


def first_student(dataset, recipe, path=None):
    """The student before its training. recipe, path: see `train_student`."""
    shape = dataset.image_shape, dataset.num_classes
    if not path:
        return build_student(*shape, **pick(recipe, SIZES), seed=recipe["seed"])
    loaded = models.load(path, *shape)
    for state, seed in zip(models.dropout_states(loaded), models.layer_seeds(recipe["seed"])):
        state.assign([seed, 0])  # Keras does not save them, and draws others whenever it loads a model
    return loaded


def train_baseline(dataset, settings, out, path=None):
    """Train the student on the labels alone and save it with its history and learning curves; returns (model, history)."""
    student, history = train_student(dataset, settings, path=path)
    models.save(student, out / "student.keras", settings, history)
    plots.learning_curves({"student": history}, out / "plots" / "learning_curves_student.png")
    print(f"saved {out / 'student.keras'}, {student.count_params():,} parameters", flush=True)
    return student, history


def main():
    arguments = terminal.parser(__doc__, terminal.DATA | NETS | RECIPE, OWN_DATA).parse_args()
    terminal.print_settings(arguments)
    out = files.output_folder(arguments.out)
    dataset = data.load(arguments.data, arguments.validation)
    print(f"data: {dataset}", flush=True)
    student, _ = train_baseline(dataset, settings_from(arguments, dataset), out, arguments.student)
    errors = inference.count_errors(student, dataset.test, arguments.student_pixels)
    print(f"student, labels alone: {models.describe_errors(errors, len(dataset.test.labels))}")


if __name__ == "__main__":
    terminal.run(main)
