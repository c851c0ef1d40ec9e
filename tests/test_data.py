"""Digits in: what is refused and why, the splits, the batches, their translations and distortions."""

import warnings

from support import UserError, distortion
from support.batches import all_shifts, num_shifts
from support.classifier import to_unit

import conftest
import numpy as np
import pytest
import tensorflow as tf
from conftest import batches_of

import data

pytestmark = pytest.mark.quick


def rows_of(split):
    """Each example with its label, as bytes, sorted."""
    return sorted(image.tobytes() + bytes([label]) for image, label in zip(split.images, split.labels))


def test_shipped_digits_are_split_without_overlap_and_each_class_alike():
    digits = data.load()
    assert [len(split.labels) for split in digits[:3]] == [55_000, 5_000, 10_000]
    assert digits.num_classes == 10
    assert digits.image_shape == (28, 28)
    with np.load(data.MNIST_FILE) as file:
        whole = data.Split(file["x_train"], file["y_train"])
        np.testing.assert_array_equal(digits.test.images, file["x_test"])
    assert sorted(rows_of(digits.train) + rows_of(digits.validation)) == rows_of(whole)
    of_each = np.bincount(digits.validation.labels)
    assert np.abs(of_each - np.bincount(whole.labels) / 12).max() < 1


def test_validation_0_trains_on_all(tiny):
    assert [len(split.labels) for split in data.load(tiny, validation=0)[:3]] == [240, 0, 60]
    assert [len(split.labels) for split in data.load(tiny)[:3]] == [220, 20, 60]


def test_sorted_data_keep_every_class_on_both_sides():
    arrays = conftest.make_arrays(480, 240, (26, 10), 12)
    split = data.Split(arrays["x_train"], arrays["y_train"].astype(np.int32))
    split = split.take(np.argsort(split.labels, kind="stable"))
    train, held = data.hold_out(split, 60)
    assert len(held.labels) == 60
    assert (np.diff(held.labels) >= 0).all()  # each part keeps the order
    assert np.abs(np.bincount(held.labels) - np.bincount(split.labels) / 8).max() < 1
    assert sorted(rows_of(train) + rows_of(held)) == rows_of(split)
    again = data.hold_out(split, 60)
    assert all(map(np.array_equal, again[1], held))  # by a constant seed
    held_rows = {image.tobytes() for image in held.images}
    places = np.array([place for place, image in enumerate(split.images) if image.tobytes() in held_rows])
    of_first = places[held.labels == 0].tolist()
    assert of_first != [*range(len(of_first))]
    assert of_first != [*range(of_first[-1] - len(of_first) + 1, of_first[-1] + 1)]


def test_every_class_keeps_an_example_to_train_on():
    split = data.Split(np.zeros((9, 2, 2), np.uint8), np.array([0, 0, 0, 0, 0, 1, 1, 2, -1], np.int32))
    for number, expected in ((0, [0, 0, 0]), (1, [1, 0, 0]), (3, [2, 1, 0]), (5, [4, 1, 0])):
        train, held = data.hold_out(split, number)
        assert np.bincount(held.labels, minlength=3).tolist() == expected
        assert {0, 1, 2, -1} == {*train.labels.tolist()}
    with pytest.raises(UserError, match="--validation 6 leaves a class without a training example: 5 is the most"):
        data.hold_out(split, 6)


def test_a_sample_has_all_classes_in_proportion():
    labels = np.repeat([0, 1, -1, 2], [600, 300, 500, 100]).astype(np.int32)
    split = data.Split(np.arange(len(labels))[:, None], labels)
    drawn = split.sample(100)
    assert np.bincount(drawn.labels).tolist() == [60, 30, 10]
    assert np.array_equal(labels[drawn.images[:, 0]], drawn.labels)
    assert len(split.sample(2000).labels) == 1000  # all that have a label


def test_validation_examples_in_the_file_are_the_validation_split(tmp_path):
    arrays = conftest.make_arrays()
    own = {"x_val": arrays["x_test"][:30], "y_val": arrays["y_test"][:30]}
    np.savez(tmp_path / "own.npz", **arrays | own)
    dataset = data.load(tmp_path / "own.npz")
    assert [len(split.labels) for split in dataset[:3]] == [240, 30, 60]
    assert np.array_equal(dataset.validation.images, own["x_val"])
    assert len(data.load(tmp_path / "own.npz", validation=0).validation.labels) == 30
    with pytest.raises(UserError, match="has validation examples of its own, x_val: leave --validation out"):
        data.load(tmp_path / "own.npz", validation=20)


def changed(**changes):
    return lambda path: np.savez(path, **(ARRAYS | changes))


def without_test_labels(path):
    np.savez(path, **{name: array for name, array in ARRAYS.items() if name != "y_test"})


def truncated(path):
    changed()(path)
    path.write_bytes(path.read_bytes()[:5000])


def other_archive(path):
    conftest.write_zip(path, {"data/0": b"a tensor of PyTorch", "version": b"3"})


def ragged(images):
    return np.array([*images[1:], images[0, 1:]], object)


ARRAYS = conftest.make_arrays()
IMAGES, LABELS, TEST_LABELS = ARRAYS["x_train"], ARRAYS["y_train"].astype(np.int64), ARRAYS["y_test"].astype(np.int64)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "there is no such data file"),
        (truncated, "cannot be read"),
        (lambda path: path.write_text("hello"), "cannot be read"),
        (lambda path: path.mkdir(), "cannot be read"),
        (without_test_labels, r"y_test is missing or no array: save all four with numpy.savez\('mine.npz', x_train="),
        (other_archive, "is no .npz file, which --data takes: if it is a table, name it .csv; else load its arrays"),
        (changed(y_test=TEST_LABELS.astype(object)), r"y_test has the dtype object, .*save numpy.array\(y_test.tolist"),
        (changed(x_train=ragged(IMAGES)), "x_train has the dtype object, .*; all examples must have one shape"),
        (changed(class_names=np.array(["a", "b", "c"], object)), "class_names has the dtype object"),
        (changed(x_train=IMAGES.astype(np.int32)), "x_train is int32"),
        (changed(x_train=IMAGES / 255), "different shapes or dtypes"),
        (changed(x_train=np.where(IMAGES > 99, np.nan, 0)), "x_train has values that are not finite"),
        (changed(x_train=IMAGES.reshape(240, 120)), r"must be uint8 \(n, height, width\) or"),
        (changed(y_train=LABELS + 0.5), "y_train has labels that are no whole numbers"),
        (changed(y_train=LABELS.astype(str)), r"must be integers \(n,\), 0...C-1; `names, y = numpy.unique\("),
        (changed(y_train=np.eye(3, dtype=int)[LABELS]), r"\(240, 3\): .* \(of one-hot labels, take argmax\(-1\)\)"),
        (
            changed(y_train=1 - np.eye(3)[LABELS]),
            "as each example has one class; several",
        ),
        (changed(y_train=LABELS[:-1]), "240 images and y_train 239 labels"),
        (changed(y_train=LABELS - 2), "labels from -2 to 0"),
        (changed(y_train=LABELS * 0 - 1), "y_train has 0 classes"),
        (changed(y_test=TEST_LABELS - 1), "every test example needs its label"),
        (changed(class_names=np.array(["a", "b"])), "class_names has 2 names for 3 classes"),
        (changed(y_train=LABELS + 2**40), "must be 0...C-1"),
        (changed(y_train=LABELS * 1000), "y_train has 2001 classes"),
        (changed(y_train=LABELS * 0), "C >= 2"),
        (changed(y_test=TEST_LABELS + 1), "y_test has a label 3; y_train has 0...2 only"),
        (changed(x_test=np.zeros((60, 10, 12), np.uint8)), "different shapes or dtypes"),
        (changed(x_train=IMAGES[:0], y_train=LABELS[:0]), "x_train is empty"),
        (changed(x_test=IMAGES[:0], y_test=LABELS[:0]), "x_test is empty"),
        (changed(x_val=IMAGES[:9]), "only one of x_val and y_val"),
        (changed(x_val=IMAGES[:9], y_val=LABELS[:8]), "x_val has 9 images and y_val 8 labels"),
        (changed(x_val=IMAGES[:9], y_val=LABELS[:9] - 1), "every val example needs its label"),
        (changed(x_val=IMAGES[:9], y_val=LABELS[:9] + 1), "y_val has a label 3; y_train has 0...2 only"),
        (changed(x_val=IMAGES[:9] / 255, y_val=LABELS[:9]), "x_train and x_val hold examples of different"),
    ],
)
def test_a_bad_data_file_is_refused_in_words(tmp_path, write, message):
    path = tmp_path / "bad.npz"
    write(path)
    with pytest.raises(UserError, match=message) as refused:
        data.load(path)
    assert str(path) in str(refused.value)
    assert ("get a new copy" in str(refused.value)) == (message == "cannot be read")  # for damaged files only


def moved(image, down, right):
    """The image shifted by so many pixels, zeros where nothing came from: pixel by pixel, to be checked against."""
    height, width = image.shape
    result = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                result[row, column] = image[row - down, column - right]
    return result


@pytest.mark.parametrize("pixels", [1, 2])
def test_the_shifts_are_all_there_and_shift_zeros_in(tiny, pixels):
    images = data.load(tiny).train.images[:9]
    reach = range(pixels, -pixels - 1, -1)
    shifts = [(down, right) for down in reach for right in reach]
    assert num_shifts(pixels) == len(shifts)
    for shifted, (down, right) in zip(all_shifts(images, pixels), shifts, strict=True):
        np.testing.assert_array_equal(shifted[7], moved(images[7], down, right))


@pytest.mark.parametrize("translate", [0, 2])
def test_a_batch_holds_scaled_images_with_their_own_labels(tiny, translate):
    train = data.load(tiny).train
    batches = batches_of(train, 50, seed=3, translate=translate)
    indices, shifts = (part[0] for part in batches.order(1))
    examples = batches.epoch(1).of_step(0)
    images, labels = to_unit(examples.images), examples.labels
    assert images.dtype == tf.float32
    assert images.shape == (50, 12, 10)
    np.testing.assert_array_equal(labels, train.labels[indices])
    span = 2 * translate + 1
    for image, index, shift in zip(images, indices, shifts):
        expected = moved(train.images[index], translate - shift // span, translate - shift % span)
        np.testing.assert_allclose(image, expected / 255, rtol=1e-6)


def test_an_epoch_shows_each_image_once_in_an_order_of_its_own(tiny):
    batches = batches_of(data.load(tiny).train, 50, seed=3, translate=1)
    first, again, second = (batches.order(number) for number in (1, 1, 2))
    assert first[0].shape == (4, 50)  # of 220 images 20 are left over
    assert len(np.unique(first[0])) == 200
    np.testing.assert_array_equal(first, again)
    assert (first[0] != second[0]).any()
    assert (first[0] != batches_of(data.load(tiny).train, 50, seed=4).order(1)[0]).any()
    assert set(np.unique(first[1])) == set(range(9))


def test_batches_that_cannot_be_made_are_refused(tiny):
    train = data.load(tiny).train
    with pytest.raises(UserError, match="the batch size, 221, is larger than the 220 training examples"):
        batches_of(train, 221, seed=0)
    with pytest.raises(UserError, match="--translate 10 would shift images of 12x10 out of sight"):
        batches_of(train, 20, seed=0, translate=10)


def resampled(images, amounts, **draws):
    """`images` under a distortion whose random draws, in -1 to 1, are these; the others are 0."""
    values = np.zeros((len(images), 5 + 2 * distortion.KNOTS**2), np.float32)
    for place, name in enumerate(("rotation", "height", "width", "down", "right")):
        values[:, place] = draws.get(name, 0)
    values[:, 5:] = draws.get("knots", 0)
    return distortion._resample(tf.constant(images), tf.constant(values), tf.constant(amounts, tf.float32)).numpy()


@pytest.fixture
def pictures():
    return np.pad(np.random.default_rng(0).integers(0, 256, (3, 9, 9), np.uint8), ((0, 0), (4, 4), (4, 4)))


def test_a_distortion_by_nothing_changes_nothing(pictures):
    assert np.array_equal(resampled(pictures, distortion.Distortion(30, 0.3, 3, 3)), pictures)
    assert np.array_equal(distortion.distort(pictures, [1, 2], distortion.Distortion()), pictures)


def test_a_distortion_moves_turns_and_stretches(pictures):
    moved = resampled(pictures, distortion.Distortion(translation=2), down=1, right=-0.5)
    assert np.array_equal(moved, np.roll(pictures, (-2, 1), (1, 2)))
    turned = resampled(pictures, distortion.Distortion(rotation=90), rotation=1)
    assert np.array_equal(turned, np.rot90(pictures, -1, (1, 2)))
    # Every second row of pixels, from the middle on.
    halved = resampled(pictures, distortion.Distortion(scaling=1.0), height=1)
    assert np.array_equal(halved[:, 4:13], pictures[:, 0::2])
    between = resampled(pictures, distortion.Distortion(translation=1), right=0.25)
    assert between == pytest.approx(0.75 * pictures + 0.25 * np.roll(pictures, -1, 2), abs=0.51)


def test_an_elastic_field_is_smooth_and_as_large_as_asked_for():
    ramp = np.broadcast_to(9 * np.arange(28, dtype=np.uint8), (400, 28, 28))
    moved = (distortion.distort(ramp, [1, 2], distortion.Distortion(elastic=1.5)).numpy() / 9 - ramp / 9)[:, 6:-6, 6:-6]
    assert np.sqrt(np.mean(moved**2)) == pytest.approx(1.5 / np.sqrt(3), rel=0.05)  # of a uniform draw in -1.5 to 1.5
    assert abs(moved.mean()) < 0.05
    assert np.sqrt(np.mean(np.diff(moved, axis=1) ** 2)) < 0.2


def test_distortions_are_drawn_anew_and_repeat_with_their_seed(pictures):
    same = np.repeat(pictures[:1], 4, 0)
    for amounts in ({"rotation": 20}, {"scaling": 0.3}, {"translation": 2}, {"elastic": 2}):
        kind = distortion.Distortion(**amounts)
        first, again, other = (distortion.distort(same, seed, kind).numpy() for seed in ([1, 2], [1, 2], [1, 3]))
        assert np.array_equal(first, again)
        assert not np.allclose(first, other)
        assert not np.allclose(first[0], first[1])


def test_images_are_distorted_some_at_a_time(monkeypatch, pictures):
    whole = distortion.distort(pictures, [1, 2], distortion.distortion(1.0)).numpy()
    monkeypatch.setattr(distortion, "IMAGES_AT_ONCE", 2)
    assert np.array_equal(distortion.distort(pictures, [1, 2], distortion.distortion(1.0)), whole)
    assert distortion.distortion(0) is None


def test_batches_are_distorted_each_epoch_anew():
    images = np.random.default_rng(0).integers(0, 255, (8, 12, 12)).astype(np.uint8)
    split = data.Split(images, np.arange(8, dtype=np.int32))

    def batch(number, seed=0):
        batches = batches_of(split, 8, seed=seed, distort=1.0)
        examples = batches.epoch(number).of_step(0)
        return to_unit(examples.images).numpy()[np.argsort(examples.labels)]

    assert np.array_equal(batch(1), batch(1))
    assert not np.allclose(batch(1), batch(2)) and not np.allclose(batch(1), batch(1, seed=1))
    assert 0 <= batch(1).min() and batch(1).max() <= 1
    with pytest.raises(UserError, match="exclude each other"):
        batches_of(split, 8, seed=0, translate=1, distort=1.0)


def load_changed(path, **changes):
    changed(**changes)(path)
    return data.load(path)


def test_what_is_odd_about_the_data_is_said(tmp_path):
    def remarks(**changes):
        return load_changed(tmp_path / "odd.npz", **changes).remarks()

    def changed_images(change):
        return {name: change(ARRAYS[name]) for name in ("x_train", "x_test")}

    assert remarks() == []
    (remark,) = remarks(y_train=LABELS + 1, y_test=TEST_LABELS + 1)
    assert remark == "no training example is of class 0: labels begin at 0, so if yours begin at 1, subtract 1"
    names = np.array(["a", "b", "c", "rare"])
    rare = remarks(y_train=np.where(np.arange(240) == 7, 3, LABELS), class_names=names)
    assert rare == ["no validation example is of class rare", "no test example is of class rare"]
    (remark,) = remarks(**changed_images(lambda images: images[:, None].repeat(3, 1)))
    assert "taken for images of height 3, width 12 and 10 channels: if channels come first, move them" in remark
    remark = remarks(**changed_images(lambda images: np.uint8(images > 200)))[-1]
    assert remark.startswith("no pixel is above 1, and uint8 is divided by 255")
    copies = np.concatenate([ARRAYS["x_test"][:-3], ARRAYS["x_train"][[5, 6, 6]]])
    leaked = load_changed(tmp_path / "odd.npz", x_test=copies)
    num_seen = sum(row not in leaked.held_out for row in (5, 6, 6))
    (remark,) = [each for each in leaked.remarks() if " test examples" in each]
    assert remark.startswith(f"{num_seen} test examples are equal to a training example: if these are copies, leave")
    dataset = load_changed(tmp_path / "odd.npz", **changed_images(np.float32))
    assert dataset.remarks()[0].startswith("pixels up to 252 are taken as they are") and "uint8" in dataset.remarks()[0]
    (remark,) = remarks(**changed_images(lambda images: np.repeat(np.float32(images)[..., None], 13, -1) * 40))
    assert "divide them by 1" in remark  # of a satellite's 13 channels
    (remark,) = remarks(**changed_images(lambda images: np.float32(images / 255**2)))
    assert "pixels up to 0.0038" in remark and "divide them by 0.0038" in remark
    assert str(dataset).endswith(f"3 classes\nnote: {dataset.remarks()[0]}")


def test_a_table_that_nobody_scaled_is_pointed_out_and_a_scaled_one_is_not():
    random = np.random.default_rng(0)
    scaled = random.normal(size=(500, 4))
    scaled[0] = 30  # an outlier
    scaled[:, 3] = 0  # a rare word, or a pixel at the border
    scaled[7, 3] = 0.001

    def remarks(factor=1, offset=0):
        train = data.Split(np.float32(scaled * factor + offset), np.arange(500, dtype=np.int32) % 2)
        test = train._replace(images=train.images + 0.5)
        return data.Dataset(train, train.take(slice(0)), test, 2).remarks()

    for plain in (remarks(), remarks(1 / 30), remarks(offset=[0, 0, 1, 1]), remarks(offset=-0.4)):
        assert plain == []
    (amounts,) = remarks([1, 3e4, 1, 1])
    assert amounts.startswith("x_train[:, 1] from -8") and "x_train[:, 0]" not in amounts
    (years,) = remarks([1, 1, 2, 1], [0, 0, 2000, 0])
    assert years.startswith("x_train[:, 2] from 1.99e+03 to 2.06e+03: floats are taken as they are")
    assert remarks([1, 1, 0.1, 1], [0, 0, 10, 0])[0].startswith("x_train[:, 2] from 9.")
    assert "x_train[:, 0]" in (all_columns := remarks(1000)[0]) and "and 1 more columns" not in all_columns
    with warnings.catch_warnings(action="error"):
        assert "x_train[:, 1] from -" in remarks([1, 1e37, 1, 1])[0]
    assert remarks(1e-4)[0].startswith("x_train from -0.0003")


def test_the_advice_about_a_table_is_code_that_mends_it(tmp_path):
    random = np.random.default_rng(0)
    names = {"numpy": np}
    for part, labels in (("train", LABELS), ("test", TEST_LABELS)):
        names[f"x_{part}"] = random.normal([5, 1e5, 7], [1, 3e4, 0], (len(labels), 3)).astype(np.float32)
        names[f"y_{part}"] = np.array(["no", "perhaps", "yes"])[labels]
    arrays = lambda: {name: names[name] for name in data.ARRAYS}
    np.savez(tmp_path / "a.npz", **arrays())
    with pytest.raises(UserError) as refused:
        data.load(tmp_path / "a.npz")
    exec(str(refused.value).split("`")[1], names)  # noqa: S102
    names |= {"y_train": names["y"][:240], "y_test": names["y"][240:]}
    np.savez(tmp_path / "a.npz", **arrays())
    (remark,) = data.load(tmp_path / "a.npz").remarks()
    statistics, formula = remark.split("`")[1::2]
    exec(statistics, names)  # noqa: S102
    exec(f"x_train, x_test = [{formula} for x in (x_train, x_test)]", names)  # noqa: S102
    np.savez(tmp_path / "a.npz", **arrays())
    dataset = data.load(tmp_path / "a.npz")
    assert dataset.remarks() == [] and dataset.num_classes == 3
    assert np.abs(dataset.test.images.mean(0)).max() < 0.5


def test_labels_may_stand_in_a_column_and_names_be_bytes(tmp_path):
    column = {name: ARRAYS[name][:, None] for name in ("y_train", "y_test")}
    names = {"class_names": np.array([[b"cat"], ["Stra\u00dfe".encode()], [b"cow"]])}
    dataset = load_changed(tmp_path / "column.npz", **column, **names)
    assert np.array_equal(dataset.test.labels, TEST_LABELS)
    assert dataset.names == ["cat", "Stra\u00dfe", "cow"]
    with pytest.raises(UserError, match=r"of one-hot labels, take argmax\(-1\)"):
        load_changed(tmp_path / "hot.npz", y_train=np.eye(3)[LABELS])


@pytest.mark.parametrize("name", ["photos", "train.csv", "DATA.TSV", "x.npy", "train-images-idx3-ubyte.gz"])
def test_data_that_convert_takes_are_sent_there(tmp_path, name):
    (tmp_path / "photos").mkdir()
    if name != "photos":
        (tmp_path / name).write_text("label,a\n0,1\n")
    with pytest.raises(UserError, match=f"{name} is no .npz file: python tools/convert.py .*{name} mine.npz"):
        data.load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("mnist.pkl.gz", "`a = pickle.load(gzip.open({path!r}), encoding='latin1')`, and save them, `numpy.savez("),
        ("a.pickle", "`a = pickle.load(open({path!r}, 'rb'), encoding='latin1')`, and save them"),
        ("a.h5", "`a = h5py.File({path!r})`"),
        ("a.mat", "`a = scipy.io.loadmat({path!r})`"),
        ("a.pt", "`a = torch.load({path!r})`"),
        ("a.bin", "if it is a table, name it .csv; else load its arrays in Python and save them, `numpy.savez("),
        ("a.parquet", "`pandas.read_parquet({path!r}).to_csv('mine.csv', index=False)` in Python, and `python tools/"),
        ("a.XLSX", "pandas.read_excel({path!r})"),
        (
            "photos.ZIP",
            "`shutil.unpack_archive({path!r}, 'mine')` in Python, and `python tools/convert.py mine mine.npz`",
        ),
        ("photos.tar.gz", "shutil.unpack_archive({path!r}, 'mine')"),
        ("cat.png", "give the folder that has a folder of images for each class"),
    ],
)
def test_files_of_other_formats_are_refused_with_a_way_to_make_one(tmp_path, name, advice):
    path = tmp_path / name
    with pytest.raises(UserError, match="there is no such data file"):
        data.load(path)
    conftest.write_zip(path, {"data.pkl": b"1"})  # of these formats some are zip archives, and others not
    for _ in range(2):
        with pytest.raises(UserError, match="is no .npz file, which --data takes: ") as refused:
            data.load(path)
        assert advice.format(path=str(path)) in str(refused.value)
        path.write_bytes(b"\x80\x04text")


def test_only_names_that_convert_takes_are_sent_there(tmp_path):
    (tmp_path / "X.NPY").write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match="save them, `numpy.savez"):
        data.load(tmp_path / "X.NPY")


def test_an_npz_file_may_have_any_name(tmp_path):
    np.savez(tmp_path / "a.npz", **ARRAYS)
    (tmp_path / "a.npz").rename(tmp_path / "download")
    assert data.load(tmp_path / "download").num_classes == 3


def test_folds_hold_each_labelled_example_out_once_with_the_class_shares_of_all():
    labels = np.repeat([0, 1, 2, -1], [50, 23, 2, 10]).astype(np.int32)
    split = data.Split(np.arange(85)[:, None].astype(np.float32), np.random.default_rng(0).permutation(labels))
    whole = data.Dataset(split, split.take(slice(0)), split, 3)
    folds = [data.fold(whole, number, 5) for number in range(5)]
    held_out = np.concatenate([fold.validation.images[:, 0] for fold in folds])
    assert sorted(held_out) == np.flatnonzero(split.labels >= 0).tolist()
    for fold in folds:
        assert sorted([*fold.train.images[:, 0], *fold.validation.images[:, 0]]) == list(range(85))
        assert len(fold.validation.labels) == 15
        counts = np.bincount(fold.validation.labels, minlength=3)
        assert counts[0] == 10 and counts[1] in (4, 5) and counts[2] in (0, 1)
        np.testing.assert_array_equal(split.images[fold.held_out], fold.validation.images)
    with pytest.raises(UserError, match="class 2 has a single training example: --folds need two"):
        data.fold(whole._replace(train=data.Split(split.images[:5], np.int32([0, 1, 2, 0, 1]))), 0, 2)
