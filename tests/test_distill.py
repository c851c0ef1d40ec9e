"""Soft targets that belong to their image, a teacher left alone, and a student that learns from it."""

import json
import re
from dataclasses import replace

from support import UserError, classifier, files, model_files, teacher_logits, terminal
from support.batches import Batches
from support.classifier import to_unit
from support.recipe import TrainingRecipe
from support.teacher_logits import as_teacher, looked_up

import keras
import numpy as np
import pytest
from conftest import batches_of, distilled, logits_of, same_weights

import data
import distill
import evaluate
import student
import teacher
from tools import sweep


@pytest.fixture
def net(digits):
    """A teacher with large random weights, so that its logits tell every view of every image apart."""
    keras.utils.set_random_seed(5)
    shape = digits.image_shape, digits.num_classes
    built = teacher.build_teacher(*shape, replace(teacher.DEFAULTS, hidden=(16,)))
    built.set_weights([3 * weight for weight in built.get_weights()])
    return built


@pytest.mark.parametrize("translate", [0, 1, 2])
def test_after_any_shuffle_and_shift_logits_are_the_teachers_on_that_batch(digits, net, translate):
    logits = logits_of(net, digits.train.images, translate)
    assert logits.shape == (220, (2 * translate + 1) ** 2, 3)
    batches = batches_of(digits.train, 40, seed=9, translate=translate, teacher=looked_up(logits))
    for epoch in (1, 2):
        for step, indices in enumerate(batches.order(epoch)[0]):
            examples = batches.epoch(epoch).of_step(step)
            expected = net(to_unit(examples.images), training=False)
            np.testing.assert_allclose(examples.teacher_logits, expected, rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(examples.labels, digits.train.labels[indices])


def test_a_distorted_image_comes_with_the_teachers_logits_of_it_as_it_is_distorted(digits, net):
    recipe = TrainingRecipe(seed=9, batch_size=40, translate=0, distort=1.0)
    batches = Batches(digits.train, recipe, as_teacher(net).on_views(digits.train.images, recipe))
    examples = batches.epoch(1)
    for step in (0, 3):
        indices = batches.order(1)[0][step]
        images = to_unit(examples.of_step(step).images)
        logits = examples.of_step(step).teacher_logits
        np.testing.assert_allclose(logits, net(images, training=False), rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(examples.labels[step], digits.train.labels[indices])
        assert np.abs(images - digits.train.images[indices] / 255).max() > 0.1


def test_logits_are_computed_once_and_again_when_teacher_or_data_change(digits, net, tmp_path, monkeypatch):
    images = digits.train.images

    def times_computed(net, images, translate):
        asked = as_teacher(net)
        predict, computed = asked.predict, []
        asked.predict = lambda images: computed.append(len(images)) or predict(images)
        logits = asked.on_shifts(images, translate, cache=tmp_path)
        np.testing.assert_array_equal(logits, logits_of(net, images, translate))
        return sum(computed) / (len(images) * logits.shape[1])

    assert times_computed(net, images, 0) == 1
    assert times_computed(net, images, 0) == 0
    assert times_computed(net, images, 1) == 1
    assert times_computed(net, images, 0) == 0
    other_images = images.copy()
    other_images[3, 4, 5] ^= 1
    assert times_computed(net, other_images, 0) == 1
    net.layers[-1].bias.assign([0.0, 0.0, 1e-3])
    assert times_computed(net, other_images, 0) == 1
    path = tmp_path / "teacher_logits_0px.npz"
    path.write_bytes(path.read_bytes()[:-100])
    assert times_computed(net, other_images, 0) == 1
    assert times_computed(net, other_images, 0) == 0
    monkeypatch.setattr(teacher_logits, "LOGITS_VERSION", teacher_logits.LOGITS_VERSION + 1)
    assert times_computed(net, other_images, 0) == 1


def test_a_teacher_whose_outputs_are_not_finite_is_refused(digits, net):
    net.layers[-1].bias.assign([0.0, np.nan, 0.0])
    with pytest.raises(UserError, match="not finite"):
        logits_of(net, digits.train.images)


def test_a_pair_differs_in_the_loss_alone_and_the_teacher_stays_as_it_is(digits, net):
    before, trainable = [weight.copy() for weight in net.get_weights()], net.trainable
    logits = logits_of(net, digits.train.images, 1)
    recipe = distill.DistillRecipe(hidden=(8,), epochs=2, batch_size=20, translate=1)
    (baseline, _), (untaught, _) = distill.train_pair(digits, replace(recipe, alpha=0.0), looked_up(logits))
    for one, other in zip(baseline.get_weights(), untaught.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)  # so they have the same first weights, views and schedule
    alone, _ = student.train_student(digits, recipe)
    by_labels, taught = (model for model, _ in distill.train_pair(digits, recipe, looked_up(logits)))
    assert same_weights(by_labels, alone) and same_weights(by_labels, baseline)
    assert same_weights(taught, distilled(digits, recipe, logits)[0]) and not same_weights(taught, baseline)
    for one, other in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert net.trainable == trainable


def convolutional_student(image_shape, num_classes, recipe, seed):
    """Any net that somebody may write into student.py: state, dropout, a penalty, layers without a seed."""
    layers = keras.layers
    body = [layers.Reshape((*image_shape, 1)), layers.Conv2D(2, 3), layers.BatchNormalization(), layers.Flatten()]
    body += [layers.Dense(6, "relu", kernel_regularizer="l2"), layers.Dropout(0.2)]
    return keras.Sequential([keras.Input(image_shape), *body, layers.Dense(num_classes)])


@pytest.mark.parametrize("build", [student.build_student, convolutional_student])
def test_students_that_are_trained_together_come_out_bit_for_bit_as_in_pairs(digits, net, monkeypatch, build):
    monkeypatch.setattr(student, "build_student", build)
    recipe = distill.DistillRecipe(hidden=(8,), epochs=2, batch_size=20, translate=1)
    changes = [{"loss": "labels"}, {"temperature": 1.0, "alpha": 0.5, "epochs": 1}, {"temperature": 1e30}]
    changes += [{"hidden": (5, 5), "learning_rate": 1e-3, "weight_decay": 0.1, "label_smoothing": 0.1}]
    changes[-1] |= {"select": 0.5, "epochs": 5}  # so it is trained on other images than the others
    recipes = [replace(recipe, **each) for each in changes]
    views = as_teacher(net).on_views(digits.train.images, recipe)
    together = distill.train_students(digits, recipes, Batches(digits.train, recipe, views), 2)
    assert [len(history) for _, history in together] == [2, 1, 1, 5]
    assert not np.isfinite(together[2][1][-1].loss)  # it diverged, and leaves the others alone
    for number in (0, 1, 3):
        baseline, taught = (model for model, _ in distill.train_pair(digits, recipes[number], views))
        assert same_weights(together[number][0], taught)
        assert same_weights(baseline, taught) == (number == 0)


def test_the_baseline_of_few_labels_has_all_of_its_steps_on_labelled_examples(digits, net):
    few = np.where(np.arange(220) % 5, -1, digits.train.labels).astype(np.int32)
    dataset = digits._replace(train=data.Split(digits.train.images, few))
    recipe = distill.DistillRecipe(hidden=(8,), epochs=2, batch_size=20, translate=0)
    pair = distill.train_pair(dataset, recipe, looked_up(logits_of(net, digits.train.images)))
    alone, history = student.train_student(dataset, recipe)
    assert same_weights(pair[0][0], alone)
    assert [row.training_accuracy for row in pair[0][1]] == [row.training_accuracy for row in history]


def test_a_student_with_noise_for_labels_learns_what_its_teacher_knows_as_far_as_alpha_says(
    digits, tiny, tmp_path, knowing, printed
):
    random = np.random.default_rng(99)
    with np.load(tiny) as file:
        noise = random.integers(3, size=240).astype(np.uint8)
        labels = np.where(random.random(240) < 0.2, file["y_train"], noise)  # with noise alone, no teacher is better
        np.savez(tmp_path / "noise.npz", **(dict(file) | {"y_train": labels}))
    options = ["--data", tmp_path / "noise.npz", "--out", tmp_path, "--teacher", knowing, "--batch-size", 20]
    options += ["--hidden", 32, "--epochs", 40, "--learning-rate", 0.01]

    def accuracy(path):
        model = model_files.load(path, digits.image_shape, digits.num_classes)
        return 1 - classifier.count_errors(model, digits.test) / len(digits.test.labels)

    def student_accuracy(alpha):
        printed(distill.main, *options, "--alpha", alpha)
        assert model_files.load_training(tmp_path / "distilled.keras")[0]["alpha"] == alpha
        return accuracy(tmp_path / "distilled.keras")

    assert accuracy(knowing) > 0.8
    assert student_accuracy(alpha=1.0) > 0.75
    assert student_accuracy(alpha=0.0) < 0.6


def test_the_teacher_is_not_run_before_the_options_are_known_to_be_possible(refusal, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_logits.Teacher, "on_shifts", None)
    for option in (["--translate", "10"], ["--batch-size", "221"]):
        status, line = refusal(distill.main, "--data", tiny, "--out", tmp_path, *option, "--teacher", tmp_path / "none")
        assert (status, "lower it" in line) == (1, True)


@pytest.mark.parametrize(
    ("options", "translate", "distort", "dropout"),
    [
        ([], 1, 0, 0.25),
        (["--distort", "0"], 1, 0, 0.25),
        (["--distort", "1"], 0, 1, 0.25),
        (["--translate", "2"], 2, 0, 0.25),
        (["--distort", "0", "--translate", "2"], 2, 0, 0.25),
        (["--distort", "1", "--translate", "0"], 0, 1, 0.25),
        (["--data", "mine.npz"], 0, 0, 0.4),
        (["--data", "mine.npz", "--translate", "1"], 1, 0, 0.4),
        (["--data", "mine.npz", "--distort", "1", "--dropout", "0"], 0, 1, 0),
    ],
)
def test_a_distortion_replaces_the_default_shift_and_own_data_have_their_own_defaults(
    options, translate, distort, dropout
):
    mnist = replace(teacher.DEFAULTS, translate=1, distort=0.0, dropout=0.25)
    own_data = replace(mnist, translate=0, dropout=0.4)
    arguments = terminal.parser("", "data", mnist, own_data).parse_args(options)
    assert (arguments.translate, arguments.distort, arguments.dropout) == (translate, distort, dropout)


def test_with_own_data_the_scripts_neither_shift_nor_distort_nor_select():
    for module in (teacher, student, distill):
        recipe = module.OWN_DATA_DEFAULTS
        assert recipe.translate == recipe.distort == 0 and recipe.select == 1


@pytest.mark.parametrize(
    ("teacher", "baseline", "distilled", "sentence"),
    [
        (60, 138, 82, "saves 56 of the student's 138 test errors (40.6%), 72% of the way from"),
        (138, 138, 82, "saves 56 of the student's 138 test errors (40.6%)"),
        (60, 138, 138, "changes nothing: the student makes 138 test errors with it and without it"),
        (0, 0, 0, "changes nothing: the student makes 0 test errors with it and without it"),
        (60, 138, 150, "costs the student 12 test errors: 150 in place of 138"),
    ],
)
def test_the_gain_in_a_sentence(teacher, baseline, distilled, sentence):
    errors = {"teacher": teacher, "baseline": baseline, "distilled": distilled}
    end = " the baseline to the teacher" if sentence.endswith("from") else ""
    assert distill.describe_gain(errors) == f"distillation {sentence}{end}"


@pytest.mark.parametrize(
    ("train_errors", "found"),
    [(0, "a third to a half"), (11, "a third to a half"), (12, "none to a third"), (551, "a fifth")],
)
def test_the_training_error_says_what_a_teacher_saved_such_nets(train_errors, found):
    line = distill.describe_expected(train_errors, 55_000)
    assert line.startswith(f"the baseline has {train_errors / 550:.2f}% of its 55,000 labelled training images wrong")
    assert f"a teacher saved such nets {found}" in line


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({"teacher": 140}, "the teacher is hardly better than the baseline: try more --epochs for teacher.py"),
        ({"teacher": 140, "is_own_teacher": True}, "--teacher-pixels 255"),
        ({"baseline": 49, "teacher": 10}, "49 test errors are too few to tell"),
        ({"train_errors": 551}, "the student cannot fit its training images"),
        ({"baseline": 2, "teacher": 2}, "2 test errors are too few to tell"),
        ({"distort": 0.6}, "distorted images may have taught the student"),
        ({}, "tools/sweep.py --folds 5 tries others"),
        ({"is_own_teacher": True}, "tools/sweep.py tries others"),
        ({"teacher": None}, "T or alpha that does not suit these data"),
    ],
)
def test_a_possible_cause_of_no_gain(changed, cause):
    known = {"teacher": 60, "baseline": 145, "train_errors": 10, "distort": 0.0, "is_own_teacher": False} | changed
    errors = {name: known[name] for name in ("teacher", "baseline") if known[name] is not None} | {"distilled": 150}
    recipe = replace(distill.DEFAULTS, distort=known["distort"])
    assert cause in distill.possible_cause(errors, known["train_errors"], 55_000, recipe, known["is_own_teacher"])


def test_bad_options_end_with_status_2_and_a_line(refusal):
    for options, message in [
        (["--temperature", "0"], "0 is not from 0.001 to 1000000"),
        (["--temperature", "-4"], "--temperature: -4 is not"),
        (["--temperature", "hot"], "'hot' is not a number"),
        (["--temperature", "nan"], "nan is not"),
        (["--temperature", "inf"], "inf is not"),
        (["--alpha", "1.5"], "1.5 is not from 0 to 1"),
        (["--alpha", "-0.1"], "-0.1 is not from 0 to 1"),
        (["--alpha", "nan"], "nan is not"),
        (["--learning-rate", "0"], "--learning-rate: 0 is not"),
        (["--epochs", "0"], "0 is not from 1 to"),
        (["--epochs", "1.5"], "'1.5' is not a whole number"),
        (["--batch-size", "-1"], "-1 is not from 1 to"),
        (["--hidden", "64", "0"], "--hidden: 0 is not from 1 to"),
        (["--hidden", "many"], "'many' is not a whole number"),
        (["--seed", "-1"], "is not from 0 to 4294967295"),
        (["--translate", "-1"], "-1 is not from 0 to"),
        (["--hidden", "9" * 20], "9 is not from 1 to 1000000"),
        (["--pool", "0"], "--pool: 0 is not from 1 to"),
        (["--activation", "tahn"], "invalid choice: 'tahn'"),
        (["--crop", "-1"], "--crop: -1 is not from 0 to"),
        (["--distort", "-1"], "--distort: -1 is not from 0 to 10"),
        (["--distort", "1", "--translate", "1"], "exclude each other"),
        (["--temprature", "4"], "unrecognized arguments: --temprature"),
    ]:
        status, line = refusal(distill.main, *options)
        assert status == 2
        assert message in line
        assert "--help" in line
    status, line = refusal(teacher.main, "--dropout", "1")
    assert (status, "1 is not from 0 to 0.999" in line) == (2, True)


def test_what_the_user_can_mend_ends_with_status_1_and_a_line(refusal, tiny, tmp_path):
    common_options = ["--data", tiny, "--out", tmp_path, "--batch-size", "20"]
    status, line = refusal(distill.main, *common_options)
    assert (status, "teacher.keras: run `python teacher.py`, with the same --data" in line) == (1, True)
    for script in (student, distill):
        status, line = refusal(script.main, *common_options, "--crop", "5")
        assert (status, "--crop and --pool leave nothing of examples of shape (12, 10)" in line) == (1, True)
    status, line = refusal(student.main, "--data", tmp_path / "missing.npz", "--out", tmp_path)
    assert (status, "no such data file" in line) == (1, True)


# ---- which teacher ---------------------------------------------------------------------------------------------------


SHORT = ["--batch-size", "20", "--epochs", "1"]


@pytest.mark.quick
def test_a_teacher_that_is_found_must_be_of_these_data(refusal, tiny, tmp_path, knowing, digits, printed, cheap):
    net = keras.models.load_model(knowing)
    whole = data.load(tiny, 0).train  # as with teacher.py --validation 0: the validation images are among them
    options = ["--data", tiny, "--out", tmp_path, *SHORT]
    for settings in ({}, {"data": files.sha256(*whole)}):
        model_files.save(net, tmp_path / "teacher.keras", settings, [])
        for main in (distill.main, sweep.main):
            status, line = refusal(main, *options)
            assert status == 1
            assert f"{tmp_path / 'teacher.keras'} was not trained on these training examples" in line
            assert "or name it with --teacher" in line
        lines = printed(distill.main, *options, "--teacher", tmp_path / "teacher.keras")
        assert ("was trained on other examples than these" in lines) == bool(settings)
    model_files.save(net, tmp_path / "teacher.keras", {"data": files.sha256(*digits.train)}, [])
    assert "warning" not in printed(distill.main, *options)


def test_a_teacher_that_finds_the_rare_class_is_taken_though_naming_the_other_is_right_more_often(
    tmp_path, printed, cheap
):
    random, arrays = np.random.default_rng(0), {}
    for part, number in (("train", 2400), ("test", 600)):
        is_rare = random.random(number) < 0.03
        seems_rare = random.random(number) < np.where(is_rare, 0.78, 0.13)
        arrays |= {f"y_{part}": np.int64(is_rare), f"x_{part}": np.float32(seems_rare[:, None] * [2, 0] - [1, 0])}
    np.savez(tmp_path / "rare.npz", **arrays)
    net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    net.layers[0].kernel.assign([[-1.0, 1.0], [0.0, 0.0]])
    net.save(tmp_path / "weighted.keras")
    options = ["--data", tmp_path / "rare.npz", "--out", tmp_path, "--teacher", tmp_path / "weighted.keras"]
    options += [*SHORT, "--batch-size", "200"]
    warning = r"warning: always naming the commonest class is right on 9.\..%, the teacher on 8"
    assert re.search(warning, printed(distill.main, *options))


def test_a_perfect_teacher_is_taken_with_one_validation_example(tiny, tmp_path, knowing, printed, cheap):
    options = ["--data", tiny, "--out", tmp_path, "--teacher", knowing, "--validation", "1", *SHORT]
    assert "teacher: accuracy 100.00% on 1 validation examples" in printed(distill.main, *options)


def test_pixels_of_teacher_and_student_can_be_named_and_are_kept_with_the_student(
    tiny, tmp_path, knowing, digits, printed, cheap
):
    net, of_255 = keras.models.load_model(knowing), tmp_path / "of_255.keras"
    keras.Sequential([keras.Input((12, 10)), keras.layers.Rescaling(1 / 255), *net.layers]).save(of_255)
    options = ["--data", tiny, "--out", tmp_path, *SHORT, "--student", of_255, "--teacher"]
    assert "give --student-pixels 255" in printed(distill.main, *options, knowing)
    pixels = ["--teacher-pixels", "255", "--student-pixels", "255", "--learning-rate", "1e-6"]
    lines = printed(distill.main, *options, of_255, *pixels)
    assert "warning" not in lines
    for name in ("student", "distilled"):  # the pixels are those of the training too
        assert model_files.load_training(tmp_path / f"{name}.keras")[1][0].training_accuracy > 0.95
    errors = classifier.count_errors(net, digits.test)
    for name in ("teacher", "baseline", "distilled"):
        assert re.search(rf"{name}: +{errors} test errors", lines)
    assert "warning" not in printed(evaluate.main, "--data", tiny, "--out", tmp_path, tmp_path / "distilled.keras")
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["models"]["distilled"]["test_errors"] == errors
