"""A training run: reproducible, saved whole, loaded safely."""

import os
from dataclasses import replace

from support import UserError, callbacks, classifier, files, model_files, training
from support.classifier import to_unit

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SMALL, batches_of, read_zip, same_weights, write_zip

import data
import student
import teacher

RECIPE = replace(SMALL, epochs=3, translate=1)
TEACHER = replace(teacher.OWN_DATA_DEFAULTS, hidden=(16, 16), epochs=3, batch_size=20, learning_rate=0.01)


@pytest.mark.quick
def test_the_same_seed_gives_the_same_bits_and_another_gives_others(digits):
    """With dropout, which runs without XLA, and without it, which runs under XLA."""
    one, again, other = (teacher.train_teacher(digits, replace(TEACHER, seed=seed))[0] for seed in (1, 1, 2))
    assert same_weights(one, again)
    assert not same_weights(one, other)
    first, again = (student.train_student(digits, RECIPE)[0] for _ in range(2))
    assert same_weights(first, again)
    assert not same_weights(first, student.train_student(digits, replace(RECIPE, seed=1))[0])


def test_a_run_that_was_stopped_goes_on_bit_for_bit(digits, tmp_path):
    path = tmp_path / "checkpoint.npz"

    def run(checkpoint):
        recipe = replace(TEACHER, epochs=6, weight_decay=0.1, select=0.4)
        return teacher.train_teacher(digits, recipe, checkpoint=checkpoint)

    class Stopped(Exception):
        pass

    class Stopping(callbacks.Checkpoint):
        def save(self, state, history):
            super().save(state, history)
            if len(history) == 4:  # the first one of selected images
                raise Stopped

    whole, whole_history = run(None)
    with pytest.raises(Stopped):
        run(Stopping(path, {"seed": 1}, False))
    rested, history = run(callbacks.Checkpoint(path, {"seed": 1}, True))
    assert same_weights(whole, rested)
    assert [row[:4] for row in history] == [row[:4] for row in whole_history]  # all but the seconds
    with pytest.raises(UserError, match="differs from this one in seed: leave --resume out"):
        run(callbacks.Checkpoint(path, {"seed": 2}, True))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match="cannot be read .* remove it"):
        run(callbacks.Checkpoint(path, {"seed": 1}, True))
    assert len(run(callbacks.Checkpoint(path, {"seed": 1}, False))[1]) == 6
    path.unlink()
    assert len(run(callbacks.Checkpoint(path, {"seed": 1}, True))[1]) == 6  # there is nothing to go on from


@pytest.mark.quick
def test_nets_have_the_documented_shapes():
    assert teacher.build_teacher((28, 28), 10).count_params() == 2_395_210  # the paper's
    assert student.build_student((28, 28), 10).count_params() == 55_050
    assert student.build_student((12, 10), 3, student.StudentRecipe(hidden=(5,))).output_shape == (None, 3)
    regularised = teacher.build_teacher((28, 28), 10, replace(teacher.DEFAULTS, dropout=0.4, input_dropout=0.1))
    assert [layer.rate for layer in regularised.layers if isinstance(layer, keras.layers.Dropout)] == [0.1, 0.4, 0.4]
    assert teacher.build_teacher((28, 28), 10).layers[-1].activation is keras.activations.linear  # logits


@pytest.mark.parametrize(("shape", "pool", "num_inputs"), [((28, 28), 2, 196), ((12, 10), 3, 16), ((12, 10), 99, 1)])
def test_a_pooled_student_sees_means_of_squares(shape, pool, num_inputs):
    net = student.build_student(shape, 3, student.StudentRecipe(hidden=(5,), pool=pool))
    assert net.input_shape == (None, *shape)
    assert net.count_params() == num_inputs * 5 + 5 + 5 * 3 + 3
    images = np.random.default_rng(0).random((2, *shape), np.float32)
    # Squares that stick out do so at all four sides, and are means of what is in the image.
    out = [(-side % pool // 2, -side % pool - -side % pool // 2) for side in shape]
    padded = np.pad(images, [(0, 0), *out], constant_values=np.nan)
    squares = padded.reshape(2, padded.shape[1] // pool, pool, padded.shape[2] // pool, pool)
    means = np.nanmean(squares, axis=(2, 4)).reshape(2, num_inputs)
    hidden, output = net.layers[-2:]
    np.testing.assert_allclose(net(images), output(hidden(means)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", [1, 2])
def test_a_cropped_student_sees_nothing_of_the_edges(pool):
    net = student.build_student((12, 10), 3, student.StudentRecipe(hidden=(5,), pool=pool, crop=2))
    assert net.count_params() == 8 * 6 // pool**2 * 5 + 5 + 5 * 3 + 3
    images = np.random.default_rng(0).random((2, 12, 10), np.float32)
    inside = student.build_student((8, 6), 3, student.StudentRecipe(hidden=(5,), pool=pool))
    inside.set_weights(net.get_weights())
    np.testing.assert_allclose(net(images), inside(images[:, 2:-2, 2:-2]), rtol=1e-5)


def test_a_student_s_hidden_units_have_the_activation_asked_for():
    net = student.build_student((12, 10), 3, student.StudentRecipe(hidden=(5, 4), activation="silu"))
    assert [layer.activation.__name__ for layer in net.layers[1:]] == ["silu", "silu", "linear"]


def test_training_learns_and_its_history_says_so(digits):
    recipe = replace(RECIPE, epochs=40, hidden=(32,), translate=0)
    net, history = student.train_student(digits, recipe)
    assert [row.epoch for row in history] == list(range(1, 41))
    assert history[-1].loss < 0.5 * history[0].loss
    outputs = classifier.predictor(net)(digits.validation.images)
    assert history[-1].validation_accuracy == np.mean(outputs.argmax(-1) == digits.validation.labels)
    assert classifier.count_errors(net, digits.train) / 220 == pytest.approx(
        1 - history[-1].training_accuracy, abs=0.05
    )
    assert history[-1].training_accuracy > 0.8


def test_the_learning_rate_warms_up_and_ends_at_zero():
    schedule = training.adam(0.01, 220)._learning_rate
    rates = np.array([schedule(step) for step in range(221)])
    assert rates[0] == 0
    assert rates.argmax() == 11
    assert rates.max() == pytest.approx(0.01)
    assert rates[220] == pytest.approx(0, abs=1e-8)


def test_a_compiled_epoch_drops_other_units_in_each_step():
    """Equal images, and a net that does not learn: its loss stays the same unless dropout changes."""
    split = data.Split(np.full((40, 12, 10), 200, np.uint8), np.zeros(40, np.int32))
    net = teacher.build_teacher((12, 10), 3, replace(teacher.DEFAULTS, hidden=(16,), dropout=0.4))
    batches = batches_of(split, 40, seed=0)
    run_epoch = training.compile_epoch(net, keras.optimizers.Adam(0.0), batches, training.cross_entropy)
    losses = [run_epoch(batches.epoch(number))[0] for number in range(4)]
    assert len(set(losses)) == 4


@pytest.mark.parametrize(
    "layer, wanted",
    [
        (keras.layers.BatchNormalization(), True),
        (keras.layers.Dropout(0.5, seed=1), False),
        (keras.layers.Conv1D(2, 3), False),
    ],
    ids=["dense", "dropout", "convolution"],
)
def test_only_nets_that_xla_makes_faster_are_compiled_by_it(digits, monkeypatch, layer, wanted):
    shape = digits.image_shape
    model = keras.Sequential([keras.Input(shape), layer, keras.layers.Flatten(), keras.layers.Dense(10)])
    asked, real = [], training.tf.function
    monkeypatch.setattr(
        training.tf, "function", lambda *args, **options: asked.append(options) or real(*args, **options)
    )
    optimizer = keras.optimizers.Adam()
    training.compile_epoch(model, optimizer, batches_of(digits.train, 50, seed=0), training.cross_entropy)
    assert ({"jit_compile": False} not in asked) == wanted  # Keras itself asks for True, for a convolution


@pytest.mark.quick
def test_any_keras_model_is_trained_with_its_state_and_its_regularisation(digits):
    """A branched net with BatchNormalization, dropout and an L2 loss takes the step that Keras' own `fit` takes."""

    def build():
        keras.utils.set_random_seed(0)
        images = keras.Input((12, 10))
        flat = keras.layers.BatchNormalization()(keras.layers.Flatten()(images))
        hidden = keras.layers.Dense(16, "relu", kernel_regularizer=keras.regularizers.L2(0.01))(flat)
        logits = keras.layers.Dense(3)(keras.layers.concatenate([keras.layers.Dropout(0.3)(hidden), flat]))
        return keras.Model(images, logits)

    split = data.Split(digits.train.images[:100], digits.train.labels[:100])
    ours, keras_own = build(), build()
    batches = batches_of(split, 100, seed=0)
    examples = batches.epoch(1)
    mean_loss, *_ = training.compile_epoch(ours, keras.optimizers.Adam(0.01), batches, training.cross_entropy)(examples)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    keras_own.compile(keras.optimizers.Adam(0.01), loss)
    first = examples.of_step(0)
    history = keras_own.fit(to_unit(first.images), first.labels, batch_size=100, shuffle=False, verbose=0).history
    assert mean_loss == pytest.approx(history["loss"][0], rel=1e-4)
    for one, other in zip(ours.get_weights(), keras_own.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    assert len(ours.non_trainable_weights) == 2 and np.abs(ours.non_trainable_weights[0]).max() > 0  # moved


@pytest.fixture(scope="module")
def trained(digits):
    """A net and its history."""
    return student.train_student(digits, replace(RECIPE, epochs=1))


@pytest.fixture
def path(trained, tmp_path):
    """The file of that net."""
    net, history = trained
    model_files.save(net, tmp_path / "net.keras", RECIPE.settings(), history)
    return tmp_path / "net.keras"


@pytest.mark.quick
def test_a_saved_model_gives_the_same_logits_settings_and_history(digits, trained, path):
    net, history = trained
    assert sorted(os.listdir(path.parent)) == ["net.csv", "net.keras"]
    assert path.with_suffix(".csv").read_text().count("\n") == len(history) + 1
    loaded = model_files.load(path, digits.image_shape, digits.num_classes)
    logits = classifier.predictor(net)(digits.test.images)
    np.testing.assert_array_equal(classifier.predictor(loaded)(digits.test.images), logits)
    assert model_files.load_training(path) == (RECIPE.settings() | {"code": files.code_sha256()}, history)


def test_keras_alone_loads_and_saves_the_models(trained, path):
    net = keras.models.load_model(path)
    assert same_weights(net, trained[0])
    net.save(path)
    assert same_weights(model_files.load(path, (12, 10), 3), net)
    assert model_files.load_training(path) == ({}, [])


def truncate(path):
    path.write_bytes(path.read_bytes()[:-500])


def lambda_layer(path):
    keras.Sequential([keras.Input((12, 10)), keras.layers.Lambda(lambda x: x)]).save(path)


def edit_member(path, name, edit):
    members = read_zip(path)
    write_zip(path, members | {name: edit(members[name])})


class Own(keras.layers.Layer):
    def call(self, x):
        return x


def own_layer(path):
    keras.Sequential([keras.Input((12, 10)), Own()]).save(path)


def of_another_keras(path):
    edit_member(path, "config.json", lambda config: config.replace(b'"units": 3', b'"units": 3, "new_option": true'))
    edit_member(path, "metadata.json", lambda about: about.replace(keras.__version__.encode(), b"3.99.0"))


def other_weights(path):
    edit_member(path, "config.json", lambda config: config.replace(b'"units": 3', b'"units": 4'))


def of_keras_2(version):
    """The first layer of its Sequential has the shape of the inputs too, and Keras 3 does not know it there."""

    def damage(path):
        shape = b'"batch_input_shape": [null, 12, 10], "data_format"'
        edit_member(path, "config.json", lambda config: config.replace(b'"data_format"', shape, 1))
        edit_member(path, "metadata.json", lambda about: about.replace(keras.__version__.encode(), version))

    return damage


def lstm_of_keras_2(path):
    keras.Sequential([keras.Input((12, 10)), keras.layers.LSTM(3)]).save(path)
    edit_member(path, "config.json", lambda config: config.replace(b'"unroll"', b'"time_major": false, "unroll"'))
    edit_member(path, "metadata.json", lambda about: about.replace(keras.__version__.encode(), b"2.15.0"))


def save_untrained(image_shape, num_classes):
    return lambda path: student.build_student(image_shape, num_classes).save(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "no such model file"),
        (truncate, "not a zip file"),
        (lambda path: write_zip(path, {"hello.txt": "hello"}), "no config.json"),
        (lambda path: keras.Sequential([keras.layers.Flatten()]).save(path), "input_shape is None"),
        (lambda_layer, "a Lambda layer, which is Python code and is not loaded.*: build the same net .*load_weights"),
        (
            own_layer,
            r"Keras .* has no layer Own of .*test_training\): build the same net .*; or .*logits.npz",
        ),
        (of_another_keras, r"Unrecognized keyword arguments.*new_option.*; Keras 3.99.0 saved it, and this is "),
        (other_weights, "could not be loaded. Example error message for object <Dense.*: The shape of"),
        (of_keras_2(b"2.15.0"), r"Keras 2.15.0 saved it.*: pip install tf-keras; python -c .*tf_keras.*'NEW.h5'"),
        (of_keras_2(b"2.14.0"), r"Keras 2.14.0 .*: in another environment, pip install tensorflow==2.14.\*; python -c"),
        (lstm_of_keras_2, r"layer LSTM: .*time_major.*: build the same net in Python .*load_weights\('.*net.keras'\)"),
        (lambda path: path.write_text(" <!DOCTYPE html>"), "is a web page, not the model: download the file itself"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid"), "a pointer of Git LFS"),
        (save_untrained((28, 28), 3), r"input_shape is \(None, 28, 28\), but the data need"),
        (save_untrained((12, 10), 10), r"output_shape is \(None, 10\), but the data need"),
    ],
)
def test_a_bad_model_file_is_refused_in_words(path, digits, damage, message):
    damage(path)
    with pytest.raises(UserError, match=message) as refused:
        model_files.load(path, digits.image_shape, digits.num_classes)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_compiled_model_from_elsewhere_loads(tmp_path, optimizer, nested):
    """Its weights are wanted, not how it was trained."""
    net = student.build_student((12, 10), 3, student.StudentRecipe(hidden=(4,)))
    net.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images = np.random.default_rng(0).random((20, 12, 10), np.float32)
    net.fit(images, np.zeros(20), verbose=0)
    whole = keras.Sequential([keras.Input((12, 10)), net]) if nested else net
    whole.save(tmp_path / "net.keras")
    loaded = model_files.load(tmp_path / "net.keras", (12, 10), 3)
    assert np.array_equal(loaded(images), whole(images))


def test_replacing_moves_a_whole_file_or_nothing(tmp_path):
    path = tmp_path / "file.txt"
    with files.atomic_write(path) as scratch:
        scratch.write_text("first")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), files.atomic_write(path) as scratch:
        scratch.write_text("second")
        raise KeyboardInterrupt
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_the_training_accuracy_is_that_of_the_labelled_examples(digits, eager):
    """And nan, not 0, where no example of an epoch has a label."""

    def accuracy(labels):
        net = student.build_student(digits.image_shape, digits.num_classes, student.StudentRecipe(hidden=(8,)), seed=0)
        batches = batches_of(data.Split(digits.train.images, labels.astype(np.int32)), 20, seed=0)
        loss = lambda labels, teacher_logits, logits: 0 * tf.reduce_sum(logits, -1)
        trainer = training.Trainer(net, batches, loss, replace(SMALL, epochs=1, learning_rate=1e-9))
        return training.train([trainer])[0][0].training_accuracy, net

    classes = classifier.predictor(accuracy(digits.train.labels)[1])(digits.train.images).argmax(-1)
    assert accuracy(classes)[0] == 1
    sparse = np.where(np.arange(len(classes)) % 50 == 7, classes, -1)  # most steps see none of these
    assert accuracy(sparse)[0] == 1
    sparse[7] = (sparse[7] + 1) % 3
    assert accuracy(sparse)[0] == pytest.approx(1 - 1 / np.sum(sparse >= 0))
    assert np.isnan(accuracy(np.full_like(sparse, -1))[0])


@pytest.mark.parametrize(
    "edit",
    [
        lambda training: training.replace(b"[1,", b"["),
        lambda training: b'{"settings": [1], "history": []}',
        lambda training: b"[]",
    ],
)
def test_a_history_of_another_form_is_refused(path, edit):
    edit_member(path, "training.json", edit)
    with pytest.raises(UserError, match="cannot be read"):
        model_files.load_training(path)
