"""A model that left Python answers as it did there."""

import contextlib
import json
import sys
from dataclasses import replace

from support import UserError, classifier, model_files, terminal

import conftest
import keras
import numpy as np
import pytest

import data
import student
from tools import export

layers = keras.layers


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The real digits and a student that one epoch has taught some of them."""
    digits = data.load()
    recipe = replace(conftest.SMALL, hidden=(64, 64), epochs=1, batch_size=250, learning_rate=5e-3)
    net, history = student.train_student(digits, recipe)
    folder = tmp_path_factory.mktemp("export")
    model_files.save(net, folder / "distilled.keras", recipe.settings(), history)
    return digits, net, folder


@pytest.fixture(scope="module")
def exported(real):
    digits, net, folder = real
    examples = classifier.to_unit(digits.train.images[:300]).numpy()
    export.convert(net, folder / "a.tflite", examples)
    export.convert(net, folder / "b.tflite", examples, **export.int8_options(examples))
    return folder / "a.tflite", folder / "b.tflite"


def test_files_give_the_classes_of_the_model_on_real_digits(real, exported):
    digits, net, _ = real
    images = digits.test.images[:2000]
    classes = classifier.predictor(net)(images).argmax(-1)
    plain, microseconds = export.run_file(exported[0], classifier.to_unit(images).numpy())
    np.testing.assert_array_equal(plain.argmax(-1), classes)
    assert microseconds > 0
    small, _ = export.run_file(exported[1], classifier.to_unit(images).numpy())
    assert np.mean(small.argmax(-1) != classes) < 0.01
    assert np.mean(classes == digits.test.labels[:2000]) > 0.9  # or agreement would say little


def test_the_small_file_is_int8_from_end_to_end(exported):
    loaded = export.interpreter(exported[1])
    assert loaded.get_input_details()[0]["dtype"] == loaded.get_output_details()[0]["dtype"] == np.int8
    weights = [detail for detail in loaded.get_tensor_details() if len(detail["shape"]) == 2]
    assert all(detail["dtype"] in (np.int8, np.int32) for detail in weights)
    assert exported[1].stat().st_size <= exported[0].stat().st_size / 3


def test_the_script_writes_both_files_and_says_what_they_do(real, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["export.py", "--out", str(real[2])])
    terminal.run(export.main)
    printed, noise = capfd.readouterr()  # TensorFlow's from C++ too
    assert noise == ""
    lines = printed.rstrip().splitlines()[-3:]
    assert [line.split()[0] for line in lines] == ["distilled.keras", "distilled.tflite", "distilled_int8.tflite"]
    errors = classifier.count_errors(real[1], real[0].test)
    assert f" {errors:,} " in lines[0]
    assert lines[1].split()[2:5] == [f"{errors:,}", f"{1 - errors / 10_000:.2%}", "0"]


def test_a_model_that_cannot_be_converted_is_refused_in_a_line(refusal, real, tmp_path):
    class Odd(keras.layers.Layer):
        def call(self, x):
            return keras.ops.fft2((x, x))[0]

    net = keras.Sequential([keras.Input((28, 28)), Odd(), keras.layers.Flatten(), keras.layers.Dense(10)])
    with pytest.raises(UserError, match=r"cannot convert this model to odd.tflite \("):
        examples = classifier.to_unit(real[0].train.images[:10]).numpy()
        export.convert(net, tmp_path / "odd.tflite", examples, **export.int8_options(examples))
    assert not list(tmp_path.iterdir())


def test_a_missing_interpreter_is_asked_for_by_name(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.delattr("tensorflow.lite.Interpreter")
    with pytest.raises(UserError, match="pip install ai-edge-litert"):
        export.interpreter(exported[0])


def run_export(ended, tmp_path, data_file, net, *options):
    """(status, stderr, export.json) of a model that is saved as net.keras and exported."""
    net.save(tmp_path / "net.keras")
    status, stderr = ended(export.main, "--data", data_file, "--out", tmp_path, tmp_path / "net.keras", *options)
    return status, stderr, json.loads((tmp_path / "export.json").read_text())


@pytest.mark.parametrize(
    "make",
    [
        lambda: [keras.Input((None, None, 1)), layers.Conv2D(4, 5), layers.GlobalMaxPooling2D(), layers.Dense(3)],
        lambda: [keras.Input((12, 10), batch_size=20), layers.Flatten(), layers.Dense(3)],
        lambda: [keras.Input((12, 10), dtype="uint8"), layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(3)],
    ],
    ids=["open size", "fixed batch", "uint8"],
)
def test_a_model_of_any_input_is_exported_and_agrees_with_keras(ended, tmp_path, tiny, make):
    keras.utils.set_random_seed(0)
    status, stderr, rows = run_export(ended, tmp_path, tiny, keras.Sequential(make()))
    assert (status, stderr) == (0, "")
    assert rows["net.tflite"]["classes_unlike_keras"] == 0
    assert rows["net_int8.tflite"]["classes_unlike_keras"] <= 3


def test_one_output_is_read_as_two_classes(ended, tmp_path):
    keras.utils.set_random_seed(0)
    arrays = conftest.make_arrays()
    two_classes = {name: np.int64(arrays[name] == 0) for name in ("y_train", "y_test")}
    np.savez(tmp_path / "two.npz", **(arrays | two_classes))
    net = keras.Sequential([keras.Input((12, 10)), layers.Flatten(), layers.Dense(1, "sigmoid")])
    net.layers[-1].kernel.assign(np.repeat(np.arange(12) == 2, 10)[:, None] - 0.08)
    status, _, rows = run_export(ended, tmp_path, tmp_path / "two.npz", net)
    assert status == 0
    assert 0 < rows["net.keras"]["test_errors"] < 30
    assert rows["net.tflite"]["classes_unlike_keras"] == 0


@pytest.mark.quick
def test_a_recurrent_net_keeps_its_float32_file_and_report(ended, tmp_path, tiny):
    net = keras.Sequential([keras.Input((12, 10)), layers.LSTM(4), layers.Dense(3)])
    status, stderr, rows = run_export(ended, tmp_path, tiny, net)
    assert status == 1
    assert stderr.count("\n") == 1
    assert "cannot convert this model to net_int8.tflite (LiteRT cannot do its tf.TensorList" in stderr
    assert rows["net.tflite"]["classes_unlike_keras"] == 0


@pytest.mark.parametrize(("unlike", "status"), [(0, 0), (1, 0), (4, 1)])
def test_a_file_that_is_unlike_its_model_is_pointed_out(capsys, tmp_path, tiny, monkeypatch, unlike, status):
    run_file = export.run_file

    def wrong(path, inputs):
        outputs, microseconds = run_file(path, inputs)
        outputs[:unlike] = np.roll(outputs[:unlike], 1, -1)
        return outputs, microseconds

    monkeypatch.setattr(export, "run_file", wrong)
    net = keras.Sequential([keras.Input((12, 10)), layers.Flatten(), layers.Dense(3)])
    monkeypatch.setattr(export, "int8_options", lambda examples: {})  # float32 twice
    net.save(tmp_path / "net.keras")
    monkeypatch.setattr(
        sys, "argv", ["export.py", *map(str, ["--data", tiny, "--out", tmp_path, tmp_path / "net.keras"])]
    )
    refused = pytest.raises(SystemExit, match="is not what net.keras is: 7%")
    with refused if status else contextlib.nullcontext():
        terminal.run(export.main)
    assert ("warning: " in capsys.readouterr().out) == (unlike == 1)


def test_outliers_in_a_table_do_not_take_int8s_steps_from_the_other_columns(printed, refusal, tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    labels = np.arange(1200) % 3
    table = np.float32(random.normal(size=(1200, 4)) * 0.3)
    table[:, 0] += labels
    table[::240, 3] = 400  # 5 of its 1,200 values
    arrays = {"x_train": table, "y_train": labels, "x_test": table, "y_test": labels}
    np.savez(tmp_path / "a.npz", **arrays)
    net, _ = student.train_student(data.load(tmp_path / "a.npz"), replace(conftest.SMALL, hidden=(16,), epochs=10))
    net.save(tmp_path / "net.keras")
    options = [export.main, "--data", tmp_path / "a.npz", "--out", tmp_path, tmp_path / "net.keras"]
    unlike = lambda: json.loads((tmp_path / "export.json").read_text())["net_int8.tflite"]["classes_unlike_keras"]
    lines = printed(*options)
    assert "net_int8.tflite clips outliers, inputs beyond -" in lines and "warning: " not in lines
    assert unlike() < 12
    monkeypatch.setattr(export, "CLIPPED", (0,))
    status, line = refusal(*options)
    assert status == 1 and unlike() > 120
    assert (
        "x_train[:, 3] has a range of 401, " in line and "clip its outliers in x_train and x_test (numpy.clip)" in line
    )


@pytest.mark.quick
@pytest.mark.parametrize(
    ("shares", "kept"),
    [([0.01], 0), ([0.2, 0.005], 0.1), ([0.2, 0.1, 0.05], 1), ([0.2, 0.1, 0.15], 0.1), ([0.2, 0.2, 0.3], 0)],
)
def test_inputs_are_clipped_only_where_the_file_is_better_for_it(shares, kept, monkeypatch, capsys):
    written, left = [], iter(shares)  # of training examples in another class, each time that the file is written
    monkeypatch.setattr(
        export, "convert_and_run", lambda model, path, kind, examples, inputs: (written.append(examples), 0)
    )
    monkeypatch.setattr(export, "convert", lambda model, path, examples, **options: written.append(examples))
    examples = np.random.default_rng(0).normal(size=(5000, 3)).astype(np.float32)
    export.convert_to_int8(None, "a.tflite", examples, examples[:100], lambda outputs: next(left))
    assert next(left, None) is None
    inside = np.mean(written[-1] == examples)  # or else clipped
    assert inside == pytest.approx(1 - 2 * kept / 100, abs=1e-3) and written[-1].dtype == np.float32
    assert ("clips outliers" in capsys.readouterr().out) == (kept > 0)
    assert len(written) == 1 or shares[0] > export.WARNED


def test_it_calibrates_with_examples_of_all_classes(tmp_path, monkeypatch, ended):
    arrays = conftest.make_arrays()
    order = np.argsort(arrays["y_train"], kind="stable")
    np.savez(tmp_path / "sorted.npz", **(arrays | {key: arrays[key][order] for key in ("x_train", "y_train")}))
    monkeypatch.setattr(export, "CALIBRATION_IMAGES", 30)
    calibrating, options = [], export.int8_options
    monkeypatch.setattr(export, "int8_options", lambda examples: calibrating.append(examples) or options(examples))
    run_export(ended, tmp_path, tmp_path / "sorted.npz", student.build_student((12, 10), 3))
    stripes = calibrating[0][:, [2, 4, 6]].mean(-1).argmax(-1)
    assert (np.bincount(stripes, minlength=3) > 5).all()
