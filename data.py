"""The data: loaded, checked, split, shifted, and served as shuffled batches."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from support import UserError, distortion, files
from support.models import to_unit

import numpy as np
import tensorflow as tf

MNIST = Path(__file__).with_name("mnist.npz")
SHA256 = {  # of each array's bytes in C order, which are the bytes of LeCun and Cortes's four files
    "x_train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    "y_train": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    "x_test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    "y_test": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
}


class Split(NamedTuple):
    """Images (n, height, width) uint8, and their labels (n,) int32 in 0...C-1."""

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """Three disjoint splits; `validation` may be empty. Settings are chosen on `validation`, never on `test`."""

    train: Split
    validation: Split
    test: Split
    num_classes: int

    @property
    def image_shape(self):
        return self.train.images.shape[1:]

    def __str__(self):
        train, validation, test = (f"{len(split.labels):,}" for split in self[:3])
        size = "x".join(map(str, self.image_shape))
        return f"{train} training, {validation} validation, {test} test images of {size}, {self.num_classes} classes"


def load(path=None, validation=None):
    """Load a Dataset. path: None for the MNIST digits that come with the project, whose SHA-256 is checked; or an .npz file.

    The file has x_train (n, h, w) uint8, y_train (n,) integers 0...C-1, x_test and y_test. The last `validation` training
    images become the validation split; None: 5,000, or a twelfth of the training images if that is less; 0: no validation images.

    Raises UserError: the file is missing, damaged, or not of this form; validation leaves nothing to train on.
    """
    name = str(MNIST if path is None else path)
    arrays = _read(name)
    if path is None:
        for key, digest in SHA256.items():
            if hashlib.sha256(np.ascontiguousarray(arrays[key])).hexdigest() != digest:
                raise UserError(f"{name}: {key} has changed: `git checkout mnist.npz` restores it")
    train = _checked(name, arrays, "train")
    test = _checked(name, arrays, "test")
    num_classes = int(train.labels.max()) + 1
    num_train = len(train.labels)
    if not 2 <= num_classes <= num_train:
        raise UserError(
            f"{name}: y_train has {num_classes} classes for {num_train} images: labels must be 0...C-1, C >= 2"
        )
    if test.labels.max() >= num_classes:
        raise UserError(f"{name}: y_test has a label {test.labels.max()}; y_train has 0...{num_classes - 1} only")
    if test.images.shape[1:] != train.images.shape[1:]:
        raise UserError(f"{name}: x_train and x_test hold images of different sizes")
    validation = min(5000, num_train // 12) if validation is None else validation
    if validation >= num_train:
        raise UserError(f"--validation {validation} leaves none of {num_train} training images to train on: lower it")
    return Dataset(*hold_out(train, validation), test, num_classes)


def hold_out(split, number):
    """(the split without its last `number` images, a split of these)."""
    cut = len(split.labels) - number
    return tuple(Split(*(array[part] for array in split)) for part in (slice(cut), slice(cut, None)))


def _read(name):
    with files.reading(name, "there is no such data file", "get it anew"):
        arrays = files.read_npz(name, SHA256)
        for key in SHA256:
            if not isinstance(arrays.get(key), np.ndarray):  # NumPy returns a member without an array's header as bytes
                raise ValueError(f"{key} is missing or no array: it must hold {', '.join(SHA256)}")  # noqa: TRY004
        return arrays


def _checked(name, arrays, part):
    images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
    if images.dtype != np.uint8 or images.ndim != 3:
        raise UserError(f"{name}: x_{part} is {images.dtype} {images.shape}: it must be uint8 (n, height, width)")
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise UserError(f"{name}: y_{part} is {labels.dtype} {labels.shape}: it must be integers (n,)")
    if len(images) != len(labels):
        raise UserError(f"{name}: x_{part} has {len(images)} images and y_{part} {len(labels)} labels: they must match")
    if images.size == 0:
        raise UserError(f"{name}: x_{part} is empty: at least one image is needed")
    if labels.min() < 0 or labels.max() > np.iinfo(np.int32).max:
        raise UserError(f"{name}: y_{part} has labels from {labels.min()} to {labels.max()}: they must be 0...C-1")
    return Split(images, labels.astype(np.int32))


def num_shifts(pixels):
    """How many ways there are to shift an image by up to `pixels` pixels down or up, and right or left; no shift is one."""
    return (2 * pixels + 1) ** 2


def padded(images, pixels):
    """Images with a border of `pixels` zeros. Shift number s is the crop at row s // (2 * pixels + 1), column s % of that."""
    return np.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels)))


def check_batches(images, batch_size, translate):
    """Raises UserError: there are fewer than batch_size images (n, h, w), or translate is not less than h and w."""
    number, height, width = images.shape
    if batch_size > number:
        raise UserError(f"--batch-size {batch_size} is larger than the {number} training images: lower it")
    if translate >= min(height, width):
        raise UserError(f"--translate {translate} would shift images of {height}x{width} out of sight: lower it")


class Batches:
    """The shuffled batches of a split, an epoch at a time.

    Each example is an image, seen under a shift by up to `translate` pixels (see `padded`) or under a distortion of strength
    `distort` (see support/distortion.py), with its targets: the label and, if given, the teacher's logits of exactly that view.
    Order, shifts and distortions of an epoch are drawn from `seed` and the epoch's number alone. The images left over after the
    last complete batch are not used in that epoch.

    teacher_logits: an array (n, num_shifts(translate), C); or a function, images (n, h, w) uint8 -> logits (n, C), as
    distortions cannot be listed. See distill.teacher_logits.

    Raises UserError as `check_batches` does.
    """

    def __init__(self, split, batch_size, *, seed, translate=0, distort=0.0, teacher_logits=None):
        check_batches(split.images, batch_size, translate)
        if translate and distort:
            raise ValueError("translate and distort exclude each other")
        self.num_images, self.height, self.width = split.images.shape
        self.batch_size, self.seed, self.translate = batch_size, seed, translate
        self.distortion = distortion.distortion(distort)
        self.num_steps = self.num_images // batch_size
        self._images = tf.constant(padded(split.images, translate).reshape(self.num_images, -1))
        self._labels = tf.constant(split.labels)
        self._logits = teacher_logits
        if isinstance(teacher_logits, np.ndarray):
            self._logits = tf.constant(teacher_logits.reshape(-1, teacher_logits.shape[-1]))

    def order(self, number):
        """The images of epoch `number` and their shifts: two int32 arrays (num_steps, batch_size)."""
        random = np.random.default_rng([self.seed, number])
        order = random.permutation(self.num_images)[: self.num_steps * self.batch_size]
        shifts = random.integers(num_shifts(self.translate), size=order.size)
        return tuple(array.astype(np.int32).reshape(self.num_steps, self.batch_size) for array in (order, shifts))

    def collect(self, number):
        """The examples of epoch `number`, tensors (num_steps, batch_size, ...), of which `view` takes one step's.

        Copying an epoch's rows at once, before the graph runs, is faster than doing it batch by batch inside.
        """
        indices, shifts = self.order(number)
        rows = tf.gather(self._images, indices)
        if self.distortion:
            noise = np.random.default_rng([self.seed, number, 1]).integers(2**31)
            images = tf.reshape(rows, (-1, self.height, self.width))
            rows = tf.reshape(distortion.distort(images, [self.seed % 2**31, noise], self.distortion), rows.shape)
        examples = [rows, tf.convert_to_tensor(shifts), tf.gather(self._labels, indices)]
        if callable(self._logits):
            images = tf.reshape(rows, (-1, self.height, self.width)).numpy()
            examples.append(tf.reshape(self._logits(images), (*indices.shape, -1)))
        elif self._logits is not None:
            examples.append(tf.gather(self._logits, indices * num_shifts(self.translate) + shifts))
        return examples

    def view(self, rows, shifts, *targets):
        """A step's (images (batch, h, w) float32 in [0, 1], labels int32[, teacher's logits float32])."""
        if self.translate:
            rows = self._shifted(rows, shifts)
        return to_unit(tf.reshape(rows, (-1, self.height, self.width))), *targets

    @tf.function(jit_compile=True)  # one loop instead of many small copies: 4 % of a teacher's epoch
    def _shifted(self, rows, shifts):
        span, width = 2 * self.translate + 1, self.width + 2 * self.translate
        corner = shifts // span * width + shifts % span
        pixels = tf.range(self.height)[:, None] * width + tf.range(self.width)
        return tf.gather(rows, corner[:, None, None] + pixels, batch_dims=1)
