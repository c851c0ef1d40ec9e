"""The training run: the loss on labels, Adam's schedule, the step, the loop over the epochs.

All nets are trained by `train`, but for those of tools/stream.py, which Keras' `fit` trains.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from support import UserError
from support.building import dropout_states
from support.callbacks import Checkpoint, Listeners
from support.classifier import as_function, predictor, to_unit
from support.model_files import Epoch
from support.selection import Selection
from support.terminal import clear_progress, progress, say

import keras
import numpy as np
import tensorflow as tf

if TYPE_CHECKING:  # for the hints only
    from support.batches import Batches, Examples
    from support.recipe import TrainingRecipe

    from data import Split

# labels (batch,) int32, -1 for none; teacher_logits (batch, C) or None; logits (batch, C) -> nats per example (batch,).
# More arguments are settings, see `with_settings`.
Loss = Callable[..., tf.Tensor]
Report = Callable[[list[Epoch], int], None]  # see `train`
STEPS_PER_CALL = 100  # then the graph returns, so that progress is shown and Ctrl-C is heard


# ---- losses and optimizer --------------------------------------------------------------------------------------------


def cross_entropy(
    labels: tf.Tensor, teacher_logits: tf.Tensor | None, logits: tf.Tensor, label_smoothing: float = 0.0
) -> tf.Tensor:
    """The loss on labels alone, in nats (batch,): 0 for an unlabelled example, whose label is -1.

    teacher_logits: ignored; every loss has this argument. label_smoothing: the share of a label's weight that is
    spread over all classes (Szegedy et al. 2016, arXiv 1512.00567, section 7).
    """
    losses = keras.losses.sparse_categorical_crossentropy(tf.maximum(labels, 0), logits, from_logits=True)
    if label_smoothing:
        mean_over_classes = -tf.reduce_mean(tf.nn.log_softmax(logits), -1)
        losses = (1 - label_smoothing) * losses + label_smoothing * mean_over_classes
    return tf.where(labels >= 0, losses, 0.0)


def settings_of(loss: Loss, recipe: TrainingRecipe) -> list[str]:
    """The settings of a loss: its arguments after the first three that have the name of a setting of the recipe.

    What a functools.partial has bound already is none.
    """
    bound = getattr(loss, "keywords", {})
    names = [*inspect.signature(loss).parameters][3:]
    return [name for name in names if name not in bound and hasattr(recipe, name)]


def with_settings(loss: Loss, recipe: TrainingRecipe) -> Loss:
    """The loss with its settings, see `settings_of`, from the recipe.

    Raises UserError: the recipe smooths labels, and the loss would not, while that of the baseline does.
    """
    names = settings_of(loss, recipe)
    if recipe.label_smoothing and "label_smoothing" not in [*names, *getattr(loss, "keywords", {})]:
        problem = "the loss has no argument label_smoothing, so it would leave the labels as they are"
        raise UserError(f"{problem}: add it, and pass it on to training.cross_entropy; or leave --label-smoothing out")
    return functools.partial(loss, **recipe.only(*names))


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


# ---- the loop --------------------------------------------------------------------------------------------------------


def print_epoch(rows: list[Epoch], epochs: int) -> None:
    """Print the Epoch of a net in a line, if a script runs. rows: that Epoch. epochs: how many there will be."""
    (row,) = rows
    accuracies = {"training": row.training_accuracy, "validation": row.validation_accuracy}
    known = "".join(f"  {name} {value:7.2%}" for name, value in accuracies.items() if not math.isnan(value))
    say(f"epoch {row.epoch:3}/{epochs}  loss {row.loss:.4f}{known}  {row.seconds:.1f} s")


def show_epoch(rows: list[Epoch], epochs: int) -> None:
    """Show the number of an Epoch on the line of progress. rows, epochs: see `print_epoch`."""
    progress(f"epoch {rows[0].epoch}/{epochs}")


def train(trainers: Sequence[Trainer], cores: int = 1, report: Report = print_epoch) -> list[list[Epoch]]:
    """Train several nets side by side, `cores` of them at a time, and return their histories.

    Each comes out bit for bit as it does alone. Trainers that share a Batches object see the same views, which are
    made once for each epoch; in a selective epoch (see selection.py) each net has images of its own. report: called
    after each epoch as report(the Epoch of each net, the number of epochs).
    """
    with contextlib.ExitStack() as stack:
        for trainer in trainers:
            stack.enter_context(trainer.listeners.listening())
        # A small net leaves most of a second core idle, but two nets in two threads keep both busy.
        each = stack.enter_context(ThreadPoolExecutor(cores)).map if cores > 1 else map
        number = min(trainer.listeners.first for trainer in trainers)
        while active := [trainer for trainer in trainers if trainer.listeners.want(number)]:
            start = time.perf_counter()
            shared = {trainer.batches for trainer in active if not trainer.selects_in(number)}
            examples = {batches: batches.epoch(number) for batches in shared}
            seconds = time.perf_counter() - start
            of_each = [None if trainer.selects_in(number) else examples[trainer.batches] for trainer in active]
            list(each(Trainer.train_epoch, active, itertools.repeat(number), of_each, itertools.repeat(seconds)))
            del examples, of_each  # or those of two epochs would be in memory at once
            clear_progress()
            report([trainer.history[-1] for trainer in active], max(trainer.epochs for trainer in trainers))
            number += 1
    return [trainer.history for trainer in trainers]


class Trainer:
    """A Keras model in training.

    loss: see `Loss`. recipe: its epochs, learning_rate, weight_decay and select are used, and the settings that the
    loss asks for. pixels: a factor for the model's inputs, see classifier.pixels_for. validation: the split to measure
    after each epoch, or None. optimizer: a Keras optimizer, used instead of Adam. callbacks: see callbacks.Listeners.
    checkpoint: where to save each epoch and to resume from, or None. may_diverge: whether a net whose loss is no longer
    finite is only trained no further; its history then ends with that loss.
    """

    def __init__(
        self,
        model: keras.Model,
        batches: Batches,
        loss: Loss,
        recipe: TrainingRecipe,
        *,
        pixels: float = 1.0,
        validation: Split | None = None,
        optimizer: keras.optimizers.Optimizer | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        checkpoint: Checkpoint | None = None,
        may_diverge: bool = False,
    ) -> None:
        self.model, self.batches, self.epochs, self.checkpoint = model, batches, recipe.epochs, checkpoint
        self.may_diverge = may_diverge
        self.selection = Selection(batches, recipe.select) if recipe.select < 1 else None
        num_steps = self.selection.total_steps(recipe.epochs) if self.selection else recipe.epochs * batches.num_steps
        optimizer = optimizer or adam(recipe.learning_rate, num_steps, recipe.weight_decay)
        progress("compiling")
        self.run_epoch = compile_epoch(model, optimizer, batches, with_settings(loss, recipe), pixels)
        self.measure = measurement(model, validation, pixels)
        self.state = [*model.variables, *optimizer.variables]
        self.state += [self.selection.running_loss] if self.selection else []
        clear_progress()
        self.history = checkpoint.restore(self.state) if checkpoint else []
        self.listeners = Listeners(callbacks, model, optimizer, recipe.epochs, batches.num_steps, len(self.history))

    def selects_in(self, number: int) -> bool:
        """Whether epoch `number` is a selective one."""
        return self.selection is not None and self.selection.selects_in(number)

    def train_epoch(self, number: int, examples: Examples | None, seconds: float) -> None:
        """Train on the Examples of epoch `number`, which took so many seconds to make; adds a row to `history`.

        examples: None in a selective epoch, whose images are chosen here.
        """
        self.listeners.epoch_begins(number)
        start = time.perf_counter()
        rows = self.selection.rows(number) if examples is None else None
        loss, accuracy, losses = self.run_epoch(examples or self.batches.epoch(number, rows))
        if self.selection:
            self.selection.update(number, rows, losses)
        seconds += time.perf_counter() - start
        if not math.isfinite(loss):
            if not self.may_diverge:
                problem = f"training diverged in epoch {number} (loss {loss}), no model saved"
                raise UserError(f"{problem}: lower --learning-rate")
            self.model.stop_training = True
        validation_loss, validation_accuracy = self.measure()
        self.history.append(Epoch(number, loss, accuracy, validation_accuracy, seconds))
        if self.checkpoint:
            self.checkpoint.save(self.state, self.history)
        self.listeners.epoch_ended(number, loss, accuracy, validation_loss, validation_accuracy)


def compile_epoch(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, batches: Batches, loss: Loss, pixels: float = 1.0
) -> Callable[[Examples], tuple[float, float, np.ndarray]]:
    """Compile the training of one epoch; returns run_epoch(examples) -> (mean loss, training accuracy, losses).

    losses (num_steps, batch_size): each example's in its step, before the update.

    The loop over the steps is inside the graph; with XLA an epoch of a dense net takes half the time of the best
    `fit`. The model may be any Keras model: its regularisation losses count, and its state (BatchNormalization,
    dropout's seeds) is updated. The accuracy is that of the labelled examples, nan if there are none.
    """
    check_trainable(model)
    first = batches.epoch(0, np.arange(batches.batch_size, dtype=np.int32)[None]).of_step(0)
    images = to_unit(first.images)
    call = as_function(model, images, pixels)
    # Once outside of the graph, where a mistake in somebody's loss ends in a traceback that points to it.
    losses = loss(first.labels, first.teacher_logits, call(images))
    if np.shape(losses) != (batches.batch_size,):
        problem = f"the loss returns the shape {np.shape(losses)} for {batches.batch_size} examples"
        raise UserError(f"{problem}: it must return {(batches.batch_size,)}, a number for each")
    variables = model.trainable_variables
    optimizer.build(variables)

    def step(examples: Examples) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = to_unit(examples.images), examples.labels
        with tf.GradientTape() as tape:
            logits = call(images, training=True)
            losses = loss(labels, examples.teacher_logits, logits)
            penalties = [tf.cast(penalty, tf.float32) for penalty in model.losses]
            mean_loss = tf.add_n([tf.reduce_mean(losses), *penalties])
            scaled_loss = optimizer.scale_loss(mean_loss)  # by 1, except for a LossScaleOptimizer
        optimizer.apply(tape.gradient(scaled_loss, variables), variables)
        is_right = tf.argmax(logits, -1, output_type=tf.int32) == labels
        return tf.stack([mean_loss, tf.reduce_sum(tf.cast(is_right, tf.float32))]), losses

    def run_steps(examples: Examples, first: tf.Tensor, stop: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        totals, losses = tf.zeros(2), tf.zeros(examples.labels.shape)
        while first < stop:  # not tf.range: XLA would compile anew for each pair of bounds
            of_step, losses_of_step = step(examples.of_step(first))
            totals += of_step
            losses = tf.tensor_scatter_nd_update(losses, [[first]], [losses_of_step])
            first += 1
        return totals, losses

    # On a processor, XLA makes Keras' dropout slower than the matrix products, and convolutions thirty times slower.
    is_slow = any(len(weight.shape) > 2 for weight in model.weights) or dropout_states(model)
    compiled = tf.function(run_steps, jit_compile=not is_slow)
    # The call without a step only compiles, for tensors of an epoch's shapes.
    blank = (None if each is None else tf.zeros((batches.num_steps, *each.shape), each.dtype) for each in first)
    no_step = type(first)(*blank), tf.constant(0), tf.constant(0)
    try:
        compiled(*no_step)
    except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):  # XLA lacks an operation of the model
        compiled = tf.function(run_steps)
        compiled(*no_step)

    def run_epoch(examples: Examples) -> tuple[float, float, np.ndarray]:
        totals, losses, num_steps = np.zeros(2), np.zeros(examples.labels.shape, np.float32), len(examples.labels)
        for first in range(0, num_steps, STEPS_PER_CALL):
            if first:
                progress(f"{first / num_steps:4.0%} of the epoch")
            stop = min(first + STEPS_PER_CALL, num_steps)
            of_call, losses_of_call = compiled(examples, tf.constant(first), tf.constant(stop))
            totals += of_call.numpy()
            losses += losses_of_call.numpy()
        num_labelled = int(np.sum(examples.labels >= 0)) or math.nan
        return float(totals[0] / num_steps), float(totals[1] / num_labelled), losses

    return run_epoch


def measurement(model: keras.Model, split: Split | None, pixels: float) -> Callable[[], tuple[float, float]]:
    """Returns measure() -> (cross-entropy with the labels, accuracy) of the model on the split; nan without one."""
    if split is None or not len(split.labels):
        return lambda: (math.nan, math.nan)
    predict = predictor(model, pixels=pixels)

    def measure() -> tuple[float, float]:
        logits = predict(split.images)
        losses = cross_entropy(split.labels, None, logits)
        return float(np.mean(losses)), float(np.mean(logits.argmax(-1) == split.labels))

    return measure


def check_trainable(model: keras.Model, name: str | Path = "the model") -> None:
    """Raises UserError: nothing of the model can be trained. name: for the message."""
    if not model.trainable_variables:
        problem = f"{name} has nothing to train: all its layers are frozen"
        raise UserError(f"{problem}. Set trainable = True, and save it again")
