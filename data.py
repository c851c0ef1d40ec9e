"""Load a data set, check it, hold out validation images from it, or split it into folds."""

import argparse
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

from support import UserError, files, quiet, terminal

import keras
import numpy as np
from numpy.typing import ArrayLike

MNIST_FILE = Path(__file__).with_name("mnist.npz")
ARRAYS = ("x_train", "y_train", "x_test", "y_test")
HOLD_OUT_SEED = 0  # a constant, so that all nets are compared on the same validation examples

SMALL, LARGE = 0.01, 20  # nets take floats of size 1; those beyond these limits are pointed out
FORM = "numpy.savez('mine.npz', x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)"
NUMBERS = "`names, y = numpy.unique([*y_train, *y_test], return_inverse=True)` makes numbers of words, y_train's first"
TABLE, IDX = r"\.(?i:(csv|tsv|txt|data)(\.gz)?)$", r"idx([13])-ubyte(\.gz)?$"  # the ends of names of files that
CONVERTED = rf"{TABLE}|\.npy$|{IDX}"  # tools/convert.py takes
LOADERS = {  # the end of a file's name: how Python reads such a file
    r"\.(pkl|pickle)$": "a = pickle.load(open({path!r}, 'rb'), encoding='latin1')",
    r"\.(pkl|pickle)\.gz$": "a = pickle.load(gzip.open({path!r}), encoding='latin1')",
    r"\.mat$": "a = scipy.io.loadmat({path!r})",
    r"\.(h5|hdf5)$": "a = h5py.File({path!r})",
    r"\.(pt|pth)$": "a = torch.load({path!r})",
}
TABLE_LOADERS = {r"\.(xlsx?|ods)$": "read_excel", r"\.parquet$": "read_parquet", r"\.(feather|arrow)$": "read_feather"}

FASHION = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
KERAS_DATASETS = {"fashion_mnist": FASHION, "cifar10": CIFAR10, "cifar100": []}  # name: class names


class Split(NamedTuple):
    """Examples: images (n, height, width[, channels]) uint8, or float32 (n, ...); labels (n,) int32.

    Labels are 0...C-1, or -1 for an unlabelled example.
    """

    images: np.ndarray
    labels: np.ndarray

    def take(self, chosen: np.ndarray | slice) -> "Split":
        """The examples that `chosen` selects: indices, a mask or a slice."""
        return Split(self.images[chosen], self.labels[chosen])

    def labelled(self) -> "Split":
        """Labelled examples, cycled to the original length, so that epochs keep their number of steps."""
        if (self.labels >= 0).all():
            return self
        indices = np.flatnonzero(self.labels >= 0)
        return self.take(np.resize(indices, len(self.labels)))

    def sample(self, number: int = 1000) -> "Split":
        """At most `number` labelled examples, drawn at random as in `hold_out`, in their original order."""
        return self.take(np.sort(_stratified_order(self.labels)[:number]))


class Dataset(NamedTuple):
    """Three disjoint splits; `validation` may be empty. Settings are chosen on `validation`, never on `test`."""

    train: Split
    validation: Split
    test: Split
    num_classes: int
    class_names: tuple[str, ...] = ()  # empty if the classes have no names
    held_out: np.ndarray | tuple[int, ...] = ()  # the rows of x_train that are the validation split

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.train.images.shape[1:]

    @property
    def form(self) -> tuple[tuple[int, ...], int]:
        """What a net must fit: (the shape of one example, the number of classes)."""
        return self.image_shape, self.num_classes

    @property
    def names(self) -> list[str]:
        """The class names, or the class numbers if there are no names."""
        return list(self.class_names) or [str(label) for label in range(self.num_classes)]

    @property
    def has_images(self) -> bool:
        """Whether the examples can be shown: images with no channel axis, or with one or three channels."""
        return len(self.image_shape) == 2 or len(self.image_shape) == 3 and self.image_shape[2] in (1, 3)

    def __str__(self) -> str:
        train, validation, test = (f"{len(split.labels):,}" for split in (self.train, self.validation, self.test))
        size = "x".join(map(str, self.image_shape))
        num_unlabelled = int(np.sum(self.train.labels < 0))
        unlabelled = f" ({num_unlabelled:,} without a label)" if num_unlabelled else ""
        sizes = f"{train} training{unlabelled}, {validation} validation, {test} test examples of {size}"
        notes = [f"note: {remark}" for remark in self.remarks()]
        return "\n".join([f"{sizes}, {self.num_classes} classes", *notes])

    def remarks(self) -> list[str]:
        """Sentences about anything unusual in the data that may be a mistake."""
        remarks, shape, dtype = [], self.image_shape, self.train.images.dtype
        expected = np.arange(self.num_classes)
        for split_name, split in (("training", self.train), ("validation", self.validation), ("test", self.test)):
            missing = [self.names[label] for label in np.setdiff1d(expected, split.labels)]
            if missing and len(split.labels):
                listed = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
                remarks.append(f"no {split_name} example is of class {listed}")
            expected = np.intersect1d(expected, self.train.labels)
        if 0 not in expected:
            remarks[0] += ": labels begin at 0, so if yours begin at 1, subtract 1"
        trained_on = {hash(example.tobytes()) for example in self.train.images}
        for split_name, split in (("validation", self.validation), ("test", self.test)):
            if num_copies := sum(hash(example.tobytes()) in trained_on for example in split.images):
                advice = "if these are copies, leave them out, as nets know them from their training"
                remarks.append(f"{num_copies:,} {split_name} examples are equal to a training example: {advice}")
        if len(shape) == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3):
            taken = f"taken for images of height {shape[0]}, width {shape[1]} and {shape[2]} channels"
            remarks.append(
                f"examples of {'x'.join(map(str, shape))} are {taken}: if channels come first, move them to the end"
            )
        largest = max(float(self.train.images.max()), -float(self.train.images.min()))
        if dtype == np.uint8 and largest <= 1:
            remarks.append("no pixel is above 1, and uint8 is divided by 255: if 1 is white, multiply by 255")
        if dtype == np.float32 and len(shape) == 1:
            remarks += _scale_remarks(self.train.images)
        elif dtype == np.float32 and (largest > LARGE or 0 < largest < SMALL):
            is_byte = 1 < largest < 256
            advice = "divide them by 255, or save them as uint8" if is_byte else f"divide them by {largest:g}"
            remarks.append(f"pixels up to {largest:g} are taken as they are, because they are floats: {advice}")
        return remarks


def load(path: str | Path | None = None, validation: int | None = None) -> Dataset:
    """Load a data set.

    path: an .npz file; the name of one of KERAS_DATASETS; or None for this project's MNIST digits. The
    file holds x_train, either uint8 (n, h, w) or (n, h, w, c), or float16, float32 or float64 (n, ...);
    y_train (n,), integers 0...C-1, or -1 for an unlabelled example; x_test and y_test, all labelled; and optionally
    class_names, (C,) strings. x_val and y_val, all labelled, are the validation split if the file has them. Otherwise
    `hold_out` takes `validation` labelled training examples: by default 5,000, or a twelfth of the training examples
    if that is fewer; 0 for none.
    """
    source = str(MNIST_FILE if path is None else path)
    arrays = _from_keras(source) if source in KERAS_DATASETS else _read(source)
    splits = {}
    for split_name in ("train", "test", "val"):
        x_name, y_name = f"x_{split_name}", f"y_{split_name}"
        if x_name in arrays:
            splits[split_name] = checked_split(arrays[x_name], arrays[y_name], x_name, y_name, f"{source}: ")
    train = splits.pop("train")
    num_classes = int(train.labels.max()) + 1
    num_labelled = int(np.sum(train.labels >= 0))
    if not 2 <= num_classes <= num_labelled:
        raise UserError(
            f"{source}: y_train has {num_classes} classes for {num_labelled} images: labels must be 0...C-1, C >= 2"
        )
    class_names = tuple(_as_text(name) for name in np.ravel(arrays.get("class_names", ())))
    if class_names and len(class_names) != num_classes:
        raise UserError(
            f"{source}: class_names has {len(class_names)} names for {num_classes} classes: they must match"
        )
    for split_name, split in splits.items():
        if split.labels.min() < 0:
            problem = f"y_{split_name} has labels below 0: every {split_name} example needs its label, 0...C-1"
            raise UserError(f"{source}: {problem}")
        if split.labels.max() >= num_classes:
            problem = f"y_{split_name} has a label {split.labels.max()}; y_train has 0...{num_classes - 1} only"
            raise UserError(f"{source}: {problem}")
        if (split.images.shape[1:], split.images.dtype) != (train.images.shape[1:], train.images.dtype):
            raise UserError(f"{source}: x_train and x_{split_name} hold examples of different shapes or dtypes")
    if "val" in splits:
        if validation:
            raise UserError(f"{source} has validation examples of its own, x_val: leave --validation out")
        return Dataset(train, splits["val"], splits["test"], num_classes, class_names)
    if validation is None:
        validation = min(5000, num_labelled // 12, num_labelled - num_classes)
    kept, held_out = (rows.images for rows in hold_out(Split(np.arange(len(train.labels)), train.labels), validation))
    return Dataset(train.take(kept), train.take(held_out), splits["test"], num_classes, class_names, held_out)


def hold_out(split: Split, number: int) -> tuple[Split, Split]:
    """Hold out `number` labelled examples; returns (the rest, the held-out ones), both in their original order.

    The examples are drawn at random with a constant seed, and from each class in proportion to its size. Each class
    keeps an example for training.
    """
    known_labels = split.labels[split.labels >= 0]
    most = len(known_labels) - len(np.unique(known_labels))
    if number > most:
        raise UserError(f"--validation {number} leaves a class without a training example: {most} is the most")
    held_out = np.zeros(len(split.labels), bool)
    held_out[_stratified_order(split.labels)[:number]] = True
    return split.take(~held_out), split.take(held_out)


def with_test(labels: dict[str, np.ndarray], share: float) -> dict[str, tuple[str, np.ndarray]]:
    """Which rows of a source each part of the data is to have: {part: (the part of the source, its rows there)}.

    labels: {part of the source: (n,), see Split}. These are the parts; but without a "test", `share` of the labelled
    training examples, one at least, become it, drawn as by `hold_out`. Prints how many.
    """
    rows_of = {part: (part, np.arange(len(labels[part]))) for part in ("train", "val", "test") if part in labels}
    if "test" not in labels:
        rows = Split(rows_of["train"][1], labels["train"])
        num_labelled, num_classes = int(np.sum(rows.labels >= 0)), len(np.unique(rows.labels[rows.labels >= 0]))
        num_test = min(max(1, round(share * num_labelled)), num_labelled - num_classes)
        if num_test < 1:
            raise UserError(f"{num_labelled} examples of {num_classes} classes are too few for a test part: add some")
        kept, held_out = hold_out(rows, num_test)
        rows_of |= {"train": ("train", kept.images), "test": ("train", held_out.images)}
        terminal.say(f"there is no test part: {num_test:,} training examples become it, from each class its share")
    return rows_of


def fold(dataset: Dataset, number: int, num_folds: int) -> Dataset:
    """The Dataset of a fold in a cross-validation: part `number`, from 0, of the training examples validates the rest.

    The num_folds parts are drawn at random with a constant seed, and have the same share of each class. Unlabelled
    examples are always trained on.
    """
    labels = dataset.train.labels
    shuffled = np.random.default_rng(HOLD_OUT_SEED).permutation(np.flatnonzero(labels >= 0))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels[shuffled])
    if (counts == 1).any():
        name = dataset.names[int(np.argmax(counts == 1))]
        raise UserError(f"class {name} has a single training example: --folds need two or more of each class")
    held_out = np.zeros(len(labels), bool)
    held_out[by_class[number::num_folds]] = True
    train, validation = dataset.train.take(~held_out), dataset.train.take(held_out)
    return dataset._replace(train=train, validation=validation, held_out=np.flatnonzero(held_out))


def _stratified_order(labels: np.ndarray) -> np.ndarray:
    """Indices of the labelled examples in random order; for any k, the first k have about the class shares of all.

    An example of each class comes after all others.
    """
    shuffled = np.random.default_rng(HOLD_OUT_SEED).permutation(np.flatnonzero(labels >= 0))
    position = np.empty(len(shuffled))  # of an example within its class, from 0 to 1
    for label in np.unique(labels[shuffled]):
        of_class = np.flatnonzero(labels[shuffled] == label)
        position[of_class] = (np.arange(len(of_class)) + 0.5) / len(of_class)
        position[of_class[-1]] = 1
    return shuffled[np.argsort(position, kind="stable")]


def _scale_remarks(table: np.ndarray) -> list[str]:
    """A sentence, if any, about columns of a float table (n, d) whose size or offset keeps a net from learning.

    Random first weights give each column the say of its root mean square, which is 1 in a standardised column, however
    far its outliers are: one above LARGE drowns the others. One that is much further from 0 than its own values are
    apart, such as a year, looks constant; near 0 that does no harm. A table of tiny numbers looks constant as a whole,
    while a tiny column among others may be a rare word, or a pixel at the border.
    """
    lowest, highest = table.min(0), table.max(0)
    with np.errstate(over="ignore", invalid="ignore"):  # of the largest floats there are
        size, middle, span = np.sqrt(np.mean(np.square(table), 0)), np.abs(table.mean(0)), highest - lowest
        columns = np.flatnonzero((size > LARGE) | (middle > 3) & (middle > 2 * span) & (span > 0))
    if len(columns):
        listed = [f"x_train[:, {k}] from {lowest[k]:.3g} to {highest[k]:.3g}" for k in columns[:3]]
        problem = ", ".join(listed) + (f" and {len(columns) - 3} more columns" if len(columns) > 3 else "")
    elif 0 < size.max() < SMALL:
        problem = f"x_train from {lowest.min():.3g} to {highest.max():.3g}"
    else:
        return []
    problem += ": floats are taken as they are, and nets learn little from such sizes"
    formula = "`mean, deviation = x_train.mean(0), x_train.std(0) + 1e-9` and `(x - mean) / deviation` for each x"
    return [f"{problem}: unless these are ids, standardise, {formula} (tools/convert.py does so with .csv)"]


def _as_text(name: str | bytes) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _from_keras(name: str) -> dict[str, ArrayLike]:
    """The arrays of one of KERAS_DATASETS, which Keras downloads once and keeps."""
    try:
        with quiet():
            (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    except Exception as error:
        raise UserError(f"Keras cannot download {name} ({error}): connect to the network, or use a file") from error
    arrays = {"x_train": x_train, "y_train": y_train.reshape(-1), "x_test": x_test, "y_test": y_test.reshape(-1)}
    return arrays | {"class_names": KERAS_DATASETS[name]}


def _read(path: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, see `load`."""
    if Path(path).suffix != ".npz" and (Path(path).is_dir() or Path(path).exists() and re.search(CONVERTED, path)):
        raise UserError(f"{path} is no .npz file: python tools/convert.py {path} mine.npz makes one of it")
    objects = dict.fromkeys(("x_train", "x_test", "x_val"), "; all examples must have one shape")
    objects |= dict.fromkeys(("y_train", "y_test", "y_val"), f"; {NUMBERS}")
    with files.reading(path, "there is no such data file", "get a new copy"):
        if not _looks_like_npz(path):
            raise UserError(f"{path} is no .npz file, which --data takes: {how_to_convert(path)}")
        arrays = files.read_npz(path, [*ARRAYS, "x_val", "y_val", "class_names"], objects)
        for key in {*ARRAYS, *arrays}:
            if not isinstance(arrays.get(key), np.ndarray):  # NumPy returns a member without an array's header as bytes
                raise UserError(f"{path}: {key} is missing or no array: save all four with {FORM}")
        if ("x_val" in arrays) != ("y_val" in arrays):
            raise UserError(f"{path} has only one of x_val and y_val: save both, or neither")
        return arrays


def _looks_like_npz(path: str) -> bool:
    """Whether a file is an archive with NumPy's arrays; or is called .npz and no archive, so it must be damaged."""
    with open(path, "rb") as file:  # which, unlike zipfile, says why it cannot be opened
        if not zipfile.is_zipfile(file):
            return Path(path).suffix == ".npz"
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(".npy") for name in archive.namelist())


def how_to_convert(path: str) -> str:
    """How a user makes a data file of a file, of any format, that neither `load` nor tools/convert.py takes."""
    named = lambda pattern: re.search(f"(?i){pattern}", path)
    convert = "python tools/convert.py"
    if named(r"\.(zip|tar|tgz)$|\.tar\.\w+$"):
        return f"unpack it, `shutil.unpack_archive({path!r}, 'mine')` in Python, and `{convert} mine mine.npz`"
    if named(r"\.(png|jpe?g|bmp|gif|webp|tiff?)$"):
        return "give the folder that has a folder of images for each class"
    for pattern, function in TABLE_LOADERS.items():
        if named(pattern):
            line = f"pandas.{function}({path!r}).to_csv('mine.csv', index=False)"
            return f"make a table of it, `{line}` in Python, and `{convert} mine.csv mine.npz`"
    for pattern, line in LOADERS.items():
        if named(pattern):
            return f"in Python, load its arrays, `{line.format(path=path)}`, and save them, `{FORM}`"
    return f"if it is a table, name it .csv; else load its arrays in Python and save them, `{FORM}`"


def checked_split(
    images: ArrayLike, labels: ArrayLike, name: str = "images", labels_name: str = "labels", where: str = ""
) -> Split:
    """Check a user's arrays and make a Split of them.

    images: (n, ...) as in `load`. labels: (n,) or (n, 1), whole numbers of any dtype, -1 for an unlabelled example.
    name, labels_name: what error messages call the arrays; where: how these messages begin.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if not (images.dtype == np.uint8 and images.ndim in (3, 4) or images.dtype.kind == "f" and images.ndim >= 2):
        forms = "uint8 (n, height, width) or (n, height, width, channels), or floats (n, ...)"
        raise UserError(f"{where}{name} is {images.dtype} {images.shape}: it must be {forms}")
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.dtype.kind not in "iufb" or labels.ndim != 1:
        form = f"{labels.dtype} {labels.shape}: it must be integers (n,), 0...C-1"
        raise UserError(f"{where}{labels_name} is {form}{labels_advice(labels)}")
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
        limits = f"labels from {labels.min()} to {labels.max()}"
        raise UserError(f"{where}{labels_name} has {limits}: they must be 0...C-1, or -1 for unknown")
    return Split(images, labels.astype(np.int32))


def labels_advice(labels: np.ndarray) -> str:
    """The last words about labels that are no numbers (n,): how to make these of words or of one-hot rows."""
    if labels.dtype.kind in "OSU":
        return f"; {NUMBERS}"
    if labels.ndim != 2 or labels.dtype.kind not in "iufb":
        return ""
    if ((labels == 0) | (labels == 1)).all() and (labels.sum(-1) == 1).all():
        return " (of one-hot labels, take argmax(-1))"
    return ", as each example has one class; several labels for one are not learnt here"


def load_for(arguments: argparse.Namespace) -> Dataset:
    """Load the Dataset of --data and --validation, and print it.

    If --batch-size was not given, and its default is more than an eighth of the training examples, it becomes that.
    """
    dataset = load(arguments.data, arguments.validation)
    print(f"data: {dataset}", flush=True)
    if "batch_size" in arguments and "batch_size" not in arguments.given:
        fitting = fitting_batch_size(arguments.batch_size, dataset)
        if fitting < arguments.batch_size:
            num_examples = len(dataset.train.labels)
            print(f"batch-size: {fitting}, an eighth of the {num_examples:,} training examples", flush=True)
        arguments.batch_size = fitting
    return dataset


def fitting_batch_size(batch_size: int, dataset: Dataset) -> int:
    """The batch size, or an eighth of the training examples if that is less."""
    return min(batch_size, max(1, len(dataset.train.labels) // 8))
