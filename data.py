"""Digits in: load, verify, split, translate, and serve as shuffled batches from inside the graph."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from common import UserError, read_npz

import numpy as np
import tensorflow as tf

SHIPPED = Path(__file__).with_name("mnist.npz")
SHA256 = {  # of each shipped array's bytes in C order: LeCun and Cortes's four files
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
    """Three disjoint splits; `validation` may be empty. Nothing is ever chosen on `test`."""

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
    """Load a data set; None is the shipped MNIST, whose arrays are checked against their SHA-256.

    Any other .npz with x_train (n, h, w) uint8, y_train (n,) integers 0...C-1, x_test and y_test will do: height, width
    and the number of classes come from the file. The last `validation` training images become the validation split; None
    stands for 5,000, or a twelfth of a set too small for that, and 0 for no validation at all.

    Raises UserError: the file is missing, damaged, or not of this form; validation leaves nothing to train on.
    """
    name = str(SHIPPED if path is None else path)
    arrays = _read(name)
    if path is None:
        for key, digest in SHA256.items():
            if hashlib.sha256(np.ascontiguousarray(arrays[key])).hexdigest() != digest:
                raise UserError(
                    f"{name}: {key} is not the array that was shipped: `git checkout mnist.npz` restores it"
                )
    train = _checked(name, arrays, "train")
    test = _checked(name, arrays, "test")
    num_classes = int(train.labels.max()) + 1
    num_train = len(train.labels)
    if not 2 <= num_classes <= num_train:
        raise UserError(
            f"{name}: {num_train} training images cannot have {num_classes} classes: labels are 0...C-1, C >= 2"
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
    try:
        arrays = read_npz(name, SHA256)
        for key, array in arrays.items():
            if not isinstance(array, np.ndarray):  # a member without an array's head is given as its bytes
                raise UserError(f"{name}: its {key} is no array: get it anew")
        return arrays
    except (UserError, PermissionError):  # the latter's file may well be whole
        raise
    except FileNotFoundError:
        raise UserError(f"{name}: there is no such data file") from None
    except KeyError:
        raise UserError(f"{name} lacks an array: it must hold {', '.join(SHA256)}") from None
    except Exception as error:  # read_npz has no kind of its own for a damaged or a large one
        raise UserError(f"{name} is no .npz file that can be read, or is damaged ({error}): get it anew") from error


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


def num_views(pixels):
    """How many translations by up to `pixels` pixels, to the four sides, there are, the one by nothing included."""
    return (2 * pixels + 1) ** 2


def padded(images, pixels):
    """Images with a border of `pixels` zeros. View v of one is its crop at row v // (2 * pixels + 1), column v % of that."""
    return np.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels)))


def check_batches(images, batch_size, translate):
    """Raises UserError: the batch is larger than images (n, h, w), or the translation is no smaller than one of them."""
    number, height, width = images.shape
    if batch_size > number:
        raise UserError(f"--batch-size {batch_size} is larger than the {number} training images: lower it")
    if translate >= min(height, width):
        raise UserError(f"--translate {translate} would move images of {height}x{width} out of sight: lower it")


class Distortion(NamedTuple):
    """How far images are distorted, each by amounts of its own, drawn from minus to plus these."""

    rotation: float = 0.0  # degrees, to either side
    scaling: float = 0.0  # a fraction, up or down, of height and of width
    translation: float = 0.0  # pixels, to the four sides
    elastic: float = 0.0  # pixels, of a smooth random field, whose root mean square is 0.58 of this


def distortion(strength):
    """The Distortion of `--distort STRENGTH`; None for 0."""
    return Distortion(10 * strength, 0.1 * strength, 1.5 * strength, 2 * strength) if strength else None


DISTORTED_AT_ONCE = 5000  # images: what is in between takes some 50 bytes for each pixel of theirs
KNOTS = 5  # the smooth field of an elastic distortion has so many degrees of freedom along each side


def distort(images, seed, distortion):
    """Images (n, h, w) uint8, each rotated, scaled, moved and bent by amounts drawn from `seed`, two integers: (n, h, w) uint8.

    Sampled bilinearly, zeros outside; the affine part of Simard et al. (2003), and their elastic one on a coarse grid.
    """
    draws = tf.random.stateless_uniform((len(images), 5 + 2 * KNOTS**2), seed, -1.0, 1.0)
    amounts = tf.constant(distortion, tf.float32)
    parts = [slice(start, start + DISTORTED_AT_ONCE) for start in range(0, len(images), DISTORTED_AT_ONCE)]
    return tf.concat([_resample(images[part], draws[part], amounts) for part in parts], 0)


@tf.function(jit_compile=True)  # one loop instead of thirty passes over memory
def _resample(images, draws, amounts):
    height, width = images.shape[1:]
    rotation, scaling, translation, elastic = tf.unstack(amounts)
    angle = draws[:, 0, None, None] * rotation * (np.pi / 180)
    zoom = 1 + draws[:, 1:3, None, None] * scaling
    shift = draws[:, 3:5, None, None] * translation
    y = tf.range(height, dtype=tf.float32)[:, None] - (height - 1) / 2
    x = tf.range(width, dtype=tf.float32)[None, :] - (width - 1) / 2
    knots = tf.reshape(draws[:, 5:], (-1, 2, KNOTS, KNOTS))
    bend = elastic * tf.einsum("hk,bckl,wl->bchw", _bumps(height), knots, _bumps(width))
    rows = (tf.cos(angle) * y - tf.sin(angle) * x) * zoom[:, 0] + shift[:, 0] + bend[:, 0] + (height - 1) / 2
    columns = (tf.sin(angle) * y + tf.cos(angle) * x) * zoom[:, 1] + shift[:, 1] + bend[:, 1] + (width - 1) / 2
    rows, columns = tf.clip_by_value(rows, -1, height), tf.clip_by_value(columns, -1, width)
    bordered = tf.pad(tf.cast(images, tf.float32), ((0, 0), (1, 2), (1, 2)))
    bordered = tf.reshape(bordered, (-1, (height + 3) * (width + 3)))
    top, left = tf.floor(rows), tf.floor(columns)
    down, right = rows - top, columns - left
    corner = (tf.cast(top, tf.int32) + 1) * (width + 3) + tf.cast(left, tf.int32) + 1

    def pixels(offset):
        return tf.gather(bordered, corner + offset, batch_dims=1)

    upper = (1 - right) * pixels(0) + right * pixels(1)
    lower = (1 - right) * pixels(width + 3) + right * pixels(width + 4)
    return tf.cast(tf.round((1 - down) * upper + down * lower), tf.uint8)


def _bumps(length):
    """Gaussian bumps around KNOTS points along a side, (length, KNOTS), of unit square sum at each pixel."""
    places, centres = np.arange(length)[:, None], np.linspace(0, length - 1, KNOTS)
    bumps = np.exp(-0.5 * ((places - centres) / (0.75 * max(length - 1, 1) / (KNOTS - 1))) ** 2)
    return (bumps / np.linalg.norm(bumps, axis=1, keepdims=True)).astype(np.float32)


class Batches:
    """Shuffled batches of one split: an epoch is collected as uint8 rows, each batch of it viewed inside the graph.

    An example is an image, its view (see `padded`) and its targets: the label, and the teacher's logits of that very view
    where `teacher_logits` are given. Each epoch has its own order and views, drawn from `seed` and the epoch's number alone;
    images left over after the last whole batch sit that epoch out.

    A `distortion` is drawn anew for each image in each epoch. Such views cannot be listed, so `teacher_logits` is then no
    array (n, num_views(translate), C) but a function: images (n, h, w) uint8 -> logits (n, C).

    Raises UserError as `check_batches` does.
    """

    def __init__(self, split, batch_size, *, seed, translate=0, teacher_logits=None, distortion=None):
        check_batches(split.images, batch_size, translate)
        if translate and distortion:
            raise ValueError("a distortion moves images too: translate must be 0 with it")
        self.num_images, self.height, self.width = split.images.shape
        self.batch_size, self.seed, self.translate, self.distortion = batch_size, seed, translate, distortion
        self.num_steps = self.num_images // batch_size
        self._images = tf.constant(padded(split.images, translate).reshape(self.num_images, -1))
        self._labels = tf.constant(split.labels)
        self._logits = teacher_logits
        if isinstance(teacher_logits, np.ndarray):
            self._logits = tf.constant(teacher_logits.reshape(-1, teacher_logits.shape[-1]))

    def epoch(self, number):
        """The images' indices and views for one epoch: two int32 arrays (num_steps, batch_size)."""
        random = np.random.default_rng([self.seed, number])
        order = random.permutation(self.num_images)[: self.num_steps * self.batch_size]
        # A distortion has no list of views: what stands here seeds it, in `collect`.
        views = random.integers(2**31 if self.distortion else num_views(self.translate), size=order.size)
        return tuple(array.astype(np.int32).reshape(self.num_steps, self.batch_size) for array in (order, views))

    def collect(self, indices, views):
        """The examples of integer arrays of one shape, such as `epoch` gives: tensors of that shape, for `view`.

        To copy an epoch's rows at once, outside the graph, takes a tenth off an epoch of the student.
        """
        rows = tf.gather(self._images, indices)
        if self.distortion:
            images = tf.reshape(rows, (-1, self.height, self.width))
            rows = tf.reshape(distort(images, [self.seed % 2**31, np.ravel(views)[0]], self.distortion), rows.shape)
        parts = [rows, tf.convert_to_tensor(views), tf.gather(self._labels, indices)]
        if callable(self._logits):
            images = tf.reshape(rows, (-1, self.height, self.width)).numpy()
            parts.append(tf.reshape(self._logits(images), (*rows.shape[:-1], -1)))
        elif self._logits is not None:
            parts.append(tf.gather(self._logits, indices * num_views(self.translate) + views))
        return parts

    def view(self, rows, views, *targets):
        """A batch of the examples: (images (batch, h, w) float32 in [0, 1], labels int32[, teacher's logits float32])."""
        if self.translate:
            rows = self._crop(rows, views)
        return tf.cast(tf.reshape(rows, (-1, self.height, self.width)), tf.float32) / 255.0, *targets

    @tf.function(jit_compile=True)  # XLA makes one loop of a gather of single pixels: 2 % off the teacher's
    def _crop(self, images, views):
        span, width = 2 * self.translate + 1, self.width + 2 * self.translate
        corner = views // span * width + views % span
        pixels = tf.range(self.height)[:, None] * width + tf.range(self.width)
        return tf.gather(images, corner[:, None, None] + pixels, batch_dims=1)
