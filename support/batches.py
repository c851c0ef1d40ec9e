"""Batches: which images a net sees in each step, shifted or distorted, and what the teacher says of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from support import UserError, distortion
from support.classifier import to_unit

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:  # for the hints only
    from support.recipe import TrainingRecipe

    from data import Split

# (rows (n,), shifts (n,), views (n, ...)) -> the teacher's logits (n, C) of these views, which show the images `rows`
# of the split under the shifts `shifts`: see teacher_logits.py.
LogitsOfViews = Callable[[np.ndarray, np.ndarray, np.ndarray], "np.ndarray | tf.Tensor"]


def num_shifts(pixels: int) -> int:
    """The number of shifts by at most `pixels` pixels in each direction, the zero shift included."""
    return (2 * pixels + 1) ** 2


def all_shifts(images: np.ndarray, pixels: int) -> Iterator[np.ndarray]:
    """Yield the images (n, h, w[, c]) under each shift by up to `pixels` pixels; what comes in from outside is 0.

    There are num_shifts(pixels) of them, (n, h, w[, c]), in the order that `logits.npz` has, see
    teacher_logits.load_stored: shift s shows each image moved down by pixels - s // span, and to the right by
    pixels - s % span, where span = 2 * pixels + 1. The middle one shows the images as they are.
    """
    bordered, span = padded(images, pixels), 2 * pixels + 1
    for top, left in np.ndindex(span, span):
        yield bordered[:, top : top + images.shape[1], left : left + images.shape[2]] if pixels else images


def padded(images: np.ndarray, pixels: int) -> np.ndarray:
    """Images (n, h, w[, c]) with a border of `pixels` zeros; examples of any shape as they are if `pixels` is 0."""
    border = (pixels, pixels)
    return np.pad(images, [(0, 0), border, border] + [(0, 0)] * (images.ndim - 3)) if pixels else images


def check_views(examples: np.ndarray, recipe: TrainingRecipe) -> None:
    """Raises UserError: there are fewer examples (n, ...) than a batch has, or they cannot be shifted or distorted."""
    num_examples, *shape = examples.shape
    if recipe.batch_size > num_examples:
        problem = f"the batch size, {recipe.batch_size}, is larger than the {num_examples} training examples"
        raise UserError(f"{problem}: lower it")
    if not (recipe.translate or recipe.distort):
        return
    if recipe.translate and recipe.distort:
        raise UserError("--translate and --distort exclude each other: give one of them")
    if len(shape) not in (2, 3):
        problem = f"--translate and --distort are for images, but an example here has shape {tuple(shape)}"
        raise UserError(f"{problem}: leave them out")
    if recipe.translate >= min(shape[:2]):
        problem = f"--translate {recipe.translate} would shift images of {shape[0]}x{shape[1]} out of sight"
        raise UserError(f"{problem}: lower it")


class Examples(NamedTuple):
    """The examples of an epoch, tensors (num_steps, batch_size, ...), or of one of its steps, (batch_size, ...)."""

    images: tf.Tensor  # as the nets see them, but for `to_unit`
    labels: tf.Tensor  # int32, -1 for an unlabelled example
    teacher_logits: tf.Tensor | None  # float32, of exactly these images

    def of_step(self, step: int | tf.Tensor) -> Examples:
        """The examples of one step of an epoch."""
        return Examples(*(None if tensor is None else tensor[step] for tensor in self))


class Batches:
    """The shuffled batches of a split, one epoch at a time.

    An image is seen under a random shift by up to recipe.translate pixels, or a random distortion of strength
    recipe.distort (see distortion.py); any other array is seen as it is. With it come its label and, if there is a
    teacher, its logits of exactly that view. Order, shifts and distortions of an epoch depend on recipe.seed and the
    epoch's number alone. The images left over after the last complete batch are not used in that epoch.

    augment: a function or Keras layer that changes a batch of images before the teacher and the net see them. It gets
    (batch, h, w, c) float32, in [0, 1] if the data are uint8, and keeps that shape; the seed does not decide what it
    draws.
    """

    def __init__(
        self,
        split: Split,
        recipe: TrainingRecipe,
        teacher: LogitsOfViews | None = None,
        augment: Callable[[tf.Tensor], tf.Tensor] | None = None,
    ) -> None:
        check_views(split.images, recipe)
        if augment and (recipe.translate or recipe.distort):
            raise UserError("augment excludes translate and distort: let it shift or distort the images too")
        self.num_images, *shape = split.images.shape
        self.shape, self.num_steps = tuple(shape), self.num_images // recipe.batch_size
        self.batch_size, self.seed, self.translate = recipe.batch_size, recipe.seed, recipe.translate
        self.distortion, self.augment, self.teacher = distortion.distortion(recipe.distort), augment, teacher
        self._rows = tf.constant(padded(split.images, recipe.translate).reshape(self.num_images, -1))
        self._labels = tf.constant(split.labels)

    def order(self, number: int, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The indices of the images of epoch `number`, and their shifts: int32 arrays (num_steps, batch_size).

        rows: the indices, if it is not to be all images in random order.
        """
        random = np.random.default_rng([self.seed, number])
        all_rows = random.permutation(self.num_images)[: self.num_steps * self.batch_size].astype(np.int32)
        rows = all_rows.reshape(self.num_steps, self.batch_size) if rows is None else rows
        return rows, random.integers(num_shifts(self.translate), size=rows.shape).astype(np.int32)

    def epoch(self, number: int, rows: np.ndarray | None = None) -> Examples:
        """The Examples of epoch `number`. rows: see `order`."""
        rows, shifts = self.order(number, rows)
        chosen, shifts = rows.ravel(), shifts.ravel()
        views = self._shifted(chosen, shifts) if self.translate else tf.gather(self._rows, chosen)
        images = tf.reshape(views, (*rows.shape, *self.shape))
        if self.distortion:
            noise_seed = np.random.default_rng([self.seed, number, 1]).integers(2**31)
            flat = tf.reshape(images, (-1, *self.shape))
            distorted = distortion.distort(flat, [self.seed % 2**31, noise_seed], self.distortion)
            images = tf.reshape(distorted, images.shape)
        if self.augment:
            images = tf.stack([self._augmented(batch) for batch in images])
        logits = None
        if self.teacher:
            views = tf.reshape(images, (-1, *self.shape)).numpy()
            logits = tf.reshape(self.teacher(chosen, shifts, views), (*rows.shape, -1))
        return Examples(images, tf.gather(self._labels, rows), logits)

    @tf.function(jit_compile=True)  # one loop instead of many small copies
    def _shifted(self, rows: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
        """The images `rows` (n,) under the shifts `shifts` (n,), see `all_shifts`: (n, *shape)."""
        height, width, *channels = self.shape
        span, stride = 2 * self.translate + 1, width + 2 * self.translate
        images = tf.reshape(tf.gather(self._rows, rows), (-1, (height + 2 * self.translate) * stride, *channels))
        corner = shifts // span * stride + shifts % span
        pixels = tf.range(height)[:, None] * stride + tf.range(width)
        return tf.gather(images, corner[:, None, None] + pixels, batch_dims=1)

    def _augmented(self, images: tf.Tensor) -> tf.Tensor:
        """What `augment` makes of a batch of images, in their dtype."""
        shown = to_unit(images)[..., None] if len(self.shape) == 2 else to_unit(images)
        augmented = tf.convert_to_tensor(self.augment(shown))
        if augmented.shape != shown.shape:
            shapes = f"images {tuple(shown.shape)} into {tuple(augmented.shape)}"
            raise UserError(f"augment turns {shapes}: it must keep their shape")
        augmented = tf.reshape(tf.cast(augmented, tf.float32), images.shape)
        if images.dtype == tf.uint8:
            return tf.cast(tf.round(255 * tf.clip_by_value(augmented, 0, 1)), tf.uint8)
        return augmented
