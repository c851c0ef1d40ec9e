"""Keras' own Distiller with distill.SoftTargetLoss, and tools/stream.py, which trains with both from a folder."""

import json
import re
import shutil
import signal
import subprocess
import sys

from support import model_files, terminal

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, make_arrays
from PIL import Image

import distill
from tools import convert, stream

LABELS = np.array([0, 3, 9, 4, 4, 1], np.int32)


def logits(seed, scale=4.0):
    return tf.constant(np.random.default_rng(seed).normal(scale=scale, size=(6, 10)), tf.float32)


# ---- the loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 2.0, 20.0])
@pytest.mark.parametrize("scale", [1.0, 15.0, 1e4])
def test_the_loss_and_its_gradient_are_those_of_distillation_loss(temperature, scale):
    teacher, student = logits(1, scale), tf.Variable(logits(2, scale))
    values, gradients = [], []
    for loss in (
        lambda: distill.SoftTargetLoss(temperature).compute_loss(teacher, student),
        lambda: tf.reduce_mean(distill.distillation_loss(LABELS, teacher, student, temperature, 1.0)),
    ):
        with tf.GradientTape() as tape:
            values.append(loss())
        gradients.append(tape.gradient(values[-1], student))
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5)
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)
    assert np.isfinite(gradients[0]).all()


def test_log_probabilities_are_logits_too():
    loss = distill.SoftTargetLoss(3.0)
    expected = loss.compute_loss(logits(1), logits(2))
    np.testing.assert_allclose(loss.compute_loss(tf.nn.log_softmax(logits(1)), logits(2)), expected, rtol=1e-5)


def test_the_loss_is_saved_and_loaded_by_keras():
    saved = keras.saving.serialize_keras_object(distill.SoftTargetLoss(3.5))
    assert keras.saving.deserialize_keras_object(json.loads(json.dumps(saved))).temperature == 3.5


def net(units, name, shape=(12, 10, 1), last=None):
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Flatten(),
            keras.layers.Dense(units, "relu", name=name),
            keras.layers.Dense(3, last),
        ]
    )


def test_kerass_distiller_takes_the_loss_alone_and_beside_feature_distillation(digits):
    images, labels = digits.train.images[..., None] / 255, digits.train.labels
    teacher, students = net(8, "hidden"), [net(8, "inner") for _ in range(2)]
    students[1].set_weights(students[0].get_weights())
    features = keras.distillation.FeatureDistillation("mse", "hidden", "inner")
    totals = []
    for student, losses in zip(students, ([distill.SoftTargetLoss(2.0)], [distill.SoftTargetLoss(2.0), features])):
        distiller = keras.distillation.Distiller(teacher, student, losses, student_loss_weight=0.3)
        cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.SGD(0.0), cross_entropy)
        totals.append(distiller.fit(images, labels, batch_size=len(labels), verbose=0).history["total_loss"][0])
    expected = distill.distillation_loss(labels, teacher(images), students[0](images), 2.0, 0.7)
    assert totals[0] == pytest.approx(float(tf.reduce_mean(expected)), rel=1e-4)
    assert totals[1] > totals[0] * 1.001  # the features' part is added


# ---- tools/stream.py -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of 12x10 images of three classes: train/CLASS/* and test/CLASS/*."""
    folder, arrays = tmp_path_factory.mktemp("photos"), make_arrays()
    for part in ("train", "test"):
        for number, (image, label) in enumerate(zip(arrays[f"x_{part}"], arrays[f"y_{part}"])):
            of_class = folder / part / "abc"[label]
            of_class.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(of_class / f"{number}.png")
    return folder


@pytest.fixture
def nets(knowing, tmp_path):
    """(the teacher, which takes 12x10; the student, which takes 6x5 and three channels; the folder to write to)."""
    keras.utils.set_random_seed(1)
    net(16, "hidden", (6, 5, 3), "softmax").save(tmp_path / "small.keras")
    yield knowing, tmp_path / "small.keras", tmp_path / "out"
    keras.mixed_precision.set_global_policy("float32")  # --mixed-precision sets another one in this process


def options_of(photos, nets, *more):
    teacher, student, out = nets
    options = [photos, "--teacher", teacher, "--student", student, "--out", out, "--batch-size", 20]
    return [*map(str, options), "--learning-rate", "0.01", *more]


@pytest.fixture
def run(photos, nets, printed):
    """run(*options) -> what stream.py printed."""
    return lambda *more: printed(stream.main, *options_of(photos, nets, *more))


def test_both_students_are_trained_from_the_same_weights_and_saved_alone(run, nets, tmp_path):
    lines = run("--epochs", "8", "--tensorboard")
    assert "read as 12x10 with 3 channels" in lines
    errors = [
        int(number)
        for number in re.findall(r"^(?:teacher|baseline|distilled): +(\d+) test errors", lines, re.MULTILINE)
    ]
    assert errors[0] < 10 and errors[1] < 30 and errors[2] < 30 and "distillation " in lines.splitlines()[-1]
    initial = keras.models.load_model(nets[1]).get_weights()
    for name in ("student", "distilled"):
        model = model_files.load(nets[2] / f"{name}.keras", (6, 5, 3), 3)
        assert not np.array_equal(model.get_weights()[0], initial[0])
        settings, history = model_files.load_training(nets[2] / f"{name}.keras")
        assert len(history) == 8 and history[-1].training_accuracy > 0.6
        assert settings["student"] == model_files.weights_sha256(keras.models.load_model(nets[1]))
    assert [*nets[2].glob("tensorboard/*/train")] and not [*nets[2].glob("training_*")]
    again = run("--epochs", "8", "--tensorboard")
    assert again.count("was trained with these settings") == 2 and again.splitlines()[-5:] == lines.splitlines()[-5:]
    assert "training " + str(nets[2] / "distilled.keras") in run("--epochs", "8", "--alpha", "0.9")


def test_the_images_are_those_of_convert_and_their_order_is_new_in_each_epoch(photos, tmp_path, monkeypatch):
    shutil.copytree(photos / "train", tmp_path / "all")
    Image.new("RGB", (20, 24), (9, 200, 9)).save(tmp_path / "all" / "a" / "web.jpg", "WEBP")
    monkeypatch.setattr(
        sys, "argv", ["convert.py", str(tmp_path / "all"), str(tmp_path / "mine.npz"), "--size", "12", "10"]
    )
    terminal.run(convert.main)
    saved = np.load(tmp_path / "mine.npz")
    for cache in (None, tmp_path / "cache"):
        read = stream.read_folder(tmp_path / "all", (12, 10), 3, stream.DEFAULTS.updated({"batch_size": 20}), cache)
        assert [read.num_train, read.num_test] == [len(saved["y_train"]), len(saved["y_test"])]
        test, labels = (np.concatenate(arrays) for arrays in zip(*read.test))
        np.testing.assert_array_equal(test, saved["x_test"])
        np.testing.assert_array_equal(labels, saved["y_test"])
        epochs = [np.concatenate([images for images, _ in read.train]) for _ in range(2)]
        assert len(epochs[0]) == len(epochs[1]) and (epochs[0] != epochs[1]).any()
        assert len(epochs[0]) == len(saved["y_train"]) // 20 * 20
        known = {image.tobytes() for image in saved["x_train"]}
        assert {image.tobytes() for image in epochs[0]} <= known
    drawn = {image.tobytes() for epoch in range(20) for images, _ in read.train for image in images.numpy()}
    assert drawn == known  # the cache has the last, incomplete batch, too


def test_float16_and_a_cache_on_disk_change_no_file_format(run, nets):
    lines = run("--epochs", "2", "--mixed-precision", "--cache")
    assert "distilled:" in lines and len([*(nets[2] / "cache").glob("train_*.index")]) == 1
    for name in ("student", "distilled"):
        assert {layer.compute_dtype for layer in model_files.load(nets[2] / f"{name}.keras").layers} == {"float32"}


def test_two_devices_share_each_batch_and_train_as_one_does(photos, nets):
    weights = []
    for devices in ("1", "2"):
        options = options_of(photos, nets, "--epochs", "1", "--devices", devices)
        options[options.index("--out") + 1] += devices
        command = [sys.executable, ROOT / "tools" / "stream.py", *options]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "distilled:" in lines
        weights.append(keras.models.load_model(f"{nets[2]}{devices}/distilled.keras").get_weights())
    for one, two in zip(*weights):
        np.testing.assert_allclose(one, two, rtol=0.01, atol=1e-3)


def test_a_run_that_was_killed_goes_on_after_its_last_epoch(photos, nets, printed):
    command = [sys.executable, ROOT / "tools" / "stream.py", *options_of(photos, nets, "--epochs", "30")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            if line.startswith("Epoch 6/30"):
                process.send_signal(signal.SIGKILL)
                break
    assert not (nets[2] / "student.keras").exists()
    lines = printed(stream.main, *options_of(photos, nets, "--epochs", "30"))
    first = re.search(r"Epoch (\d+)/30", lines)
    assert int(first[1]) in (5, 6)
    history = model_files.load_training(nets[2] / "student.keras")[1]
    assert [epoch.epoch for epoch in history] == list(range(1, 31))


def test_a_run_that_ends_before_its_model_is_saved_does_not_train_again(photos, nets, printed, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(model_files, "save", stop)
        printed(stream.main, *options_of(photos, nets, "--epochs", "3"))
    lines = printed(stream.main, *options_of(photos, nets, "--epochs", "3"))
    assert lines.count("Epoch 1/3") == 2  # one of them was printed before the stop, one is the distilled student's
    assert len(model_files.load_training(nets[2] / "student.keras")[1]) == 3


def test_what_cannot_be_streamed_is_refused_in_a_line(photos, nets, tmp_path, refusal):
    teacher, student, out = nets

    def refused(folder, *more, teacher=teacher, student=student):
        options = [folder, "--teacher", teacher, "--student", student, "--out", out, *more]
        status, line = refusal(stream.main, *options)
        assert status == 1
        return line

    (tmp_path / "empty").mkdir()
    assert "it must hold one folder for each class" in refused(tmp_path / "empty")
    assert "there is no such model file" in refused(photos, teacher=tmp_path / "none.keras")
    (tmp_path / "one" / "a").mkdir(parents=True)
    for number in range(5):
        Image.new("L", (10, 12)).save(tmp_path / "one" / "a" / f"{number}.png")
    assert "one has one class only, a: a classifier needs two or more" in refused(tmp_path / "one")
    assert "--batch-size 5000 is larger than the 240 training images" in refused(photos, "--batch-size", "5000")
    four = [keras.Input((12, 10)), keras.layers.Flatten(), keras.layers.Dense(4)]
    keras.Sequential(four).save(tmp_path / "4.keras")
    assert "a net has 4 classes, and the folder 3" in refused(photos, student=tmp_path / "4.keras")
    damaged = tmp_path / "damaged"
    shutil.copytree(photos, damaged)
    path = max((damaged / "train" / "a").iterdir())
    path.write_bytes(path.read_bytes()[:-30])  # its header is sound
    assert f"{path} cannot be read (" in (line := refused(damaged)) and "replace or remove it" in line
    assert "the teacher is no better than chance" in refused(photos, teacher=student)
    keras.Sequential([keras.Input((500,)), keras.layers.Dense(3)]).save(tmp_path / "flat.keras")
    assert "a model that takes (None, 500) cannot take examples" in refused(photos, student=tmp_path / "flat.keras")
    path, layers = tmp_path / "open.keras", [keras.layers.GlobalMaxPooling2D(), keras.layers.Dense(3)]
    keras.Sequential([keras.Input((None, None, 1)), *layers]).save(path)
    assert "give --size HEIGHT WIDTH" in refused(photos, teacher=path, student=path)
