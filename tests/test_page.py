"""The page computes what Keras computes, holds what it should, and refuses the rest in a line."""

import json
import sys

from support import UserError, classifier

import keras
import numpy as np
import pytest
from conftest import make_arrays

import data
import distill
import student
import teacher
from tools import page

layers = keras.layers


def engine_for(net, shape, kind="float16", pixels=1.0):
    """A JavaScript engine that holds the net alone; the net's kernels become those of the page."""
    model = {"layers": page.page_layers(net, shape, "net.keras", kind, pixels)}
    return page.javascript(page.page_text({"shape": shape, "models": [model]}))


@pytest.fixture(scope="module")
def js():
    """js(expression) -> the value of an expression of JavaScript in a page without models."""
    engine = page.javascript(page.page_text({"models": []}))
    return lambda expression: json.loads(engine.eval(f"JSON.stringify({expression})"))


def random_images(shape):
    return np.random.default_rng(1).integers(256, size=(5, *shape)).astype(np.uint8)


def randomised(net):
    """The net with random numbers in all its variables, those of batch normalisation too; variances are positive."""
    random = np.random.default_rng(0)
    net.set_weights([random.uniform(0.1, 0.6, weights.shape) * random.choice([-1, 1]) for weights in net.get_weights()])
    for layer in net.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_variance.assign(np.abs(layer.moving_variance))
    return net


GREY, COLOUR = (11, 8), (7, 6, 3)
END = [layers.Flatten(), layers.Dense(4)]
HIDDEN = [layers.Flatten(), layers.Dense(6)]
CROPPED = [layers.Reshape((11, 8, 1)), layers.Cropping2D(((1, 2), (0, 1)))]
CHAINS = {  # name: (the shape that the net takes, its layers, the images' shape if that is another)
    "dense": (GREY, [layers.Flatten(), layers.Dense(6, "relu"), layers.Dropout(0.5), layers.Dense(4)]),
    "flat": ((88,), [layers.Dense(5, use_bias=False), layers.Dense(4)], GREY),
    "dense on rows": (GREY, [layers.Dense(5), *END]),
    "gelu": (GREY, [layers.Dense(6, "gelu"), *END]),
    "silu": (GREY, [layers.Dense(6, "silu"), *END]),
    "tanh": (GREY, [layers.Dense(6, "tanh"), *END]),
    "softmax inside": (GREY, [layers.Dense(6, "softmax"), *END]),
    "softmax at the end": (GREY, [layers.Flatten(), layers.Dense(4, "softmax")]),
    "softmax layer": (GREY, [*END, layers.Softmax()]),
    "softmax before flatten": ((*GREY, 1), [layers.Conv2D(4, GREY, activation="softmax"), layers.Flatten()], GREY),
    "activation layers": (GREY, [*HIDDEN, layers.Activation("gelu"), layers.Dense(4, "linear")]),
    "relu layer": (GREY, [*HIDDEN, layers.ReLU(1.5, 0.2, 0.3), layers.Dense(4)]),
    "rescaling": (COLOUR, [layers.Rescaling([2.0, 3.0, 4.0], [-1.0, 0.5, 0.0]), *END]),
    "batch normalisation": (COLOUR, [layers.BatchNormalization(), *END]),
    "batch normalisation without scale and centre": (
        GREY,
        [layers.BatchNormalization(scale=False, center=False), *END],
    ),
    "crop and pool": (GREY, [*CROPPED, layers.AveragePooling2D(3, padding="same"), *END]),
    "average": (COLOUR, [layers.AveragePooling2D((3, 2), strides=(1, 2)), *END]),
    "largest": (COLOUR, [layers.MaxPooling2D(2, padding="same", strides=3), *END]),
    "convolution": (COLOUR, [layers.Conv2D(5, (3, 2), activation="relu"), *END]),
    "strides": (COLOUR, [layers.Conv2D(5, 4, strides=(2, 3), padding="same"), *END]),
    "dilation": (COLOUR, [layers.Conv2D(5, 2, dilation_rate=(2, 3), padding="same"), *END]),
    "open sizes": ((None, None, 1), [layers.Conv2D(4, 3), layers.MaxPooling2D((9, 6)), layers.Reshape((4,))], GREY),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_every_layer_gives_what_keras_gives(name, kind):
    input_shape, chain, *image_shape = CHAINS[name]
    (shape,) = image_shape or [input_shape]
    copies = [type(layer).from_config(layer.get_config()) for layer in chain]
    net = randomised(keras.Sequential([keras.Input(input_shape), *copies]))
    before = [np.array(weights) for weights in net.get_weights()]
    images = random_images(shape)
    logits = page.javascript_logits(engine_for(net, shape, kind), 0, images)
    expected = classifier.predictor(net)(images)
    np.testing.assert_allclose(logits, expected, atol=1e-6 * np.ptp(expected), rtol=1e-5)
    for old, new in zip(before, net.get_weights()):  # the kernels are rounded, and by no more than they must be
        step = np.abs(old).max() * (2**-11 if kind == "float16" else 1 / 254) if old.ndim > 1 else 0
        np.testing.assert_allclose(new, old, atol=1.001 * step, rtol=0)


def test_a_functional_model_that_wants_255_for_white():
    inputs = keras.Input(GREY)
    net = keras.Model(inputs, layers.Dense(4)(layers.Flatten()(inputs)))
    images = random_images(GREY)
    logits = page.javascript_logits(engine_for(net, GREY, pixels=255.0), 0, images)
    expected = classifier.predictor(net, pixels=255.0)(images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.ptp(expected))


INPUT = keras.Input(GREY)
FLAT = layers.Flatten()(INPUT)


@pytest.mark.parametrize(
    ("net", "named"),
    [
        (keras.Sequential([INPUT, layers.LSTM(4)]), r"the layer lstm\w*, LSTM\(activation=tanh\)"),
        (keras.Sequential([INPUT, layers.Dense(4, "elu")]), r"the layer dense\w*, Dense\(activation=elu\)"),
        (
            keras.Sequential([keras.Input(COLOUR), layers.Conv2D(6, 3, groups=3), *END]),
            r"the layer conv2d\w*, Conv2D\(activation=linear, groups=3\)",
        ),
        (keras.Model(INPUT, layers.Add()([layers.Dense(4)(FLAT), layers.Dense(4)(FLAT)])), "models with branches"),
        (keras.Model(INPUT, layers.Dense(4)(FLAT * 2.0 - 1.0)), ".*with operations between their layers"),
        (keras.Model(INPUT, layers.Dense(4)(FLAT) * 3.0), ".*with operations between their layers"),
    ],
)
def test_what_the_page_cannot_compute_is_refused_by_name(net, named):
    with pytest.raises(UserError, match=rf"^net.keras: the page cannot compute {named}"):
        page.page_layers(net, net.input_shape[1:], "net.keras", "float16")


@pytest.mark.parametrize("kind", ["float16", "int8"])
@pytest.mark.parametrize("name", ["kernel", "bias"])
def test_weights_that_are_no_numbers_are_refused(kind, name):
    net = keras.Sequential([keras.Input(GREY), layers.Flatten(), layers.Dense(4)])
    variable = getattr(net.layers[-1], name)
    variable.assign(variable * np.nan)
    with pytest.raises(UserError, match=f"net.keras: its {name} has numbers that are not finite: train it again"):
        page.page_layers(net, GREY, "net.keras", kind)


def test_weights_beyond_float16_are_refused():
    net = keras.Sequential([keras.Input(GREY), layers.Flatten(), layers.Dense(4)])
    net.layers[-1].kernel.assign(net.layers[-1].kernel * 1e6)
    with pytest.raises(UserError, match="net.keras: its kernel has numbers that float16 cannot hold: try --int8"):
        page.page_layers(net, GREY, "net.keras", "float16")


def test_formulas_are_those_of_the_loss(js):
    first, second = np.random.default_rng(0).normal(0, 30, (2, 10))
    for temperature in (1, 2.5, 20):
        targets = distill.soft_targets(first, temperature)
        np.testing.assert_allclose(js(f"softened({first.tolist()}, {temperature})"), targets, rtol=1e-4, atol=1e-9)
        loss = distill.distillation_loss(np.array([0]), first[None], second[None], temperature, alpha=1.0)
        kl = js(f"divergence({first.tolist()}, {second.tolist()}, {temperature})")
        assert kl == pytest.approx(float(loss[0]) / temperature**2, rel=1e-4)


def test_numbers_of_16_bits_and_gelu(js):
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(float)
    finite = np.isfinite(halves)
    np.testing.assert_array_equal(np.array(js("Array.from(HALVES)"), float)[finite], halves[finite])
    x = np.linspace(-6, 6, 101)
    given = json.dumps({"shape": [101], "data": x.tolist()})
    expected = keras.activations.gelu(x, approximate=False)
    np.testing.assert_allclose(js(f"LAYERS.gelu({given}).data"), expected, atol=1e-6)


def test_a_drawing_is_fitted_and_centred_as_mnist_was(js):
    digits = data.load().test.images[:40]
    for number, digit in enumerate(digits):
        drawing = np.kron(digit, np.ones((4, 4))) / 255  # four times as large, then moved
        drawing = np.roll(np.pad(drawing, 40), (number - 20, 20 - number), (0, 1))
        centred = js(f"Array.from(centred({drawing.ravel().tolist()}, 192, 192, 28, 28))")
        np.testing.assert_allclose(centred, digit.ravel() / 255, atol=1e-6, err_msg=str(number))
    assert not any(js("Array.from(centred(filled([9], 0), 3, 3, 28, 28))"))


def test_a_shift_moves_pixels_and_brings_in_zeros(js):
    image = np.arange(1, 25).reshape(3, 4, 2)
    moved = js(f"Array.from(shifted({image.ravel().tolist()}, [3, 4, 2], [1, -1]))")
    expected = np.zeros_like(image)
    expected[:2, 1:] = image[1:, :3]
    np.testing.assert_array_equal(np.reshape(moved, image.shape), expected)


@pytest.mark.parametrize(("kind", "megabytes"), [("float16", 7), ("int8", 4)])
def test_the_default_page_is_small(kind, megabytes):
    test = data.load().test
    builders = [teacher.build_teacher, student.build_student, student.build_student]
    nets = [build((28, 28), 10) for build in builders]
    held = [{"layers": page.page_layers(net, (28, 28), "net.keras", kind)} for net in nets]
    random = np.random.default_rng(0)
    logits = {name: random.normal(size=(10_000, 10)) for name in ("teacher", "student", "distilled")}
    shown = page.example_groups(test, logits)
    assert [len(group["images"]) for group in shown] == [12, 12, 10]
    assert len(page.page_text({"models": held, "strip": shown})) < megabytes * 1e6


@pytest.fixture
def run_page(tmp_path, printed):
    """run_page(arrays) -> (the data of a page of two small nets for these arrays, what was printed)."""

    def run(arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        paths = [tmp_path / "big.keras", tmp_path / "small.keras"]
        for path in paths:
            net = [keras.Input(arrays["x_train"].shape[1:]), layers.Flatten(), layers.Dense(3)]
            keras.Sequential(net).save(path)
        lines = printed(page.main, "--data", tmp_path / "data.npz", "--out", tmp_path, *paths)
        text = (tmp_path / "page.html").read_text()
        held = text.split('<script id="data" type="application/json">')[1].split("</script>")[0]
        return json.loads(held), lines

    return run


def test_the_script_takes_data_and_nets_of_your_own(run_page):
    names = np.array(["<b>", "</script>", "c & d"])
    held, printed = run_page(make_arrays() | {"class_names": names})
    assert held["classes"] == [*names]
    assert [model["name"] for model in held["models"]] == ["big", "small"]
    assert (held["shape"], held["can_draw"]) == ([12, 10], True)
    assert [group["title"] for group in held["strip"]] == [
        "Test images on which big is wrong and small right",
        "Test images on which small is wrong and big right",
        "Test images that big finds most ambiguous",
    ]
    lines = [line.split() for line in printed.splitlines() if line.startswith(("big ", "small "))]
    assert [line[:2] for line in lines] == [["big", "363"], ["small", "363"]]
    assert all(float(line[4]) < page.TOLERANCE for line in lines)


def test_colour_images_are_not_drawn(run_page):
    arrays = make_arrays()
    colours = {name: np.repeat(arrays[name][..., None], 3, -1) / 255 for name in ("x_train", "x_test")}
    held, _ = run_page(arrays | colours)
    assert (held["shape"], held["can_draw"]) == ([12, 10, 3], False)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda images: images.reshape(-1, 120) / 255, "the page shows images, but an example here has shape (120,)"),
        (lambda images: images / 100, "floats from 0 to 1, but these are others: scale them"),
    ],
)
def test_data_that_cannot_be_shown_are_refused(change, problem, refusal, tmp_path):
    arrays = make_arrays()
    np.savez(tmp_path / "data.npz", **arrays | {name: change(arrays[name]) for name in ("x_train", "x_test")})
    status, line = refusal(page.main, "--data", tmp_path / "data.npz", "--out", tmp_path)
    assert status == 1
    assert problem in line


def test_a_page_that_computes_something_else_is_not_written(tmp_path, monkeypatch, refusal, tiny):
    net = keras.Sequential([keras.Input((12, 10)), layers.Flatten(), layers.Dense(3)])
    net.save(tmp_path / "net.keras")
    broken = page.TEMPLATE.read_text().replace("output[to + j] += value", "output[to + j] -= value")
    monkeypatch.setattr(page, "TEMPLATE", tmp_path / "template.html")
    page.TEMPLATE.write_text(broken)
    _, line = refusal(page.main, "--data", tiny, "--out", tmp_path, tmp_path / "net.keras")
    assert "net.keras: a logit of the page is off by" in line
    assert not (tmp_path / "page.html").exists()


def test_without_an_engine_the_page_is_written_and_says_so(run_page, monkeypatch):
    monkeypatch.setitem(sys.modules, "py_mini_racer", None)
    _, printed = run_page(make_arrays())
    assert "was not compared with Keras: pip install mini-racer" in printed


def test_a_layer_that_the_page_would_skip_is_found_without_a_javascript_engine(monkeypatch):
    net = keras.Sequential([keras.Input(GREY), layers.Flatten(), layers.Dense(6, "relu"), layers.Dense(4)])
    images = np.random.default_rng(0).random((50, *GREY), np.float32)
    page.check_chain(net, images, 1.0, "net.keras")
    monkeypatch.setattr(page, "chain", lambda model, path: model.layers + [layers.Rescaling(2.0)])
    with pytest.raises(UserError, match="the page would leave out a part of this model"):
        page.check_chain(net, images, 1.0, "net.keras")


def test_numbers_that_a_browser_cannot_read_are_refused():
    with pytest.raises(UserError, match="not a finite number"):
        page.page_text({"models": [{"temperature": float("nan")}]})
