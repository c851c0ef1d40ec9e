"""What a classifier of any kind takes and returns: axes, pixels, dtypes; softmax, sigmoid or logits."""

from support import UserError, classifier, metrics

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_arrays

import data

pytestmark = pytest.mark.quick

layers = keras.layers
IMAGES = np.float32(make_arrays()["x_train"] / 255)
SPLIT = data.Split(make_arrays()["x_train"], make_arrays()["y_train"].astype(np.int32))


def net(*after, units=3, last=None, dtype=None, scale=8.0):
    """A net on 12x10 images, with large weights, so that some of its probabilities are near 0 and others near 1."""
    keras.utils.set_random_seed(1)
    hidden = [layers.Flatten(dtype=dtype), layers.Dense(units, last, dtype=dtype)]
    model = keras.Sequential([keras.Input((12, 10)), *hidden, *after])
    hidden[1].kernel.assign(scale * hidden[1].kernel)
    return model


def subclassed(last, dtype=None):
    """A model that does not show its last activation."""

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = net(units=100, last=last, dtype=dtype)

        def call(self, x):
            return self.inner(x) + 0

    return Net()


def probabilities_of(logits):
    return np.exp(metrics.log_softmax(np.asarray(logits)))


class Own(keras.layers.Layer):
    def call(self, x):
        return x


NESTED = [layers.Reshape((3, 1)), layers.Identity(), layers.Flatten(), layers.Dropout(0.5), layers.Activation("linear")]


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize(
    "make",
    [
        lambda dtype: net(last="softmax", dtype=dtype),
        lambda dtype: net(layers.Softmax(dtype=dtype), dtype=dtype),
        lambda dtype: net(layers.Activation("softmax", dtype=dtype), dtype=dtype),
        lambda dtype: net(*NESTED, last="softmax", dtype=dtype),
        lambda dtype: keras.Sequential([keras.Input((12, 10)), net(last="softmax", dtype=dtype), layers.Flatten()]),
        lambda dtype: net(Own(), last="softmax", dtype=dtype),  # seen in its outputs alone
        lambda dtype: subclassed("softmax", dtype),
        lambda dtype: net(last=tf.nn.softmax, dtype=dtype),  # its name is softmax_v2
    ],
)
def test_the_logits_of_a_softmax_give_its_probabilities_back(make, dtype):
    model = make(dtype and keras.DTypePolicy(dtype))
    outputs = np.asarray(model(IMAGES), np.float64)
    expected = outputs / outputs.sum(-1, keepdims=True)  # those of 16 bits do not quite sum to 1
    probabilities = probabilities_of(classifier.as_function(model, IMAGES)(IMAGES))
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    if dtype == "float32":  # the smallest are right too: they count at T = 4
        np.testing.assert_allclose(probabilities**0.25, expected**0.25, atol=1e-4)


def test_the_logits_of_sigmoids_are_those_before_them():
    for make in (
        lambda last: net(last=last),
        lambda last: net(layers.Activation(last or "linear")),
        lambda last: net(*NESTED, last=last),
    ):
        logits, expected = (classifier.as_function(make(last), IMAGES)(IMAGES) for last in ("sigmoid", None))
        sure = np.abs(expected) < 12  # above, 1 - p has no digits left
        np.testing.assert_allclose(logits[sure], expected[sure], rtol=1e-2, atol=1e-2)
        assert (logits.numpy().argmax(-1) == expected.numpy().argmax(-1)).mean() > 0.99


def test_one_output_is_about_class_1_of_two():
    for last in ("sigmoid", None):
        model = net(units=1, last=last, scale=1.0)
        logits = classifier.as_function(model, IMAGES)(IMAGES).numpy()
        assert logits.shape == (240, 2)
        assert not logits[:, 0].any()
        before = np.asarray(net(units=1, scale=1.0)(IMAGES))[:, 0]
        np.testing.assert_allclose(logits[:, 1], before, atol=1e-4)


def test_no_logit_is_infinite_where_a_probability_is_0_or_1():
    for last in ("softmax", "sigmoid"):
        for dtype in ("float32", "mixed_bfloat16", "mixed_float16"):
            model = net(last=last, scale=1e3, dtype=keras.DTypePolicy(dtype))
            assert np.isfinite(classifier.as_function(model, IMAGES)(IMAGES)).all()


@pytest.mark.parametrize(
    "make", [lambda: net(last="relu"), lambda: net(last="tanh"), lambda: net(layers.BatchNormalization()), net]
)
def test_other_outputs_are_logits_as_they_are(make):
    model = make()
    np.testing.assert_array_equal(classifier.as_function(model, IMAGES)(IMAGES), model(IMAGES))


@pytest.mark.parametrize(
    "make",
    [
        lambda: net(last="hard_sigmoid"),
        lambda: subclassed("sigmoid"),  # its layers cannot be seen
        lambda: keras.Sequential([keras.Input((12, 10)), layers.Dense(2, "softmax"), layers.Flatten()]),  # of columns
    ],
)
def test_outputs_in_0_to_1_that_are_neither_are_refused(make):
    with pytest.raises(UserError, match="outputs are from 0 to 1, but no probabilities that sum to 1"):
        classifier.as_function(make(), IMAGES)


def test_a_model_whose_output_is_in_a_dict_is_read_and_one_with_two_is_not():
    inputs = keras.Input((12, 10))
    flat = layers.Flatten()(inputs)
    one = keras.Model({"image": inputs}, {"digit": layers.Dense(3)(flat)})
    np.testing.assert_array_equal(classifier.as_function(one, IMAGES)(IMAGES), one({"image": IMAGES})["digit"])
    for outputs in ([layers.Dense(3)(flat), layers.Dense(3)(flat)], layers.Dense(3)(inputs)):
        with pytest.raises(UserError, match="a classifier returns one row of numbers for an example"):
            classifier.as_function(keras.Model(inputs, outputs), IMAGES)


def test_a_model_that_was_never_built_is_built_from_the_examples():
    dense = keras.Sequential([layers.Flatten(), layers.Dense(3)])
    assert classifier.as_function(dense, IMAGES)(IMAGES).shape == (240, 3)
    assert dense.input_shape == (None, 12, 10)  # with an open batch size
    own = subclassed(None)
    assert classifier.as_function(own, IMAGES)(IMAGES).shape == (240, 100)
    convolution = keras.Sequential([layers.Conv2D(3, 3), layers.Flatten(), layers.Dense(3)])
    problem = r"cannot be built for examples of \(12, 10\).*give it a keras.Input\(\(12, 10\)\)"
    with pytest.raises(UserError, match=problem):
        classifier.as_function(convolution, IMAGES)


def test_a_batch_size_saved_in_a_model_binds_nobody():
    model = keras.Sequential([keras.Input((12, 10), batch_size=20), layers.Flatten(), layers.Dense(3)])
    for number in (1, 7, 240):
        assert classifier.predictor(model)(IMAGES[:number]).shape == (number, 3)


def test_axes_in_another_order_are_refused_with_what_to_do():
    for shape, model_shape in (((12, 10), (10, 12)), ((12, 10, 3), (3, 12, 10))):
        model = keras.Sequential([keras.Input(model_shape), layers.Flatten(), layers.Dense(3)])
        with pytest.raises(UserError, match="transpose them: the axes are in another order"):
            classifier.as_function(model, np.zeros((2, *shape), np.float32))


def test_a_model_of_whole_numbers_is_given_0_to_255_and_ids_as_they_are():
    seen = keras.Sequential([keras.Input((12, 10), dtype="uint8"), layers.Rescaling(1.0), layers.Flatten()])
    (given,) = tf.nest.flatten(classifier.feeder(seen, IMAGES)(IMAGES))
    assert given.dtype == tf.uint8
    np.testing.assert_array_equal(given, SPLIT.images)
    ids = np.float32([[3, 1], [0, 2]])
    words = keras.Sequential(
        [keras.Input((2,), dtype="int32"), layers.Embedding(4, 5), layers.Flatten(), layers.Dense(3)]
    )
    np.testing.assert_array_equal(classifier.feeder(words, ids)(ids), ids)


def test_where_other_pixels_are_much_better_the_option_is_named(knowing):
    unit = keras.models.load_model(knowing)
    to_255 = keras.Sequential([keras.Input((12, 10)), layers.Rescaling(1 / 255), *unit.layers])
    assert classifier.pixels_warning(unit, SPLIT, 1.0, "--teacher-pixels") is None
    assert classifier.pixels_warning(to_255, SPLIT, 255.0, "--teacher-pixels") is None
    assert "give --student-pixels 255" in classifier.pixels_warning(to_255, SPLIT, 1.0, "--student-pixels")
    black = SPLIT._replace(images=np.uint8(SPLIT.images > 159))  # white is 1
    warning = classifier.pixels_warning(unit, black, 1.0, "--teacher-pixels")
    assert "with --teacher-pixels 255: give that option" in warning
    warning = classifier.pixels_warning(keras.models.clone_model(to_255), SPLIT, 1.0, "--student-pixels")
    assert "Rescaling leaves next to nothing of pixels" in warning


@pytest.mark.parametrize("wants", ["from -1 to 1", "with mean 0 and deviation 1"])
def test_a_model_of_shifted_pixels_is_named_and_the_advice_makes_one_that_works(wants, tmp_path, monkeypatch):
    values = np.uint8(255 * np.linspace(0, 1, 240) ** 3)  # most are dark
    images = np.repeat(values, 6).reshape(240, 2, 3)
    is_bright = values > (127 if wants == "from -1 to 1" else values.mean())
    model = keras.Sequential([keras.Input((6,)), layers.Dense(2)])
    model.set_weights([np.float32([[0, 1]] * 6), np.zeros(2, np.float32)])  # bright: above 0
    split = data.Split(images, is_bright.astype(np.int32))
    warning = classifier.pixels_warning(model, split, 1.0, "--teacher-pixels")
    assert f"pixels {wants}: use a model" in warning
    monkeypatch.chdir(tmp_path)
    exec(warning[warning.index("keras.Sequential") :], {"keras": keras, "model": model})  # noqa: S102 - our own advice
    assert classifier.pixels_warning(keras.models.load_model("scaled.keras"), split, 1.0, "--teacher-pixels") is None


def test_a_difference_of_a_few_examples_is_no_reason_for_other_pixels():
    labels = np.repeat(np.int32([0, 1]), 100)
    images = np.float32(labels[:, None] + [[-0.5]] * 200)
    images[[150, 160, 170]] = 0.002  # wrong as they are, and right when multiplied by 255
    model = keras.Sequential([keras.Input((1,)), layers.Dense(2)])
    model.set_weights([np.float32([[0, 1]]), np.float32([0, -0.004])])
    assert classifier.pixels_warning(model, data.Split(images, labels), 1.0, "--teacher-pixels") is None


def test_classes_in_another_order_are_listed_and_the_advice_puts_them_right():
    random = np.random.default_rng(0)
    labels = np.concatenate([np.arange(4), random.integers(4, size=400)])
    right = np.where(random.random(404) < 0.9, labels, random.integers(4, size=404))
    order = np.array([0, 2, 3, 1])  # output 1 stands for class 2
    outputs = np.argsort(order)[right]
    warning = classifier.order_warning(outputs, labels)
    assert "if its classes are in another order, 0, 2, 3, 1 (" in warning
    columns = eval(warning[warning.rindex("[:, ") + 4 : -1])
    assert (np.eye(4)[outputs][:, columns].argmax(-1) == right).all()
    assert classifier.order_warning(right, labels) is None
    assert classifier.order_warning(random.integers(4, size=404), labels) is None  # no better in any order
    assert classifier.order_warning(0 * labels, labels) is None
    many = np.arange(60)
    assert "with their columns in the order of the data's classes" in classifier.order_warning(many[::-1], many)
