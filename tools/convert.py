"""Convert data as people have them into the one file that all scripts take.

    python tools/convert.py photos mine.npz            a folder: train/CLASS/*.png and test/CLASS/*, or CLASS/* alone
    python tools/convert.py train.csv mine.npz         a table: numbers, or an image's pixels, and a column `label`
    python tools/convert.py train.csv test.csv mine.npz
    python tools/convert.py folder mine.npz            MNIST's train-images-idx3-ubyte[.gz] and its three companions
    python tools/convert.py x.npy y.npy mine.npz       or x_train.npy y_train.npy x_test.npy y_test.npy

Then `python teacher.py --data mine.npz --out mine`. Images may be whatever Pillow opens, of any size; a transparent
background becomes white. Tables are read by pandas, and their numbers are standardised on the training part.
"""

import gzip
import math
import os
import re
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import UserError, files, images, tables, terminal
from support.recipe import integer, number

import numpy as np

import data

MAX_BYTES = 8 * 2**30  # of all images

# Each reader returns ({part: data.Split}, the names of the classes, {name: another array for the file}).


# ---- a folder of images ----------------------------------------------------------------------------------------------


def image_folder(folder, arguments):
    """Read a folder of images."""
    found = images.find(folder, arguments.skip_unreadable)
    size, mode = arguments.size or median_size(found.sizes), "L" if arguments.grey or found.is_grey else "RGB"
    shape = (*size, 3) if mode == "RGB" else tuple(size)
    if (num_bytes := found.sizes.total() * math.prod(shape)) > MAX_BYTES:
        problem = f"{found.sizes.total():,} images of {size[0]}x{size[1]} take {num_bytes / 1e9:.0f} GB"
        raise UserError(f"{problem}: give a smaller size, such as --size 64 64, or use tools/stream.py")
    parts, names = {}, {}
    for part, (source, rows) in data.with_test(found.labels, arguments.test).items():
        paths = [found.paths[source][row] for row in rows]
        examples, is_read = np.empty((len(rows), *shape), np.uint8), np.ones(len(rows), bool)
        for place, path in enumerate(paths):
            if place % 100 == 0:
                terminal.progress(f"reading the {part} images  {place / len(rows):4.0%}")
            try:
                examples[place] = images.read(path, size, mode)
            except UserError:
                if not arguments.skip_unreadable:
                    raise
                is_read[place] = False
        terminal.clear_progress()
        if not is_read.all():
            print(f"{part}: left out, as damaged: {np.sum(~is_read):,} images, such as {paths[np.argmin(is_read)]}")
            examples, rows = examples[is_read], rows[is_read]
        parts[part] = data.checked_split(examples, found.labels[source][rows], f"the {part} part")
        names[f"files_{part}"] = np.array([os.path.relpath(found.paths[source][row], folder) for row in rows])
    if all(map(looks_grey, parts.values())):
        parts = {part: split._replace(images=split.images[..., 0]) for part, split in parts.items()}
    return parts, found.class_names, names


def median_size(sizes):
    """The median (height, width) of the images; sizes: how many there are of each."""
    size = tuple(map(int, np.median(np.repeat(list(sizes), list(sizes.values()), 0), 0)))
    if len(sizes) > 1:
        smallest, largest = min(sizes, key=math.prod), max(sizes, key=math.prod)
        spread = f"from {smallest[0]}x{smallest[1]} to {largest[0]}x{largest[1]} (height x width)"
        print(f"images of {len(sizes)} sizes, {spread}: all are resized to the median, --size {size[0]} {size[1]}")
    return size


def looks_grey(split):
    """Whether all images have three channels that are equal, as WebP stores grey ones."""
    blocks = np.array_split(split.images, 1 + len(split.images) // 1000)
    return split.images.ndim == 4 and all((block == block[..., :1]).all() for block in blocks)


# ---- a table ---------------------------------------------------------------------------------------------------------


def table_files(paths, arguments):
    """Read a table with a column of labels, or one for training and one for the test."""
    options = arguments.label, arguments.drop, arguments.no_header, arguments.decimal
    labels, numbers, columns = tables.read(paths, *options)
    labels, class_names = class_numbers(labels)
    rows_of, more = data.with_test(labels, arguments.test), {}
    if shape := tables.image_shape(columns, numbers, arguments.size):
        print(f"the columns are the pixels of images of {'x'.join(map(str, shape))}")
        numbers = {part: table.astype(np.uint8).reshape(-1, *shape) for part, table in numbers.items()}
    else:
        print(f"the columns are numbers, which are standardised on the training part: {tables.listed(columns)}")
        numbers = {part: table.astype(np.float64) for part, table in numbers.items()}
        mean, deviation = (of(numbers["train"][rows_of["train"][1]], 0) for of in (np.mean, np.std))
        deviation[deviation == 0] = 1
        numbers = {part: (table - mean) / deviation for part, table in numbers.items()}
        more = {"feature_names": np.array(columns), "feature_mean": mean, "feature_deviation": deviation}
    return parts_of(numbers, labels, rows_of), class_names, more


# ---- arrays ----------------------------------------------------------------------------------------------------------


def idx_files(paths, arguments):
    """Read MNIST's own files: images (idx3) and labels (idx1), for training and perhaps for the test."""
    arrays = {"train": {}, "test": {}}
    for path in paths:
        part, kind = "test" if re.search("t10k|test", path.name) else "train", re.search(data.IDX, path.name)[1]
        array = read_idx(path)
        if not np.array_equal(arrays[part].setdefault(kind, array), array):
            raise UserError(f"{path.parent} has several sets, {path.name} for one: name the files of one set")
    splits = {}
    for part, of_part in arrays.items():
        for kind, name in (("3", "images"), ("1", "labels")):
            if kind not in of_part and (of_part or part == "train"):
                advice = "put it beside the others, or name it too"
                raise UserError(f"the file of the {part} {name} (idx{kind}) is missing: {advice}")
        if of_part:
            splits[part] = of_part["3"].swapaxes(1, 2) if arguments.transpose else of_part["3"], of_part["1"]
    return from_arrays(splits, arguments.test)


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


def npy_files(paths, arguments):
    """Read x.npy and y.npy, or x_train.npy, y_train.npy, x_test.npy and y_test.npy, in this order."""
    if len(paths) not in (2, 4):
        raise UserError("give x.npy and y.npy, or x_train.npy, y_train.npy, x_test.npy and y_test.npy")
    arrays = []
    for path in paths:
        with (
            files.reading(path, "there is no such file", "save it with numpy.save"),
            files.refusing_objects(path, path.stem),
        ):
            arrays.append(np.load(path, allow_pickle=False))
    return from_arrays(dict(zip(("train", "test"), zip(arrays[::2], arrays[1::2]))), arguments.test)


def from_arrays(arrays, share):
    """What a reader returns of {part: (examples, labels)}; labels are numbers, -1 for none, or words."""
    labels = {}
    for part, (examples, values) in arrays.items():
        if values.size != len(examples):
            problem = f"{len(examples):,} examples and labels of the shape {values.shape}"
            raise UserError(f"{part}: {problem}: each needs one{data.labels_advice(values)}")
        if values.dtype.kind == "f":
            if not (values % 1 == 0).all():
                raise UserError(f"{part}: labels are no whole numbers: they must be, with -1 for none, or be words")
            values = values.astype(int)
        words = values.ravel().astype(str)
        labels[part] = ["" if word == "-1" else word for word in words.tolist()]
    labels, class_names = class_numbers(labels)
    examples = {part: of_part[0] for part, of_part in arrays.items()}
    return parts_of(examples, labels, data.with_test(labels, share)), class_names, {}


# ---- labels and parts ------------------------------------------------------------------------------------------------


def class_numbers(labels):
    """({part: labels (n,) int32, -1 for none}, the names of the classes) of {part: a list of str, "" for none}."""
    names = sorted({*labels["train"]} - {""})
    values = {name: tables.as_number(name) for name in names}
    classes = sorted(names, key=lambda name: math.inf if values[name] is None else values[name])
    if len(classes) < 2:
        raise UserError(f"there is one class only, {', '.join(classes) or 'none'}: a classifier needs two or more")
    if len(classes) > len(labels["train"]) / 2:
        problem = f"there are {len(classes):,} different labels for {len(labels['train']):,} examples"
        raise UserError(f"{problem}: these are no classes; is it the right column?")
    numbers = {name: place for place, name in enumerate(classes)} | {"": -1}
    for part, names in labels.items():
        if part != "train" and "" in names:
            raise UserError(f"the {part} part has an example without a label: add it, or leave the example out")
        if unknown := sorted({*names} - numbers.keys()):
            problem = f"the {part} part has a class that training lacks, {unknown[0]}"
            raise UserError(f"{problem}: add it there, or remove it")
    return {part: np.int32([numbers[name] for name in names]) for part, names in labels.items()}, classes


def parts_of(examples, labels, rows_of):
    """{part: data.Split} of {part of the source: its examples}, {...: its labels}, and what data.with_test returns."""
    parts = {}
    for part, (source, rows) in rows_of.items():
        parts[part] = data.checked_split(examples[source][rows], labels[source][rows], f"the {part} part")
    return parts


# ---- the script ------------------------------------------------------------------------------------------------------


def reader_of(paths):
    """(the function that reads these paths, what it takes first)."""
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: there is no such file or folder")
    is_idx = lambda path: path.is_file() and re.search(data.IDX, path.name) and not path.name.startswith(".")
    if len(paths) == 1 and paths[0].is_dir():
        idx = sorted(filter(is_idx, [*paths[0].glob("*idx*"), *paths[0].glob("*/*idx*")]))
        return (idx_files, idx) if idx else (image_folder, paths[0])
    for reader, most, is_taken in (
        (idx_files, 4, is_idx),
        (npy_files, 4, lambda path: path.suffix == ".npy"),
        (table_files, 2, lambda path: re.search(data.TABLE, path.name)),
    ):
        if len(paths) <= most and all(map(is_taken, paths)):
            return reader, paths
    for path in paths:
        if path.suffix == ".npz":
            raise UserError(f"{path} needs no conversion: python teacher.py --data {path}")
        if not path.is_dir() and not re.search(data.CONVERTED, path.name):
            advice = data.how_to_convert(str(path))
            raise UserError(f"{path}: this is no folder, table (.csv), .npy or idx-ubyte file: {advice}")
    raise UserError("these files are too many, or of several kinds: --help shows what can be given together")


READERS = {  # of an option
    "size": (image_folder, table_files),
    "grey": (image_folder,),
    "skip_unreadable": (image_folder,),
    "transpose": (idx_files,),
    **dict.fromkeys(("label", "drop", "no_header", "decimal"), (table_files,)),
}


def parse_arguments():
    options = terminal.parser(__doc__)
    options.add_argument("source", nargs="+", type=Path, metavar="SOURCE", help="a folder, or files")
    options.add_argument("output", type=Path, metavar="OUTPUT", help="the file to write, such as mine.npz")
    help_text = "share of the training examples that becomes the test part, if there is none (default: 0.2)"
    options.add_argument("--test", type=number(1e-6, 0.9), default=0.2, metavar="SHARE", help=help_text)
    help_text = "resize all images to this (default: their size; the median where they differ); of a table, their size"
    options.add_argument("--size", type=integer(1, 10_000), nargs=2, metavar=("HEIGHT", "WIDTH"), help=help_text)
    options.add_argument("--grey", action="store_true", help="make the images grey")
    options.add_argument("--transpose", action="store_true", help="swap height and width of IDX images: for EMNIST")
    options.add_argument("--skip-unreadable", action="store_true", help="leave out images that cannot be read")
    help_text = "a table's column of labels: its name, or its number from 0 (default: label)"
    options.add_argument("--label", metavar="COLUMN", help=help_text)
    options.add_argument("--drop", nargs="+", default=[], metavar="COLUMN", help="columns of a table to leave out")
    options.add_argument("--no-header", action="store_true", help="the first row of a table is an example, no names")
    options.add_argument("--decimal", choices=[".", ","], default=".", help="the decimal point of a table (default: .)")
    arguments = options.parse_args()
    if arguments.output.suffix != ".npz":
        options.error(f"the last argument is the file to write, such as mine.npz, but here it is {arguments.output}")
    if not arguments.output.parent.is_dir():
        options.error(f"there is no folder {arguments.output.parent} to write {arguments.output.name} to: make it")
    return arguments


def main():
    arguments = parse_arguments()
    reader, source = reader_of(arguments.source)
    for name, readers in READERS.items():
        if reader not in readers and vars(arguments)[name] not in (None, False, [], "."):
            raise UserError(f"--{name.replace('_', '-')} is not for such data: leave it out")
    parts, class_names, more = reader(source, arguments)
    if lost := sorted({*range(len(class_names))} - {*parts["train"].labels}):
        raise UserError(f"class {class_names[lost[0]]} has no training example left: add some, or remove it")
    arrays = more | {"class_names": np.array(class_names)}
    for part, split in parts.items():
        arrays |= {f"x_{part}": split.images, f"y_{part}": split.labels}
    files.save_arrays(arguments.output, **arrays)
    validation = parts.get("val", parts["train"].take(slice(0)))
    dataset = data.Dataset(parts["train"], validation, parts["test"], len(class_names), tuple(class_names))
    print(f"data: {dataset}\n")
    print_counts(parts, class_names)
    megabytes = sum(array.nbytes for array in arrays.values()) / 1e6
    out = arguments.output.with_suffix("")
    out = f"{out}_nets" if out in arguments.source else out
    next_step = f"python teacher.py --data {arguments.output} --out {out}"
    print(f"saved {arguments.output}, {megabytes:,.2f} MB; next: {next_step}")


def print_counts(parts, class_names):
    """Print how many examples each part has of each class, of the first 20 classes."""
    counts = [np.bincount(split.labels[split.labels >= 0], minlength=len(class_names)) for split in parts.values()]
    lines = [[name, *(f"{count:,}" for count in of_class)] for name, *of_class in zip(class_names, *counts)]
    which = f" (the first 20 of {len(lines)})" if len(lines) > 20 else ""
    terminal.print_table(f"examples of each class{which}", ["class", *parts], lines[:20])


if __name__ == "__main__":
    terminal.run(main)
