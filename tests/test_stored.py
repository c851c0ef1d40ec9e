"""Teachers of other frameworks, as stored logits; images changed by the caller; batch sizes for small data."""

import json

from support import UserError, batches, classifier, metrics, model_files, teacher_logits

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import distilled, make_arrays

import data
import distill
import evaluate
import teacher

OPTIONS = ["--hidden", "8", "--epochs", "2", "--batch-size", "20"]


def nearest_mean(arrays):
    """A teacher in plain NumPy: {"train", "test": logits}, the closer to a class's mean image the higher."""
    means = np.stack([arrays["x_train"][arrays["y_train"] == label].mean(0) for label in range(3)])
    distances = lambda images: ((images[:, None] - means) ** 2).mean((2, 3)) / 400
    return {part: -distances(arrays[f"x_{part}"].astype(float)) for part in ("train", "test")}


@pytest.fixture
def stored(tmp_path):
    """(the data file, the logits of its rows, the file of these)."""
    arrays = make_arrays()
    logits = nearest_mean(arrays)
    np.savez(tmp_path / "mine.npz", **arrays)
    np.savez(tmp_path / "logits.npz", **logits)
    return tmp_path / "mine.npz", logits, tmp_path / "logits.npz"


def test_stored_logits_teach_by_row_before_the_hold_out(stored, tmp_path, cheap, printed):
    path, logits, file = stored
    lines = printed(distill.main, "--data", path, "--teacher", file, "--out", tmp_path / "out", *OPTIONS)
    dataset = data.load(path)
    assert len(dataset.held_out) == 20
    loaded = teacher_logits.load_stored([file], dataset)
    for name in ("train", "validation"):
        logits_of_split, split = loaded.on_split(dataset, name), getattr(dataset, name)
        means = {image.tobytes(): row for image, row in zip(make_arrays()["x_train"], logits["train"])}
        expected = np.array([means[image.tobytes()] for image in split.images])
        np.testing.assert_allclose(logits_of_split, expected, rtol=1e-5)
    errors = int(np.sum(logits["test"].argmax(-1) != dataset.test.labels))
    assert f"teacher:   {errors} test errors in 60 images" in lines and "teacher: accuracy" in lines
    recipe = distill.DEFAULTS.updated({"hidden": [8], "epochs": 2, "batch_size": 20, "translate": 0})
    expected, _ = distilled(dataset, recipe, loaded.train)
    saved = model_files.load(tmp_path / "out" / "distilled.keras", (12, 10), 3)
    np.testing.assert_array_equal(saved.get_weights()[0], expected.get_weights()[0])


def test_probabilities_are_recognised_and_teach_as_their_logits_do(stored, tmp_path):
    path, logits, _ = stored
    softmax = {part: np.exp(metrics.log_softmax(values)) for part, values in logits.items()}
    dataset = data.load(path)
    np.savez(tmp_path / "p.npz", **softmax)
    probabilities, expected = teacher_logits.load_stored([tmp_path / "p.npz"], dataset).train[:, 0], logits["train"]
    expected = np.delete(expected, dataset.held_out, 0)
    for temperature in (1.0, 4.0):
        targets = [distill.soft_targets(values.astype(np.float32), temperature) for values in (probabilities, expected)]
        np.testing.assert_allclose(*targets, atol=1e-5)
    log_of_zero = np.log(
        np.array([[1.0, 0.0]], np.float32), where=[[True, False]], out=np.full((1, 2), -np.inf, np.float32)
    )
    assert np.isfinite(teacher_logits.stored_logits(log_of_zero, "a")).all()
    assert teacher_logits.stored_logits(np.array([[-500.0, 3.0]]), "a")[0, 0] == -500


@pytest.mark.parametrize(
    "change",
    [
        lambda p: 100 * p,  # per cent
        lambda p: np.round(100 * p),
        lambda p: np.random.default_rng(0).multinomial(100_000, p),  # votes
        lambda p: np.round(255 * p).astype(np.uint8),  # of a quantised softmax
        lambda p: np.round(p, 2),
        lambda p: np.round(p.astype(np.float32), 3),
        lambda p: p.astype(np.float16),
        lambda p: np.where(p < 5e-4, -1e-8, p),
        lambda p: np.log(p).astype(np.float16),
    ],
)
def test_probabilities_in_the_forms_of_other_libraries_are_read_as_such(change):
    random = np.random.default_rng(0)
    probabilities = np.exp(metrics.log_softmax(2 * random.normal(size=(400, 3))))
    logits = teacher_logits.stored_logits(change(probabilities), "a")
    read = np.exp(metrics.log_softmax(logits))
    np.testing.assert_allclose(read, probabilities, atol=0.015)
    assert logits.dtype == np.float32


@pytest.mark.parametrize(
    "logits",
    [
        np.random.default_rng(0).uniform(0, 200, (400, 10)),  # none below 0; they sum to about 1000
        np.random.default_rng(0).integers(0, 60, (400, 10)),
        np.random.default_rng(0).normal(50, 9, (400, 2)),  # they sum to about 100
    ],
)
def test_logits_are_no_shares_even_if_none_is_below_0(logits):
    np.testing.assert_array_equal(teacher_logits.stored_logits(logits, "a"), logits.astype(np.float32))


def test_one_column_is_about_class_1_of_two():
    p = np.array([0.01, 0.5, 0.9, 1.0], np.float32)
    for column in (p, p[:, None]):
        read = np.exp(metrics.log_softmax(teacher_logits.stored_logits(column, "a")))
        np.testing.assert_allclose(read, np.stack([1 - p, p], 1), atol=1e-6)
    scores = np.array([-3.0, 0.5, 2.0])
    np.testing.assert_array_equal(teacher_logits.stored_logits(scores, "a"), np.stack([0 * scores, scores], 1))
    for wrong, problem in (
        (100 * p, r"one column from 1 to 100, .*numpy.stack\(\[1 - p, p\], 1\)"),
        (np.log(p / 2), "one column from -5.3 to -0.693"),
        (np.int64([0, 1, 1, 0]), "holds classes, 0 or 1: save probabilities"),
    ):
        with pytest.raises(UserError, match=problem):
            teacher_logits.stored_logits(wrong, "a")


def test_stored_outputs_of_two_classes_may_be_one_column_and_per_cent_are_announced(tmp_path, capsys):
    arrays = make_arrays(num_classes=2)
    np.savez(tmp_path / "two.npz", **arrays)
    dataset = data.load(tmp_path / "two.npz")
    p = {part: np.where(arrays[f"y_{part}"], 0.9, 0.2) for part in ("train", "test")}
    both = {part: np.stack([1 - column, column], 1) for part, column in p.items()}
    np.savez(tmp_path / "both.npz", **both)
    logits_in = lambda name: [
        teacher_logits.load_stored([tmp_path / name], dataset).on_split(dataset, part)
        for part in ("train", "validation", "test")
    ]
    expected = logits_in("both.npz")
    assert capsys.readouterr().out == ""
    np.savez(tmp_path / "p.npz", train=p["train"], test=p["test"][:, None])
    read = logits_in("p.npz")
    assert capsys.readouterr().out == "" and all(map(np.allclose, read, expected))
    np.savez(tmp_path / "p.npz", **{part: 100 * columns for part, columns in both.items()})
    read = logits_in("p.npz")
    assert [np.allclose(*map(metrics.log_softmax, pair)) for pair in zip(read, expected)] == [True] * 3
    assert "the rows of train sum to 100: read as shares of that, not as logits" in capsys.readouterr().out


def test_evaluate_compares_with_the_stored_logits_of_the_test_images(stored, tmp_path, cheap, printed):
    path, logits, file = stored
    out = tmp_path / "out"
    printed(distill.main, "--data", path, "--teacher", file, "--out", out, *OPTIONS)
    printed(evaluate.main, "--data", path, "--teacher", file, "--out", out)
    rows = json.loads((out / "metrics.json").read_text())["models"]
    predicted = classifier.predictor(model_files.load(out / "distilled.keras", (12, 10), 3))(
        data.load(path).test.images
    )
    assert rows["distilled"]["agreement"] == np.mean(predicted.argmax(-1) == logits["test"].argmax(-1))
    assert rows["distilled"]["kl_to_teacher"] == pytest.approx(
        metrics.kl(logits["test"].astype(np.float32), predicted), rel=1e-4
    )
    np.savez(file, train=logits["train"])
    assert "no logits of the test images, `test`" in printed(
        evaluate.main, "--data", path, "--teacher", file, "--out", out
    )
    assert json.loads((out / "metrics.json").read_text())["models"]["distilled"]["agreement"] is None
    lines = printed(distill.main, "--data", path, "--teacher", file, "--out", out, *OPTIONS)
    assert "distillation " in lines and "\nteacher: " not in lines.split("saved")[-1]


def test_stored_logits_that_do_not_fit_are_refused_in_a_line(stored, tmp_path, refusal):
    path, logits, file = stored

    def refused(*options, **arrays):
        np.savez(file, **arrays)
        status, line = refusal(
            distill.main, "--data", path, "--out", tmp_path / "out", *OPTIONS, "--teacher", file, *options
        )
        assert status == 1 and not (tmp_path / "out" / "distilled.keras").exists()
        return line

    train, nan = logits["train"], logits["train"].copy()
    nan[5, 1] = np.nan
    assert "train has the shape (200, 3), but the data need" in refused(train=train[:200])
    assert "train has the shape (240, 4)" in refused(train=np.pad(train, ((0, 0), (0, 1))))
    assert "(240,), but" in (line := refused(train=train.argmax(-1))) and "and no classes" in line
    assert "numpy.reshape(outputs, (240, 3))" in refused(train=train.ravel())
    assert ": transpose it" in refused(train=train.T)
    assert "the teacher lacks, numpy.insert(probabilities, k, 0, axis=1)" in refused(train=train[:, :2])
    assert "train has the dtype object, which is not read: save numpy.array(" in refused(train=train.astype(object))
    assert "train has values that are no finite numbers" in refused(train=nan)
    assert "it has no array `train`" in refused(val=train[:20])
    line = refused(train=1 / (1 + np.exp(-train)))
    assert "its rows do not sum to 1" in line and "save logits (of sigmoids p, numpy.log(p / (1 - p)))" in line
    shuffled = np.random.default_rng(0).permutation(train)
    assert "no better than chance" in (line := refused(train=shuffled)) and "in the order of x_train" in line
    assert "give --translate 0 and no --distort" in refused("--translate", "1", train=train)
    assert "average their probabilities, and give one .npz file alone" in refused("big.keras", train=train)


# ---- from Python -----------------------------------------------------------------------------------------------------


def dense():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((12, 10)), keras.layers.Flatten(), keras.layers.Dense(3)])


def test_an_array_can_be_the_teacher(stored):
    path, logits, _ = stored
    dataset = data.load(path, validation=0)
    history = distill.distill(dense(), logits["train"], *dataset.train, epochs=30, batch_size=20, learning_rate=0.01)
    assert history[-1].training_accuracy > 0.9
    for wrong, problem in (
        (logits["train"][:9], "a row for each of 240"),
        (logits["train"][:, :2], "numbers of classes: 3, 2"),
    ):
        with pytest.raises(UserError, match=problem):
            distill.distill(dense(), wrong, *dataset.train, epochs=1, batch_size=20)
    with pytest.raises(UserError, match="give --translate 0"):
        distill.distill(dense(), logits["train"], *dataset.train, epochs=1, batch_size=20, translate=1)


def as_numpy(net):
    """The net as a function of images as they are in the data, as one of another framework may be."""
    return lambda images: net(images.astype(np.float32) / 255).numpy()


@pytest.mark.parametrize("views", [{}, {"translate": 1}, {"distort": 0.5}, {"augment": lambda images: images[:, ::-1]}])
def test_a_function_teaches_on_all_views_as_the_net_in_it_does(digits, knowing, views):
    net, students = keras.models.load_model(knowing), [dense(), dense()]
    for student_net, taught_by in zip(students, (net, as_numpy(net))):
        distill.distill(student_net, taught_by, *digits.train, epochs=2, batch_size=20, **views)
    for one, other in zip(*(student_net.get_weights() for student_net in students), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_function_is_shown_images_as_they_are_in_the_data_and_must_return_rows_of_logits(digits, monkeypatch):
    monkeypatch.setattr(teacher_logits, "IMAGES_AT_ONCE", 100)
    shown = []
    ones = lambda images: shown.append(images) or np.ones((len(images), 3))
    distill.distill(dense(), ones, *digits.train, epochs=1, batch_size=20)
    assert {images.dtype for images in shown} == {np.dtype(np.uint8)} and max(map(len, shown)) == 100
    for wrong, problem in (
        (lambda images: np.ones(3), r"returns an array \(3,\) for .* images: it must be \(n, C\)"),
        (lambda images: np.full((len(images), 3), 1 / 3), "returns probabilities: let it return logits"),
        (lambda images: np.full((len(images), 3), np.nan), "outputs are not finite"),
    ):
        with pytest.raises(UserError, match=problem):
            distill.distill(dense(), wrong, *digits.train, epochs=1, batch_size=20)


def test_stored_logits_of_all_shifts_teach_as_the_net_does(tiny, digits, knowing, tmp_path, cheap, printed, refusal):
    """By a file of rows in the order of x_train, from which the validation images' are left out."""
    options = ["--data", tiny, *OPTIONS, "--translate", "1"]
    printed(distill.main, *options, "--teacher", knowing, "--out", tmp_path / "net")
    net, arrays = keras.models.load_model(knowing), make_arrays()
    shifts = [as_numpy(net)(images) for images in batches.all_shifts(arrays["x_train"], 1)]
    np.savez(tmp_path / "logits.npz", train=np.stack(shifts, axis=1), test=as_numpy(net)(arrays["x_test"]))
    lines = printed(distill.main, *options, "--teacher", tmp_path / "logits.npz", "--out", tmp_path / "file")
    assert "teacher: accuracy" in lines
    nets = [model_files.load(tmp_path / name / "distilled.keras") for name in ("net", "file")]
    for one, other in zip(*(each.get_weights() for each in nets), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    refused = ["--data", tiny, *OPTIONS, "--teacher", tmp_path / "logits.npz", "--out", tmp_path / "file"]
    assert "stored logits are those of 9 shifts of each image: give --translate 1" in refusal(distill.main, *refused)[1]
    np.savez(tmp_path / "logits.npz", train=np.stack(shifts[:8], axis=1))
    assert "(2 k + 1) squared: 9, 25, 49" in refusal(distill.main, *refused)[1]


class Recording(keras.Sequential):
    """A teacher that keeps what it is shown."""

    def call(self, inputs, training=None, mask=None):
        if not isinstance(inputs, keras.KerasTensor) and len(inputs) > 100:
            self.seen = np.asarray(inputs) if tf.executing_eagerly() else None
        return super().call(inputs, training=training)


def test_teacher_and_student_see_the_images_that_augment_makes(digits, eager):
    layers = lambda: [keras.Input((12, 10)), keras.layers.Flatten(), keras.layers.Dense(3)]
    teacher_net, student_net = Recording(layers()), Recording(layers())
    shapes = set()

    def darken(images):
        shapes.add((tuple(images.shape[1:]), images.dtype.name, float(tf.reduce_max(images)) <= 1))
        return images / 2

    batch = len(digits.train.labels)
    distill.distill(student_net, teacher_net, *digits.train, epochs=1, batch_size=batch, augment=darken)
    assert shapes == {((12, 10, 1), "float32", True)}
    for net in (teacher_net, student_net):
        assert 0.3 < net.seen.max() <= 0.51
    np.testing.assert_array_equal(teacher_net.seen, student_net.seen)


def test_augment_can_be_a_keras_layer_and_must_keep_the_shape(digits, knowing):
    model = keras.models.load_model(knowing)
    history = distill.distill(dense(), model, *digits.train, epochs=2, batch_size=20, augment=keras.layers.RandomFlip())
    assert np.isfinite(history[-1].loss)
    with pytest.raises(UserError, match="augment turns images .* it must keep their shape"):
        distill.distill(dense(), model, *digits.train, epochs=1, batch_size=20, augment=lambda images: images[:, :-1])
    with pytest.raises(UserError, match="augment excludes translate and distort"):
        distill.distill(dense(), model, *digits.train, epochs=1, batch_size=20, augment=abs, translate=1)


# ---- small data ------------------------------------------------------------------------------------------------------


def test_a_batch_size_that_was_not_given_is_fitted_and_a_given_one_is_not(tmp_path, cheap, printed, refusal):
    np.savez(tmp_path / "small.npz", **make_arrays(60, 30))
    options = ["--data", tmp_path / "small.npz", "--out", tmp_path / "out", "--hidden", "8", "--epochs", "2"]
    lines = printed(teacher.main, *options)
    assert "batch-size: 6, an eighth of the 55 training examples" in lines
    assert model_files.load_training(tmp_path / "out" / "teacher.keras")[0]["batch_size"] == 6
    status, line = refusal(teacher.main, *options, "--batch-size", "500")
    assert status == 1 and "the batch size, 500, is larger than the 55 training examples" in line


def test_rows_of_training_in_another_order_than_those_of_the_test_are_pointed_out(stored, tmp_path, cheap, printed):
    path, logits, file = stored
    train = logits["train"].copy()
    train[:60] = train[:60][::-1]
    np.savez(file, train=train, test=logits["test"])
    lines = printed(distill.main, "--data", path, "--teacher", file, "--out", tmp_path / "out", *OPTIONS)
    assert "warning: the teacher is better on the test examples: are its rows in the order of x_train" in lines


def test_a_teacher_of_another_type_is_refused(digits):
    for wrong in ("teacher.keras", [1.0], None):
        with pytest.raises(UserError, match="must be a Keras model, a list of them, a function of images, or an array"):
            distill.distill(dense(), wrong, *digits.train, epochs=1, batch_size=20)
