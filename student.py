"""Train the student, a small dense net, on the labels alone, and save it: the baseline that distilling has to beat.

    python student.py

784-64-64-10, ReLU. Makes 199 test errors in 10,000 (mean of seeds 0, 1, 2; 189 to 211), in 15 seconds on two cores.
`python distill.py` runs this for you where it is needed.

Writes student.keras, its history student.csv and plots/learning_curves_student.png to artifacts/.
"""

import common  # before Keras: it keeps the start-up quiet

import keras

import data
import plots
import training


def build_student(image_shape, num_classes, hidden=(64, 64), pool=1, crop=0, activation="relu"):
    """A dense net from images (batch, *image_shape) float32 in [0, 1] to logits (batch, num_classes).

    hidden: units of each layer. crop: the net does not see so many pixels at each edge. pool: of the rest it sees the means of
    squares of pool x pool. Most of a small net's parameters are in its first layer: 28x28 pixels, cropped by 3, are 22x22, and
    pooled by 2 then 11x11, less than a sixth.
    """
    layers = []
    if crop or pool > 1:
        layers.append(keras.layers.Reshape((*image_shape, 1)))
    if crop:
        layers.append(keras.layers.Cropping2D(crop))
    if pool > 1:
        layers.append(keras.layers.AveragePooling2D(pool, padding="same"))
    layers += [keras.layers.Flatten(), *(keras.layers.Dense(units, activation) for units in hidden)]
    return keras.Sequential([keras.Input(image_shape), *layers, keras.layers.Dense(num_classes)], name="student")


def add_student_options(options):
    """Add the options that a student's training run takes; `recipe` picks them up again."""
    options.add_argument("--hidden", type=common.whole(1), nargs="+", default=[64, 64], help="units of each layer")
    options.add_argument(
        "--pool",
        type=common.whole(1, 1000),
        default=1,
        metavar="PIXELS",
        help="see means of squares of so many pixels a side",
    )
    options.add_argument(
        "--crop", type=common.whole(0), default=0, metavar="PIXELS", help="do not see so many pixels at each edge"
    )
    options.add_argument("--activation", choices=["relu", "gelu", "silu"], default="relu", help="of the hidden units")
    common.add_training_options(options, epochs=60, batch_size=250, learning_rate=5e-3, translate=0)


def recipe(arguments, digits):
    """All that decides a baseline, as a dict: equal recipes give equal weights on the same machine.

    Raises UserError: --crop leaves nothing of the images.
    """
    height, width = digits.image_shape
    if 2 * arguments.crop >= min(height, width):
        raise common.UserError(f"--crop {arguments.crop} leaves nothing of images of {height}x{width}: lower it")
    names = [
        "hidden",
        "seed",
        "epochs",
        "batch_size",
        "learning_rate",
        "translate",
        "distort",
        "pool",
        "crop",
        "activation",
    ]
    return {name: getattr(arguments, name) for name in names} | {"data": common.fingerprint(*digits.train)}


def prepare(digits, recipe, teacher_logits=None):
    """A student with its first weights, and its batches: (model, data.Batches). The recipe alone decides both."""
    keras.utils.set_random_seed(recipe["seed"])
    student = build_student(
        digits.image_shape, digits.num_classes, recipe["hidden"], recipe["pool"], recipe["crop"], recipe["activation"]
    )
    batches = data.Batches(
        digits.train,
        recipe["batch_size"],
        seed=recipe["seed"],
        translate=recipe["translate"],
        distortion=data.distortion(recipe["distort"]),
        teacher_logits=teacher_logits,
    )
    return student, batches


def train_student(digits, recipe, loss=training.cross_entropy, teacher_logits=None):
    """Build and train a student; returns (model, history).

    The baseline and the distilled student are both made here: the recipe alone sets their first weights, batches and
    schedule, and only `loss` and `teacher_logits` (see data.Batches) tell them apart.
    """
    student, batches = prepare(digits, recipe, teacher_logits)
    print(f"student: {student.count_params():,} parameters", flush=True)
    history = training.train(
        student,
        batches,
        loss,
        epochs=recipe["epochs"],
        learning_rate=recipe["learning_rate"],
        validation=digits.validation,
    )
    return student, history


def train_baseline(digits, recipe, out):
    """Train the student on the labels alone and save it with its history and learning curves; returns it."""
    student, history = train_student(digits, recipe)
    training.save(student, out / "student.keras", recipe, history)
    plots.learning_curves({"student": history}, out / "plots" / "learning_curves_student.png")
    return student


def main():
    options = common.parser(__doc__)
    add_student_options(options)
    arguments = options.parse_args()
    common.print_settings(arguments)
    out = common.make_folder(arguments.out)
    digits = data.load(arguments.data, arguments.validation)
    print(f"data: {digits}")
    student = train_baseline(digits, recipe(arguments, digits), out)
    print(f"saved {out / 'student.keras'}")
    print(f"student, labels alone: {training.report(training.count_errors(student, digits.test), digits.test)}")


if __name__ == "__main__":
    common.run(main)
