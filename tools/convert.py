"""Convert data as people have them into the one file that all scripts take.

    python tools/convert.py photos mine.npz            a folder: train/CLASS/*.png and test/CLASS/*, or CLASS/* alone
    python tools/convert.py train.csv mine.npz         Kaggle's label,pixel0,...; or a table of numbers and words
    python tools/convert.py train.csv test.csv mine.npz
    python tools/convert.py folder mine.npz            MNIST's train-images-idx3-ubyte[.gz] and its three companions
    python tools/convert.py x.npy y.npy mine.npz       or x_train.npy y_train.npy x_test.npy y_test.npy

Then `python teacher.py --data mine.npz --out mine`. Images may be PNG, JPEG, BMP, GIF or WebP, of any size and mode; a
transparent background becomes white. Writes mine.npz, and of images the contact sheet mine.png: look at it.
"""

import collections
import contextlib
import gzip
import itertools
import math
import re
import struct
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import UserError, files, plots, terminal
from support.recipe import integer, number

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageOps

import data

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
GREY_MODES = {"1", "L", "LA", "I", "I;16", "I;16B"}  # of Pillow
PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"}  # folder: part of the data
PARTS |= dict.fromkeys(("val", "valid", "validation"), "val")
LABELS = ("label", "class", "target", "y", "species")  # names of a CSV file's column of labels
PIXEL = r"(?i)pixel_?\d+|\d+x\d+|\d+"  # the names of columns that are an image's pixels
MAX_WORDS = 20  # different words of a column that becomes one-hot
MAX_BYTES = 8 * 2**30  # of all images


class Source(NamedTuple):
    """Data before their examples are read.

    labels: {part: a list of str, "" where there is none}. read(part, rows) -> (the examples, a mask of those that
    could be read, or None); "train" is read first. extra: arrays to save too. paths: {part: of images}.
    """

    labels: dict
    read: Callable
    extra: dict
    paths: dict


# ---- a folder of images ----------------------------------------------------------------------------------------------


def image_folder(folder, arguments):
    """The Source of a folder of images: train/CLASS/*, test/CLASS/*, val/CLASS/*, or CLASS/* alone."""
    named = {}
    for path in folder.iterdir():
        if path.is_dir() and path.name.lower() in PARTS:
            named[PARTS[path.name.lower()]] = path
    folders = named if "train" in named else {"train": folder}
    paths, labels = {}, {}
    for part, root in folders.items():
        paths[part], labels[part] = [], []
        for of_class in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
            images = sorted(str(path) for path in of_class.rglob("*") if path.suffix.lower() in SUFFIXES)
            if not images:
                raise UserError(f"{of_class} holds no image ({', '.join(SUFFIXES)}): remove it, or add some")
            paths[part] += images
            labels[part] += [of_class.name] * len(images)
        if not paths[part]:
            raise UserError(f"{root} has no folders of images: it must hold one folder for each class")
    every = [path for of_part in paths.values() for path in of_part]
    size, mode = form_of(every, arguments)
    num_channels = len(mode) if mode == "RGB" else 1
    if (num_bytes := len(every) * size[0] * size[1] * num_channels) > MAX_BYTES:
        problem = f"{len(every):,} images of {size[1]}x{size[0]} take {num_bytes / 1e9:.0f} GB"
        raise UserError(f"{problem}: give a smaller size, such as --size 64 64")

    def read(part, rows):
        images = np.empty((len(rows), size[1], size[0], num_channels), np.uint8)
        readable = np.ones(len(rows), bool)
        for place, row in enumerate(rows):
            if place % 100 == 0:
                terminal.progress(f"reading the {part} images  {place / len(rows):4.0%}")
            try:
                images[place] = read_image(paths[part][row], size, mode).reshape(images.shape[1:])
            except Exception as error:  # noqa: BLE001 - of any kind, in Pillow
                readable[place] = False
                refuse_unless_skipped(paths[part][row], error, arguments)
        terminal.clear_progress()
        return images if mode == "RGB" else images[..., 0], readable

    return Source(labels, read, {}, paths)


def form_of(paths, arguments):
    """((width, height), Pillow's mode) in which all images are kept: of what their headers say, or --size, --grey."""
    sizes, modes = collections.Counter(), set()
    for row, path in enumerate(paths):
        if row % 1000 == 0:
            terminal.progress(f"looking at the images  {row / len(paths):4.0%}")
        try:
            with Image.open(path) as image:
                turned = "exif" in image.info and image.getexif().get(0x0112, 1) > 4  # by a quarter
                sizes[image.size[::-1] if turned else image.size] += 1
                modes.add(image.mode)
        except Exception as error:  # noqa: BLE001 - of any kind, in Pillow
            refuse_unless_skipped(path, error, arguments)
    terminal.clear_progress()
    if not sizes:
        raise UserError(f"none of the {len(paths):,} images can be read")
    mode = "L" if arguments.grey or modes <= GREY_MODES else "RGB"
    if arguments.size:
        return tuple(arguments.size[::-1]), mode
    width, height = (int(np.median(sides)) for sides in zip(*sizes.elements()))
    if len(sizes) > 1:
        smallest, largest = min(sizes, key=math.prod), max(sizes, key=math.prod)
        listed = f"from {smallest[1]}x{smallest[0]} to {largest[1]}x{largest[0]} (height x width)"
        print(f"images of {len(sizes)} sizes, {listed}: all are resized to the median, --size {height} {width}")
    return (width, height), mode


def refuse_unless_skipped(path, error, arguments):
    """Raises UserError: the image cannot be read, and --skip-unreadable is not given."""
    if not arguments.skip_unreadable:
        raise UserError(f"{path} cannot be read ({files.cause(error)}): replace it, or --skip-unreadable") from error


def read_image(path, size, mode):
    """The image at `path`, upright, (height, width) or (height, width, 3) uint8. size: (width, height)."""
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits
            image = Image.fromarray(np.uint8(np.round(np.clip(np.asarray(image) / 257, 0, 255))))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert(mode)
        return np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BILINEAR))


# ---- CSV -------------------------------------------------------------------------------------------------------------


def csv_files(paths, arguments):
    """The Source of a CSV file, or of one for training and one for the test: images, or a table of floats."""
    frames = {part: read_csv(path) for part, path in zip(("train", "test"), paths)}
    names = list(frames["train"])
    label, labels = label_column(paths[0], names, arguments.label), {}
    for (part, frame), path in zip(frames.items(), paths):
        if list(frame) != names:
            raise UserError(f"{path} has other columns than {paths[0]}: give both the same")
        labels[part] = frame.pop(label).convert_dtypes().astype("string").fillna("").tolist()
        frames[part] = frame.drop(columns=[name for name in arguments.drop if name in names])
    if images := pixel_images(frames, arguments.size):
        return Source(labels, lambda part, rows: (images[part][rows], None), {}, {})
    tables, extra = numbers_of(frames, paths, arguments.fill), {}

    def read(part, rows):
        table = tables[part].to_numpy(np.float64)[rows]
        if part == "train":
            mean, deviation = np.nanmean(table, 0), np.nanstd(table, 0)
            extra.update(feature_mean=mean, feature_deviation=np.where(deviation > 0, deviation, 1))
            extra["feature_names"] = np.array(list(tables[part]), str)
        standardised = (table - extra["feature_mean"]) / extra["feature_deviation"]
        return np.nan_to_num(standardised).astype(np.float32), None  # a missing value becomes the mean

    return Source(labels, read, extra, {})


def read_csv(path):
    """The pandas.DataFrame of a CSV file, packed or not; columns without names are numbered."""
    try:
        import pandas
    except ModuleNotFoundError:
        raise UserError("CSV files are read by pandas: pip install pandas") from None
    advice = "mend that line, or save it again as CSV in UTF-8"
    with files.reading(path, "there is no such file", advice), warnings.catch_warnings(action="error"):
        start = pandas.read_csv(path, header=None, nrows=1, sep="\0", engine="python", dtype=str).iloc[0, 0]
        options = {"sep": max(",;\t", key=start.count), "na_values": "?", "skipinitialspace": True, "index_col": False}
        start = pandas.read_csv(path, header=None, nrows=1, **options)
        has_names = not start.dtypes.map(pandas.api.types.is_numeric_dtype).all()
        frame = pandas.read_csv(path, header=0 if has_names else None, low_memory=False, **options)
        if len(frame.columns) < 2 or frame.empty:
            raise ValueError("it has no rows of two values")
        return frame.rename(columns=str)


def label_column(path, names, given):
    """The name of the column of labels."""
    candidates = [given] if given else [name for name in names if name.lower() in LABELS]
    if len(candidates) == 1 and candidates[0] in names:
        return candidates[0]
    problem = f"there is no column {given}" if given else "it is not clear which column has the labels"
    raise UserError(f"{path}: {problem}: name it with --label, one of {', '.join(names[:20])}")


def pixel_images(frames, size):
    """{part: images uint8} of frames of pixels; None: the names or values are other ones, or there is no square."""
    names = list(frames["train"])
    num_channels = 3 if np.sqrt(len(names) / 3) % 1 == 0 else 1
    side = int(np.sqrt(len(names) / num_channels))
    shape = (*(size or (side, side)), *([3] if num_channels == 3 else []))
    if not names or np.prod(shape) != len(names) or not all(re.fullmatch(PIXEL, name) for name in names):
        return None
    images = {}
    for part, frame in frames.items():
        values = frame.to_numpy()
        if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
            return None
        images[part] = values.astype(np.uint8).reshape(-1, *shape)
    return images


def numbers_of(frames, paths, fill):
    """Frames in which words are one-hot columns. Missing numbers stay, and are no word."""
    import pandas

    if frames["train"].empty:
        raise UserError(f"{paths[0]} has no column but that of the labels: nothing to learn from")
    words = {}
    for name, column in frames["train"].items():
        if not all(pandas.api.types.is_numeric_dtype(frame[name]) for frame in frames.values()):
            words[name] = sorted(column.dropna().astype(str).unique())
            if len(words[name]) > MAX_WORDS:
                problem = f"column {name} has {len(words[name]):,} different words"
                raise UserError(f"{paths[0]}: {problem}: leave it out with --drop {name}")
    numbers = {}
    for (part, frame), path in zip(frames.items(), paths):
        rows, columns = np.nonzero(frame.isna().to_numpy())
        if len(rows) and not fill:
            name = frame.columns[columns[0]]
            advice = f"add it, or give --fill mean or --drop {name}"
            raise UserError(f"{path}: row {rows[0] + 1} has no value in column {name}: {advice}")
        numbers[part] = frame.drop(columns=list(words)).astype(float)
        for name, of_column in words.items():
            for word in of_column:
                numbers[part][f"{name}={word}"] = (frame[name].astype(str) == word).astype(float)
        filled = f"; {len(rows):,} missing values are filled" if len(rows) else ""
        counts = "".join(f"; {name}: {len(of_column)} words, one-hot" for name, of_column in words.items())
        print(f"{path}: {len(frame):,} rows, {len(frame.columns) - len(words)} columns of numbers{counts}{filled}")
    return numbers


# ---- arrays ----------------------------------------------------------------------------------------------------------


def idx_files(paths, arguments):
    """The Source of MNIST's own files: images (idx3) and labels (idx1), for training and perhaps for the test."""
    arrays = {}
    for path in paths:
        part = arrays.setdefault("test" if re.search("t10k|test", path.name) else "train", {})
        kind = "images" if "idx3" in path.name else "labels"
        if kind in part:
            raise UserError(f"{path.parent} has several sets, {path.name} for one: name the files of one set")
        part[kind] = read_idx(path)
    for part, of_part in arrays.items():
        for kind, axes in (("images", 3), ("labels", 1)):
            if kind not in of_part:
                advice = "put it beside the others, or name it too"
                raise UserError(f"the file of the {part} {kind} (idx{axes}) is missing: {advice}")
        if arguments.transpose:
            of_part["images"] = of_part["images"].swapaxes(1, 2)
    return of_arrays({part: (of_part["images"], of_part["labels"]) for part, of_part in arrays.items()})


def read_idx(path):
    """The array in an IDX file of unsigned bytes, packed by gzip or not."""
    with files.reading(path, "there is no such file", "get it anew"):
        content = path.read_bytes()
        content = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
        zero, kind, num_axes = struct.unpack(">HBB", content[:4])
        if (zero, kind) != (0, 8):
            raise ValueError("it is no IDX file of unsigned bytes")
        start = 4 + 4 * num_axes
        return np.frombuffer(content, np.uint8, offset=start).reshape(struct.unpack(f">{num_axes}I", content[4:start]))


def npy_files(paths):
    """The Source of x.npy and y.npy, or of x_train.npy, y_train.npy, x_test.npy and y_test.npy, in this order."""
    if len(paths) not in (2, 4):
        raise UserError("give x.npy and y.npy, or x_train.npy, y_train.npy, x_test.npy and y_test.npy")
    arrays = []
    for path in paths:
        with (
            files.reading(path, "there is no such file", "save it with numpy.save"),
            files.refusing_objects(path, path.stem),
        ):
            arrays.append(np.load(path, allow_pickle=False))
    return of_arrays(dict(zip(("train", "test"), zip(arrays[::2], arrays[1::2]))))


def of_arrays(arrays):
    """The Source of {part: (examples, labels)}; labels are numbers, -1 for none, or words."""
    labels = {}
    for part, (examples, values) in arrays.items():
        if values.size != len(examples):
            problem = f"{len(examples):,} examples and labels of the shape {values.shape}"
            raise UserError(f"{part}: {problem}: each needs one{data.labels_advice(values)}")
        is_whole = values.dtype.kind == "f" and (values % 1 == 0).all()
        words = (values.astype(int) if is_whole else values).ravel().astype(str)
        labels[part] = ["" if word == "-1" else word for word in words.tolist()]
    return Source(labels, lambda part, rows: (arrays[part][0][rows], None), {}, {})


# ---- the file --------------------------------------------------------------------------------------------------------


def is_number(text):
    """Whether a str is a number."""
    with contextlib.suppress(ValueError):
        return float(text) == float(text)
    return False


def class_numbers(labels):
    """({part: labels (n,) int32, -1 for none}, the names of the classes) of {part: a list of str}."""
    numbers_first = lambda name: (0, float(name), name) if is_number(name) else (1, 0, name)
    classes = sorted({*labels["train"]} - {""}, key=numbers_first)
    if len(classes) < 2:
        named = f" ({classes[0]})" if classes else ""
        raise UserError(f"a classifier needs two classes or more, and here is {len(classes)}{named}: add another")
    if len(classes) > len(labels["train"]) / 2:
        problem = f"there are {len(classes):,} different labels for {len(labels['train']):,} examples"
        raise UserError(f"{problem}: these are no classes; is it the right column, or folder?")
    numbers = {name: place for place, name in enumerate(classes)} | {"": -1}
    for part, names in labels.items():
        if part != "train" and "" in names:
            raise UserError(f"the {part} part has an example without a label: add it, or leave the example out")
        if unknown := sorted({*names} - numbers.keys()):
            raise UserError(
                f"the {part} part has a class that training lacks, {unknown[0]}: add it there, or remove it"
            )
    return {part: np.int32([numbers[name] for name in names]) for part, names in labels.items()}, classes


def read_parts(source, labels, share):
    """({part: data.Split}, {part: the rows of its examples in the source}).

    Without a test part, `share` of the training examples, stratified, become it.
    """
    rows = {part: data.Split(np.arange(len(numbers)), numbers) for part, numbers in labels.items()}
    if "test" not in rows:
        num_labelled, num_classes = int(np.sum(labels["train"] >= 0)), int(labels["train"].max()) + 1
        num_test = min(max(1, round(share * num_labelled)), num_labelled - num_classes)
        if num_test < 1:
            raise UserError(f"{num_labelled} examples of {num_classes} classes are too few for a test part: add some")
        rows["train"], rows["test"] = data.hold_out(rows["train"], num_test)
        print(f"there is no test part: {num_test:,} examples, from all classes, are held out for it (--test {share:g})")
    parts = {}
    for part in sorted(rows, key=["train", "val", "test"].index):
        chosen, numbers = rows[part]
        examples, readable = source.read(part if part in labels else "train", chosen)
        if readable is not None and not readable.all():
            print(f"{part}: {np.sum(~readable):,} images that cannot be read are left out")
            examples, chosen, numbers = examples[readable], chosen[readable], numbers[readable]
        parts[part] = data.checked_split(examples, numbers, f"the {part} part")
        rows[part] = chosen
    if source.paths and all(map(looks_grey, parts.values())):
        parts = {part: split._replace(images=split.images[..., 0]) for part, split in parts.items()}
    return parts, rows


def looks_grey(split):
    """Whether all images have three channels that are equal, as WebP stores grey ones."""
    blocks = np.array_split(split.images, 1 + len(split.images) // 1000)
    return split.images.ndim == 4 and all((block == block[..., :1]).all() for block in blocks)


def report_duplicates(parts, rows, source):
    """Print how many test examples are equal to a training example, and name a pair."""
    first = {hash(example.tobytes()): place for place, example in enumerate(parts["train"].images)}
    pairs = []
    for place, example in enumerate(parts["test"].images):
        twin = first.get(hash(example.tobytes()))
        if twin is not None and (parts["train"].images[twin] == example).all():
            pairs.append((rows["test"][place], rows["train"][twin]))
    if pairs:
        names = []
        for part, row in zip(("test" if "test" in source.labels else "train", "train"), pairs[0]):
            names.append(source.paths[part][row] if source.paths else f"row {row + 1} of {part}")
        known = "a net knows them from its training"
        print(f"{len(pairs):,} test examples are also in the training part, such as {' = '.join(names)}: {known}")


def print_counts(parts, class_names):
    """Print how many examples each part has of each class, of the first 20 classes."""
    counts = []
    for split in parts.values():
        counts.append(np.bincount(split.labels[split.labels >= 0], minlength=len(class_names)))
    lines = [[name, *(f"{count:,}" for count in of_class)] for name, *of_class in zip(class_names, *counts)]
    which = f" (the first 20 of {len(lines)})" if len(lines) > 20 else ""
    terminal.print_table(f"examples of each class{which}", ["class", *parts], lines[:20])


def contact_sheet(split, class_names, path):
    """Draw the first ten images of each class, of the first 20 classes. split: a data.Split of images."""
    num_rows = min(20, len(class_names))
    figure = Figure(figsize=(8, 0.95 * num_rows), layout="constrained")
    for label, row in enumerate(figure.subplots(num_rows, 10, squeeze=False)):
        row[0].set_title(plots.label(class_names[label]), loc="left", fontsize=8)
        for axes, image in itertools.zip_longest(row, split.images[np.flatnonzero(split.labels == label)[:10]]):
            axes.set_axis_off()
            if image is not None:
                axes.imshow(image, cmap="gray")
    plots.save(figure, path)


def source_of(paths, arguments):
    """The Source of these paths."""
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: there is no such file or folder")
    is_idx = lambda path: re.search(r"idx[13]-ubyte(\.gz)?$", path.name)
    if len(paths) == 1 and paths[0].is_dir():
        idx = sorted(filter(is_idx, paths[0].iterdir()))
        return idx_files(idx, arguments) if idx else image_folder(paths[0], arguments)
    if all(map(is_idx, paths)):
        return idx_files(paths, arguments)
    if all(path.suffix == ".npy" for path in paths):
        return npy_files(paths)
    if len(paths) <= 2 and all(re.search(r"\.csv(\.gz)?$", path.name) for path in paths):
        return csv_files(paths, arguments)
    if paths[0].suffix == ".npz":
        raise UserError(f"{paths[0]} needs no conversion: python teacher.py --data {paths[0]}")
    for path in paths:
        if not path.is_dir() and not re.search(data.CONVERTED, path.name):
            advice = data.how_to_convert(str(path))
            raise UserError(f"{path}: this is no folder, .csv, .npy or idx-ubyte file: {advice}")
    raise UserError("these files are too many, or of several kinds: --help shows what can be given together")


def parse_arguments():
    options = terminal.parser(__doc__)
    options.add_argument("source", nargs="+", type=Path, metavar="SOURCE", help="a folder, or files")
    options.add_argument("output", type=Path, metavar="OUTPUT", help="the file to write, such as mine.npz")
    help_text = "share of the training examples that becomes the test part, if there is none (default: 0.2)"
    options.add_argument("--test", type=number(1e-6, 0.9), default=0.2, metavar="SHARE", help=help_text)
    help_text = "resize all images to this (default: their size; the median where they differ)"
    options.add_argument("--size", type=integer(1, 10_000), nargs=2, metavar=("HEIGHT", "WIDTH"), help=help_text)
    options.add_argument("--grey", action="store_true", help="make the images grey")
    options.add_argument("--transpose", action="store_true", help="swap height and width of IDX images: for EMNIST")
    options.add_argument("--skip-unreadable", action="store_true", help="leave out images that cannot be read")
    help_text = f"the CSV file's column of labels (default: the one called {', '.join(LABELS)})"
    options.add_argument("--label", metavar="COLUMN", help=help_text)
    options.add_argument("--drop", nargs="+", default=[], metavar="COLUMN", help="columns of a CSV file to leave out")
    help_text = "take a column's mean for a CSV file's missing numbers, and none of its words for a missing word"
    options.add_argument("--fill", choices=["mean"], help=help_text)
    arguments = options.parse_args()
    if arguments.output.suffix != ".npz" or not arguments.output.parent.is_dir():
        options.error(f"the last argument is the file to write, such as mine.npz, but here it is {arguments.output}")
    return arguments


def main():
    arguments = parse_arguments()
    source, output = source_of(arguments.source, arguments), arguments.output
    labels, class_names = class_numbers(source.labels)
    parts, rows = read_parts(source, labels, arguments.test)
    arrays = source.extra | {"class_names": np.array(class_names)}
    for part, split in parts.items():
        arrays |= {f"x_{part}": split.images, f"y_{part}": split.labels}
    with files.atomic_write(output) as scratch:
        np.savez(scratch, **arrays)

    validation = parts.get("val", parts["train"].take(slice(0)))
    dataset = data.Dataset(parts["train"], validation, parts["test"], len(class_names), tuple(class_names))
    print(f"data: {dataset}\n")
    print_counts(parts, class_names)
    report_duplicates(parts, rows, source)
    if dataset.has_images:
        sheet = output.with_suffix(".png")
        contact_sheet(parts["train"], class_names, sheet)
        print(f"look at {sheet}: does each class have its images?")
    megabytes = sum(array.nbytes for array in arrays.values()) / 1e6
    next_step = f"python teacher.py --data {output} --out {output.with_suffix('')}"
    print(f"saved {output}, {megabytes:,.2f} MB; next: {next_step}")


if __name__ == "__main__":
    terminal.run(main)
