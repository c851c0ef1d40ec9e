"""The training run: learning-rate schedule, the loop over an epoch, checkpoints.

All nets are trained by `train_together`, but for those of tools/stream.py, which Keras' `fit` trains.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from support import UserError, files
from support.building import dropout_states
from support.inference import caller, predictor
from support.model_files import Epoch, differing
from support.stack import Stack
from support.terminal import clear_progress, progress, say

import keras
import numpy as np
import tensorflow as tf

if TYPE_CHECKING:  # for the hints only
    from data import Batches, Examples, Split

Loss = Callable[..., tf.Tensor]  # see `Run`
Report = Callable[[list[Epoch], int], None]  # see `train_together`
LEARNING_RATE_CALLBACKS = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)
STEPS_PER_CALL = 100  # then the graph returns, so that progress is shown and Ctrl-C is heard


def cross_entropy(labels: tf.Tensor, teacher_logits: tf.Tensor | None, logits: tf.Tensor) -> tf.Tensor:
    """The loss on labels alone, in nats per example (batch,): labels (batch,) integers, logits (batch, C).

    It is 0 for an unlabelled example, whose label is -1. Of a Stack's logits (batch, K, C): (batch, K). teacher_logits:
    ignored; every loss has this argument, see `Run`.
    """
    labels = labels_for(logits, labels)
    losses = keras.losses.sparse_categorical_crossentropy(tf.maximum(labels, 0), logits, from_logits=True)
    return tf.where(labels >= 0, losses, 0.0)


def labels_for(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The labels (batch,) of logits (batch, C); of a Stack's logits (batch, K, C), once for each student (batch, K)."""
    return labels if len(labels.shape) + 1 == len(logits.shape) else tf.repeat(labels[:, None], logits.shape[1], axis=1)


def print_epoch(rows: list[Epoch], epochs: int) -> None:
    """Print the Epoch of a net in a line, if a script runs. rows: that Epoch. epochs: how many there will be."""
    (row,) = rows
    accuracies = {"training": row.training_accuracy, "validation": row.validation_accuracy}
    known = "".join(f"  {name} {value:7.2%}" for name, value in accuracies.items() if not math.isnan(value))
    say(f"epoch {row.epoch:3}/{epochs}  loss {row.loss:.4f}{known}  {row.seconds:.1f} s")


def show_epoch(rows: list[Epoch], epochs: int) -> None:
    """Show the number of an Epoch on the line of progress. rows, epochs: see `print_epoch`."""
    progress(f"epoch {rows[0].epoch}/{epochs}")


def train(
    model: keras.Model, batches: Batches, loss: Loss, report: Report = print_epoch, **options: Any
) -> list[Epoch]:
    """Train a Keras model and return its history. loss and options: see `Run`. report: see `train_together`."""
    return train_together([Run(model, batches, loss, **options)], report=report)[0]


def train_together(runs: list[Run], cores: int = 1, report: Report = print_epoch) -> list[list[Epoch]]:
    """Train several nets side by side, `cores` of them at a time, and return their histories.

    Each comes out as if it were trained alone. Runs that share a Batches object see the same views: the images of
    an epoch are shifted or distorted once, and the teacher runs on them once. report: called after each epoch as
    report(the Epoch of each run, the number of epochs). Raises UserError as `Run` does.
    """
    with contextlib.ExitStack() as stack:
        for run in runs:
            stack.enter_context(run.hooks())
        # A small net leaves most of a second core idle, but two nets in two threads keep both busy.
        each = stack.enter_context(ThreadPoolExecutor(cores)).map if cores > 1 else map
        for number in range(min(run.first for run in runs), max(run.epochs for run in runs) + 1):
            active = [run for run in runs if run.first <= number <= run.epochs and not run.model.stop_training]
            if not active:
                break
            start = time.perf_counter()
            examples = {batches: batches.collect(number) for batches in {run.batches for run in active}}
            seconds = time.perf_counter() - start
            of_each = [examples[run.batches] for run in active]
            list(each(Run.train_epoch, active, itertools.repeat(number), of_each, itertools.repeat(seconds)))
            del examples, of_each  # or those of two epochs would be in memory at once
            clear_progress()
            report([run.history[-1] for run in active], max(run.epochs for run in runs))
    return [run.history for run in runs]


class Run:
    """A Keras model in training: one net, or a Stack of K, whose losses and accuracies in the history are lists of K.

    loss: loss(labels, teacher_logits, logits) -> nats per example (batch,); of a Stack, (batch, K). teacher_logits is
    None where the batches have none. learning_rate, weight_decay: see `adam`. optimizer: a Keras optimizer, used
    instead of Adam. pixels: a factor for the model's inputs, see inference.pixels_for. validation: the split to measure
    after each epoch, or None. checkpoint: where to save each epoch and to resume from, or None.

    callbacks: Keras callbacks. They are called at the beginning and the end of the training and of each epoch, with
    "loss", "accuracy" and, with validation, "val_loss" (the cross-entropy with the labels) and "val_accuracy". They
    are not called for batches. model.stop_training is obeyed.

    Raises UserError: the loss of a net is no longer finite (of a Stack, the caller sees it in the history); the model
    has nothing to train; a callback sets the learning rate, and there is no `optimizer` that lets it; or as
    Checkpoint.restore and inference.caller do.
    """

    def __init__(
        self,
        model: keras.Model,
        batches: Batches,
        loss: Loss,
        *,
        epochs: int,
        learning_rate: float | None = None,
        weight_decay: float = 0.0,
        pixels: float = 1.0,
        validation: Split | None = None,
        checkpoint: Checkpoint | None = None,
        callbacks: Iterable[keras.callbacks.Callback] = (),
        optimizer: keras.optimizers.Optimizer | None = None,
    ) -> None:
        self.model, self.batches, self.epochs, self.checkpoint = model, batches, epochs, checkpoint
        self.validation = validation if validation is not None and len(validation.labels) else None
        self.optimizer = optimizer or adam(learning_rate, epochs * batches.num_steps, weight_decay)
        callbacks = prepare_callbacks(callbacks, self.optimizer)
        progress("compiling")
        self.run_epoch = compile_epoch(model, self.optimizer, batches, loss, pixels)
        self.predict = predictor(model, pixels=pixels)
        self.state = [*model.variables, *self.optimizer.variables]
        clear_progress()
        self.history = checkpoint.restore(self.state) if checkpoint else []
        parameters = {"epochs": epochs, "steps": batches.num_steps, "verbose": 2}  # 2: a line for each epoch
        self.callbacks = keras.callbacks.CallbackList(callbacks, model=model, **parameters)

    @property
    def first(self) -> int:
        """The number, from 1, of the epoch to begin with."""
        return self.model._initial_epoch + 1

    @contextlib.contextmanager
    def hooks(self) -> Iterator[None]:
        """Call the callbacks at the beginning and the end; meanwhile the model has its optimizer, for their use."""
        previous, self.model.optimizer = getattr(self.model, "optimizer", None), self.optimizer
        self.model.stop_training = False
        self.model._initial_epoch = len(self.history)  # BackupAndRestore sets it, as in `fit`
        try:
            self.callbacks.on_train_begin()
            yield
            self.optimizer.finalize_variable_values(self.model.trainable_variables)
            self.callbacks.on_train_end()
        finally:
            self.model.optimizer = previous  # ours would be saved with the model

    def train_epoch(self, number: int, examples: Examples, seconds: float) -> None:
        """Train on the examples of epoch `number`, which took so many seconds to make.

        Adds a row to `history`. Raises UserError: the loss is not finite.
        """
        self.callbacks.on_epoch_begin(number - 1)  # Keras counts from 0
        start = time.perf_counter()
        loss, accuracy = self.run_epoch(examples)
        seconds += time.perf_counter() - start
        if not (np.shape(loss) or math.isfinite(loss)):
            problem = f"training diverged in epoch {number} (loss {loss}), no model saved"
            raise UserError(f"{problem}: lower --learning-rate")
        validation_loss = validation_accuracy = math.nan
        if self.validation:
            logits, labels = self.predict(self.validation.images), self.validation.labels
            validation_loss = np.mean(cross_entropy(labels, None, logits), axis=0).tolist()
            validation_accuracy = np.mean(logits.argmax(-1) == labels_for(logits, labels), axis=0).tolist()
        self.history.append(Epoch(number, loss, accuracy, validation_accuracy, seconds))
        if self.checkpoint:
            self.checkpoint.save(self.state, self.history)
        logs = {"loss": loss, "accuracy": accuracy, "val_loss": validation_loss, "val_accuracy": validation_accuracy}
        known = {name: value for name, value in logs.items() if not np.isnan(value).any()}
        self.callbacks.on_epoch_end(number - 1, known)


def adam(learning_rate: float, num_steps: int, weight_decay: float = 0.0) -> keras.optimizers.Adam:
    """Keras' Adam. Its learning rate rises linearly for a twentieth of the steps, then falls to 0 along a cosine.

    learning_rate: the peak. weight_decay: each step first takes this share, times the learning rate, off each weight
    (Loshchilov & Hutter 2019).
    """
    warmup = num_steps // 20
    start, peak = (0.0, learning_rate) if warmup else (learning_rate, None)
    decay = keras.optimizers.schedules.CosineDecay
    schedule = decay(start, num_steps - warmup, warmup_target=peak, warmup_steps=warmup)
    return keras.optimizers.Adam(schedule, weight_decay=weight_decay or None)  # 0 would cost a pass over memory


def prepare_callbacks(
    callbacks: Iterable[keras.callbacks.Callback], optimizer: keras.optimizers.Optimizer
) -> list[keras.callbacks.Callback]:
    """The callbacks as a list; those that monitor an accuracy and leave its direction to Keras get mode "max".

    Raises UserError: a callback sets the learning rate, which follows a schedule.
    """
    callbacks = list(callbacks)
    is_scheduled = isinstance(optimizer._learning_rate, keras.optimizers.schedules.LearningRateSchedule)
    for callback in callbacks:
        if is_scheduled and isinstance(callback, LEARNING_RATE_CALLBACKS):
            problem = f"{type(callback).__name__} sets the learning rate, which follows a schedule here"
            advice = "give an optimizer whose rate is a number, such as optimizer=keras.optimizers.Adam(1e-3)"
            raise UserError(f"{problem}: {advice}")
        if getattr(callback, "mode", None) == "auto" and "accuracy" in str(getattr(callback, "monitor", "")):
            callback.mode = "max"  # Keras looks the direction up in a compiled model's metrics
    return callbacks


def check_trainable(model: keras.Model, name: str | Path = "the model") -> None:
    """Raises UserError: nothing of the model can be trained. name: for the message."""
    if not model.trainable_variables:
        problem = f"{name} has nothing to train: all its layers are frozen"
        raise UserError(f"{problem}. Set trainable = True, and save it again")


def compile_epoch(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, batches: Batches, loss: Loss, pixels: float = 1.0
) -> Callable[[Examples], tuple[float, float]]:
    """Compile the training of one epoch; returns run_epoch(examples) -> (mean loss, training accuracy).

    The loop over the steps is inside the graph; with XLA an epoch of a dense net takes half the time of the best
    `fit`. The model may be any Keras model: its regularisation losses count, and its state (BatchNormalization,
    dropout's seeds) is updated. The accuracy is that of the labelled examples, nan if there are none. Of a Stack, loss
    and accuracy are lists with a number for each student.

    loss: see `Run`. pixels: a factor for the model's inputs, see inference.pixels_for. Raises UserError: the model
    has nothing to train; or as inference.caller does.
    """
    first_examples = batches.collect(0)
    call = caller(model, batches.view(first_examples.of_step(0)), pixels)
    variables = model.trainable_variables
    check_trainable(model)
    optimizer.build(variables)
    num_students = model.output_shape[1:-1] if isinstance(model, Stack) else ()

    def step(examples: Examples) -> tf.Tensor:
        images, labels = batches.view(examples), examples.labels
        with tf.GradientTape() as tape:
            logits = call(images, training=True)
            losses = loss(labels, examples.teacher_logits, logits)
            penalties = [tf.cast(penalty, tf.float32) for penalty in model.losses]
            mean_loss = tf.add_n([tf.reduce_mean(losses, axis=0), *penalties])  # of a Stack, which has none: (K,)
            # By a factor that is not 1 for a LossScaleOptimizer. Students of a Stack share nothing but their sum.
            scaled_loss = optimizer.scale_loss(tf.reduce_sum(mean_loss))
        optimizer.apply(tape.gradient(scaled_loss, variables), variables)
        labels = labels_for(logits, labels)
        num_hits = tf.reduce_sum(tf.cast(tf.argmax(logits, -1, output_type=tf.int32) == labels, tf.float32), axis=0)
        num_labelled = tf.reduce_sum(tf.cast(labels >= 0, tf.float32), axis=0)
        return tf.stack([mean_loss, num_hits, num_labelled])

    # On a processor, XLA makes Keras' dropout slower than the matrix products, and convolutions thirty times slower.
    convolves = any(len(weight.shape) > 2 for weight in model.weights) and not num_students

    def run_steps(examples: Examples, first: tf.Tensor, stop: tf.Tensor) -> tf.Tensor:
        totals = tf.zeros((3, *num_students))
        while first < stop:  # not tf.range: XLA would compile anew for each pair of bounds
            totals += step(examples.of_step(first))
            first += 1
        return totals

    compiled = tf.function(run_steps, jit_compile=not (convolves or dropout_states(model)))
    no_step = tf.constant(0), tf.constant(0)  # this only compiles
    try:
        compiled(first_examples, *no_step)
    except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):  # XLA lacks an operation of the model
        compiled = tf.function(run_steps)
        compiled(first_examples, *no_step)

    def run_epoch(examples: Examples) -> tuple[float, float]:
        totals = np.zeros((3, *num_students))
        for first in range(0, batches.num_steps, STEPS_PER_CALL):
            if first:
                progress(f"{first / batches.num_steps:4.0%} of the epoch")
            stop = min(first + STEPS_PER_CALL, batches.num_steps)
            totals += compiled(examples, tf.constant(first), tf.constant(stop)).numpy()
        total_loss, num_hits, num_labelled = totals
        accuracy = num_hits / np.where(num_labelled, num_labelled, math.nan)
        return (total_loss / batches.num_steps).tolist(), accuracy.tolist()

    return run_epoch


class Checkpoint(NamedTuple):
    """Where a training run saves its state after each epoch, so that a stopped run can resume, bit for bit.

    The order of the images depends on the seed and the epoch's number alone, so weights, dropout's seeds, optimizer
    and history are the whole state.
    """

    path: Path  # .npz
    settings: dict[str, Any]  # plain values: all that decides the run
    resume: bool  # whether to resume from the file, if there is one

    def restore(self, state: list[keras.Variable]) -> list[Epoch]:
        """Assign the saved values to the variables of `state` and return the saved history; [] if the run starts anew.

        Raises UserError: the file is damaged, or of a run with other settings.
        """
        if not self.resume:
            if self.path.exists():
                say(f"{self.path} is of a stopped run: this run starts anew and overwrites it (see --resume)")
            return []
        if not self.path.exists():
            say(f"there is no {self.path} to resume from: this run starts from the beginning")
            return []
        saved = files.load_arrays(self.path)
        different = differing(json.loads(str(saved.get("settings", "{}"))), self.settings)
        if different:
            names = ", ".join(different)
            problem = f"{self.path} is of a run that differs from this one in {names}"
            raise UserError(f"{problem}: leave --resume out to start anew")
        for index, variable in enumerate(state):
            variable.assign(saved[f"variable_{index}"])
        history = [Epoch(int(number), *values) for number, *values in saved["history"].tolist()]
        say(f"going on after epoch {len(history)}")
        return history

    def save(self, state: list[keras.Variable], history: list[Epoch]) -> None:
        """Write the state and the history over those of the epoch before."""
        arrays = {f"variable_{index}": variable.numpy() for index, variable in enumerate(state)}
        files.save_arrays(self.path, settings=json.dumps(self.settings), history=history, **arrays)
