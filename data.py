"""The data: loaded, checked, split, shifted, and served as shuffled batches."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from support import UserError, distortion, files, quiet
from support.inference import to_unit

import keras
import numpy as np
import tensorflow as tf

MNIST = Path(__file__).with_name("mnist.npz")
SHA256 = {  # of each array's bytes in C order, which are the bytes of LeCun and Cortes's four files
    "x_train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    "y_train": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    "x_test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    "y_test": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
}
HOLD_OUT_SEED = 0  # a constant: whatever else changes, nets are compared on the same validation examples

FASHION = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
KERAS_DATASETS = {"fashion_mnist": FASHION, "cifar10": CIFAR10, "cifar100": []}  # name: class names


class Split(NamedTuple):
    """Examples: images (n, height, width[, channels]) uint8, or float32 (n, ...); labels (n,) int32.

    Labels are 0...C-1, or -1 for an example whose label is not known.
    """

    images: np.ndarray
    labels: np.ndarray

    def take(self, chosen):
        """The examples that `chosen`, indices or a mask, picks."""
        return Split(self.images[chosen], self.labels[chosen])

    def labelled(self):
        """Labelled examples, cycled to the original length, so that epochs keep their number of steps."""
        if (self.labels >= 0).all():
            return self
        known = np.resize(np.flatnonzero(self.labels >= 0), len(self.labels))
        return self.take(known)


class Dataset(NamedTuple):
    """Three disjoint splits; `validation` may be empty. Settings are chosen on `validation`, never on `test`."""

    train: Split
    validation: Split
    test: Split
    num_classes: int
    class_names: tuple = ()  # of str; () where the classes have no names but their numbers

    @property
    def image_shape(self):
        return self.train.images.shape[1:]

    @property
    def names(self):
        """The classes' names, or else their numbers: a list of str."""
        return [*(self.class_names or map(str, range(self.num_classes)))]

    @property
    def has_images(self):
        """Whether the examples can be shown: images in grey or with three channels."""
        return len(self.image_shape) == 2 or len(self.image_shape) == 3 and self.image_shape[2] in (1, 3)

    def __str__(self):
        train, validation, test = (f"{len(split.labels):,}" for split in self[:3])
        size = "x".join(map(str, self.image_shape))
        unlabelled = int(np.sum(self.train.labels < 0))
        without = f" ({unlabelled:,} without a label)" if unlabelled else ""
        sizes = f"{train} training{without}, {validation} validation, {test} test examples of {size}"
        return "\n".join([f"{sizes}, {self.num_classes} classes", *(f"note: {remark}" for remark in self.remarks())])

    def remarks(self):
        """What is odd about these data, and may be a mistake: a list of sentences."""
        found, shape, dtype = [], self.image_shape, self.train.images.dtype
        wanted = np.arange(self.num_classes)
        for what, split in (("training", self.train), ("validation", self.validation), ("test", self.test)):
            missing = [self.names[label] for label in np.setdiff1d(wanted, split.labels)]
            if missing and len(split.labels):
                listed = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
                found.append(f"no {what} example is of class {listed}")
            wanted = np.intersect1d(wanted, self.train.labels)
        if 0 not in wanted:
            found[0] += ": labels begin at 0, so if yours begin at 1, subtract 1"
        if len(shape) == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3):
            taken = f"taken for images of height {shape[0]}, width {shape[1]} and {shape[2]} channels"
            found.append(
                f"examples of {'x'.join(map(str, shape))} are {taken}: if channels come first, move them to the end"
            )
        largest = self.train.images.max()
        if dtype == np.uint8 and largest <= 1:
            found.append("no pixel is above 1, and uint8 is divided by 255: if 1 is white, multiply them by 255")
        if dtype == np.float32 and self.has_images and largest > 20:
            found.append(
                f"pixels up to {largest:g} are taken as they are, being floats: divide them by 255, or save uint8"
            )
        return found


def load(path=None, validation=None):
    """Load a Dataset. path: None for the MNIST digits that come with the project, whose SHA-256 is checked; the name
    of one of KERAS_DATASETS; or an .npz file.

    The file has x_train, either uint8 (n, h, w) or (n, h, w, c), or float16, float32 or float64 (n, ...); y_train
    (n,) integers 0...C-1, or -1 for an example without a label; x_test and y_test, all labelled; and, if you like,
    class_names (C,) strings. x_val and y_val, all labelled, are the validation split, if the file has them. Else
    `hold_out` takes `validation` labelled training examples; None: 5,000, or a twelfth of the training examples if
    that is less; 0: no validation examples.

    Raises UserError: the file is missing, damaged, or not of this form; validation leaves a class without examples to
    train on, or is given although the file has x_val.
    """
    name = str(MNIST if path is None else path)
    arrays = _from_keras(name) if name in KERAS_DATASETS else _read(name)
    if path is None:
        for key, digest in SHA256.items():
            if hashlib.sha256(np.ascontiguousarray(arrays[key])).hexdigest() != digest:
                raise UserError(f"{name}: {key} has changed: `git checkout mnist.npz` restores it")
    parts = {}
    for part in ("train", "test", "val"):
        if f"x_{part}" in arrays:
            keys = f"x_{part}", f"y_{part}"
            parts[part] = checked_split(*(arrays[key] for key in keys), *keys, f"{name}: ")
    train = parts.pop("train")
    num_classes = int(train.labels.max()) + 1
    num_train = int(np.sum(train.labels >= 0))
    if not 2 <= num_classes <= num_train:
        raise UserError(
            f"{name}: y_train has {num_classes} classes for {num_train} images: labels must be 0...C-1, C >= 2"
        )
    class_names = tuple(map(_as_text, np.ravel(arrays.get("class_names", ()))))
    if class_names and len(class_names) != num_classes:
        raise UserError(f"{name}: class_names has {len(class_names)} names for {num_classes} classes: they must match")
    for part, split in parts.items():
        if split.labels.min() < 0:
            raise UserError(f"{name}: y_{part} has labels below 0: every {part} example needs its label, 0...C-1")
        if split.labels.max() >= num_classes:
            raise UserError(
                f"{name}: y_{part} has a label {split.labels.max()}; y_train has 0...{num_classes - 1} only"
            )
        if (split.images.shape[1:], split.images.dtype) != (train.images.shape[1:], train.images.dtype):
            raise UserError(f"{name}: x_train and x_{part} hold examples of different shapes or dtypes")
    if "val" in parts:
        if validation:
            raise UserError(f"{name} has validation examples of its own, x_val: leave --validation out")
        return Dataset(train, parts["val"], parts["test"], num_classes, class_names)
    if validation is None:
        validation = min(5000, num_train // 12, num_train - num_classes)
    return Dataset(*hold_out(train, validation), parts["test"], num_classes, class_names)


def hold_out(split, number):
    """(the split without `number` labelled examples, a split of these), both in their order in `split`.

    The examples are drawn at random, by a constant seed, and from each class in proportion to its size. Each class
    keeps an example for training. Raises UserError: `number` would leave a class without one.
    """
    most = int(np.sum(split.labels >= 0)) - len(np.unique(split.labels[split.labels >= 0]))
    if number > most:
        raise UserError(f"--validation {number} leaves a class without a training example: {most} is the most")
    held = np.zeros(len(split.labels), bool)
    held[_stratified_order(split.labels)[:number]] = True
    return split.take(~held), split.take(held)


def sample(split, number=1000):
    """At most `number` labelled examples, drawn at random and from each class in proportion, as by `hold_out`."""
    return split.take(np.sort(_stratified_order(split.labels)[:number]))


def _stratified_order(labels):
    """The labelled examples' indices in random order; each beginning has the classes' shares of the whole.

    The last example of each class stands at the end.
    """
    shuffled = np.random.default_rng(HOLD_OUT_SEED).permutation(np.flatnonzero(labels >= 0))
    place = np.empty(len(shuffled))  # of an example within its class, as a share of the class
    for label in np.unique(labels[shuffled]):
        of_class = np.flatnonzero(labels[shuffled] == label)
        place[of_class] = (np.arange(len(of_class)) + 0.5) / len(of_class)
        place[of_class[-1]] = 1
    return shuffled[np.argsort(place, kind="stable")]


def _as_text(name):
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _from_keras(name):
    """The arrays of one of KERAS_DATASETS, which Keras downloads once and keeps. Raises UserError: it cannot."""
    try:
        with quiet():
            parts = getattr(keras.datasets, name).load_data()
    except Exception as error:
        raise UserError(f"Keras cannot download {name} ({error}): connect to the network, or use a file") from error
    train, test = ((images, labels.reshape(-1)) for images, labels in parts)
    return dict(zip(SHA256, (*train, *test))) | {"class_names": KERAS_DATASETS[name]}


def _read(name):
    with files.reading(name, "there is no such data file", "get it anew"):
        arrays = files.read_npz(name, [*SHA256, "x_val", "y_val", "class_names"])
        for key in {*SHA256, *arrays}:
            if not isinstance(arrays.get(key), np.ndarray):  # NumPy returns a member without an array's header as bytes
                raise ValueError(f"{key} is missing or no array: it must hold {', '.join(SHA256)}")  # noqa: TRY004
        if ("x_val" in arrays) != ("y_val" in arrays):
            raise ValueError("it has only one of x_val and y_val")
        return arrays


def checked_split(images, labels, name="images", labels_name="labels", where=""):
    """A Split of arrays as people have them: images (n, ...) as in `load`; labels (n,) or (n, 1), whole numbers of any
    dtype, -1 for an example without a label.

    name, labels_name: their names in error messages, which begin with `where`. Raises UserError: they are not of this
    form.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if not (images.dtype == np.uint8 and images.ndim in (3, 4) or images.dtype.kind == "f" and images.ndim >= 2):
        forms = "uint8 (n, height, width) or (n, height, width, channels), or floats (n, ...)"
        raise UserError(f"{where}{name} is {images.dtype} {images.shape}: it must be {forms}")
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.dtype.kind not in "iufb" or labels.ndim != 1:
        advice = " (of one-hot labels, take argmax(-1))" if labels.ndim == 2 else ""
        raise UserError(f"{where}{labels_name} is {labels.dtype} {labels.shape}: it must be integers (n,){advice}")
    if len(images) != len(labels):
        raise UserError(
            f"{where}{name} has {len(images)} images and {labels_name} {len(labels)} labels: they must match"
        )
    if images.size == 0:
        raise UserError(f"{where}{name} is empty: at least one image is needed")
    if images.dtype.kind == "f":
        images = images.astype(np.float32)
        if not np.isfinite(images).all():
            raise UserError(f"{where}{name} has values that are not finite: remove or replace them")
    if labels.dtype.kind == "f" and not (labels % 1 == 0).all():
        raise UserError(
            f"{where}{labels_name} has labels that are no whole numbers: they must be 0...C-1, or -1 for unknown"
        )
    if labels.min() < -1 or labels.max() > np.iinfo(np.int32).max:
        found = f"labels from {labels.min()} to {labels.max()}"
        raise UserError(f"{where}{labels_name} has {found}: they must be 0...C-1, or -1 for unknown")
    return Split(images, labels.astype(np.int32))


def num_shifts(pixels):
    """How many shifts of up to `pixels` pixels down or up, and right or left, there are; no shift is one."""
    return (2 * pixels + 1) ** 2


def padded(images, pixels):
    """Images with `pixels` zeros around. For n = 2 * pixels + 1, shift s is the crop at row s // n, column s % n."""
    border = (pixels, pixels)
    return np.pad(images, [(0, 0), border, border] + [(0, 0)] * (images.ndim - 3)) if pixels else images


def check_batches(examples, batch_size, translate=0, distort=0.0):
    """Raises UserError: there are fewer than batch_size examples (n, ...), or they cannot be shifted or distorted."""
    number, *shape = examples.shape
    if batch_size > number:
        raise UserError(f"--batch-size {batch_size} is larger than the {number} training examples: lower it")
    if not (translate or distort):
        return
    if len(shape) not in (2, 3):
        raise UserError(
            f"--translate and --distort are for images, but an example here has shape {tuple(shape)}: leave them out"
        )
    if translate >= min(shape[:2]):
        raise UserError(f"--translate {translate} would shift images of {shape[0]}x{shape[1]} out of sight: lower it")


class Examples(NamedTuple):
    """The examples of an epoch, tensors (num_steps, batch_size, ...), or of one of its steps, (batch_size, ...)."""

    rows: tf.Tensor  # the images with their borders, flat
    shifts: tf.Tensor  # the number of each one's shift, see `padded`
    labels: tf.Tensor
    teacher_logits: tf.Tensor | None  # of exactly these views

    def of_step(self, step):
        """The examples of one step of an epoch."""
        return Examples(*(None if part is None else part[step] for part in self))


class Batches:
    """The shuffled batches of a split, an epoch at a time.

    Each example is an image, seen under a shift by up to `translate` pixels (see `padded`) or under a distortion of
    strength `distort` (see support/distortion.py), or another array, as it is; with its targets: the label and, if
    given, the teacher's logits of exactly that view. Order, shifts and distortions of an epoch are drawn from `seed`
    and the epoch's number alone. The images left over after the last complete batch are not used in that epoch.

    teacher_logits: an array (n, num_shifts(translate), C); or a function, images (n, ...) -> logits (n, C), as
    distortions cannot be listed. See distill.teacher_logits.

    Raises UserError as `check_batches` does.
    """

    def __init__(self, split, batch_size, *, seed, translate=0, distort=0.0, teacher_logits=None):
        check_batches(split.images, batch_size, translate, distort)
        if translate and distort:
            raise ValueError("translate and distort exclude each other")
        self.num_images, *shape = split.images.shape
        self.shape = tuple(shape)
        self.batch_size, self.seed, self.translate = batch_size, seed, translate
        self.distortion = distortion.distortion(distort)
        self.num_steps = self.num_images // batch_size
        self._images = tf.constant(padded(split.images, translate).reshape(self.num_images, -1))
        self._labels = tf.constant(split.labels)
        self._logits = teacher_logits
        if isinstance(teacher_logits, np.ndarray):
            if teacher_logits.shape[:2] != (self.num_images, num_shifts(translate)):
                raise ValueError(f"teacher_logits {teacher_logits.shape} are of other examples or shifts")
            self._logits = tf.constant(teacher_logits.reshape(-1, teacher_logits.shape[-1]))

    def order(self, number):
        """The images of epoch `number` and their shifts: two int32 arrays (num_steps, batch_size)."""
        random = np.random.default_rng([self.seed, number])
        order = random.permutation(self.num_images)[: self.num_steps * self.batch_size]
        shifts = random.integers(num_shifts(self.translate), size=order.size)
        return tuple(array.astype(np.int32).reshape(self.num_steps, self.batch_size) for array in (order, shifts))

    def collect(self, number):
        """The Examples of epoch `number`; see `view`.

        Copying an epoch's rows at once, before the graph runs, is faster than doing it batch by batch inside.
        """
        indices, shifts = self.order(number)
        rows = tf.gather(self._images, indices)
        if self.distortion:
            noise = np.random.default_rng([self.seed, number, 1]).integers(2**31)
            images = tf.reshape(rows, (-1, *self.shape))
            rows = tf.reshape(distortion.distort(images, [self.seed % 2**31, noise], self.distortion), rows.shape)
        logits = self._logits
        if callable(logits):
            images = tf.reshape(rows, (-1, *self.shape)).numpy()
            logits = tf.reshape(logits(images), (*indices.shape, -1))
        elif logits is not None:
            logits = tf.gather(logits, indices * num_shifts(self.translate) + shifts)
        return Examples(rows, tf.convert_to_tensor(shifts), tf.gather(self._labels, indices), logits)

    def view(self, examples):
        """What the nets see of a step's Examples: (batch, *shape) float32, images in [0, 1]."""
        rows = self._shifted(examples.rows, examples.shifts) if self.translate else examples.rows
        return to_unit(tf.reshape(rows, (-1, *self.shape)))

    @tf.function(jit_compile=True)  # one loop instead of many small copies: 4 % of a teacher's epoch
    def _shifted(self, rows, shifts):
        height, width, *channels = self.shape
        span, stride = 2 * self.translate + 1, width + 2 * self.translate
        rows = tf.reshape(rows, (-1, (height + 2 * self.translate) * stride, *channels))
        corner = shifts // span * stride + shifts % span
        pixels = tf.range(height)[:, None] * stride + tf.range(width)
        return tf.gather(rows, corner[:, None, None] + pixels, batch_dims=1)
