"""A training run: reproducible, saved whole, loaded safely."""

import os
import zipfile

import common
from common import UserError

import conftest
import keras
import numpy as np
import pytest
import tensorflow as tf

import data
import student
import teacher
import training

RECIPE = conftest.RECIPE | {"epochs": 3, "translate": 1}


@pytest.fixture(scope="module")
def digits(tiny):
    return data.load(tiny)


def train_teacher(digits, seed):
    keras.utils.set_random_seed(seed)
    net = teacher.build_teacher(digits.image_shape, digits.num_classes, hidden=(16, 16))
    batches = data.Batches(digits.train, 20, seed=seed, translate=2)
    history = training.train(
        net, batches, training.cross_entropy, epochs=3, learning_rate=0.01, validation=digits.validation
    )
    return net, history


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True))


def test_the_same_seed_gives_the_same_bits_and_another_gives_others(digits):
    """With dropout, which runs without XLA, and without it, which runs under XLA."""
    assert same(train_teacher(digits, 1)[0], train_teacher(digits, 1)[0])
    assert not same(train_teacher(digits, 1)[0], train_teacher(digits, 2)[0])
    first, again = (student.train_student(digits, RECIPE)[0] for _ in range(2))
    assert same(first, again)
    assert not same(first, student.train_student(digits, RECIPE | {"seed": 1})[0])


def test_a_run_that_was_stopped_goes_on_bit_for_bit(digits, tmp_path, capsys):
    path = tmp_path / "checkpoint.npz"

    def run(checkpoint, epochs=4, validation=digits.validation):
        keras.utils.set_random_seed(1)
        net = teacher.build_teacher(digits.image_shape, digits.num_classes, hidden=(16, 16))
        batches = data.Batches(digits.train, 20, seed=1, translate=2)
        options = {"epochs": epochs, "learning_rate": 0.01, "validation": validation, "weight_decay": 0.1}
        return net, training.train(net, batches, training.cross_entropy, checkpoint=checkpoint, **options)

    class Stopped(Exception):
        pass

    class Stopping(training.Checkpoint):
        def keep(self, state, history):
            super().keep(state, history)
            if len(history) == 3:
                raise Stopped

    whole, whole_history = run(None)
    with pytest.raises(Stopped):
        run(Stopping(path, {"seed": 1}, False))
    rested, history = run(training.Checkpoint(path, {"seed": 1}, True))
    assert same(whole, rested)
    # A mean loss is summed up in parts, whose number depends on the clock.
    np.testing.assert_allclose([row[:4] for row in history], [row[:4] for row in whole_history], rtol=1e-5)
    with pytest.raises(UserError, match=r"other settings \(seed\): leave --resume out"):
        run(training.Checkpoint(path, {"seed": 2}, True))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match="damaged .* remove it"):
        run(training.Checkpoint(path, {"seed": 1}, True))
    capsys.readouterr()
    assert len(run(training.Checkpoint(path, {"seed": 1}, False))[1]) == 4
    assert f"{path} is of a run that was stopped: this one starts anew" in capsys.readouterr().out
    path.unlink()
    assert len(run(training.Checkpoint(path, {"seed": 1}, True))[1]) == 4  # there is nothing to go on from


def test_nets_have_the_documented_shapes():
    assert teacher.build_teacher((28, 28), 10).count_params() == 2_395_210  # the paper's
    assert student.build_student((28, 28), 10).count_params() == 55_050
    assert student.build_student((12, 10), 3, hidden=(5,)).output_shape == (None, 3)
    rates = [
        layer.rate for layer in teacher.build_teacher((28, 28), 10).layers if isinstance(layer, keras.layers.Dropout)
    ]
    assert len(rates) == 3
    assert all(0 < rate < 1 for rate in rates)
    assert teacher.build_teacher((28, 28), 10).layers[-1].activation is keras.activations.linear  # logits


@pytest.mark.parametrize(("shape", "pool", "num_inputs"), [((28, 28), 2, 196), ((12, 10), 3, 16), ((12, 10), 99, 1)])
def test_a_pooled_student_sees_means_of_squares(shape, pool, num_inputs):
    net = student.build_student(shape, 3, hidden=(5,), pool=pool)
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
    net = student.build_student((12, 10), 3, hidden=(5,), pool=pool, crop=2)
    assert net.count_params() == 8 * 6 // pool**2 * 5 + 5 + 5 * 3 + 3
    images = np.random.default_rng(0).random((2, 12, 10), np.float32)
    inside = student.build_student((8, 6), 3, hidden=(5,), pool=pool)
    inside.set_weights(net.get_weights())
    np.testing.assert_allclose(net(images), inside(images[:, 2:-2, 2:-2]), rtol=1e-5)


def test_a_student_s_hidden_units_have_the_activation_asked_for():
    net = student.build_student((12, 10), 3, hidden=(5, 4), activation="silu")
    assert [layer.activation.__name__ for layer in net.layers[1:]] == ["silu", "silu", "linear"]


def test_training_learns_and_its_history_says_so(digits):
    recipe = RECIPE | {"epochs": 40, "hidden": [32], "translate": 0}
    net, history = student.train_student(digits, recipe)
    assert [row.epoch for row in history] == list(range(1, 41))
    assert history[-1].loss < 0.5 * history[0].loss
    outputs = training.predictor(net)(digits.validation.images)
    assert history[-1].validation_accuracy == np.mean(outputs.argmax(-1) == digits.validation.labels)
    assert training.count_errors(net, digits.train) / 220 == pytest.approx(1 - history[-1].training_accuracy, abs=0.05)
    assert history[-1].training_accuracy > 0.8


def test_the_learning_rate_warms_up_and_ends_at_zero(digits, monkeypatch):
    made = []
    real = training.FusedAdam
    monkeypatch.setattr(training, "FusedAdam", lambda rate, **options: made.append(rate) or real(rate))
    student.train_student(digits, RECIPE | {"epochs": 20})
    rates = np.array([made[0](step) for step in range(221)])  # 220 images in batches of 20: 11 steps an epoch
    assert rates[0] == 0
    assert rates.argmax() == 11
    assert rates.max() == pytest.approx(RECIPE["learning_rate"])
    assert rates[220] == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("weight_decay", [None, 0.5])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_fused_adam_is_keras_adam(jit_compile, weight_decay):
    start, gradients = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)

    def trained(optimizer):
        weights = keras.Variable(start)
        optimizer.build([weights])
        step = tf.function(lambda gradient: optimizer.apply([gradient], [weights]), jit_compile=jit_compile)
        for number in range(15):
            step(gradients * np.float32(np.cos(number)))
        return weights.numpy()

    schedule = keras.optimizers.schedules.CosineDecay(0.1, 20)
    fused = trained(training.FusedAdam(schedule, weight_decay=weight_decay))
    plain = trained(keras.optimizers.AdamW(schedule, weight_decay) if weight_decay else keras.optimizers.Adam(schedule))
    np.testing.assert_allclose(fused, plain, rtol=1e-5, atol=1e-6)
    assert np.abs(fused - start).max() > 0.1


@pytest.mark.parametrize("number", [200, 201])
@pytest.mark.parametrize("rate", [0.1, 0.4, 0.9])
def test_dropout_drops_its_share_and_scales_the_rest(number, rate):
    units = tf.random.stateless_uniform((500, number), (1, 2), 1.0, 2.0)
    with tf.GradientTape() as tape:
        tape.watch(units)
        outputs = training.dropout(units, rate, (3, 4))
    kept = outputs.numpy() != 0
    assert kept.mean() == pytest.approx(1 - rate, abs=4 * np.sqrt(rate * (1 - rate) / kept.size))
    np.testing.assert_allclose(outputs, kept * units / (1 - rate), rtol=2e-4)  # a rate is a multiple of 1 / 65,536
    np.testing.assert_allclose(tape.gradient(outputs, units), kept / (1 - rate), rtol=2e-4)
    neighbours = np.corrcoef([kept[:, :-1].ravel(), kept[:, 1:].ravel(), kept[:, 1:][::-1].ravel()])
    assert np.abs(neighbours - np.eye(3)).max() < 4 / np.sqrt(kept.size)


def test_every_step_and_layer_drops_other_units(monkeypatch):
    net = keras.Sequential([keras.Input((8,)), *(keras.layers.Dropout(0.5) for _ in range(3))])
    seeds = []
    monkeypatch.setattr(training, "dropout", lambda units, rate, seed: seeds.append(tuple(seed)) or units)
    for run in (0, 1):
        for step in range(3):
            training.forward(net, tf.ones((4, 8)), [run, step])
    assert len(set(seeds)) == len(seeds) == 18


def test_a_compiled_epoch_drops_other_units_in_each_step():
    """Equal images, and a net that does not learn: its loss stays the same unless dropout changes."""
    split = data.Split(np.full((40, 12, 10), 200, np.uint8), np.zeros(40, np.int32))
    net = teacher.build_teacher((12, 10), 3, hidden=(16,))
    run_epoch = training.compile_epoch(
        net, training.FusedAdam(0.0), data.Batches(split, 40, seed=0), training.cross_entropy
    )
    losses = [run_epoch(number)[0] for number in range(4)]
    assert len(set(losses)) == 4


def test_forward_without_dropout_is_the_model():
    images = np.random.default_rng(0).random((7, 12, 10), np.float32)
    net = student.build_student((12, 10), 3)
    np.testing.assert_array_equal(training.forward(net, images, (0, 0)), net(images, training=True))
    net = teacher.build_teacher(
        (12, 10), 3, hidden=(400,), dropout=0.5, input_dropout=0
    )  # noise before a linear layer only
    noisy = np.mean([training.forward(net, images, (0, step)) for step in range(200)], axis=0)
    assert not np.array_equal(training.forward(net, images, (0, 0)), training.forward(net, images, (0, 1)))
    np.testing.assert_allclose(noisy, net(images, training=False), atol=0.1)


def test_a_run_that_diverges_is_stopped_and_said(digits):
    with pytest.raises(UserError, match=r"diverged in epoch \d+ .*lower --learning-rate"):
        student.train_student(digits, RECIPE | {"learning_rate": 1e30})


@pytest.fixture
def saved(digits, tmp_path):
    net, history = student.train_student(digits, RECIPE | {"epochs": 1})
    training.save(net, tmp_path / "net.keras", RECIPE, history)
    return net, history, tmp_path / "net.keras"


def test_a_saved_model_gives_the_same_logits_settings_and_history(digits, saved):
    net, history, path = saved
    loaded = training.load(path, digits.image_shape, digits.num_classes)
    logits = training.predictor(net)(digits.test.images)
    np.testing.assert_array_equal(training.predictor(loaded)(digits.test.images), logits)
    assert training.load_settings(path) == RECIPE
    assert training.load_history(path) == history
    assert sorted(os.listdir(path.parent)) == ["net.csv", "net.keras"]


def test_keras_alone_loads_a_saved_model(saved):
    net, _, path = saved
    assert same(keras.models.load_model(path), net)


def test_an_interrupted_save_leaves_the_last_file_whole(saved, digits, monkeypatch):
    net, _, path = saved
    before = path.read_bytes()

    def interrupted(scratch):
        scratch.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(net, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.save(net, path, {}, [])
    assert path.read_bytes() == before
    assert sorted(os.listdir(path.parent)) == ["net.csv", "net.keras"]


def test_the_history_comes_with_the_model_whatever_became_of_the_table(saved):
    net, history, path = saved
    assert path.with_suffix(".csv").read_text().count("\n") == len(history) + 1
    path.with_suffix(".csv").write_text("epoch,loss\nx")
    assert training.load_history(path) == history
    net.save(path)  # by Keras alone
    assert training.load_history(path) == []
    assert training.load_settings(path) == {}


def truncate(path):
    path.write_bytes(path.read_bytes()[:-500])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lambda_layer(path):
    keras.Sequential([keras.Input((12, 10)), keras.layers.Lambda(lambda x: x)]).save(path)


def no_keras(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "no such model file"),
        (truncate, "not a zip file"),
        (flip, "Bad CRC-32 for file"),
        (lambda path: path.write_text("hello"), "not a zip file"),
        (no_keras, "no config.json"),
        (lambda path: keras.Sequential([keras.layers.Flatten()]).save(path), "input_shape is None"),
        (lambda_layer, "Lambda"),
        (
            lambda path: student.build_student((28, 28), 3).save(path),
            r"input_shape is \(None, 28, 28\) where the data need",
        ),
        (
            lambda path: student.build_student((12, 10), 10).save(path),
            r"output_shape is \(None, 10\) where the data need",
        ),
    ],
)
def test_a_bad_model_file_is_refused_in_words(saved, digits, damage, message):
    path = saved[2]
    damage(path)
    with pytest.raises(UserError, match=message) as refused:
        training.load(path, digits.image_shape, digits.num_classes)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_compiled_model_from_elsewhere_loads(tmp_path, optimizer, nested):
    """Its weights are wanted, not how it was trained."""
    net = student.build_student((12, 10), 3, [4])
    net.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images = np.random.default_rng(0).random((20, 12, 10), np.float32)
    net.fit(images, np.zeros(20), verbose=0)
    whole = keras.Sequential([keras.Input((12, 10)), net]) if nested else net
    whole.save(tmp_path / "net.keras")
    found = training.load(tmp_path / "net.keras", (12, 10), 3)
    assert np.array_equal(found(images), whole(images))


def test_replacing_moves_a_whole_file_or_nothing(tmp_path):
    path = tmp_path / "file.txt"
    with common.replacing(path) as scratch:
        scratch.write_text("first")
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), common.replacing(path) as scratch:
        scratch.write_text("second")
        raise ZeroDivisionError
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["file.txt"]
