"""The report on a test set."""

import json

from support import UserError, classifier, files, model_files

import keras
import numpy as np
import pytest
from conftest import make_arrays

import data
import evaluate
import student

layers = keras.layers


def small_set(labels):
    """A data.Dataset of blank images with these labels, for test and for validation."""
    split = data.Split(np.zeros((len(labels), 2, 2), np.uint8), np.array(labels, np.int32))
    return data.Dataset(split, split, split, 3)


def evaluated(cost, test, validation):
    return evaluate.Evaluated(cost, {}, [], "", test, validation)


@pytest.mark.quick
def test_measure_counts_errors_per_class_and_agreement():
    digits = small_set([0, 0, 1, 2])
    logits = np.eye(3, dtype=np.float32)[[0, 1, 1, 0]] * 5
    model = evaluated({"parameters": 7}, logits, logits)
    teacher = evaluated({}, np.eye(3, dtype=np.float32)[[0, 1, 2, 2]], logits)
    row = evaluate.measure(model, digits, teacher)
    assert row["parameters"] == 7
    assert row["test_errors"] == 2
    assert row["accuracy"] == 0.5
    assert row["agreement"] == 0.5
    assert row["errors_per_class"] == [1, 0, 1]
    assert row["nll_at_best"] < row["nll"]
    assert row["ece_at_best"] < row["ece"]
    assert json.loads(json.dumps(row)) == row
    alone = evaluate.measure(model, digits._replace(validation=digits.test.take(slice(0))), None)
    unknown = ("agreement", "kl_to_teacher", "best_temperature", "ece_at_best")
    assert all(alone[key] is None for key in unknown)


def test_temperature_is_fitted_on_validation_and_tried_on_test():
    """Validation: 3 of 4 right at a gap of 4, so T = 4 / ln 3. Test: all right, at a gap that this makes ln 3."""
    labels, gaps = np.array([0, 0, 0, 1], np.int32), np.array([[4.0, 0.0]] * 4, np.float32)
    images = np.zeros((4, 2, 2), np.uint8)
    digits = data.Dataset(None, data.Split(images, labels), data.Split(images, 0 * labels), 2)
    teacher = evaluated({}, np.log(np.array([[0.5, 0.5]] * 4, np.float32)), gaps)
    row = evaluate.measure(evaluated({}, gaps, gaps), digits, teacher)
    assert row["best_temperature"] == pytest.approx(4 / np.log(3), rel=1e-3)
    assert row["nll_at_best"] == pytest.approx(np.log(4 / 3), rel=1e-3)
    assert row["ece_at_best"] == pytest.approx(0.25, rel=1e-3)
    sure = 1 / (1 + np.exp(-4))
    assert row["kl_to_teacher"] == pytest.approx(-np.log(2) - 0.5 * np.log(sure * (1 - sure)), rel=1e-5)
    assert (row["accuracy_low"], row["accuracy_high"]) == (pytest.approx(0.5101, abs=1e-4), 1.0)  # Wilson of 4 in 4


def test_the_report_of_one_foreign_model(tiny, tmp_path, printed):
    """One model that Keras saved, no teacher, no validation images, figures as SVG."""
    net = keras.Sequential([student.build_student((12, 10), 3), keras.layers.Softmax()])
    net.save(tmp_path / "my net.keras")
    (tmp_path / "my net.csv").write_text("epoch,accuracy,loss,val_accuracy,val_loss\n0,0.9,0.1,0.9,0.1\n")
    (tmp_path / "out" / "plots").mkdir(parents=True)
    for name in ("gallery.svg", "gallery.png", "errors_per_class.pdf"):  # of earlier evaluations
        (tmp_path / "out" / "plots" / name).touch()
    options = ["--data", tiny, "--out", tmp_path / "out", "--validation", 0, "--format", "svg"]
    printed(evaluate.main, *options, tmp_path / "my net.keras")
    row = json.loads((tmp_path / "out" / "metrics.json").read_text())["models"]["my net"]
    assert row["best_temperature"] is row["agreement"] is None
    drawn = sorted(path.name for path in (tmp_path / "out" / "plots").iterdir())
    assert drawn == ["accuracy_against_parameters.svg", "confusions.svg", "errors_per_class.svg"]


def test_a_teacher_is_no_student_and_listed_once_however_it_is_named(tiny, tmp_path, monkeypatch, printed, cheap):
    for name in ("big", "small"):
        student.build_student((12, 10), 3).save(tmp_path / f"{name}.keras")
    drawn = []
    monkeypatch.setattr(evaluate, "draw", lambda *arguments: drawn.append(arguments))
    monkeypatch.chdir(tmp_path)  # the teacher's path is spelled in two ways
    models = ["big.keras", tmp_path / "small.keras", "--teacher", tmp_path / "big.keras"]
    printed(evaluate.main, "--data", tiny, "--out", tmp_path, *models)
    ((_, evaluated, _, students, *_),) = drawn
    assert (list(evaluated), students) == (["big", "small"], ["small"])


def test_multiply_adds_are_those_of_the_layers():
    assert classifier.multiply_adds(student.build_student((28, 28), 10), (28, 28)) == 784 * 64 + 64 * 64 + 64 * 10
    image = keras.Input((8, 6))
    maps = layers.Conv2D(4, 3)(layers.Reshape((8, 6, 1))(image))  # (6, 4, 4)
    maps = layers.DepthwiseConv2D(3, padding="same")(maps)
    net = keras.Model(image, layers.Dense(5)(layers.Flatten()(maps)))
    assert classifier.multiply_adds(net, (8, 6)) == 6 * 4 * 4 * 9 + 6 * 4 * 4 * 9 + 96 * 5
    image = keras.Input((None, None, 1))
    net = keras.Model(image, layers.Dense(5)(layers.GlobalMaxPooling2D()(layers.Conv2D(4, 3)(image))))
    assert classifier.multiply_adds(net, (8, 6)) == 6 * 4 * 4 * 9 + 4 * 5
    recurrent = keras.Sequential([keras.Input((8, 6)), layers.LSTM(3), layers.Dense(2)])
    assert classifier.multiply_adds(recurrent, (8, 6)) is None


def test_a_model_that_ends_in_softmax_is_recognised_and_gives_the_same_metrics(digits, tmp_path):
    keras.utils.set_random_seed(0)
    net = student.build_student(digits.image_shape, digits.num_classes)
    net.save(tmp_path / "net.keras")
    keras.Sequential([net, keras.layers.Softmax()]).save(tmp_path / "soft.keras")
    plain, soft = (
        evaluate.measure(evaluate.run_model(tmp_path / f"{name}.keras", digits, 1.0, "--student-pixels"), digits, None)
        for name in ("net", "soft")
    )
    for key in ("test_errors", "nll", "ece", "best_temperature", "multiply_adds", "parameters"):
        assert soft[key] == pytest.approx(plain[key], rel=1e-3), key


def test_a_model_whose_classes_are_in_another_order_is_named(tiny, tmp_path, printed, cheap, knowing):
    net = keras.models.load_model(knowing)
    net.layers[-1].set_weights([weight[..., [1, 2, 0]] for weight in net.layers[-1].get_weights()])
    net.save(tmp_path / "sorted.keras")
    for name, is_other in ((tmp_path / "sorted.keras", True), (knowing, False)):
        report = printed(evaluate.main, "--data", tiny, "--out", tmp_path, name)
        assert ("if its classes are in another order, 1, 2, 0 (" in report) == is_other


def test_a_model_that_is_not_finite_is_refused(digits, tmp_path):
    net = student.build_student(digits.image_shape, digits.num_classes)
    net.set_weights([np.full_like(weight, np.nan) for weight in net.get_weights()])
    net.save(tmp_path / "nan.keras")
    with pytest.raises(UserError, match=r"nan.keras: the model's outputs are not finite"):
        evaluate.run_model(tmp_path / "nan.keras", digits, 1.0, "--student-pixels")


def test_compare_sorts_images_by_which_model_is_right():
    labels = np.zeros(10, int)
    first = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    second = np.array([0, 0, 0, 1, 0, 0, 1, 1, 1, 1])
    assert evaluate.compare(labels, first, second) == {
        "both_right": 3,
        "only_first_right": 1,
        "only_second_right": 2,
        "both_wrong": 4,
        "errors_saved_by_second": 1,
        "mcnemar_p": 1.0,
    }


def test_models_are_found_in_order_without_scratch_files(tmp_path):
    for name in ("distilled", "another", "student", ".student.partial", "teacher"):
        (tmp_path / f"{name}.keras").touch()
    assert list(evaluate.find_models([], tmp_path)) == ["teacher", "student", "distilled", "another"]
    same_stem = [tmp_path / "a" / "net.keras", tmp_path / "b" / "net.keras"]
    assert list(evaluate.find_models(same_stem, tmp_path)) == list(map(str, same_stem))


def test_no_models_is_said_in_a_line(refusal, tmp_path, tiny):
    status, line = refusal(evaluate.main, "--data", tiny, "--out", tmp_path)
    assert (
        status,
        "run `python teacher.py` and `python distill.py`, with the same --data and --out, first" in line,
    ) == (1, True)
    status, line = refusal(evaluate.main, "--min-accuracy", "97")
    assert (status, "97 is not from 0 to 1" in line) == (2, True)


def test_the_most_ambiguous_images_are_right_by_the_least_and_of_different_classes():
    labels = np.array([0, 0, 1, 1, 2, 2])
    margins = np.array([3.0, 1.0, 2.0, 0.5, -0.1, 4.0])  # by which the label leads; the fifth is wrong
    logits = np.zeros((6, 3), np.float32)
    logits[np.arange(6), labels] = margins
    assert evaluate.most_ambiguous(logits, labels, 3).tolist() == [3, 1, 5]
    assert evaluate.most_ambiguous(logits, labels, 2).tolist() == [3, 1]
    assert evaluate.most_ambiguous(-logits, labels, 3).tolist() == [4]


def test_the_gallery_shows_what_only_one_model_has_right():
    split = data.Split(np.arange(4, dtype=np.uint8).reshape(4, 1, 1), np.array([7, 7, 1, 1]))
    names = [f"<{label}>" for label in range(10)]
    groups = evaluate.only_one_right(split, names, ("a", np.array([7, 2, 1, 3])), ("b", np.array([4, 7, 1, 5])))
    assert {title: (images.ravel().tolist(), captions) for title, (images, captions) in groups.items()} == {
        "a wrong, b right": ([1], ["<7>, not <2>"]),
        "b wrong, a right": ([0], ["<7>, not <4>"]),
    }


def test_only_a_pair_is_credited_and_the_way_to_a_teacher_is_that_to_its_own(tiny, tmp_path, printed, cheap, knowing):
    nets = {name: student.build_student((12, 10), 3) for name in ("teacher", "student", "distilled")}
    knows = keras.models.load_model(knowing)
    fingerprints = {name: model_files.weights_sha256(net) for name, net in nets.items()}
    pair = {"baseline": fingerprints["student"], "teacher": model_files.weights_sha256(knows)}
    for net, settings, is_pair, is_its_teacher in (
        (knows, pair, True, True),
        (nets["teacher"], pair, True, False),
        (knows, pair | {"baseline": fingerprints["teacher"]}, False, True),
        (knows, {}, False, True),
    ):
        model_files.save(net, tmp_path / "teacher.keras", {"data": files.sha256(*data.load(tiny).train)}, [])
        model_files.save(nets["student"], tmp_path / "student.keras", {}, [])
        model_files.save(knows, tmp_path / "distilled.keras", settings, [])
        report = printed(evaluate.main, "--data", tiny, "--out", tmp_path)
        assert ("distillation saves" in report) == is_pair
        assert ("student and distilled are no pair" in report) != is_pair
        written = json.loads((tmp_path / "metrics.json").read_text())
        assert written["student_and_distilled_are_a_pair"] == is_pair
        assert ("of the way from the baseline to the teacher" in report) == (is_pair and is_its_teacher)


def test_a_teacher_of_other_data_that_nobody_named_stops_nothing(tiny, tmp_path, printed, cheap):
    student.build_student((7, 5), 4).save(tmp_path / "teacher.keras")
    student.build_student((12, 10), 3).save(tmp_path / "good.keras")
    report = printed(evaluate.main, "--data", tiny, "--out", tmp_path, tmp_path / "good.keras")
    assert "no model is compared with" in report
    assert json.loads((tmp_path / "metrics.json").read_text())["models"]["good"]["agreement"] is None


def test_teachers_in_another_order_are_the_same_teacher(tiny, tmp_path, printed, cheap):
    nets = {name: student.build_student((12, 10), 3) for name in ("a", "b", "c")}
    for name, net in nets.items():
        net.save(tmp_path / f"{name}.keras")
    settings = {"teacher": model_files.weights_sha256(nets["a"], nets["b"])}
    assert settings["teacher"] == model_files.weights_sha256(nets["b"], nets["a"])
    model_files.save(nets["c"], tmp_path / "taught.keras", settings, [])
    for names, is_its_teacher in (("ab", True), ("ba", True), ("ac", False)):
        teachers = [tmp_path / f"{name}.keras" for name in names]
        options = ["--data", tiny, "--out", tmp_path, tmp_path / "taught.keras", "--teacher", *teachers]
        assert ("had another teacher" not in printed(evaluate.main, *options)) == is_its_teacher


def test_a_link_to_a_file_of_another_name_is_a_model(tiny, tmp_path, printed, cheap):
    student.build_student((12, 10), 3).save(tmp_path / "net.keras")
    (tmp_path / "net.keras").rename(tmp_path / "0123abcd")
    (tmp_path / "link.keras").symlink_to("0123abcd")
    assert "\nlink " in printed(evaluate.main, "--data", tiny, "--out", tmp_path, tmp_path / "link.keras")


def test_any_name_can_be_drawn(tmp_path, printed, recwarn):
    names = np.array(["$\\mathds{N}$", "US$ or A$", "\u4e2d\u6587", *"abcdefghi"])
    np.savez(tmp_path / "names.npz", **make_arrays(shape=(26, 10), num_classes=12), class_names=names)
    net = tmp_path / "a$\\foo$.keras"
    student.build_student((26, 10), 12).save(net)
    options = ["--data", tmp_path / "names.npz", "--out", tmp_path, net, "--format", "svg"]
    report = printed(evaluate.main, *options)
    assert "there, these have their numbers" in report
    assert "\u4e2d\u6587" in report  # in the table
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
    assert (tmp_path / "plots" / "errors_per_class.svg").stat().st_size > 1000
