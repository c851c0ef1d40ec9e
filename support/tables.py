"""Tables: a column of labels, and columns of numbers, as pandas reads them. For tools/convert.py."""

import contextlib
import csv
import gzip
import itertools
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from support import UserError, files, terminal

import numpy as np

if TYPE_CHECKING:  # pandas is not needed otherwise
    import pandas

SEPARATORS = "\t;|,"  # of a table's columns
MISSING = ["", "?", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None"]  # values that are none
PIXEL = r"(?i)(pixel|px)?[ _.]?\d+|\d+x\d+|\d+\.\d+"  # the names of columns that are an image's pixels
MIN_PIXELS = 64  # of images whose columns have no names


def read(
    paths: Sequence[Path],
    label: str | None = None,
    dropped: Sequence[str] = (),
    no_header: bool = False,
    decimal: str = ".",
) -> tuple[dict[str, list[str]], dict[str, np.ndarray], list[str]]:
    """Read a table, or one for training and one for the test; returns (labels, numbers, the names of their columns).

    paths: of text, packed by gzip or not. label: the column of labels, a name or a number from 0; None: the one called
    label. dropped: columns to leave out. no_header: the first row has no names. decimal: "." or ",". labels: {part: a
    str for each row, "" for none}; numbers: {part: (n, d) of whole numbers or floats}, without missing ones. The parts
    are "train" and "test". Prints what is read, and the columns that are left out since they number the rows.
    """
    label, train = _read_one(paths[0], label, no_header, decimal)
    frames = [train, *(_read_one(path, label, no_header, decimal)[1] for path in paths[1:])]
    for name in dropped:
        if name not in train or name == label:
            raise UserError(f"--drop {name}: {paths[0]} has no such column to leave out, but {listed(train)}")
    columns = [name for name in train if name not in {label, *dropped}]
    numbering = [name for name in columns if _numbers_rows(train[name])]
    for name in numbering:
        terminal.say(f"column {name} numbers the rows: it is left out")
    columns = [name for name in columns if name not in numbering]
    if not columns:
        raise UserError(f"{paths[0]} has no column but that of the labels: nothing to learn from")
    labels, numbers = {}, {}
    for part, path, frame in zip(("train", "test"), paths, frames):
        if {*frame} != {*train}:
            advice = "give both the same, or the training file alone, a fifth of which becomes the test part"
            raise UserError(f"{path} and {paths[0]} differ in the columns {listed({*frame} ^ {*train})}: {advice}")
        for name in columns:
            _check_numbers(path, frame[name], decimal)
        labels[part], numbers[part] = frame[label].tolist(), frame[columns].to_numpy()
    return labels, numbers, columns


def _read_one(path: Path, label: str | None, no_header: bool, decimal: str) -> tuple[str, "pandas.DataFrame"]:
    """(the name of the column of labels, a table with labels as text). Columns without names are called 0, 1, 2, ..."""
    try:
        import pandas
    except ModuleNotFoundError:
        raise UserError("tables are read by pandas: pip install pandas") from None
    with files.reading(path, "there is no such file", "mend it, or save the table again as CSV in UTF-8"):
        with _opened(path) as file:
            lines = [line for line in itertools.islice(file, 50) if line.strip()]
        if not lines:
            raise ValueError("it is empty")
        separator, rows = _split(lines)
        is_headed = not no_header and has_header(rows)
        if is_headed and len(rows[0]) < min(map(len, rows[1:]), default=0):
            raise ValueError("its first line has fewer names than the others have values")
        options = {"sep": separator, "header": 0 if is_headed else None, "skipinitialspace": True, "index_col": False}
        options |= {"decimal": decimal, "low_memory": False, "keep_default_na": False}
        with _opened(path) as file:
            columns = list(pandas.read_csv(file, nrows=1, **options))
        names = [str(column).strip() for column in columns]
        label = _label_column(path, names, label)
        column = columns[names.index(label)]
        options["na_values"] = {other: MISSING for other in columns if other != column}  # a class may be called None
        with _opened(path) as file, warnings.catch_warnings(action="error"):
            frame = pandas.read_csv(file, dtype={column: str}, **options).set_axis(names, axis=1)
        frame[label] = frame[label].str.strip()
        if len(names) < 2 or frame.empty:
            raise ValueError("it has no rows of two values")
    named = "named in the first row" if is_headed else "without names, so numbered from 0"
    terminal.say(f"{path}: {len(frame):,} rows; {len(names):,} columns, {named}; labels: column {label}")
    return label, frame


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """The file as text, unpacked if gzip has packed it."""
    with open(path, "rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
    with (gzip.open if is_packed else open)(path, "rt", encoding="utf-8-sig", newline="") as file:
        yield file


def _split(lines: list[str]) -> tuple[str, list[list[str]]]:
    """(what separates the columns, for pandas; the lines as lists of values).

    It is the first of SEPARATORS that gives all lines equally many values, and more than one. (csv.Sniffer takes the
    comma of 0,5;0,7 for it.) If none does: the most frequent one in the first line, or white space.
    """
    for separator in SEPARATORS:
        rows = list(csv.reader(lines, delimiter=separator, skipinitialspace=True))
        if len({*map(len, rows)}) == 1 and len(rows[0]) > 1:
            return separator, rows
    counts = {separator: lines[0].count(separator) for separator in SEPARATORS}
    separator = max(counts, key=counts.get) if any(counts.values()) else None
    return separator or r"\s+", [line.split(separator) for line in lines]


def has_header(rows: list[list[str]]) -> bool:
    """Whether the first row names the columns.

    It does if it has no number in a column of numbers; if there is no such column; or if pandas made its names of equal
    numbers, 0, 0.1, 0.2, ..., above whole ones.
    """
    first, *others = rows
    columns = [[value for value in column if value not in MISSING] for column in zip(*others)]
    numeric = [name for name, column in zip(first, columns) if column and None not in map(as_number, column)]
    if not numeric or any(as_number(name) is None and name not in MISSING for name in numeric):
        return True
    made = [name for name in first if re.fullmatch(r"\d+\.\d+", name) and name.partition(".")[0] in first]
    return len(made) > len(first) / 2 and all(value.isdigit() for column in columns for value in column)


def as_number(text: str) -> float | None:
    """The float that a str says, perhaps with a decimal comma; None if that is no finite number."""
    with contextlib.suppress(ValueError):
        number = float(text.replace(",", "."))
        return number if math.isfinite(number) else None


def _label_column(path: Path, names: list[str], given: str | None) -> str:
    """The name of the column of labels: the one called label; or `given`, a name, or a number from 0."""
    found = [name for name in names if name == given or not given and name.lower() == "label"]
    if not found and given and given.isdigit() and int(given) < len(names):
        found = [names[int(given)]]
    if len(found) == 1:
        return found[0]
    problem = f"there is no column {given}" if given else "it is not clear which column has the labels"
    remark = "a file without labels cannot be used"
    raise UserError(f"{path}: {problem} ({remark}): name it with --label, one of {listed(names)}")


def listed(names: Iterable[str]) -> str:
    """The names of columns in a message: the first ten and the last."""
    names = list(names)
    return ", ".join(names if len(names) <= 11 else [*names[:10], "...", names[-1]])


def _numbers_rows(column: "pandas.Series") -> bool:
    """Whether a column numbers the rows: it goes from 0 or 1 in steps of 1; or it is called an index, and has gaps."""
    if column.dtype.kind != "i" or len(column) < 3:
        return False
    is_index = column.name.lower() in ("id", "index") or column.name.startswith("Unnamed: ")  # pandas' word for none
    return column.iloc[0] in (0, 1) and bool((np.diff(column) == 1).all()) or is_index and column.is_unique


def _check_numbers(path: Path, column: "pandas.Series", decimal: str) -> None:
    """Raises UserError: a table's column has a value that is no number; names the value, and says what to do."""
    frame, drop = f"frame['{column.name}']", f"leave it out with --drop '{column.name}'"
    if column.isna().all():
        raise UserError(f"{path}: column {column.name} is empty: {drop}")
    if column.dtype.kind not in "biuf":
        values = column.dropna().astype(str)
        value = next((value for value in values if as_number(value) is None or "," in value), values.iloc[0])
        problem = f"column {column.name} has values that are no numbers, such as {value[:40]}"
        advice = f"{drop}, or make numbers of them, pandas.get_dummies(frame, columns=['{column.name}'])"
        if decimal == "." and "," in value and as_number(value) is not None:
            advice = "if the comma is a decimal one, give --decimal ,"
        elif " " in value and None not in map(as_number, value.split()):
            advice = f"make columns of them, {frame}.str.split(expand=True)"
        raise UserError(f"{path}: {problem}: {advice}")
    values = column.to_numpy(np.float64)
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        problem = "no value" if np.isnan(values[row]) else f"the value {values[row]}"
        fill = f"{frame}.replace([inf, -inf], nan).fillna({frame}.median())"
        raise UserError(f"{path}: row {row + 1} has {problem} in column {column.name}: {drop}, or fill it, {fill}")


def image_shape(
    columns: list[str], numbers: dict[str, np.ndarray], size: Sequence[int] | None = None
) -> tuple[int, ...] | None:
    """The shape of images, square or of `size`, whose pixels the columns of `read` are; None if they are none.

    Pixels are whole numbers from 0 to 255, and their columns are named so. Columns without names may be other numbers:
    they are pixels if they are many, and one is bright.
    """
    is_uint8 = all(table.dtype.kind in "iu" and 0 <= table.min() <= table.max() <= 255 for table in numbers.values())
    has_names = not all(re.fullmatch(r"\d+(\.\d+)?", name) for name in columns)
    is_bright = is_uint8 and len(columns) >= MIN_PIXELS and max(table.max() for table in numbers.values()) > 127
    if is_uint8 and all(re.fullmatch(PIXEL, name) for name in columns) and (has_names or is_bright or size):
        for channels in ((), (3,)):
            side = math.isqrt(len(columns) // math.prod(channels))
            shape = (*(size or (side, side)), *channels)
            if math.prod(shape) == len(columns):
                return shape
    if size:
        raise UserError(f"--size: the {len(columns)} columns are no pixels, 0...255, of images of {size[0]}x{size[1]}")
    return None
