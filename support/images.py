"""Folders of images: what is in them, and the images, as Pillow reads them. tools/convert.py and stream.py share it."""

import collections
import contextlib
import functools
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from support import UserError, files, terminal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"}  # a word: the part that it names
PARTS |= {"val": "val", "valid": "val", "validation": "val", "trainset": "train", "testset": "test", "valset": "val"}
NO_DATA = {"__macosx", "thumbs.db", "desktop.ini"}  # what systems leave in folders, besides hidden files
GREY_MODES = {"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"}  # of Pillow
EXIF = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}  # where Pillow finds how to turn an image
WHITE_16 = 65_535  # the largest value of 16 bits
NUM_SAMPLES = 100  # images of 16 bits whose values are looked at


class Folder(NamedTuple):
    """The images of a folder, by part: "train", and perhaps "test" and "val".

    paths: {part: of its images}. labels: {part: (n,) int32, the places of their classes in class_names}. sizes: how
    many images of all parts have each (height, width). is_grey: whether all have a single channel.
    """

    paths: dict[str, list[str]]
    labels: dict[str, np.ndarray]
    class_names: list[str]
    sizes: collections.Counter
    is_grey: bool


# ---- what is in a folder ---------------------------------------------------------------------------------------------


def find(folder: Path, skip_unreadable: bool = False) -> Folder:
    """Find the images of a folder: PART/CLASS/*, or CLASS/* alone, which then are the training part.

    Classes are in the order of their names as text, as in Keras' and torchvision's loaders. Whatever Pillow can open,
    at any depth of a class, is an image. Prints which folders are the parts, how many files there are, and what is left
    out. Raises UserError: an image is damaged, or a link dead; with skip_unreadable, these are left out.
    """
    roots, left_out = _parts(folder)
    classes = {part: _classes(root) for part, root in roots.items()}
    class_names = list(classes["train"])
    if len(class_names) < 2:
        raise UserError(f"{folder} has one class only, {class_names[0]}: a classifier needs two or more")
    for part, of_part in classes.items():
        if unknown := [name for name in of_part if name not in class_names]:
            problem = f"the {part} part has a class that training lacks, {unknown[0]}"
            raise UserError(f"{problem}: add it there, or remove it")
    look, paths, labels = _Look(skip_unreadable), {}, {}
    for part, of_part in classes.items():
        paths[part], labels[part] = [], []
        for name, folders in of_part.items():
            num_before = len(look.no_images)
            images = [path for of_class in folders for path in _files(of_class) if look.is_image(path)]
            if not images:
                problem = f"{folders[0]} holds no image that Pillow can open{_suffixes_in(look.no_images[num_before:])}"
                raise UserError(f"{problem}: remove it, or add some")
            paths[part] += images
            labels[part] += [class_names.index(name)] * len(images)
    terminal.clear_progress()
    _say_what_is_there(folder, roots, left_out, sum(map(len, paths.values())), look)
    look.say_if_dark()
    labels = {part: np.int32(of_part) for part, of_part in labels.items()}
    return Folder(paths, labels, class_names, look.sizes, GREY_MODES.issuperset(look.modes))


def _say_what_is_there(folder: Path, roots: dict, left_out: list[str], num_images: int, look: "_Look") -> None:
    """Print which folders are the parts, and that images and files left out are all files that there are."""
    for part, root in roots.items():
        if Path(root) != folder:
            terminal.say(f"{root} is the {part} part")
    above = {place for root in map(Path, roots.values()) for place in (root, *root.parents)}
    others = {
        "in no class": [path for place in above if place.is_relative_to(folder) for path in _entries(place)[1]],
        **{f"in {path}, which has no folders of classes": [*_files(path)] for path in left_out},
        "that Pillow cannot open as images": look.no_images,
        f"damaged, {', '.join(look.unreadable[:3])}": look.unreadable,
    }
    listed = [f"{len(paths):,} {which}{_suffixes_in(paths)}" for which, paths in others.items() if paths]
    num_files = num_images + sum(map(len, others.values()))
    left = f"; left out: {'; '.join(listed)}" if listed else ""
    terminal.say(f"{folder}: {num_images:,} images in {num_files:,} files{left}")


class _Look:
    """Looks at the headers of files. sizes: how many images have each (height, width). modes: {Pillow's: paths}."""

    def __init__(self, skip_unreadable: bool) -> None:
        self.skip_unreadable = skip_unreadable
        self.sizes, self.modes = collections.Counter(), collections.defaultdict(list)
        self.no_images, self.unreadable, self.num_seen = [], [], 0

    def is_image(self, path: str) -> bool:
        """Whether Pillow can open the file; keeps what it sees."""
        if self.num_seen % 1000 == 0:
            terminal.progress(f"looking at the images: {self.num_seen:,}")
        self.num_seen += 1
        try:
            with Image.open(path) as image:
                if image.mode == "F":
                    raise ValueError("its pixels are fractions, of which none is known to be white")
                is_turned = not EXIF.isdisjoint(image.info) and image.getexif().get(0x0112, 1) > 4  # by a quarter
                self.sizes[image.size if is_turned else image.size[::-1]] += 1
                self.modes[image.mode].append(path)
                return True
        except Exception as error:
            if isinstance(error, UnidentifiedImageError) and Path(path).suffix.lower() not in _image_suffixes():
                self.no_images.append(path)
            elif self.skip_unreadable:
                self.unreadable.append(path)
            else:
                raise _unreadable(path, error) from error
            return False

    def say_if_dark(self) -> None:
        """Print a note if images of 16 bits use a small part of their range, such as 12 bits."""
        paths = [path for mode, of_mode in self.modes.items() if mode.startswith("I") for path in of_mode]
        largest = 0
        for path in paths[:: 1 + len(paths) // NUM_SAMPLES]:
            with contextlib.suppress(Exception), Image.open(path) as image:  # `read` names a damaged one
                largest = max(largest, int(np.asarray(image).max()))
        if 0 < largest <= WHITE_16 // 8:
            problem = f"images of 16 bits have values up to {largest:,} of {WHITE_16:,} only, so they will be dark"
            terminal.say(f"note: {problem}: multiply their pixels by {WHITE_16 // largest} before")


def _entries(folder: str | Path) -> tuple[list[str], list[str]]:
    """(the folders, the files) in a folder, by name, but hidden ones. A link that leads nowhere is a file."""
    folders, of_folder = [], []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if not entry.name.startswith(".") and entry.name.lower() not in NO_DATA:
            is_folder = os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()
            (folders if is_folder else of_folder).append(entry.path)
    return folders, of_folder


def _files(folder: str, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """The paths of all files in a folder, at any depth. A link to a folder above it is a file, which cannot be read."""
    above = above or {os.path.realpath(parent) for parent in Path(folder).absolute().parents}
    here = os.path.realpath(folder)
    if here in above:
        yield folder
        return
    folders, of_folder = _entries(folder)
    yield from of_folder
    for inner in folders:
        yield from _files(inner, above | {here})


def _inner(folder: str | Path) -> str | Path:
    """The folder; or the only one in it, if that has the same name, as unpacked archives have: seg_train/seg_train."""
    folders, _ = _entries(folder)
    return folders[0] if len(folders) == 1 and Path(folders[0]).name == Path(folder).name else folder


def _named_parts(path: str) -> set[str]:
    """The parts that a folder's name speaks of: {"test"} for testing_set, TestImages or test2."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", Path(path).name)
    words = re.findall(r"[^\W\d_]+", apart.lower())
    return {PARTS[word] for word in words if word in PARTS}


def _parts(folder: Path) -> tuple[dict[str, str | Path], list[str]]:
    """({part: the folder that holds its classes}, the folders beside them that are no parts).

    If no folder has the name of a part, `folder` itself is the training part. One that has is never taken for a class.
    Raises UserError: it is not clear which is which.
    """
    folder = _inner(folder)
    folders, _ = _entries(folder)
    named = [path for path in folders if _named_parts(path)]
    if not named:
        if len(folders) == 1 and len(_entries(folders[0])[0]) > 1:
            problem = f"{folder} holds one folder, {folders[0]}, which holds others"
            raise UserError(f"{problem}: if those are the classes, give {folders[0]}")
        return {"train": folder}, []
    roots, left_out = {}, [path for path in folders if path not in named]
    for path in named:
        root, (part, *more) = _inner(path), _named_parts(path)
        if more or not _entries(root)[0]:
            left_out.append(path)
        elif part in roots:
            raise UserError(f"both {roots[part]} and {root} have the name of the {part} part: move one of them away")
        else:
            roots[part] = root
    if "train" not in roots:
        first = min(named, key=lambda path: "train" not in _named_parts(path))
        problem = f"{first} has the name of a part of the data, but no training part has folders of classes"
        raise UserError(f"{problem}: if it is a class, rename it; else make train/CLASS of the training images")
    return {part: roots[part] for part in ("train", "val", "test") if part in roots}, left_out


def _classes(root: str | Path) -> dict[str, list[str]]:
    """{class: its folders} in a part. A name may be there twice, in two of Unicode's forms."""
    classes = collections.defaultdict(list)
    for of_class in _entries(root)[0]:
        for path in (of_class, *_entries(of_class)[0]):
            if _named_parts(path):
                problem = f"{path} has the name of a part of the data, and is among or in the classes"
                raise UserError(f"{problem}: move it, so that parts hold classes, or rename it")
        classes[unicodedata.normalize("NFC", Path(of_class).name)].append(of_class)
    if not classes:
        raise UserError(f"{root} has no folders of images: it must hold one folder for each class")
    return classes


def _suffixes_in(paths: list[str]) -> str:
    """How many of the files have each suffix: " (.txt 12, .heic 3)"."""
    counts = collections.Counter(Path(path).suffix.lower() or Path(path).name for path in paths)
    return f" ({', '.join(f'{suffix} {number:,}' for suffix, number in counts.most_common(5))})" if counts else ""


@functools.cache
def _image_suffixes() -> set[str]:
    """The suffixes of the files that Pillow can open."""
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}


# ---- an image --------------------------------------------------------------------------------------------------------


def read(path: str, size: tuple[int, int], mode: str) -> np.ndarray:
    """The image at `path`, upright, uint8: (height, width) in the mode "L", (height, width, 3) in "RGB".

    size: (height, width). A transparent background becomes white; of an animation, the first image is taken. Raises
    UserError: the file is damaged.
    """
    try:
        return _read(path, size, mode)
    except Exception as error:
        raise _unreadable(path, error) from error


def _read(path: str, size: tuple[int, int], mode: str) -> np.ndarray:
    """As `read`, but errors of any kind that Pillow raises pass."""
    with Image.open(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I"):
            image = Image.fromarray(np.uint8(np.round(np.clip(np.asarray(image) / WHITE_16, 0, 1) * 255)))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert(mode)
        return np.asarray(image if image.size == size[::-1] else image.resize(size[::-1], Image.Resampling.BILINEAR))


def _unreadable(path: str, error: Exception) -> UserError:
    """What to say of an image that cannot be read."""
    advice = "replace or remove it, or have tools/convert.py leave such images out, with --skip-unreadable"
    return UserError(f"{path} cannot be read ({files.cause(error)}): {advice}")
