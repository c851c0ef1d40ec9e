"""support/images.py: which folders are parts and classes, which files are images, and how an image is read."""

import os
import unicodedata

from support import UserError, images, terminal

import numpy as np
import pytest
from PIL import Image


def write(root, layout):
    """Write {path: number of 4x3 images, or the bytes of a file} below root."""
    for path, content in layout.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            (root / path).write_bytes(content)
        else:
            (root / path).mkdir(exist_ok=True)
            for number in range(content):
                Image.new("L", (3, 4), number).save(root / path / f"{number}.png")


@pytest.fixture
def find(tmp_path, capsys):
    """find(layout, **options) -> (the Folder tmp_path/photos, what was printed)."""

    def find(layout, **options):
        write(tmp_path / "photos", layout)
        found = []
        terminal.run(lambda: found.append(images.find(tmp_path / "photos", **options)))
        return found[0], capsys.readouterr().out

    return find


@pytest.mark.parametrize(
    ("layout", "parts"),
    [
        ({"cat": 2, "dog": 3}, {"train": 5}),
        ({"train/cat": 2, "train/dog": 3, "test/cat": 1, "test/dog": 1}, {"train": 5, "test": 2}),
        ({"Training/cat": 2, "Training/dog": 1, "VALIDATION/cat": 1}, {"train": 3, "val": 1}),
        (
            {"seg_train/seg_train/cat": 2, "seg_train/seg_train/dog": 1, "seg_test/seg_test/dog": 4},
            {"train": 3, "test": 4},
        ),
        ({"training_set/cat": 2, "training_set/dog": 1, "test2/dog": 4}, {"train": 3, "test": 4}),
        ({"trainingSet/trainingSet/0": 2, "trainingSet/trainingSet/1": 1, "testSet/0": 4}, {"train": 3, "test": 4}),
        ({"photos/valid/cat": 1, "photos/train/cat": 2, "photos/train/dog": 2}, {"train": 4, "val": 1}),
        ({"strain": 2, "d\u00e9test": 3, "trains": 1, "brain/deep/er": 2}, {"train": 8}),  # words, not parts of words
        ({"trainset/a": 2, "trainset/b": 1, "Testset2/b": 1}, {"train": 3, "test": 1}),
        ({"CIFARTrain/a": 2, "CIFARTrain/b": 1, "TESTSet/b": 1, "valPart/a": 1}, {"train": 3, "test": 1, "val": 1}),
    ],
)
def test_parts_are_known_by_words_of_their_names_and_classes_by_theirs(find, layout, parts, tmp_path):
    found, printed = find(layout)
    assert {part: len(paths) for part, paths in found.paths.items()} == parts
    assert found.class_names == sorted(found.class_names) and len(found.class_names) == len({*found.class_names})
    for part, paths in found.paths.items():
        names = [found.class_names[label] for label in found.labels[part]]
        assert all(name in os.path.relpath(path, tmp_path).split(os.sep) for name, path in zip(names, paths))
    assert (" is the train part" in printed) == ("/" in next(iter(layout)) and "brain" not in str(layout))
    num_images = sum(parts.values())
    assert f"photos: {num_images} images in {num_images} files\n" in printed


def test_folders_that_can_be_neither_part_nor_class_are_named_and_left_out(find):
    layout = {
        "seg_train/sea": 2,
        "seg_train/ice": 2,
        "seg_pred": 3,
        "test1": 2,
        "seg_train/list.csv": b"1",
        "a.txt": b"",
    }
    found, printed = find(layout)
    assert found.class_names == ["ice", "sea"] and set(found.paths) == {"train"}
    assert "photos: 4 images in 11 files; left out: 2 in no class (" in printed
    assert "3 in" in printed and "seg_pred, which has no folders of classes (.png 3)" in printed
    assert "test1, which has no folders of classes (.png 2)" in printed


@pytest.mark.parametrize(
    ("layout", "problem"),
    [
        ({"cats": 2, "dogs": 2, "test": 3}, "test has the name of a part of the data, but no training part has"),
        ({"train": 2, "test": 2}, "photos/train has the name of a part of the data, but no"),
        ({"PetImages/Cat": 2, "PetImages/Dog": 2, "a.txt": b""}, "if those are the classes, give"),
        ({"test/cat": 2, "test/dog": 2}, "test has the name of a part of the data, but no training part has"),
        ({"training/cat": 2, "train_small/cat": 1}, "have the name of the train part: move one of them away"),
        ({"cat/train": 2, "cat/test": 2, "dog/train": 2}, "cat/test has the name of a part of the data, and is among"),
        ({"train/cat": 2, "train/val": 2}, "train/val has the name of a part of the data, and is among or in the"),
        ({"cat": 2}, "photos has one class only, cat: a classifier needs two or more"),
        ({"train/cat": 1, "train/dog": 1, "test/fox": 1}, "the test part has a class that training lacks, fox"),
        ({"train/cat": 1, "train/dog": 0}, "dog holds no image that Pillow can open: remove it, or add some"),
        (
            {"ant": 1, "ant/a.txt": b"", "cat/IMG_1.HEIC": b"ftypheic"},
            "cat holds no image that Pillow can open (.heic 1)",
        ),
        ({"a.png": b"1"}, "photos has no folders of images: it must hold one folder for each class"),
    ],
)
def test_what_is_not_clear_is_refused_and_no_part_becomes_a_class(tmp_path, layout, problem):
    write(tmp_path / "photos", layout)
    with pytest.raises(UserError) as refused:
        images.find(tmp_path / "photos")
    assert problem in str(refused.value).replace("\\", "/")


def test_classes_are_in_the_order_of_text_as_keras_has_them_and_compared_in_unicodes_normal_form(find):
    names = ["10", "9", "Zebra", "apple", unicodedata.normalize("NFD", "\u00e9clair"), "zoo"]
    layout = {f"train/{name}": 1 for name in names} | {"test/\u00e9clair": 2, "test/9": 1}
    found, _ = find(layout)
    assert found.class_names == ["10", "9", "Zebra", "apple", "\u00e9clair", "zoo"]
    assert sorted(found.labels["test"].tolist()) == [1, 4, 4] and found.labels["train"].tolist() == [0, 1, 2, 3, 4, 5]


def test_what_systems_leave_in_folders_is_nothing(find):
    rubbish = {"__MACOSX/cat/._0.png": b"Mac", "cat/._0.png": b"Mac", "cat/Thumbs.db": b"1", "cat/desktop.ini": b"1"}
    rubbish |= {".ipynb_checkpoints": 2, "cat/.ipynb_checkpoints": 2, ".DS_Store": b"1", "cat/.DS_Store": b"1"}
    found, printed = find({"cat": 2, "dog": 2} | rubbish)
    assert found.class_names == ["cat", "dog"] and "photos: 4 images in 4 files\n" in printed


def test_an_image_is_what_pillow_opens_whatever_its_name_and_other_files_are_counted(find, tmp_path):
    write(tmp_path / "photos", {"cat": 2, "dog": 2, "cat/a.txt": b"1", "cat/b.txt": b"2", "dog/notes": b"3"})
    kinds = {"a.jpg": "WEBP", "b.jfif": "JPEG", "c.tif": "TIFF", "d.ppm": "PPM", "e": "PNG", "f.txt": "BMP"}
    for name, kind in kinds.items():
        Image.new("RGB", (3, 4)).save(tmp_path / "photos" / "cat" / name, kind)
    found, printed = find({})
    assert len(found.paths["train"]) == 10 and not found.is_grey and found.sizes == {(4, 3): 10}
    assert "10 images in 13 files; left out: 3 that Pillow cannot open as images (.txt 2, notes 1)" in printed


def test_links_are_followed_and_dead_or_circular_ones_are_named_or_left_out(find, tmp_path):
    write(tmp_path / "store", {"cat": 3, "more": 2})
    write(tmp_path / "photos", {"dog": 1})
    (tmp_path / "photos" / "cat").symlink_to(tmp_path / "store" / "cat")
    (tmp_path / "photos" / "dog" / "more").symlink_to(tmp_path / "store" / "more")
    found, _ = find({})
    assert np.bincount(found.labels["train"]).tolist() == [3, 3]
    dead, circular = tmp_path / "photos" / "dog" / "9.png", tmp_path / "photos" / "dog" / "again"
    for link, target, cause in ((dead, "annex/9.png", "No such file"), (circular, tmp_path / "photos", "directory")):
        link.symlink_to(target)
        with pytest.raises(UserError, match=f"{link.name}.* cannot be read .*{cause}.*: replace or remove it, or "):
            images.find(tmp_path / "photos")
        found, printed = find({}, skip_unreadable=True)
        assert len(found.paths["train"]) == 6 and f"6 images in 7 files; left out: 1 damaged, {link}" in printed
        link.unlink()


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_images_of_16_bits_that_use_a_part_of_their_range_are_said_to_be_dark(find, tmp_path, bits):
    write(tmp_path / "photos", {"cat": 1, "dog": 1})
    largest = 2**bits - 1
    Image.fromarray(np.full((4, 3), largest, np.uint16)).save(tmp_path / "photos" / "cat" / "deep.png")
    found, printed = find({})
    assert found.is_grey
    note = f"values up to {largest:,} of 65,535 only, so they will be dark: multiply their pixels by {65535 // largest}"
    assert (note in printed) == (bits < 16)
    read = images.read(str(tmp_path / "photos" / "cat" / "deep.png"), (4, 3), "L")
    assert (read == round(largest / 257)).all()
    whole = (tmp_path / "photos" / "cat" / "deep.png").read_bytes()
    (tmp_path / "photos" / "cat" / "half.png").write_bytes(whole[:-20])  # whoever reads it names it
    find({})


def test_an_image_is_read_as_it_looks(tmp_path):
    grey = Image.fromarray(np.full((8, 6), 77, np.uint8))
    half = Image.fromarray(np.repeat(np.uint8([0, 200]), 3)[:, None].repeat(8, 1))  # 6x8, its lower half bright
    exif = Image.Exif()
    exif[0x0112] = 8  # to be turned by a quarter against the clock: its lower half becomes the right one
    clear = Image.new("LA", (6, 8), (0, 0))
    kept = {"palette.gif": (grey.convert("P"), {}), "large.bmp": (grey.resize((60, 80)), {})}
    kept |= {"cmyk.tif": (grey.convert("CMYK"), {}), "clear.png": (clear, {})}
    kept |= {
        "turned.webp": (half, {"exif": exif, "lossless": True}),
        "moving.gif": (grey, {"save_all": True, "append_images": [clear.convert("L")]}),
    }
    read = {}
    for name, (image, options) in kept.items():
        image.save(tmp_path / name, **options)
        read[name] = images.read(str(tmp_path / name), (8, 6), "L").astype(int)
    for name in ("palette.gif", "large.bmp", "cmyk.tif", "moving.gif"):
        assert np.abs(read[name] - 77).max() <= 1, name
    assert (read["clear.png"] == 255).all()
    assert (read["turned.webp"][:, :3] < 50).all() and (read["turned.webp"][:, 3:] > 150).all()
    assert images.read(str(tmp_path / "large.bmp"), (2, 5), "RGB").shape == (2, 5, 3)
    deep = np.arange(0, 65536, 257 * 5 + 1, np.uint16).reshape(3, -1)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(images.read(str(tmp_path / "deep.png"), deep.shape, "L"), np.round(deep / 257))


def test_sizes_are_those_of_the_upright_images(find, tmp_path):
    write(tmp_path / "photos", {"cat": 2, "dog": 1})
    exif = Image.Exif()
    for turn in (1, 3, 6, 8):  # 6 and 8: by a quarter
        exif[0x0112] = turn
        Image.new("RGB", (30, 20)).save(tmp_path / "photos" / "dog" / f"turned{turn}.jpg", exif=exif)
    assert find({})[0].sizes == {(4, 3): 3, (20, 30): 2, (30, 20): 2}


def test_images_of_fractions_are_refused(tmp_path):
    write(tmp_path, {"photos/cat": 1, "photos/dog": 1})
    Image.fromarray(np.full((4, 3), 0.5, np.float32)).save(tmp_path / "photos" / "cat" / "a.tiff")
    with pytest.raises(UserError, match=r"a.tiff cannot be read \(its pixels are fractions"):
        images.find(tmp_path / "photos")
