"""Around the training loop: Keras callbacks of a model that is trained outside of `fit`, and checkpoints."""

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from support import UserError, files
from support.model_files import Epoch, differing
from support.terminal import say

import keras

LEARNING_RATE_CALLBACKS = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)


class Listeners:
    """Keras callbacks of a model. They hear of the beginning and the end of the training and of each epoch.

    After an epoch they get "loss", "accuracy" and, with validation, "val_loss" (the cross-entropy with the labels) and
    "val_accuracy". They are not called for batches. model.stop_training is obeyed. steps: of an epoch; done: how many
    epochs were trained before.
    """

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        epochs: int,
        steps: int,
        done: int,
    ) -> None:
        is_scheduled = isinstance(optimizer._learning_rate, keras.optimizers.schedules.LearningRateSchedule)
        for callback in callbacks:
            if is_scheduled and isinstance(callback, LEARNING_RATE_CALLBACKS):
                problem = f"{type(callback).__name__} sets the learning rate, which follows a schedule here"
                advice = "give an optimizer whose rate is a number, such as optimizer=keras.optimizers.Adam(1e-3)"
                raise UserError(f"{problem}: {advice}")
            if getattr(callback, "mode", None) == "auto" and "accuracy" in str(getattr(callback, "monitor", "")):
                callback.mode = "max"  # Keras looks the direction up in a compiled model's metrics
        self.model, self.optimizer, self.epochs, self.done = model, optimizer, epochs, done
        parameters = {"epochs": epochs, "steps": steps, "verbose": 2}  # 2: a line for each epoch
        self.callbacks = keras.callbacks.CallbackList(callbacks, model=model, **parameters)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Call them at the beginning and the end; meanwhile the model has its optimizer, for their use."""
        model, previous = self.model, getattr(self.model, "optimizer", None)
        model.optimizer, model.stop_training, model._initial_epoch = self.optimizer, False, self.done
        try:
            self.callbacks.on_train_begin()
            yield
            self.optimizer.finalize_variable_values(model.trainable_variables)
            self.callbacks.on_train_end()
        finally:
            model.optimizer = previous  # ours would be saved with the model

    @property
    def first(self) -> int:
        """The number, from 1, of the epoch to begin with."""
        return self.model._initial_epoch + 1  # BackupAndRestore sets it, as in `fit`

    def want(self, number: int) -> bool:
        """Whether epoch `number` is to be trained."""
        return self.first <= number <= self.epochs and not self.model.stop_training

    def epoch_begins(self, number: int) -> None:
        """Tell the callbacks."""
        self.callbacks.on_epoch_begin(number - 1)  # Keras counts from 0

    def epoch_ended(self, number: int, loss: float, accuracy: float, val_loss: float, val_accuracy: float) -> None:
        """Tell the callbacks, with all that is known."""
        logs = {"loss": loss, "accuracy": accuracy, "val_loss": val_loss, "val_accuracy": val_accuracy}
        self.callbacks.on_epoch_end(number - 1, {name: value for name, value in logs.items() if not math.isnan(value)})


class Checkpoint(NamedTuple):
    """Where a training run saves its state after each epoch, so that a stopped run can resume, bit for bit.

    The images of an epoch depend on the seed and the epoch's number alone, so weights, dropout's seeds, optimizer and
    history are the whole state.
    """

    path: Path  # .npz
    settings: dict[str, Any]  # plain values: all that decides the run
    resume: bool  # whether to resume from the file, if there is one

    def restore(self, state: list[keras.Variable]) -> list[Epoch]:
        """Assign the saved values to the variables of `state`; returns the saved history, [] if the run starts anew."""
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
            problem = f"{self.path} is of a run that differs from this one in {', '.join(different)}"
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
