"""tools/convert.py: folders, CSV, IDX and arrays become the file that data.load takes; what cannot is refused."""

import gzip
import struct
import sys

from support import terminal

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
    for split, number in ((dataset.train, 8), (dataset.test, 2)):
        assert np.bincount(split.labels).tolist() == [number] * 3
        assert (split.images[:, 0, 0] == np.array([*SHADES.values()])[split.labels]).all()
    assert "6 examples, from all classes, are held out" in printed and "also in the training part" not in printed
    assert (tmp_path / "mine.png").stat().st_size > 1000


def test_train_test_and_validation_folders_are_the_parts_and_copies_are_named(run, folder, tmp_path):
    parts = tmp_path / "parts"
    for part, numbers in {"train": range(6), "test": range(5, 8), "val": range(8, 10)}.items():
        for name in SHADES:
            (parts / part / name).mkdir(parents=True)
            for number in numbers:
                content = (folder / name / f"{number}.png").read_bytes()
                (parts / part / name / f"{number}.png").write_bytes(content)
    dataset, printed = run(parts)
    assert [len(split.labels) for split in dataset[:3]] == [18, 6, 9]
    assert "3 test examples are also in the training part, such as" in printed
    assert "parts/test/cat/5.png" in printed.replace("\\", "/")


def test_images_of_any_mode_and_size_are_read_as_they_look(run, folder):
    grey, sixteen = np.full((8, 6), 77, np.uint8), np.full((8, 6), 77 * 257, np.uint16)
    Image.fromarray(sixteen).save(folder / "cat" / "sixteen.png")
    Image.fromarray(grey).convert("P").save(folder / "cat" / "palette.gif")
    Image.fromarray(grey).resize((60, 80)).save(folder / "cat" / "large.bmp")
    clear = Image.new("LA", (6, 8), (0, 0))
    clear.save(folder / "cat" / "clear.png")
    turned = Image.fromarray(np.pad(np.full((3, 8), 200, np.uint8), ((3, 0), (0, 0))))  # 6x8, its lower half bright
    exif = Image.Exif()
    exif[0x0112] = 8  # to be turned by a quarter against the clock: its lower half becomes the right one
    turned.save(folder / "cat" / "turned.webp", exif=exif, lossless=True)
    dataset, printed = run(folder, "--test", 0.01)
    assert dataset.image_shape == (8, 6) and "resized to the median, --size 8 6" in printed
    images, labels = (np.concatenate(pair) for pair in zip(dataset.train, dataset.test))
    cats = images[labels == 0]
    assert np.sum((cats == 77).all((1, 2))) == 3 and np.sum((cats == 255).all((1, 2))) == 1
    assert (
        np.sum((cats[:, :, -1] > 150).all(1) & (cats[:, :, 0] < 50).all(1)) == 1
    )  # bright below, turned: on the right


def test_colours_stay_unless_grey_is_asked_for_and_size_resizes(run, folder):
    Image.new("RGB", (6, 8), (250, 0, 0)).save(folder / "owl" / "red.jpg", quality=95)
    dataset, _ = run(folder, "--size", 4, 12)
    assert dataset.image_shape == (4, 12, 3)
    dataset, _ = run(folder, "--grey")
    assert dataset.image_shape == (8, 6)


def test_an_unreadable_image_is_named_or_left_out(run, refused, folder):
    (folder / "dog" / "3.png").write_text("this is text")
    assert "dog/3.png cannot be read" in refused(folder).replace("\\", "/")
    whole = (folder / "cat" / "4.png").read_bytes()
    (folder / "cat" / "4.png").write_bytes(whole[: len(whole) // 2])  # its header is sound
    dataset, printed = run(folder, "--skip-unreadable", "--test", 0.01)
    assert len(dataset.train.labels) + len(dataset.test.labels) == 28
    assert "images that cannot be read are left out" in printed


def test_folders_without_classes_or_images_are_refused(refused, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "has no folders of images" in refused(tmp_path / "empty")
    (tmp_path / "one" / "cat").mkdir(parents=True)
    assert "cat holds no image" in refused(tmp_path / "one")
    (tmp_path / "one" / "cat" / "a.png").write_bytes((folder / "cat" / "1.png").read_bytes())
    assert "needs two classes or more, and here is 1 (cat)" in refused(tmp_path / "one")
    assert "there is no such file or folder" in refused(tmp_path / "nowhere")
    for part, name in (("train", "cat"), ("train", "dog"), ("test", "fox")):
        (tmp_path / "parts" / part / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "parts" / part / name / f"{number}.png").write_bytes((folder / "cat" / "1.png").read_bytes())
    assert "the test part has a class that training lacks, fox" in refused(tmp_path / "parts")


# ---- CSV -------------------------------------------------------------------------------------------------------------


def pixel_rows(num=30):
    """Lines of CSV: a label 0...2 and 16 pixels."""
    return [f"{row % 3}," + ",".join(str(100 * (row % 3) + place) for place in range(16)) for row in range(num)]


@pytest.mark.parametrize("packed", [False, True])
def test_kaggles_layout_becomes_images(run, tmp_path, packed):
    text = "label," + ",".join(f"pixel{place}" for place in range(16)) + "\n" + "\n".join(pixel_rows())
    path = tmp_path / ("train.csv.gz" if packed else "train.csv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    dataset, _ = run(path)
    assert dataset.image_shape == (4, 4) and dataset.train.images.dtype == np.uint8
    assert (dataset.train.images[:, 3, 3] == 100 * dataset.train.labels + 15).all()


def test_a_csv_without_names_numbers_its_columns(run, refused, tmp_path):
    (tmp_path / "a.csv").write_text("\n".join(pixel_rows()))
    assert "it is not clear which column has the labels: name it with --label, one of 0, 1" in refused(
        tmp_path / "a.csv"
    )
    dataset, _ = run("--label", 0, tmp_path / "a.csv", tmp_path / "a.csv")
    assert dataset.image_shape == (4, 4) and len(dataset.test.labels) == 30


def table(path, num=60, line="{kind};{length};{colour}", header="species;length;colour"):
    rows = [
        line.format(kind=["a", "b"][n % 2], length=n % 2 + n / 1000, colour=["red", "blue"][n // 2 % 2])
        for n in range(num)
    ]
    path.write_text("\n".join([header, *rows]))
    return path


def test_a_table_is_standardised_on_its_training_part_and_words_become_one_hot(run, tmp_path):
    dataset, _ = run(table(tmp_path / "t.csv"))
    assert dataset.class_names == ("a", "b") and dataset.train.images.dtype == np.float32
    np.testing.assert_allclose(dataset.train.images.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(dataset.train.images.std(0), 1, atol=1e-5)
    saved = np.load(tmp_path / "mine.npz")
    assert saved["feature_names"].tolist() == ["length", "colour=blue", "colour=red"]
    lengths = dataset.test.images[:, 0] * saved["feature_deviation"][0] + saved["feature_mean"][0]
    assert (np.round(lengths) == dataset.test.labels).all()


def test_missing_values_are_named_filled_or_dropped(run, refused, tmp_path):
    path = table(tmp_path / "t.csv")
    lines = path.read_text().splitlines()
    lines[4] = "b;;red"
    path.write_text("\n".join(lines))
    assert "row 4 has no value in column length: add it, or give --fill mean or --drop length" in refused(path)
    dataset, _ = run(path, "--fill", "mean")
    assert np.sum(dataset.train.images[:, 0] == 0) + np.sum(dataset.test.images[:, 0] == 0) == 1
    assert run("--drop", "length", "--test", 0.2, path)[0].image_shape == (2,)


def test_a_label_that_is_missing_is_an_example_for_soft_targets_only(run, tmp_path):
    path = table(tmp_path / "t.csv")
    path.write_text(path.read_text() + "\n;0.5;red")
    dataset, _ = run(path)
    assert np.sum(dataset.train.labels == -1) == 1 and (dataset.test.labels >= 0).all()


def test_csv_files_that_make_no_sense_are_refused_in_a_line(refused, tmp_path):
    path = tmp_path / "t.csv"
    for text, problem in (
        ("", "cannot be read"),
        ("label,a\n1,2\n0,3,4\n", "Expected 2 fields in line 3, saw 3"),
        ("label,a\n1,2,9\n0,3,4\n", "cannot be read"),
        ("label\n1\n0\n", "it has no rows of two values"),
        ("name,a\n1,2\n0,3\n", "it is not clear which column has the labels: name it with --label, one of name, a"),
        ("label,y,a\n1,2,3\n0,3,4\n", "it is not clear which column"),
        ("label,text\n" + "\n".join(f"{n % 2},word{n}" for n in range(50)), "column text has 50 different words"),
        ("label,a\n" + "\n".join(f"{n / 7},{n}" for n in range(50)), "50 different labels for 50 examples"),
    ):
        path.write_text(text)
        assert problem in refused(path), text
    assert "there is no column species" in refused(table(path, header="kind;length;colour"), "--label", "species")


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


def test_idx_files_that_are_damaged_or_alone_are_refused(refused, idx):
    images = idx / "t10k-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:-20])
    assert "t10k-images-idx3-ubyte.gz cannot be read" in refused(idx)
    images.unlink()
    assert "the file of the test images (idx3) is missing" in refused(idx)
    (idx / "other-train-labels-idx1-ubyte").write_bytes((idx / "train-labels-idx1-ubyte").read_bytes())
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
        (
            "mnist.pkl.gz",
            "load its arrays in Python, whatever wrote them, and save them with numpy.savez('mine.npz', x_",
        ),
        ("a.parquet", "save its table as .csv"),
        ("photos.zip", "unpack it, and give its folder"),
    ):
        (tmp_path / name).write_bytes(b"PK")
        line = refused(tmp_path / name)
        assert f"{name}: this is no folder, .csv, .npy or idx-ubyte file: {advice}" in line
    table(tmp_path / "a.csv")
    assert "these files are too many, or of several kinds" in refused(*[tmp_path / "a.csv"] * 3)


def test_wrong_arguments_are_refused_and_an_older_file_stays(refused, tmp_path, folder, refusal):
    np.save(tmp_path / "x.npy", np.zeros((4, 2, 2), np.uint8))
    assert "give x.npy and y.npy" in refused(tmp_path / "x.npy")
    np.save(tmp_path / "y.npy", np.zeros(3))
    assert "train: 4 examples and labels of the shape (3,): each needs one" in refused(
        tmp_path / "x.npy", tmp_path / "y.npy"
    )
    assert "this is no folder, .csv, .npy or idx-ubyte file" in refused(tmp_path / "x.npy", folder / "cat" / "1.png")
    status, line = refusal(convert.main, folder, tmp_path / "mine.txt")
    assert status == 2 and "the last argument is the file to write" in line
    (tmp_path / "mine.npz").write_text("old")
    (folder / "dog" / "3.png").write_text("this is text")
    assert refusal(convert.main, folder, tmp_path / "mine.npz")[0] == 1
    assert (tmp_path / "mine.npz").read_text() == "old"
