"""Teachers, students and data of one's own: any Keras classifier, any arrays, missing labels, distill.distill."""

import json
import re
import shutil
from dataclasses import replace

from support import UserError, batches, classifier, metrics, model_files, training
from support.classifier import to_unit

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, SMALL, batches_of, distilled, logits_of, make_arrays, same_weights
from PIL import Image

import data
import distill
import student
import teacher

layers = keras.layers


def convolutional(shape=(12, 10, 1), num_classes=3, white=1.0, last=None):
    """A net with Rescaling, a convolution, BatchNormalization, dropout, two branches and a penalty."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input(shape)
    maps = layers.Rescaling(1 / white)(inputs)
    maps = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(maps)))
    left = layers.GlobalAveragePooling2D()(maps)
    right = layers.Dense(8, "relu", kernel_regularizer="l2")(layers.Dropout(0.2)(layers.Flatten()(maps)))
    return keras.Model(inputs, layers.Dense(num_classes, last)(layers.Concatenate()([left, right])))


def flat(num_inputs=120, num_classes=3, last=None):
    return keras.Sequential([keras.Input((num_inputs,)), layers.Dense(16, "relu"), layers.Dense(num_classes, last)])


# ---- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("takes", "example", "expected"),
    [
        ((28, 28), (28, 28), (28, 28)),
        ((28, 28, 1), (28, 28), (28, 28, 1)),
        ((784,), (28, 28), (784,)),
        ((None, None, 1), (28, 28), (28, 28, 1)),
        ((None, None, 3), (32, 32, 3), (32, 32, 3)),
        ((1, 28, 28), (28, 28), (1, 28, 28)),
        ((20,), (20,), (20,)),
        ((28, 28), (784,), (28, 28)),
        ((28, 28), (28, 28, 1), (28, 28)),
        ((28, 28), (28, 27), None),
        ((10, 12), (12, 10), None),  # as many numbers, but the pixels would be scrambled
        ((3, 12, 10), (12, 10, 3), None),
        ((14, 56), (28, 28), None),
        ((None, None, 3), (28, 28), None),
        ((None, 28), (28, 28, 3), None),
    ],
)
def test_a_model_fits_examples_of_as_many_numbers(takes, example, expected):
    assert classifier.fitting_shape(keras.Sequential([keras.Input(takes), layers.Identity()]), example) == expected


@pytest.mark.parametrize(("make", "last"), [(convolutional, "softmax"), (convolutional, None), (flat, "softmax")])
def test_a_teacher_of_any_form_gives_its_own_probabilities(digits, make, last):
    net, images = make(last=last), digits.train.images
    outputs = net(classifier.to_unit(images).numpy().reshape(-1, *net.input_shape[1:]), training=False).numpy()
    probabilities = outputs if last else np.exp(metrics.log_softmax(outputs))
    logits = logits_of(net, images)[:, 0]
    np.testing.assert_allclose(distill.soft_targets(logits, 1.0), probabilities, atol=1e-5)


def test_several_teachers_give_the_mean_of_their_probabilities(digits):
    nets, images = [convolutional(), flat(last="softmax")], digits.train.images
    probabilities = [distill.soft_targets(logits_of(net, images), 1.0) for net in nets]
    mean = distill.soft_targets(logits_of(nets, images), 1.0)
    np.testing.assert_allclose(mean, np.mean(probabilities, 0), atol=1e-6)


def test_a_teacher_that_wants_0_to_255_is_given_that(digits):
    images = digits.train.images
    plain, scaled = convolutional(), convolutional(white=255.0)
    logits = logits_of(scaled, images, pixels=255.0)
    np.testing.assert_allclose(logits, logits_of(plain, images), atol=1e-4)


def test_a_teacher_no_better_than_the_commonest_class_is_refused_before_any_training(refusal, tiny, tmp_path):
    net = flat()
    net.layers[-1].bias.assign([100.0, 0.0, 0.0])
    net.save(tmp_path / "bad.keras")
    options = ["--data", tiny, "--out", tmp_path, "--teacher", tmp_path / "bad.keras", "--batch-size", "20"]
    status, line = refusal(distill.main, *options)
    assert (status, "the teacher is no better than chance" in line, "--teacher-pixels 255" in line) == (1, True, True)
    assert not (tmp_path / "student.keras").exists()


def test_the_scripts_distil_any_classifier_into_any_other(tiny, tmp_path, printed, digits, knowing, cheap):
    good, own = tmp_path / "good.keras", tmp_path / "own.keras"
    trained = keras.models.load_model(knowing)
    keras.Sequential([keras.Input((12, 10)), *trained.layers, layers.Softmax()]).save(good)
    start = convolutional(last="softmax")
    start.save(own)
    options = ["--data", tiny, "--out", tmp_path, "--batch-size", 20, "--epochs", 2, "--translate", 1]
    printed(distill.main, *options, "--teacher", good, good, "--student", own)
    for name in ("student", "distilled"):
        saved = keras.models.load_model(tmp_path / f"{name}.keras")
        assert [type(layer) for layer in saved.layers] == [type(layer) for layer in start.layers]
        assert not np.array_equal(saved.get_weights()[0], start.get_weights()[0])
        settings = model_files.load_training(tmp_path / f"{name}.keras")[0]
        assert settings["student"].endswith(model_files.weights_sha256(start))
    again, _ = student.train_student(digits, student.DEFAULTS.updated(settings), path=own)
    assert same_weights(again, keras.models.load_model(tmp_path / "student.keras"))
    lines = printed(distill.main, *options, "--teacher", good, good, "--student", own, "--hidden", 99)
    assert "note: --student brings its layers, so hidden, crop, pool, activation have no effect" in lines


OTHER_FILES = {
    "logits.npy": "an array of NumPy: .*numpy.savez.'logits.npz', train=numpy.load.'.*logits.npy'",
    "net.pt": "a file of PyTorch: a teacher's outputs .* numpy.savez.'logits.npz', train=",
    "net.pth": "a file of PyTorch",
    "net.onnx": "an ONNX model: a teacher's outputs",
    "NET.TFLITE": "a LiteRT .* model: a teacher's outputs",
    "net.pkl": "a pickle, which is Python code and is not loaded: a teacher's outputs",
    "net.ckpt.data-00000-of-00001": "a checkpoint, which has weights only: a teacher's outputs",
    "net.npz": "a file of arrays: a teacher's logits.npz is for --teacher",
    "net.bin": "its name does not end in .keras.*: if Keras saved it so, rename it .*; otherwise, a teacher's outputs",
    "folder/notes.txt": "folder is a folder: name a model file",
    "net/config.json": "net is a .keras file that was unpacked: python -c .* packs it again",
    "model.json": "layers without their weights: build it in Python, .*load_weights.*save",
    "net/saved_model.pb": "net is a SavedModel of TensorFlow.* keras.layers.TFSMLayer.'.*net', .*; a teacher's outputs",
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_a_file_that_is_no_keras_model_is_named_with_what_to_do(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"PK")
    given = tmp_path / name.split("/")[0]
    for path in {given, tmp_path / name} if name.endswith(".pb") else {given}:
        with pytest.raises(UserError, match=OTHER_FILES[name].replace("net is", f"{path.name} is")) as refused:
            model_files.load(path, (12, 10), 3)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["net.h5", "net.hdf5", "net.keras"])
def test_a_model_in_keras_older_format_is_loaded_whatever_its_name(tmp_path, name):
    net = convolutional(last=tf.nn.softmax)
    net.save(tmp_path / "saved.h5")
    (tmp_path / "saved.h5").rename(tmp_path / name)
    loaded = model_files.load(tmp_path / name, (12, 10), 3)
    examples = np.float32(make_arrays()["x_test"][..., None] / 255)
    np.testing.assert_array_equal(loaded(examples), net(examples))
    assert model_files.load_training(tmp_path / name) == ({}, [])


@pytest.mark.parametrize("is_list", [False, True])
def test_a_sequential_of_keras_before_2_3_is_refused_and_not_misread(tmp_path, is_list):
    """Keras 3 would take the axis of the batch for one of the inputs."""
    flat().save(tmp_path / "old.h5")
    with h5py.File(tmp_path / "old.h5", "a") as file:
        config = json.loads(file.attrs["model_config"])
        first, *others = config["config"]["layers"]
        others[0]["config"]["batch_input_shape"] = first["config"]["batch_shape"]
        config["config"] = others if is_list else {"name": "old", "layers": others}
        file.attrs["model_config"], file.attrs["keras_version"] = json.dumps(config), "2.1.6"
    with pytest.raises(UserError, match="Keras 2.1.6 saved it.*: pip install tf-keras; python -c .*'NEW.h5'"):
        model_files.load(tmp_path / "old.h5", (120,), 3)


@pytest.mark.parametrize("name", ["model.weights.h5", "mnist.h5", "net.keras"])
def test_of_weights_alone_the_line_says_how_to_make_a_model(tmp_path, monkeypatch, name):
    net = flat()
    net.save_weights(tmp_path / "w.weights.h5")
    (tmp_path / "w.weights.h5").rename(tmp_path / name)
    with pytest.raises(UserError, match="has no model, at most a model's weights") as refused:
        model_files.load(tmp_path / name, (120,), 3)
    monkeypatch.chdir(tmp_path)
    if name != "model.weights.h5":
        (tmp_path / name).rename(re.search("rename it to (.*?);", str(refused.value))[1])
    model = keras.models.clone_model(net)
    exec(str(refused.value).split("own layers; ")[1], {"model": model})  # noqa: S102 - as the user does
    assert same_weights(model_files.load(tmp_path / "NAME.keras", (120,), 3), net)


def test_an_unpacked_model_can_be_packed_again(tmp_path, monkeypatch):
    net = flat()
    net.save(tmp_path / "net.keras")
    shutil.unpack_archive(tmp_path / "net.keras", tmp_path / "net", "zip")
    with pytest.raises(UserError) as refused:
        model_files.load(tmp_path / "net", (120,), 3)
    monkeypatch.chdir(tmp_path)
    exec(str(refused.value).split('"')[1])  # noqa: S102 - as the user does
    assert same_weights(model_files.load(tmp_path / "NAME.keras", (120,), 3), net)


TF_NN = ["relu", "relu6", "elu", "selu", "gelu", "silu", "leaky_relu", "softplus", "tanh", "log_softmax", "softmax"]


@pytest.mark.parametrize("name", TF_NN)
def test_an_activation_of_tf_nn_is_loaded_again(tmp_path, name):
    net = flat(last=getattr(tf.nn, name))
    net.save(tmp_path / "net.keras")
    loaded = model_files.load(tmp_path / "net.keras", (120,), 3)
    examples = np.float32(make_arrays()["x_test"].reshape(-1, 120) / 255)
    np.testing.assert_array_equal(loaded(examples), net(examples))
    for model in (net, loaded):
        assert classifier.output_kind(model, np.asarray(model(examples))) == (
            "softmax" if name == "softmax" else "logits"
        )
    loaded.save(tmp_path / "again.keras")
    assert same_weights(keras.models.load_model(tmp_path / "again.keras"), net)


# ---- data ------------------------------------------------------------------------------------------------------------


def save(path, **changes):
    np.savez(path, **(make_arrays() | changes))
    return path


def test_floats_are_taken_as_they_are(tmp_path):
    values = np.random.default_rng(0).normal(0, 100, (240, 7)).astype(np.float16)
    dataset = data.load(save(tmp_path / "own.npz", x_train=values, x_test=values[:60]), 0)
    assert dataset.train.images.dtype == np.float32
    batches = batches_of(dataset.train, 240, seed=0)
    examples = to_unit(batches.epoch(1).of_step(0).images)
    assert np.array_equal(np.sort(examples, 0), np.sort(values.astype(np.float32), 0))


@pytest.mark.parametrize("views", [{"translate": 1}, {"distort": 1.0}])
def test_every_channel_is_shifted_and_distorted_alike_and_no_table_is(views):
    arrays = make_arrays()
    grey = data.Split(arrays["x_train"], arrays["y_train"].astype(np.int32))
    three = grey._replace(images=grey.images[..., None] * np.array([1, 0, 1], np.uint8))
    seen = []
    for split in (grey, three):
        batches = batches_of(split, 240, seed=5, **views)
        seen.append(to_unit(batches.epoch(1).of_step(0).images).numpy())
    for channel, expected in enumerate((seen[0], 0 * seen[0], seen[0])):
        np.testing.assert_array_equal(seen[1][..., channel], expected)
    with pytest.raises(UserError, match=r"are for images, but an example here has shape \(120,\)"):
        batches_of(grey._replace(images=grey.images.reshape(240, 120)), 20, seed=0, **views)


def test_without_a_network_a_known_data_set_is_refused_in_a_line(monkeypatch):
    def load_data():
        raise OSError("URL fetch failure")

    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", load_data)
    with pytest.raises(UserError, match="Keras cannot download fashion_mnist"):
        data.load("fashion_mnist")


def test_a_known_data_set_is_loaded_with_its_class_names(monkeypatch):
    arrays = make_arrays(num_classes=5)
    colours = {part: make_arrays()[f"x_{part}"][..., None].repeat(3, -1) for part in ("train", "test")}
    parts = tuple((images, arrays[f"y_{part}"][:, None] * 2) for part, images in colours.items())
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: parts)
    monkeypatch.setattr(data, "KERAS_DATASETS", {"cifar10": data.CIFAR10[:9]})
    dataset = data.load("cifar10")
    assert dataset.names[8] == "ship"
    assert dataset.image_shape == (12, 10, 3)


# ---- labels that are missing -----------------------------------------------------------------------------------------


def hidden_labels(share, path):
    labels = make_arrays()["y_train"].astype(int)
    return save(path, y_train=np.where(np.random.default_rng(0).random(240) < share, -1, labels))


def test_validation_images_have_labels_and_the_baseline_sees_no_others(tmp_path):
    dataset = data.load(hidden_labels(0.8, tmp_path / "few.npz"), 20)
    assert (dataset.validation.labels >= 0).all()
    assert len(dataset.train.labels) == 220
    labelled = dataset.train.labelled()
    assert len(labelled.labels) == 220  # repeated, so that an epoch has as many steps
    known = dataset.train.images[dataset.train.labels >= 0]
    assert {image.tobytes() for image in labelled.images} == {image.tobytes() for image in known}
    unlike = dataset._replace(train=data.Split(dataset.train.images.copy(), dataset.train.labels))
    unlike.train.images[dataset.train.labels < 0] = 0
    assert same_weights(*(student.train_student(either, SMALL)[0] for either in (dataset, unlike)))


def test_unlabelled_images_teach_through_the_teacher(tmp_path, digits, knowing):
    few_labels = data.load(hidden_labels(0.95, tmp_path / "few.npz"), 0)
    logits = logits_of(keras.models.load_model(knowing), few_labels.train.images)
    recipe = replace(SMALL, hidden=(32,), epochs=60)
    alone, _ = student.train_student(few_labels, recipe)
    recipe = distill.DEFAULTS.updated(recipe.settings() | {"temperature": 2.0, "alpha": 0.5})
    taught, history = distilled(few_labels, recipe, logits)
    assert classifier.count_errors(taught, digits.test) < classifier.count_errors(alone, digits.test) - 5
    assert history[-1].training_accuracy > 0.1  # of steps' labelled images; of all images it would be at most 0.05


# ---- from Python -----------------------------------------------------------------------------------------------------


class Recorder(keras.callbacks.Callback):
    def __init__(self, stop_after):
        super().__init__()
        self.heard, self.stop_after = [], stop_after

    def on_train_begin(self, logs=None):
        self.heard.append("begin")

    def on_epoch_begin(self, epoch, logs=None):
        self.heard.append(epoch)

    def on_epoch_end(self, epoch, logs=None):
        self.heard.append(sorted(logs))
        self.model.stop_training = epoch + 1 == self.stop_after

    def on_train_end(self, logs=None):
        self.heard.append("end")


def test_callbacks_hear_of_training_and_epochs_and_may_stop_it(digits, capfd):
    recorder = Recorder(2)
    options = {"epochs": 5, "batch_size": 20, "callbacks": [recorder]}
    history = distill.distill(flat(), convolutional(), *digits.train, validation=digits.validation, **options)
    logs = ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert recorder.heard == ["begin", 0, logs, 1, logs, "end"]
    assert len(history) == 2
    assert capfd.readouterr() == ("", "")


def test_keras_own_callbacks_work(digits, tmp_path):
    own = keras.callbacks
    early = own.EarlyStopping("loss", min_delta=10.0, patience=1)
    callbacks = [own.CSVLogger(tmp_path / "log.csv"), early, own.TensorBoard(tmp_path / "board")]
    callbacks.append(own.ModelCheckpoint(tmp_path / "best.keras", "loss", save_best_only=True))
    options = {"epochs": 9, "batch_size": 20, "translate": 1, "callbacks": callbacks}
    net = flat()
    assert len(distill.distill(net, convolutional(), *digits.train, **options)) == 2
    assert getattr(net, "optimizer", None) is None
    assert keras.models.load_model(tmp_path / "best.keras").count_params() == net.count_params()
    assert (tmp_path / "log.csv").read_text().startswith("epoch,accuracy,loss")
    assert list((tmp_path / "board").rglob("events*"))


def test_a_single_callback_and_an_optimizer_by_name_are_taken_as_keras_takes_them(digits):
    recorder, nets = Recorder(9), []
    for options in ({"optimizer": "sgd", "callbacks": recorder}, {"optimizer": keras.optimizers.SGD()}):
        keras.utils.set_random_seed(0)
        nets.append(flat())
        distill.distill(nets[-1], convolutional(), *digits.train, epochs=1, batch_size=20, **options)
    assert recorder.heard[0] == "begin" and recorder.heard[-1] == "end"
    assert same_weights(*nets)


def test_distilling_from_python_is_what_the_scripts_do(digits, knowing):
    teacher_net = keras.models.load_model(knowing)
    recipe = distill.DistillRecipe(**SMALL.settings() | {"hidden": (8,), "translate": 1, "alpha": 0.3})
    logits = logits_of(teacher_net, digits.train.images, recipe.translate)
    by_script, _ = distilled(digits, recipe, logits)
    net = student.build_student(digits.image_shape, 3, recipe, recipe.seed)
    options = recipe.only("temperature", "alpha", "epochs", "batch_size", "learning_rate", "translate")
    distill.distill(net, teacher_net, *digits.train, **options)
    assert same_weights(net, by_script)


def test_a_run_that_diverges_leaves_no_optimizer_in_the_model(digits):
    net = flat()
    with pytest.raises(UserError, match="diverged"):
        distill.distill(net, convolutional(), *digits.train, epochs=2, batch_size=20, learning_rate=1e6, alpha=1)
    assert getattr(net, "optimizer", None) is None


def test_a_model_for_other_examples_is_refused_in_words(digits):
    problem = r"a model that takes \(None, 20\) cannot take examples of shape \(12, 10\)"
    for student_net, teacher_net in ((flat(), flat(20)), (flat(20), flat())):
        with pytest.raises(UserError, match=problem):
            distill.distill(student_net, teacher_net, *digits.train, epochs=1, batch_size=20)


def test_the_readmes_example_of_distill_runs_as_it_stands(tmp_path, monkeypatch):
    block = readme_block("import data, distill, keras\n")
    assert len(block.splitlines()) <= 15
    (tmp_path / "artifacts").mkdir()
    net = teacher.build_teacher((28, 28), 10, replace(teacher.DEFAULTS, hidden=(8,)))
    net.save(tmp_path / "artifacts" / "teacher.keras")
    monkeypatch.chdir(tmp_path)
    variables = {}
    exec(block, variables)  # noqa: S102
    assert variables["history"][-1].validation_accuracy > 0.5
    assert (tmp_path / "my_student.keras").exists()


def readme_block(words):
    """The one block of Python in tools/README.md that has these words."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "tools" / "README.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if words in block]
    return block


def test_the_readmes_teacher_of_scikit_learn_teaches(tiny, tmp_path, monkeypatch, printed):
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny, "mine.npz")
    exec(readme_block("import RandomForestClassifier").replace("300", "30"), {})  # noqa: S102
    options = ["--data", "mine.npz", "--teacher", "logits.npz", "--epochs", "20", "--out", "out"]
    lines = printed(distill.main, *options)
    assert float(re.search(r"teacher: accuracy ([\d.]+)% on 220 training", lines)[1]) > 80  # of images held out
    saved = np.load("logits.npz")
    assert not (saved["train"].max(1) == 1).all()


def test_a_teachers_log_probability_may_be_of_0(digits):
    certain = np.where(np.eye(3)[digits.train.labels] == 1, 0.0, -np.inf).astype(np.float32)
    answers = {image.tobytes(): row for image, row in zip(digits.train.images, certain)}
    teacher = lambda images: [answers[image.tobytes()] for image in images]
    history = distill.distill(flat(), teacher, *digits.train, epochs=2, batch_size=20, alpha=0.9)
    assert np.isfinite(history[-1].loss)


def test_the_readmes_result_is_read_and_names_a_class(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    keras.Sequential([keras.Input((12, 10, 3)), layers.Flatten(), layers.Dense(2)]).save("mine/distilled.keras")
    np.savez("mine.npz", x_train=np.zeros((4, 12, 10, 3), np.uint8), class_names=["cat", "dog"])
    Image.new("RGB", (50, 60)).save("new.jpg")
    exec(readme_block("student.predict(photo[None]"), {})  # noqa: S102
    assert capsys.readouterr().out.splitlines()[-1] in ("['cat']", "['dog']")


def test_a_function_is_not_asked_about_all_images_by_a_loss_on_labels_alone(digits):
    asked, net = [], flat()
    teacher = lambda images: (asked.append(len(images)), 9 * np.eye(3)[np.zeros(len(images), int)])[1]
    for loss in ("labels", "distillation"):
        distill.distill(net, teacher, *digits.train, loss=loss, epochs=1, batch_size=20)
        assert (max(asked) == len(digits.train.labels)) == (loss == "distillation")


def test_the_readmes_shifts_are_those_that_a_file_of_logits_needs():
    variables = {"numpy": np}
    exec(readme_block("def all_shifts").split("\n\n\n")[0], variables)  # noqa: S102
    for images, pixels in ((IMAGES[:5], 1), (np.repeat(IMAGES[:5, ..., None], 3, -1), 2)):
        ours = list(batches.all_shifts(images, pixels))
        np.testing.assert_array_equal(list(variables["all_shifts"](images, pixels)), ours)


def test_the_loss_with_no_report_prints_nothing(digits, capfd):
    batches = batches_of(digits.train, 20, seed=0)
    training.train([training.Trainer(flat(), batches, training.cross_entropy, replace(SMALL, epochs=1))])
    assert capfd.readouterr() == ("", "")


# ---- arguments of distill.distill ------------------------------------------------------------------------------------


IMAGES, LABELS = make_arrays()["x_train"], make_arrays()["y_train"].astype(int)
RUN = {"epochs": 3, "batch_size": 20, "learning_rate": 0.01}


def test_labels_in_a_column_or_as_whole_floats_are_labels(eager):
    def history_of(labels):
        keras.utils.set_random_seed(0)
        return [row[1:4] for row in distill.distill(flat(), flat(), IMAGES, labels, **RUN)]

    plain = history_of(LABELS)
    for labels in (LABELS[:, None], LABELS.astype(float), LABELS.tolist()):
        assert str(history_of(labels)) == str(plain)  # nan is unlike nan
    some_missing = history_of(np.where(LABELS > 1, -1, LABELS)[:, None])
    assert some_missing != plain
    assert all(0 <= accuracy <= 1 for _, accuracy, _ in some_missing)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.eye(3)[LABELS]}, r"labels is float64 \(240, 3\).*of one-hot labels, take argmax\(-1\)"),
        ({"labels": LABELS + 1}, r"labels has a label 3, but the nets have classes 0...2 only"),
        ({"labels": LABELS + 0.5}, "labels has labels that are no whole numbers"),
        ({"labels": LABELS[1:]}, "images has 240 images and labels 239 labels: they must match"),
        ({"images": IMAGES.astype(np.int64)}, "images is int64"),
        ({"images": IMAGES.tolist()}, "images is int64"),
        ({"temperature": 0}, "temperature: 0 is not from 0.001 to 1000000"),
        ({"temperature": "hot"}, "temperature: 'hot' is not a number"),
        ({"temprature": 3}, "there is no setting temprature: choose from hidden, seed"),
        ({"loss": "mse"}, "loss is 'mse': choose from distillation, labels"),
        ({"loss": lambda labels, taught, logits: tf.reduce_mean(logits)}, r"the loss returns the shape \(\)"),
        ({"callbacks": keras.callbacks.History}, "callbacks must be Keras callbacks"),
        ({"callbacks": [lambda epoch: None]}, "callbacks must be Keras callbacks"),
        ({"alpha": 1.5}, "alpha: 1.5 is not from 0 to 1"),
        ({"epochs": 0}, "epochs: 0 is not from 1"),
        ({"batch_size": 0}, "batch_size: 0 is not from 1"),
        ({"batch_size": 241}, "the batch size, 241, is larger than the 240 training examples"),
        ({"learning_rate": 0}, "learning_rate: 0 is not from 1e-12"),
        ({"teacher": flat(num_classes=4)}, "student and teacher have different numbers of classes: 3, 4"),
        ({"teacher": [flat(), flat(num_classes=4)]}, "the teachers have different numbers of classes"),
        ({"validation": IMAGES}, r"validation must be a pair, \(images, labels\)"),
        ({"validation": (IMAGES, LABELS[:5])}, r"validation\[0\] has 240 images and validation\[1\] 5 labels"),
        ({"validation": (IMAGES, LABELS + 1)}, r"validation\[1\] has a label 3"),
        ({"validation": (IMAGES, LABELS - 1)}, r"validation\[1\] has labels below 0"),
        ({"student": [flat()]}, "student is a list: it must be a Keras model"),
        ({"optimizer": "adm"}, "optimizer must be a Keras optimizer, or the name of one, such as 'adam'"),
        ({"callbacks": [keras.callbacks.ReduceLROnPlateau()]}, "ReduceLROnPlateau sets the learning rate"),
        ({"callbacks": [keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)]}, "optimizer=keras.optimizers.Adam"),
    ],
)
def test_an_argument_that_cannot_be_used_is_refused_in_a_sentence(changes, message):
    arguments = {"student": flat(), "images": IMAGES, "labels": LABELS, "teacher": flat()} | RUN | changes
    with pytest.raises(UserError, match=message):
        distill.distill(**arguments)


def test_nets_that_were_never_built_are_built_from_the_examples():
    nets = [keras.Sequential([layers.Flatten(), layers.Dense(3)]) for _ in range(2)]
    assert len(distill.distill(*nets, IMAGES, LABELS, **RUN)) == 3


def test_a_frozen_student_is_refused(digits, refusal, tiny, tmp_path):
    net = flat()
    net.trainable = False
    with pytest.raises(UserError, match="has nothing to train: all its layers are frozen"):
        distill.distill(net, flat(), *digits.train, **RUN)
    net.save(tmp_path / "frozen.keras")
    status, line = refusal(student.main, "--data", tiny, "--out", tmp_path, "--student", tmp_path / "frozen.keras")
    assert (status, f"{tmp_path / 'frozen.keras'} has nothing to train" in line) == (1, True)


# ---- callbacks and optimizers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy"])
def test_early_stopping_needs_no_mode(digits, monitor):
    options = {"validation": digits.validation, "batch_size": 20, "epochs": 50, "learning_rate": 1e-9}
    stopping = keras.callbacks.EarlyStopping(monitor, min_delta=1e-3)
    assert len(distill.distill(flat(), flat(), *digits.train, callbacks=[stopping], **options)) == 2


def test_val_loss_is_the_cross_entropy_with_the_labels(digits):
    heard, net = [], flat()
    recorder = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: heard.append(logs["val_loss"]))
    distill.distill(net, flat(), *digits.train, validation=digits.validation, callbacks=[recorder], **RUN)
    logits = classifier.predictor(net)(digits.validation.images)
    assert heard[-1] == pytest.approx(metrics.nll(digits.validation.labels, logits), rel=1e-5)


def test_a_run_goes_on_from_keras_backup(digits, tmp_path):
    def stop(epoch, logs):
        if epoch == 2:
            raise KeyboardInterrupt

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    stopped = [backup, keras.callbacks.LambdaCallback(on_epoch_end=stop)]
    options = {"epochs": 5, "batch_size": 20}
    with pytest.raises(KeyboardInterrupt):
        distill.distill(flat(), flat(), *digits.train, callbacks=stopped, **options)
    history = distill.distill(flat(), flat(), *digits.train, callbacks=[backup], **options)
    assert [row.epoch for row in history] == [4, 5]


def test_an_optimizer_is_used_as_it_is(digits):
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (1 + epoch))
    options = {"callbacks": [schedule, keras.callbacks.ProgbarLogger()], "epochs": 3, "batch_size": 20}
    optimizer = keras.optimizers.SGD(0.5, momentum=0.9)
    distill.distill(flat(), flat(), *digits.train, optimizer=optimizer, **options)
    assert float(optimizer.learning_rate) == pytest.approx(0.1 / 3)
    assert int(optimizer.iterations) == 3 * 11
    net = flat()
    before = net.get_weights()
    distill.distill(net, flat(), *digits.train, optimizer=keras.optimizers.SGD(0.0), epochs=1, batch_size=20)
    assert all(map(np.array_equal, before, net.get_weights()))


def test_an_optimizer_that_scales_the_loss_takes_the_steps_of_the_one_inside(digits):
    nets = []
    for wrap in (keras.optimizers.LossScaleOptimizer, lambda optimizer: optimizer):
        keras.utils.set_random_seed(0)
        nets.append(flat())
        optimizer = wrap(keras.optimizers.Adam(0.01))
        distill.distill(nets[-1], convolutional(), *digits.train, optimizer=optimizer, epochs=2, batch_size=20)
    for with_scale, without in zip(*(net.get_weights() for net in nets)):
        np.testing.assert_allclose(with_scale, without, atol=1e-4)


# ---- students that XLA, or one dtype, cannot do ----------------------------------------------------------------------


def test_a_student_that_xla_cannot_compile_is_trained_without_it(digits):
    image = keras.Input((12, 10, 1))
    net = keras.Model(image, layers.Dense(3)(layers.Flatten()(layers.Resizing(6, 5, "bicubic")(image))))
    assert distill.distill(net, flat(), *digits.train, epochs=1, batch_size=20)[-1].loss > 0


def test_penalties_of_another_dtype_count(digits):
    penalty = {"kernel_regularizer": "l2", "dtype": "float64"}
    net = keras.Sequential([keras.Input((12, 10), dtype="float64"), layers.Flatten(), layers.Dense(3, **penalty)])
    assert distill.distill(net, flat(), *digits.train, epochs=1, batch_size=20)[-1].loss > 0


@pytest.fixture
def other_defaults():
    """What ~/.keras/keras.json may say."""
    keras.config.set_image_data_format("channels_first")
    keras.config.set_floatx("float16")
    yield
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")


def test_our_own_nets_do_not_depend_on_keras_settings(other_defaults):
    net = student.build_student((28, 28), 10, student.StudentRecipe(hidden=(2,), pool=2, crop=1))
    assert net.count_params() == 13 * 13 * 2 + 2 + 2 * 10 + 10
    big = teacher.build_teacher((6, 5, 3), 10, replace(teacher.DEFAULTS, hidden=(4,), dropout=0.1, input_dropout=0.1))
    for model in (net, big):
        assert {weight.dtype for weight in model.weights if "seed" not in weight.name} == {"float32"}
        assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    colours = np.arange(90, dtype=np.float32).reshape(1, 6, 5, 3)
    np.testing.assert_array_equal(big.layers[0](colours)[0], colours.ravel())
