"""One training run: schedule, the loop over an epoch, progress, history; and models saved and loaded safely."""

import csv
import hashlib
import io
import json
import math
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

from common import (
    MOST_BYTES,
    UserError,
    clear_progress,
    load_arrays,
    progress,
    refuse_large,
    replacing,
    save_arrays,
    unpacked_bytes,
)

import h5py
import keras
import numpy as np
import tensorflow as tf

SETTINGS = "settings.json"  # the member of a .keras archive that says how the model was trained
HISTORY = "history.csv"  # and the one that says what came of each epoch
DIGESTS = "sha256.json"  # and the one that holds the others' SHA-256: a zip file's own checksums are of 32 bits
CALL_SECONDS = 0.3  # after about so long an epoch comes up for air: to show its progress and to hear Ctrl-C


class Epoch(NamedTuple):
    """A row of a history. Accuracies are fractions; training's is of the net as it trains, dropout and all."""

    epoch: int
    loss: float
    training_accuracy: float
    validation_accuracy: float  # nan without validation images
    seconds: float  # of the training alone


class FusedAdam(keras.optimizers.Adam):
    """Keras' Adam, updating a variable in one pass over its memory, not ten: 5 % off an epoch of the teacher."""

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=self.beta_1**step,
            beta2_power=self.beta_2**step,
            lr=learning_rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


def adam(learning_rate, num_steps, weight_decay=None):
    """Adam, whose learning rate warms up over a twentieth of the steps and then follows half a cosine to 0.

    weight_decay: each step first takes off this share, times the learning rate, of each weight (Loshchilov & Hutter 2019).
    """
    warmup = num_steps // 20
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else learning_rate,
        num_steps - warmup,
        warmup_target=learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    return FusedAdam(schedule, weight_decay=weight_decay or None)  # 0 would cost a pass over memory


def train(model, batches, loss, *, epochs, learning_rate, validation, weight_decay=None, checkpoint=None):
    """Train with `adam`.

    batches: data.Batches. loss(*targets, logits) -> (batch,), targets being what `batches` give beside the images.
    validation: data.Split, maybe empty. checkpoint: a Checkpoint, to go on from and to keep each epoch in. Returns the
    history, a list of Epoch.

    Raises UserError: as compile_epoch's run_epoch and Checkpoint.restore do.
    """
    clock = time.perf_counter()
    progress("compiling")
    optimizer = adam(learning_rate, epochs * batches.num_steps, weight_decay)
    run_epoch = compile_epoch(model, optimizer, batches, loss)
    predict = predictor(model)
    seconds = {"compiling": time.perf_counter() - clock, "training": 0.0, "validating": 0.0}
    state = [*model.variables, *optimizer.variables]
    clear_progress()
    history = checkpoint.restore(state) if checkpoint else []
    for number in range(len(history) + 1, epochs + 1):
        clock = time.perf_counter()
        mean_loss, accuracy = run_epoch(number)
        trained = time.perf_counter()
        validation_accuracy = math.nan
        if len(validation.labels):
            validation_accuracy = float(np.mean(predict(validation.images).argmax(-1) == validation.labels))
        history.append(Epoch(number, mean_loss, accuracy, validation_accuracy, trained - clock))
        seconds["training"] += trained - clock
        seconds["validating"] += time.perf_counter() - trained
        if checkpoint:
            checkpoint.keep(state, history)
        clear_progress()
        print(_line(history[-1], epochs), flush=True)
    print(", ".join(f"{name} {value:.1f} s" for name, value in seconds.items()), flush=True)
    return history


class Checkpoint(NamedTuple):
    """Where a training run keeps its state after each epoch, so that one that was stopped can go on, bit for bit.

    Noise and order are drawn from the seed and the number of the step or epoch: weights, optimizer and history are all there is.
    """

    path: Path  # .npz
    settings: dict  # of plain values: all that decides the run
    resume: bool  # whether to go on from it

    def restore(self, state):
        """Assign the state (a list of variables) that was kept; returns its history, [] where there is none to go on from.

        Raises UserError: the file is damaged, or of a run with other settings.
        """
        if not self.resume:
            if self.path.exists():
                print(
                    f"{self.path} is of a run that was stopped: this one starts anew and writes over it (see --resume)"
                )
            return []
        if not self.path.exists():
            print(f"there is no {self.path} to go on from: this starts anew", flush=True)
            return []
        kept = load_arrays(self.path)
        settings = json.loads(str(kept.get("settings", "{}")))
        other = [name for name in self.settings if settings.get(name) != self.settings[name]]
        if other:
            raise UserError(
                f"{self.path} is of a run with other settings ({', '.join(other)}): leave --resume out to start anew"
            )
        for place, variable in enumerate(state):
            variable.assign(kept[f"variable_{place}"])
        history = [Epoch(int(number), *rest) for number, *rest in kept["history"].tolist()]
        print(f"going on after epoch {len(history)}", flush=True)
        return history

    def keep(self, state, history):
        """Write the state and the history, in place of what was there."""
        arrays = {f"variable_{place}": variable.numpy() for place, variable in enumerate(state)}
        save_arrays(self.path, settings=json.dumps(self.settings), history=history, **arrays)


def _line(row, epochs):
    validation = "" if math.isnan(row.validation_accuracy) else f"  validation {row.validation_accuracy:7.2%}"
    return (
        f"epoch {row.epoch:3}/{epochs}  loss {row.loss:.4f}  training {row.training_accuracy:7.2%}{validation}"
        f"  {row.seconds:.1f} s"
    )


def compile_epoch(model, optimizer, batches, loss):
    """Compile the training of one epoch; returns run_epoch(number) -> (mean loss, training accuracy).

    A loop in the graph instead of `fit`: with XLA it takes less than half the time of the best `fit`. model: Sequential.
    run_epoch raises UserError: the loss is no longer finite.
    """
    variables = model.trainable_variables
    optimizer.build(variables)

    def step(examples):
        images, *targets = batches.view(*examples)
        with tf.GradientTape() as tape:
            logits = forward(model, images, [batches.seed, optimizer.iterations.value])
            mean_loss = tf.reduce_mean(loss(*targets, logits))
        optimizer.apply(tape.gradient(mean_loss, variables), variables)
        hits = tf.argmax(logits, -1, output_type=tf.int32) == targets[0]
        return tf.stack([mean_loss, tf.reduce_mean(tf.cast(hits, tf.float32))])

    # XLA draws dropout's random bits on one core: with it, an epoch of the teacher takes a sixth longer.
    has_dropout = any(isinstance(layer, keras.layers.Dropout) for layer in model.layers)

    @tf.function(jit_compile=not has_dropout)
    def run_steps(examples, first, stop):
        totals = tf.zeros(2)
        while first < stop:  # not tf.range: XLA would compile anew for each pair of bounds
            totals += step([part[first] for part in examples])
            first += 1
        return totals

    steps_at_once = max(1, batches.num_steps // 10)

    def run_epoch(number):
        nonlocal steps_at_once
        examples = batches.collect(*batches.epoch(number))
        totals, stop = np.zeros(2), 0
        while stop < batches.num_steps:
            clock = time.perf_counter()
            first, stop = stop, min(stop + steps_at_once, batches.num_steps)
            totals += run_steps(examples, tf.constant(first), tf.constant(stop)).numpy()
            if time.perf_counter() - clock > CALL_SECONDS:
                progress(f"epoch {number:3}  {stop / batches.num_steps:4.0%}")
            else:
                steps_at_once = min(2 * steps_at_once, batches.num_steps)  # each call costs some milliseconds
        mean_loss, accuracy = (totals / batches.num_steps).tolist()
        if not math.isfinite(mean_loss):
            raise UserError(
                f"training diverged in epoch {number} (loss {mean_loss}), no model saved: lower --learning-rate"
            )
        return mean_loss, accuracy

    # No step is taken: this only compiles.
    run_steps(batches.collect(*batches.epoch(0)), tf.constant(0), tf.constant(0))
    return run_epoch


def run_epochs(run_epoch, epochs, name):
    """Run that many epochs, of compile_epoch, with no more to be seen of it than a line of progress; returns the history."""
    history = []
    for number in range(1, epochs + 1):
        clock = time.perf_counter()
        mean_loss, accuracy = run_epoch(number)
        history.append(Epoch(number, mean_loss, accuracy, math.nan, time.perf_counter() - clock))
        progress(f"{name}  epoch {number}/{epochs}")
    return history


def forward(model, images, seed):
    """What model(images, training=True) gives for a Sequential model, its noise drawn from two integers, `seed`."""
    outputs = images
    for place, layer in enumerate(model.layers):
        if isinstance(layer, keras.layers.Dropout):
            outputs = dropout(outputs, layer.rate, [seed[0], seed[1] * len(model.layers) + place])
        else:
            outputs = layer(outputs, training=True)
    return outputs


def dropout(units, rate, seed):
    """Dropout as Keras defines it, the rate to the nearest 1 / 65,536, for units (batch, n) float32.

    It draws 16 random bits for a unit where Keras draws a float of 32: 7 % off an epoch of the teacher.
    """
    batch, number = units.shape
    bits = tf.random.stateless_uniform((batch, (number + 1) // 2), seed, None, None, tf.int32)
    bits = tf.bitcast(bits, tf.uint16)  # (batch, half, 2)
    dropped = min(round(rate * 2**16), 2**16 - 1)
    kept = tf.reshape(bits, (batch, -1))[:, :number] >= dropped
    return units * (tf.cast(kept, tf.float32) * (2**16 / (2**16 - dropped)))


def cross_entropy(labels, logits):
    """The loss on labels alone: labels (batch,) integers, logits (batch, C) -> nats per example (batch,)."""
    return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)


def predictor(model, batch_size=1000):
    """Returns predict(images (n, h, w) uint8) -> logits (n, C) float32, NumPy arrays both, at inference (no dropout)."""

    @tf.function(input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8)])
    def logits(images):
        return model(tf.cast(images, tf.float32) / 255.0, training=False)

    def predict(images):
        return np.concatenate([logits(images[i : i + batch_size]) for i in range(0, len(images), batch_size)])

    return predict


def are_probabilities(outputs):
    """Whether a model's outputs (n, C) are a softmax's, where this project's models return logits."""
    return bool(outputs.min() >= 0 and np.allclose(outputs.sum(-1), 1, atol=1e-3))


def count_errors(model, split):
    """How many of the split's images the model puts into another class than their label."""
    return int(np.sum(predictor(model)(split.images).argmax(-1) != split.labels))


def report(errors, split):
    """A line that says what `count_errors` found on the test split."""
    return f"{errors:,} test errors in {len(split.labels):,} images, accuracy {1 - errors / len(split.labels):.2%}"


def save(model, path, settings, history):
    """Save the model at `path` (.keras) and its history beside it (.csv), each whole or not at all.

    settings: a dict of plain values. They and the history go into the .keras archive too, so that a model says how it was
    made; the .csv is for people, and is never read again.
    """
    table = io.StringIO()
    csv.writer(table).writerows([Epoch._fields, *history])
    with replacing(path) as scratch:
        model.save(scratch)
        with zipfile.ZipFile(scratch, "a") as archive:
            archive.writestr(SETTINGS, json.dumps(settings))
            archive.writestr(HISTORY, table.getvalue())
            archive.writestr(DIGESTS, json.dumps(_digests(archive)))
        with replacing(path.with_suffix(".csv")) as beside, open(beside, "w", newline="") as file:
            file.write(table.getvalue())


def load(path, image_shape, num_classes):
    """Load a model file that this project, or anybody with Keras, saved, in Keras' safe mode: no Lambda, no pickle.

    Raises UserError: it is missing, damaged, no Keras model, or does not map image_shape to num_classes.
    """

    def read(archive):
        refuse_large(_weight_bytes(archive))
        return keras.models.load_model(path, compile=False, safe_mode=True)

    model = _read(path, read)
    for what, needed in (("input_shape", (None, *image_shape)), ("output_shape", (None, num_classes))):
        found = getattr(model, what, None)  # a model that was never built has none
        if found != needed:
            raise UserError(
                f"{path}: {what} is {found} where the data need {needed}: use the --data and the shapes that fit"
            )
    return model


def _digests(archive):
    digests = {}
    for name in archive.namelist():
        with archive.open(name) as member:
            digests[name] = hashlib.file_digest(member, "sha256").hexdigest()
    return digests


def _weight_bytes(archive):
    """What a model's weights will take: of the file's, which may be compressed, and of the net, before it has any."""
    sizes = []

    def add_size(_, item):
        if isinstance(
            item, h5py.Dataset
        ):  # it is read a chunk at a time, which may be larger than what is wanted of it
            sizes.append(max(item.nbytes, math.prod(item.chunks or ()) * item.dtype.itemsize))

    with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
        file.visititems(add_size)
    # An optimizer cannot be made in a StatelessScope, and what it holds is no weight of the net's.
    config = json.loads(
        archive.read("config.json"),
        object_hook=lambda found: {key: value for key, value in found.items() if key != "compile_config"},
    )
    declared = math.inf
    try:
        with keras.StatelessScope(initialize_variables=False):
            variables = keras.models.model_from_json(json.dumps(config)).variables
            declared = 4 * sum(math.prod(variable.shape) for variable in variables)
    finally:
        if declared > MOST_BYTES:
            keras.utils.clear_session()  # else Keras would make those weights the next time that it makes any
    return max(sum(sizes), declared)


def load_settings(path):
    """The settings that `save` put into a model file; {} for a model from elsewhere. Raises UserError as `load` does."""

    def parse(archive):
        settings = json.loads(archive.read(SETTINGS)) if SETTINGS in archive.namelist() else {}
        if not isinstance(settings, dict):
            raise ValueError(f"its {SETTINGS} holds no settings")  # noqa: TRY004 - it is the file that is wrong
        return settings

    return _read(path, parse)


def settings_of(path):
    """The settings in a model file as `load_settings` gives them; {} also where the file is missing or damaged."""
    try:
        return load_settings(path)
    except UserError:
        return {}


def _read(path, read):
    """read(archive) of the .keras file at `path`, once its every member has passed its checksum."""
    try:
        if Path(path).suffix != ".keras":
            raise ValueError("its name does not end in .keras")  # Keras would read it as of another format
        with zipfile.ZipFile(path) as archive:
            refuse_large(unpacked_bytes(archive))
            climbing = [name for name in archive.namelist() if name.startswith("/") or ".." in name.split("/")]
            if climbing:
                raise ValueError(f"its {climbing[0]} would be written outside of it")
            if "config.json" not in archive.namelist():
                raise ValueError("it has no config.json")
            found = _digests(archive)  # this reads every member, and zipfile checks its checksum
            if found.pop(DIGESTS, None):
                expected = json.loads(archive.read(DIGESTS))
                changed = [name for name in found.keys() | expected if found.get(name) != expected.get(name)]
                if changed:
                    raise ValueError(f"changed since it was saved: {', '.join(changed)}")
            return read(archive)
    except FileNotFoundError:
        raise UserError(
            f"{path}: there is no such model file: `python teacher.py` and `python distill.py` make them"
        ) from None
    except PermissionError:  # it may well be whole
        raise
    except Exception as error:  # noqa: BLE001 - whatever a damaged or hostile file makes zipfile, HDF5 or Keras raise
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(f"{path} is no .keras file that can be loaded ({problem}): train or save it again")


def load_history(path):
    """The history that `save` put into the model file at `path`; [] for a model from elsewhere. Raises UserError as `load`."""

    def parse(archive):
        if HISTORY not in archive.namelist():
            return []
        header, *rows = csv.reader(io.StringIO(archive.read(HISTORY).decode(), newline=""))
        if tuple(header) != Epoch._fields:  # of another version
            return []
        return [Epoch(int(number), *map(float, rest)) for number, *rest in rows]

    return _read(path, parse)
