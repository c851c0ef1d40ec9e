"""tools/convert.py: folders, CSV, IDX and arrays become the file that data.load takes; what cannot is refused."""

import gzip
import struct
import sys

from support import tables, terminal

import numpy as np
import pytest
from PIL import Image

import data
from tools import convert

SHADES = {"cat": 40, "dog": 120, "owl": 200}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run(*arguments) -> (the dataset, what was printed); writes tmp_path/mine.npz."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["convert.py", *map(str, arguments), str(tmp_path / "mine.npz")])
        terminal.run(convert.main)
        return data.load(tmp_path / "mine.npz", validation=0), capsys.readouterr().out

    return run


@pytest.fixture
def refused(tmp_path, refusal):
    """refused(*arguments) -> the line that says why nothing was written."""

    def refused(*arguments, status=1):
        ended, line = refusal(convert.main, *arguments, tmp_path / "mine.npz")
        assert ended == status and not (tmp_path / "mine.npz").exists()
        return line

    return refused


@pytest.fixture
def folder(tmp_path):
    """A folder with ten 8x6 images of each class, plain and of the class's shade, the last pixel telling them apart."""
    for name, shade in SHADES.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            pixels = np.full((8, 6), shade, np.uint8)
            pixels[-1, -1] = number
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


# ---- folders of images -----------------------------------------------------------------------------------------------


def test_a_folder_of_classes_is_read_and_a_fifth_of_each_is_the_test_part(run, folder, tmp_path):
    (folder / "notes.txt").write_text("no image")
    dataset, printed = run(folder)
    assert dataset.class_names == ("cat", "dog", "owl") and dataset.image_shape == (8, 6)
    saved = np.load(tmp_path / "mine.npz")
    for name, split, number in (("train", dataset.train, 8), ("test", dataset.test, 2)):
        assert np.bincount(split.labels).tolist() == [number] * 3
        assert (split.images[:, 0, 0] == np.array([*SHADES.values()])[split.labels]).all()
        for path, image in zip(saved[f"files_{name}"], split.images, strict=True):
            np.testing.assert_array_equal(np.asarray(Image.open(folder / path)), image)
    assert "6 training examples become it, from each class its share" in printed
    assert "30 images in 31 files; left out: 1 in no class (.txt 1)" in printed


def test_train_test_and_validation_folders_are_the_parts_and_copies_are_counted(run, folder, tmp_path):
    parts = tmp_path / "parts"
    for part, numbers in {"train": range(6), "test": range(5, 8), "val": range(8, 10)}.items():
        for name in SHADES:
            (parts / part / name).mkdir(parents=True)
            for number in numbers:
                content = (folder / name / f"{number}.png").read_bytes()
                (parts / part / name / f"{number}.png").write_bytes(content)
    dataset, printed = run(parts)
    assert [len(split.labels) for split in dataset[:3]] == [18, 6, 9]
    assert "3 test examples are equal to a training example" in printed


def test_images_of_several_sizes_get_the_median_and_grey_ones_in_colour_files_stay_grey(run, folder):
    grey = Image.fromarray(np.full((80, 60), 77, np.uint8))
    grey.save(folder / "cat" / "large.bmp")
    grey.convert("RGB").resize((6, 8)).save(folder / "cat" / "web.webp", lossless=True)
    dataset, printed = run(folder)
    assert dataset.image_shape == (8, 6)
    assert "from 8x6 to 80x60 (height x width): all are resized to the median, --size 8 6" in printed
    images = np.concatenate([dataset.train.images, dataset.test.images])
    assert np.sum((images == 77).all((1, 2))) == 2


def test_colours_stay_unless_grey_is_asked_for_and_size_resizes(run, folder):
    Image.new("RGB", (6, 8), (250, 0, 0)).save(folder / "owl" / "red.jpg", quality=95)
    dataset, _ = run(folder, "--size", 4, 12)
    assert dataset.image_shape == (4, 12, 3)
    dataset, _ = run(folder, "--grey")
    assert dataset.image_shape == (8, 6)


def test_an_unreadable_image_is_named_or_left_out(run, refused, folder):
    (folder / "dog" / "3.png").write_text("this is text")
    assert "dog/3.png cannot be read" in refused(folder).replace("\\", "/")
    (folder / "dog" / "3.png").unlink()
    noise = np.random.default_rng(0).integers(0, 255, (40, 30), np.uint8)
    Image.fromarray(noise).save(folder / "cat" / "4.jpg")
    whole = (folder / "cat" / "4.jpg").read_bytes()
    (folder / "cat" / "4.jpg").write_bytes(whole[: len(whole) // 2])  # its header is sound
    assert "cat/4.jpg cannot be read" in refused(folder).replace("\\", "/")
    (folder / "dog" / "3.png").write_text("this is text")
    dataset, printed = run(folder, "--skip-unreadable", "--test", 0.01)
    assert len(dataset.train.labels) + len(dataset.test.labels) == 29
    assert "30 images in 31 files; left out: 1 damaged, " in printed
    assert "train: left out, as damaged: 1 images, such as " in printed and "cat/4.jpg" in printed.replace("\\", "/")


def test_a_folder_with_one_class_or_none_is_refused(refused, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "has no folders of images" in refused(tmp_path / "empty")
    (tmp_path / "one" / "cat").mkdir(parents=True)
    for number in range(5):
        Image.new("L", (6, 8)).save(tmp_path / "one" / "cat" / f"{number}.png")
    assert "one has one class only, cat: a classifier needs two or more" in refused(tmp_path / "one")
    assert "there is no such file or folder" in refused(tmp_path / "nowhere")


# ---- tables ----------------------------------------------------------------------------------------------------------


PIXELS = [[row % 3, *(100 * (row % 3) + place for place in range(16))] for row in range(30)]  # a label, 16 pixels


def csv(rows, header=None, separator=","):
    """The text of a table."""
    rows = [header, *rows] if header else rows
    return "\n".join(separator.join(map(str, row)) for row in rows) + "\n"


FLOWERS = [[f"{n % 2 + n / 1000:.3f}", n * 7 % 5, "ab"[n % 2]] for n in range(60)]  # two numbers, and a label
NAMES = ["length", "width", "label"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("names", ["pixel{}", "px{}", "row"])
def test_pixels_become_images_and_a_column_that_numbers_the_rows_is_left_out(run, tmp_path, packed, names):
    names = [f"{k // 4 + 1}x{k % 4 + 1}" if names == "row" else names.format(k) for k in range(16)]
    rows = [[number, *row] for number, row in enumerate(PIXELS)]
    text = csv(rows, ["", "label", *names])
    path = tmp_path / ("train.csv.gz" if packed else "Train.CSV")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    dataset, printed = run(path)
    assert dataset.image_shape == (4, 4) and dataset.train.images.dtype == np.uint8
    assert (dataset.train.images[:, 3, 3] == 100 * dataset.train.labels + 15).all()
    assert "column Unnamed: 0 numbers the rows: it is left out" in printed
    assert "30 rows; 18 columns, named in the first row; labels: column label" in printed


def test_columns_without_names_are_pixels_if_they_are_many_and_one_is_bright(run, refused, tmp_path):
    (tmp_path / "a.csv").write_text(csv(PIXELS))
    line = refused(tmp_path / "a.csv")
    assert "it is not clear which column has the labels (" in line
    assert "): name it with --label, one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..., 16" in line
    dataset, printed = run("--label", 0, tmp_path / "a.csv", tmp_path / "a.csv")
    assert dataset.image_shape == (16,) and len(dataset.test.labels) == 30
    assert "17 columns, without names, so numbered from 0; labels: column 0" in printed
    assert run("--label", 0, "--size", 2, 8, tmp_path / "a.csv")[0].image_shape == (2, 8)
    (tmp_path / "mine.npz").unlink()
    line = refused("--label", 0, "--size", 3, 8, tmp_path / "a.csv")
    assert "--size: the 16 columns are no pixels, 0...255, of images of 3x8" in line
    many = [[row[0], *row[1:] * 4] for row in PIXELS]
    again = ["0", *(f"0.{k}" for k in range(1, 65))]  # pandas' names of a first row of zeros
    for header in (None, again):
        (tmp_path / "a.csv").write_text(csv(many, header))
        dataset, printed = run("--label", 0, tmp_path / "a.csv")
        assert dataset.image_shape == (8, 8) and f"{len(many)} rows" in printed
        assert ("named in the first row" in printed) == (header is not None)


@pytest.mark.parametrize(
    ("first", "is_header"),
    [(["a", "b", "c"], True), (["a", "1", "c"], True), (["7", "1", "c"], False), (["?", "1", "c"], False)],
)
def test_a_first_row_without_a_number_where_all_others_have_one_is_a_header(first, is_header):
    assert tables.has_header([first, ["1", "2", "x"], ["3", "?", "y"], ["5,5", "-1e3", "z"]]) == is_header


def test_numbers_are_standardised_on_the_training_part(run, tmp_path):
    (tmp_path / "t.csv").write_text(csv(FLOWERS, NAMES))
    dataset, printed = run(tmp_path / "t.csv")
    assert dataset.class_names == ("a", "b") and dataset.train.images.dtype == np.float32
    np.testing.assert_allclose(dataset.train.images.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(dataset.train.images.std(0), 1, atol=1e-5)
    saved = np.load(tmp_path / "mine.npz")
    assert (
        saved["feature_names"].tolist() == ["length", "width"]
        and "numbers, which are standardised on the training part: length, width" in printed
    )
    lengths = dataset.test.images[:, 0] * saved["feature_deviation"][0] + saved["feature_mean"][0]
    assert (np.round(lengths) == dataset.test.labels).all()


QUOTED = [[f'"{row[0]}"', f'"{row[1]}"', f'"{row[2]}"'] for row in FLOWERS]


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        ("t.tsv", csv(FLOWERS, NAMES, "\t"), []),
        ("t.txt", csv(FLOWERS, NAMES, ";"), []),
        ("t.TXT", csv(FLOWERS, NAMES, " "), []),
        ("t.csv", csv(FLOWERS, NAMES, "|"), []),
        ("t.csv", csv(FLOWERS, NAMES, ", "), []),
        ("t.csv", csv(QUOTED, [f'"{name}"' for name in NAMES]), []),
        ("t.csv", csv([[f'"{n}"', *row] for n, row in enumerate(FLOWERS, 1)], ['""', *NAMES]), []),  # R's write.csv
        ("t.data", csv(FLOWERS) + "\n", ["--label", "2"]),
        ("t.csv", csv(FLOWERS[:1] * 2 + FLOWERS[2:], ["5", "1", "b"]), ["--label", "2", "--no-header"]),
        ("t.csv", csv([[row[0].replace(".", ","), *row[1:]] for row in FLOWERS], NAMES, ";"), ["--decimal", ","]),
        ("t.csv", "\ufeff" + csv(FLOWERS, ["label ", " width", "kind"]), ["--label", "kind"]),
    ],
)
def test_separators_quotes_headers_and_decimal_commas_are_read_right(run, tmp_path, name, text, options):
    (tmp_path / name).write_text(text, encoding="utf-8")
    dataset, _ = run(tmp_path / name, *options)
    total = len(dataset.train.labels) + len(dataset.test.labels)
    assert total == 60 + ("--no-header" in options) and dataset.image_shape == (2,)
    assert dataset.class_names == ("a", "b")
    if "--no-header" not in options:
        lengths = np.sort(np.concatenate([dataset.train.images, dataset.test.images])[:, 0])
        assert np.corrcoef(lengths, sorted(float(row[0]) for row in FLOWERS))[0, 1] > 0.9999


def test_labels_are_words_as_they_stand_and_a_missing_one_is_for_soft_targets_only(run, refused, tmp_path):
    words = ["None", "NA", "nan", "2,5"]
    rows = [[n % 4 + n / 100, n % 7, words[n % 4]] for n in range(80)]
    (tmp_path / "t.csv").write_text(csv([*rows, [1, 2, ""]], NAMES, ";"))
    dataset, _ = run(tmp_path / "t.csv")
    assert dataset.class_names == ("2,5", "NA", "None", "nan")  # numbers first
    assert np.sum(dataset.train.labels == -1) == 1 and (dataset.test.labels >= 0).all()
    (tmp_path / "mine.npz").unlink()
    assert "the test part has an example without a label" in refused(tmp_path / "t.csv", tmp_path / "t.csv")


def test_columns_to_drop_must_be_there_and_both_files_have_the_same(run, refused, tmp_path):
    (tmp_path / "t.csv").write_text(csv(FLOWERS, NAMES))
    assert run("--drop", "length", "--test", 0.2, tmp_path / "t.csv")[0].image_shape == (1,)
    (tmp_path / "mine.npz").unlink()
    line = refused("--drop", "size", "--test", 0.2, tmp_path / "t.csv")
    assert "--drop size" in line and "has no such column to leave out, but length, width, label" in line
    (tmp_path / "u.csv").write_text(csv([row[:2] for row in FLOWERS], NAMES[:2]))
    line = refused("--label", "label", tmp_path / "t.csv", tmp_path / "u.csv")
    assert "u.csv: there is no column label (" in line and "with --label, one of length, width\n" in line
    (tmp_path / "u.csv").write_text(csv(FLOWERS, ["length", "size", "label"]))
    assert (
        "u.csv and" in (line := refused(tmp_path / "t.csv", tmp_path / "u.csv")) and "the training file alone" in line
    )


@pytest.mark.parametrize(
    ("column", "value", "problem", "advice"),
    [
        ("1", "red", "values that are no numbers, such as red", "pandas.get_dummies(frame, columns=['width'])"),
        ("0,5", "1,5", "such as 0,5", "if the comma is a decimal one, give --decimal ,"),
        ("1", '"1,163.50"', "such as 1,163.50", "leave it out with --drop 'width'"),
        ("1 2 3 4", "5 6 7 8", "such as 1 2 3 4", "make columns of them, frame['width'].str.split(expand=True)"),
        ("", "", "column width is empty", "leave it out with --drop 'width'"),
        ("1", "", "row 4 has no value in column width", "frame['width'].replace([inf, -inf], nan).fillna("),
        ("1", "?", "row 4 has no value in column width", "fill it"),
        ("1", "Infinity", "row 4 has the value inf in column width", "leave it out with --drop 'width'"),
    ],
)
def test_a_column_that_is_no_numbers_is_named_with_a_value_and_what_to_do(
    refused, tmp_path, column, value, problem, advice
):
    rows = [[row[0], value if n == 3 else column, row[2]] for n, row in enumerate(FLOWERS)]
    (tmp_path / "t.csv").write_text(csv(rows, NAMES, ";" if column == "0,5" else ","))
    line = refused(tmp_path / "t.csv")
    assert problem in line and advice in line


@pytest.mark.parametrize(("name", "is_left_out"), [("", True), ("Id", True), ("account", False)])
def test_an_index_with_gaps_is_left_out(run, tmp_path, name, is_left_out):
    (tmp_path / "t.csv").write_text(csv([[8423 + 79 * n, *row] for n, row in enumerate(FLOWERS)], [name, *NAMES]))
    dataset, printed = run(tmp_path / "t.csv")
    assert dataset.image_shape == (2 if is_left_out else 3,)
    assert ("numbers the rows: it is left out" in printed) == is_left_out


def test_tables_that_make_no_sense_are_refused_in_a_line(refused, tmp_path):
    path = tmp_path / "t.csv"
    for text, problem in (
        ("", "cannot be read (it is empty)"),
        ("label,a\n1,2\n0,3,4\n", "Expected 2 fields in line 3, saw 3"),
        ("label,a\n1,2,9\n0,3,4\n", "cannot be read"),
        ("label\n1\n0\n", "it has no rows of two values"),
        ("name,a\n1,2\n0,3\n", "cannot be used): name it with --label, one of name, a"),
        ("label,a\n1,5,9\n2,0,7\n", "its first line has fewer names than the others have values"),
        ("a,label,label\n" + "1,2,2\n2,1,1\n" * 9, "are no numbers, such as 2: leave it out with --drop 'label.1'"),
        ("Label,label,a\n1,2,3\n0,3,4\n", "it is not clear which column"),
        ("label,n\n" + "\n".join(f"{n % 2},{n}" for n in range(50)), "has no column but that of the labels"),
        ("label,a\n" + "\n".join(f"{n / 7},{n % 9}" for n in range(50)), "50 different labels for 50 examples"),
    ):
        path.write_text(text)
        assert problem in refused(path), text
    path.write_bytes("label,a\n\u00e9,1\n".encode("latin-1"))
    assert "save the table again as CSV in UTF-8" in refused(path)


# ---- IDX and arrays --------------------------------------------------------------------------------------------------


def write_idx(path, array, packed=False):
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if packed else content)


@pytest.fixture
def idx(tmp_path):
    """A folder with four IDX files, half of them packed; labels from 1 on, as in EMNIST's letters."""
    (tmp_path / "idx").mkdir()
    for name, number in (("train", 30), ("t10k", 12)):
        labels = np.arange(number, dtype=np.uint8) % 3
        images = np.broadcast_to(50 * labels[:, None, None], (number, 5, 4)) + np.arange(4, dtype=np.uint8)
        write_idx(tmp_path / "idx" / f"{name}-images-idx3-ubyte.gz", images, packed=True)
        write_idx(tmp_path / "idx" / f"{name}-labels-idx1-ubyte", labels + 1)
    return tmp_path / "idx"


def test_idx_files_are_read_and_can_be_transposed(run, idx):
    dataset, _ = run(idx)
    assert [len(split.labels) for split in dataset[:3]] == [30, 0, 12] and dataset.class_names == ("1", "2", "3")
    assert (dataset.test.images[:, 2] == 50 * dataset.test.labels[:, None] + np.arange(4)).all()
    assert run(idx, "--transpose")[0].image_shape == (4, 5)
    for path in [*idx.iterdir()]:  # as Kaggle has them: each in a folder of its name, and again beside it
        name = path.name.removesuffix(".gz")
        (idx / name.replace("-idx", ".idx")).write_bytes(path.read_bytes())
        path.rename(idx / "scratch")
        (idx / name).mkdir()
        (idx / "scratch").rename(idx / name / name)
    assert [len(split.labels) for split in run(idx)[0][:3]] == [30, 0, 12]


def test_idx_files_that_are_damaged_or_alone_are_refused(refused, idx):
    images = idx / "t10k-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:-20])
    assert "t10k-images-idx3-ubyte.gz cannot be read" in refused(idx)
    images.unlink()
    assert "the file of the test images (idx3) is missing" in refused(idx)
    write_idx(idx / "other-train-labels-idx1-ubyte", np.zeros(30, np.uint8))
    assert "has several sets" in refused(idx)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_arrays_are_taken_as_they_are_with_numbers_or_words_for_labels(run, tmp_path, dtype):
    images = np.arange(40 * 12).reshape(40, 4, 3).astype(dtype)
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "y.npy", np.array(["no", "yes"])[np.arange(40) % 2])
    dataset, _ = run(tmp_path / "x.npy", tmp_path / "y.npy")
    assert dataset.class_names == ("no", "yes") and len(dataset.test.labels) == 8
    assert dataset.train.images.dtype == dtype
    np.save(tmp_path / "y.npy", np.arange(40) % 3 - 1)
    dataset, _ = run(tmp_path / "x.npy", tmp_path / "y.npy")
    assert dataset.num_classes == 2 and np.sum(dataset.train.labels == -1) == 14  # those without a label
    np.save(tmp_path / "y.npy", np.arange(40.0)[:, None] % 4)
    dataset, _ = run(*(tmp_path / name for name in ("x.npy", "y.npy", "x.npy", "y.npy")))
    np.testing.assert_array_equal(dataset.test.images, images)
    np.testing.assert_array_equal(dataset.test.labels, np.arange(40) % 4)


@pytest.mark.parametrize("label", [0.5, np.nan])
def test_labels_that_are_fractions_are_refused(refused, tmp_path, label):
    np.save(tmp_path / "x.npy", np.zeros((40, 4, 3), np.uint8))
    np.save(tmp_path / "y.npy", np.where(np.arange(40) == 7, label, np.arange(40) % 3))
    assert "train: labels are no whole numbers" in refused(tmp_path / "x.npy", tmp_path / "y.npy")


def test_arrays_of_objects_and_of_several_labels_are_refused_with_what_to_do(refused, run, tmp_path):
    x, y = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(x, np.arange(40 * 12, dtype=np.uint8).reshape(40, 4, 3))
    words = np.array(["no", "yes"], object)[np.arange(40) % 2]
    np.save(y, words)
    assert "y has the dtype object, which is not read: save numpy.array(y.tolist()) in its place" in refused(x, y)
    np.save(y, np.array(words.tolist()))
    assert run(x, y)[0].class_names == ("no", "yes")
    (tmp_path / "mine.npz").unlink()
    one_hot = np.eye(4)[np.arange(40) % 4]
    np.save(y, one_hot)
    assert "labels of the shape (40, 4): each needs one (of one-hot labels, take argmax(-1))" in refused(x, y)
    np.save(y, one_hot + one_hot[::-1])
    assert "each needs one, as each example has one class" in (line := refused(x, y)) and "argmax" not in line


def test_files_of_other_formats_are_refused_with_a_way_to_make_one(refused, tmp_path):
    for name, advice in (
        ("mnist.pkl.gz", "in Python, load its arrays, `a = pickle.load(gzip.open("),
        ("a.parquet", "make a table of it, `pandas.read_parquet("),
        ("photos.zip", "unpack it, `shutil.unpack_archive("),
    ):
        (tmp_path / name).write_bytes(b"PK")
        line = refused(tmp_path / name)
        assert f"{name}: this is no folder, table (.csv), .npy or idx-ubyte file: {advice}" in line
    (tmp_path / "a.csv").write_text(csv(FLOWERS, NAMES))
    assert "these files are too many, or of several kinds" in refused(*[tmp_path / "a.csv"] * 3)


def test_options_are_for_the_data_that_they_are_about(refused, tmp_path, folder, refusal):
    np.save(tmp_path / "x.npy", np.zeros((4, 2, 2), np.uint8))
    arrays = tmp_path / "x.npy", tmp_path / "x.npy"
    for options, source in (
        (("--label", 0), (folder,)),
        (("--decimal", ","), arrays),
        (("--transpose", "--skip-unreadable"), (folder,)),
        (("--size", 2, 2), arrays),
    ):
        assert f"{options[0]} is not for such data: leave it out" in refused(*options, *source)
    status, line = refusal(convert.main, folder, tmp_path / "none" / "mine.npz")
    assert status == 2 and "none to write mine.npz to: make it" in line


def test_a_class_of_which_nothing_is_left_is_named(refused, folder):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30), np.uint8))
    for path in (folder / "dog").iterdir():
        noise.save(path, "JPEG")
        path.write_bytes(path.read_bytes()[:600])
    assert "class dog has no training example left" in refused("--skip-unreadable", "--test", 0.2, folder)


def test_the_next_command_does_not_write_into_the_folder_of_the_images(run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["convert.py", str(folder), str(tmp_path / "photos.npz")])
    shown = []
    monkeypatch.setattr("builtins.print", lambda *words, **_: shown.append(" ".join(map(str, words))))
    terminal.run(convert.main)
    assert shown[-1].endswith(f"python teacher.py --data {tmp_path / 'photos.npz'} --out {tmp_path / 'photos_nets'}")


def test_wrong_arguments_are_refused_and_an_older_file_stays(refused, tmp_path, folder, refusal):
    np.save(tmp_path / "x.npy", np.zeros((4, 2, 2), np.uint8))
    assert "give x.npy and y.npy" in refused(tmp_path / "x.npy")
    np.save(tmp_path / "y.npy", np.zeros(3))
    assert "train: 4 examples and labels of the shape (3,): each needs one" in refused(
        tmp_path / "x.npy", tmp_path / "y.npy"
    )
    assert "this is no folder, table (.csv), .npy or idx-ubyte file" in refused(
        tmp_path / "x.npy", folder / "cat" / "1.png"
    )
    status, line = refusal(convert.main, folder, tmp_path / "mine.txt")
    assert status == 2 and "the last argument is the file to write" in line
    (tmp_path / "mine.npz").write_text("old")
    (folder / "dog" / "3.png").write_text("this is text")
    assert refusal(convert.main, folder, tmp_path / "mine.npz")[0] == 1
    assert (tmp_path / "mine.npz").read_text() == "old"
