"""Selective training: an epoch trains on the images that a net still finds hard, and on a few others.

Most digits are learnt within a few epochs; to train on them again changes next to nothing and takes most of the time.
So after WHOLE_EPOCHS of all images, an epoch has a share of them: those with the highest loss, and some that are drawn
at random from the rest, so that what is learnt stays so (Jiang et al. 2019, arXiv 1910.00762; they draw each image with
a probability that rises with its loss). What it brings: studies/selection.md.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:  # for the hints only
    from support.batches import Batches

WHOLE_EPOCHS = 3  # of all images, at the start
RANDOM_PART = 0.25  # of an epoch's images: drawn at random
KEPT = 0.7  # of an image's running loss when it is seen again; its new loss has the rest


def announce(select: float) -> None:
    """Print what a script's lines for the epochs show if the setting `select` is below 1."""
    if select < 1:
        print(
            f"after epoch {WHOLE_EPOCHS}, each trains on {select:.0%} of the images: the hardest, and some at random;"
        )
        print("loss and training accuracy are then those of these images", flush=True)


class Selection:
    """Which images of `batches` a net trains on in each epoch. share: of all images, above 0, below 1.

    It depends on the net's own losses, so each net has its own Selection.
    """

    def __init__(self, batches: Batches, share: float) -> None:
        self.batches = batches
        self.num_steps = max(1, int(share * batches.num_images) // batches.batch_size)  # of a selective epoch
        # For each image, an average of its losses, each taken before the step that it is in. inf: not seen so far.
        self.running_loss = tf.Variable(tf.fill([batches.num_images], math.inf), trainable=False)

    def selects_in(self, number: int) -> bool:
        """Whether epoch `number` has a share of the images only."""
        return number > WHOLE_EPOCHS

    def total_steps(self, epochs: int) -> int:
        """The number of steps of so many epochs."""
        num_whole = min(epochs, WHOLE_EPOCHS)
        return num_whole * self.batches.num_steps + (epochs - num_whole) * self.num_steps

    def rows(self, number: int) -> np.ndarray | None:
        """The indices of the images of epoch `number`, int32 (num_steps, batch_size); None: all, in random order."""
        if not self.selects_in(number):
            return None
        random = np.random.default_rng([self.batches.seed, number, 2])
        hardest_first = np.argsort(-self.running_loss.numpy(), kind="stable")
        num_images = self.num_steps * self.batches.batch_size
        num_random = round(RANDOM_PART * num_images)
        hard, rest = np.split(hardest_first, [num_images - num_random])
        chosen = np.concatenate([hard, random.choice(rest, num_random, replace=False)])
        return random.permutation(chosen).astype(np.int32).reshape(self.num_steps, -1)

    def update(self, number: int, rows: np.ndarray | None, losses: np.ndarray) -> None:
        """Take in the losses of epoch `number`, (num_steps, batch_size), of its images `rows`, see `rows`."""
        rows = self.batches.order(number)[0] if rows is None else rows
        running = self.running_loss.numpy()
        before = running[rows]
        running[rows] = np.where(np.isinf(before), losses, KEPT * before + (1 - KEPT) * losses)
        self.running_loss.assign(running)
