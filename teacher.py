"""Train the teacher, a large dense net, and save it.

    python teacher.py

784-1200-1200-10, ReLU, dropout, digits moved by up to two pixels: the net of Hinton, Vinyals & Dean (2015), section 3.
Makes 94 test errors in 10,000 (mean of seeds 0, 1, 2; 92 to 97), in 2.5 minutes on two cores.
Its labels are not smoothed: that helps a teacher and hurts its student (Mueller et al. 2019).

Writes teacher.keras, its history teacher.csv and plots/learning_curves_teacher.png to artifacts/; until then, its state
after each epoch in teacher_checkpoint.npz, from which --resume goes on.
"""

import common  # before Keras: it keeps the start-up quiet

import keras

import data
import plots
import training


def build_teacher(image_shape, num_classes, hidden=(1200, 1200), dropout=0.4, input_dropout=0.1):
    """A dense ReLU net from images (batch, *image_shape) float32 in [0, 1] to logits (batch, num_classes).

    hidden: units of each layer. dropout: share of each hidden layer's outputs, input_dropout: of the pixels, set to 0.
    """
    layers = [keras.layers.Flatten()]
    if input_dropout:
        layers.append(keras.layers.Dropout(input_dropout))
    for units in hidden:
        layers.append(keras.layers.Dense(units, activation="relu"))
        if dropout:
            layers.append(keras.layers.Dropout(dropout))
    return keras.Sequential([keras.Input(image_shape), *layers, keras.layers.Dense(num_classes)], name="teacher")


def parse_arguments():
    options = common.parser(__doc__)
    options.add_argument("--hidden", type=common.whole(1), nargs="+", default=[1200, 1200], help="units of each layer")
    options.add_argument("--dropout", type=common.dropout_rate, default=0.4, help="of hidden units")
    options.add_argument("--input-dropout", type=common.dropout_rate, default=0.1, help="of pixels")
    options.add_argument(
        "--weight-decay",
        type=common.number(0, 1e3),
        default=0.0,
        help="each step takes off this share, times the learning rate, of each weight (default: %(default)s)",
    )
    common.add_training_options(options, epochs=30, batch_size=500, learning_rate=2e-3, translate=2)
    options.add_argument(
        "--resume", action="store_true", help="go on from the last finished epoch of a run that was stopped"
    )
    return options.parse_args()


def main():
    arguments = parse_arguments()
    common.print_settings(arguments)
    out = common.make_folder(arguments.out)
    digits = data.load(arguments.data, arguments.validation)
    print(f"data: {digits}")

    keras.utils.set_random_seed(arguments.seed)
    teacher = build_teacher(
        digits.image_shape, digits.num_classes, arguments.hidden, arguments.dropout, arguments.input_dropout
    )
    print(f"teacher: {teacher.count_params():,} parameters; stopped, it goes on from its last epoch with --resume")
    names = set(vars(arguments)) - {"data", "out", "resume", "validation"}
    settings = {name: getattr(arguments, name) for name in sorted(names)} | {"data": common.fingerprint(*digits.train)}
    # Another version's optimizer may have its variables in another order.
    versions = {name: common.versions()[name] for name in ("tensorflow", "keras")}
    checkpoint = training.Checkpoint(out / "teacher_checkpoint.npz", settings | versions, arguments.resume)
    history = training.train(
        teacher,
        data.Batches(
            digits.train,
            arguments.batch_size,
            seed=arguments.seed,
            translate=arguments.translate,
            distortion=data.distortion(arguments.distort),
        ),
        training.cross_entropy,
        epochs=arguments.epochs,
        learning_rate=arguments.learning_rate,
        validation=digits.validation,
        weight_decay=arguments.weight_decay,
        checkpoint=checkpoint,
    )
    training.save(teacher, out / "teacher.keras", settings, history)
    plots.learning_curves({"teacher": history}, out / "plots" / "learning_curves_teacher.png")
    print(f"saved {out / 'teacher.keras'}")
    checkpoint.path.unlink(missing_ok=True)
    print(f"teacher: {training.report(training.count_errors(teacher, digits.test), digits.test)}")


if __name__ == "__main__":
    common.run(main)
