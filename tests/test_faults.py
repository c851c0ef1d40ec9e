"""Faults: damaged and hostile files, odd data and options, diverging runs, two runs in one folder, killed runs.

Most of the last take minutes and run with `pytest -m kills` alone. What is covered is listed in faults.md.
"""

import contextlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from support import UserError, callbacks, files, model_files, terminal

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, SMALL, logits_of, make_arrays, python, read_zip, same_weights, write_zip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import data
import distill
import evaluate
import student
import teacher
from studies import headline, paper, when_it_helps
from tools import export, sweep

MUTATIONS = 200


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """A folder with a saved model, its history, a data file, cached logits and a checkpoint."""
    folder = tmp_path_factory.mktemp("whole")
    net, history = student.train_student(digits, SMALL)
    model_files.save(net, folder / "net.keras", SMALL.settings(), history)
    logits_of(net, digits.train.images, cache=folder)
    np.savez_compressed(folder / "data.npz", **make_arrays())
    callbacks.Checkpoint(folder / "checkpoint.npz", SMALL.settings(), True).save(net.variables, history)
    return folder


# ---- damaged files ---------------------------------------------------------------------------------------------------


def mutated(content, number):
    """The bytes of a zip file, damaged in a way that `number` decides."""
    random = np.random.default_rng(number)
    damaged = bytearray(content)
    place = int(random.integers(len(content)))
    if number % 4 == 0:  # cut short, by a byte or by nearly all
        return content[: -max(1, int(len(content) ** random.random()))]
    if number % 4 == 1:
        damaged[place] ^= 1 << int(random.integers(8))
    elif number % 4 == 2:
        stop = min(len(content), place + int(random.integers(1, 600)))
        damaged[place:stop] = bytes(stop - place)
    else:
        damaged[place:place] = random.bytes(int(random.integers(1, 50)))
    return bytes(damaged)


def with_other_members(content, number):
    """The archive, whole as such, but for a member that is gone, empty, another's, or one that has a byte changed."""
    random, members = np.random.default_rng(number), read_zip(io.BytesIO(content))
    name, other = random.choice(sorted(members), 2, replace=False)
    if number % 4 == 0:
        del members[name]
    elif number % 4 == 1:
        members[name] = b""
    elif number % 4 == 2:
        members[name], members[other] = members[other], members[name]
    else:
        text = bytearray(members[name])
        text[int(random.integers(len(text)))] ^= 1 << int(random.integers(8))
        members[name] = bytes(text)
    file = io.BytesIO()
    write_zip(file, members)
    return file.getvalue()


def read_model(path):
    net = model_files.load(path, (12, 10), 3)
    settings, history = model_files.load_training(path)
    return *net.get_weights(), np.array(sorted(map(str, settings.items()))), np.array(history)


READERS = {
    "net.keras": read_model,
    "data.npz": lambda path: [array for split in data.load(path)[:3] for array in split],
    "teacher_logits_0px.npz": lambda path: list(files.load_arrays(path).values()),
    "checkpoint.npz": lambda path: list(files.load_arrays(path).values()),
}


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_refused_or_harmless(whole, tmp_path, name):
    """Of its readers, cached logits are computed again, and --resume says what to do."""
    path, read = tmp_path / name, READERS[name]
    content = (whole / name).read_bytes()
    path.write_bytes(content)
    expected, num_refused, unlike = read(path), 0, []
    for number in range(MUTATIONS):
        path.write_bytes(mutated(content, number))
        try:
            arrays = read(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            num_refused += 1
            continue
        if not all(np.array_equal(array, whole) for array, whole in zip(arrays, expected, strict=True)):
            unlike.append(number)
    assert not unlike
    assert num_refused > MUTATIONS / 2
    # An archive that is put together anew may be another whole one; if not, it ends in a line too.
    for number in range(MUTATIONS // 4):
        path.write_bytes(with_other_members(content, number))
        with contextlib.suppress(UserError):
            read(path)


def test_whole_files_in_each_other_s_place_are_refused(whole, digits, tmp_path):
    net = model_files.load(whole / "net.keras", digits.image_shape, digits.num_classes)
    logits_of(net, digits.train.images, 1, cache=tmp_path)
    (tmp_path / "teacher_logits_1px.npz").rename(tmp_path / "teacher_logits_0px.npz")
    assert logits_of(net, digits.train.images, 0, cache=tmp_path).shape == (len(digits.train.images), 1, 3)
    shutil.copy(tmp_path / "teacher_logits_0px.npz", tmp_path / "checkpoint.npz")
    with pytest.raises(UserError, match="differs from this one in seed"):
        callbacks.Checkpoint(tmp_path / "checkpoint.npz", {"seed": 0}, resume=True).restore([])
    shutil.copy(whole / "net.keras", tmp_path / "net.h5")  # Keras would look for another format in it
    with pytest.raises(UserError, match="does not end in .keras"):
        model_files.load(tmp_path / "net.h5", digits.image_shape, digits.num_classes)


def test_a_checkpoint_of_another_version_is_refused(tiny, tmp_path, monkeypatch, ended, cheap):
    def full(model, path, *_, real=model_files.save):
        if path.parent == tmp_path:
            raise OSError(28, "No space left on device")
        real(model, path, *_)

    options = ["--data", tiny, "--out", tmp_path, "--epochs", 2, "--batch-size", 20, "--hidden", 8, "--resume"]
    with monkeypatch.context() as patch:
        patch.setattr(model_files, "save", full)
        assert ended(teacher.main, *options)[0] == 1  # with all epochs done, so that its checkpoint stays
    other = files.versions() | {"keras": "2.0.0"}
    with monkeypatch.context() as patch:
        patch.setattr(files, "versions", lambda: other)
        status, stderr = ended(teacher.main, *options)
        assert (status, "differs from this one in keras" in stderr) == (1, True)
    assert ended(teacher.main, *options) == (0, "")


@pytest.mark.parametrize(
    ("read", "name"),
    [(data.load, "data.npz"), (files.load_arrays, "checkpoint.npz"), (model_files.load_training, "net.keras")],
)
def test_a_file_that_may_not_be_read_is_not_called_damaged(whole, monkeypatch, read, name):
    def locked(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(zipfile, "ZipFile", locked)
    with pytest.raises(PermissionError, match=name):
        read(whole / name)


def test_tables_for_people_are_never_read_again(whole, tmp_path, tiny, ended, cheap):
    """The histories beside the models, and metrics.json: whatever becomes of them, the next run does not see it."""
    for name in ("net.keras", "net.csv"):
        shutil.copy(whole / name, tmp_path)
    assert ended(evaluate.main, "--data", tiny, "--out", tmp_path) == (0, "")
    report = json.loads((tmp_path / "metrics.json").read_text())
    for name in ("net.csv", "metrics.json"):
        (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(500))
    assert ended(evaluate.main, "--data", tiny, "--out", tmp_path) == (0, "")
    assert json.loads((tmp_path / "metrics.json").read_text())["models"]["net"]["nll"] == report["models"]["net"]["nll"]


# ---- hostile files ---------------------------------------------------------------------------------------------------


def rewrite(path, changes):
    """Put {name: content} in place of these members of the archive, or beside the others."""
    write_zip(path, read_zip(path) | changes)


def change_last_layer(path, changes, config):
    """Change the description of a model's last layer, and its settings `config`."""
    model = json.loads(read_zip(path)["config.json"])
    layer = model["config"]["layers"][-1]
    layer |= changes | {"config": layer["config"] | config}
    rewrite(path, {"config.json": json.dumps(model)})


def lambda_layer(path):
    """As an attacker saves it: the function's code is in the file."""
    out = str(path.parent / "owned")
    net = keras.Sequential([keras.Input((12, 10)), keras.layers.Flatten(), keras.layers.Dense(3)])
    net.add(keras.layers.Lambda(lambda x, out=out: __import__("os").mkdir(out) or x, output_shape=(3,)))
    shutil.rmtree(out, ignore_errors=True)  # Keras may have called it
    net.save(path)


def foreign_function(path):
    command = {"command": f"mkdir {path.parent / 'owned'}"}
    change_last_layer(path, {"module": "os", "class_name": "system"}, config=command)


def climbing_member(path):
    """Python's zipfile leaves such a member out. With it in the file, there is no model."""
    members = read_zip(path)
    write_zip(path, {f"../{name}": content for name, content in members.items()} | {"config.json": b"{}"})


def bomb(path):
    """A member that says of itself that it unpacks to 4 GB."""
    rewrite(path, {"assets.bin": bytes(1000)})
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"assets.bin") - 46  # of the central directory: sizes at 20 and 24
    content[entry + 24 : entry + 28] = (2**32 - 2).to_bytes(4, "little")
    path.write_bytes(content)


def hdf5(path, layer):
    """An HDF5 file in place of the archive."""
    keras.Sequential([keras.Input((12, 10)), keras.layers.Flatten(), layer]).save(path.with_suffix(".h5"))
    shutil.rmtree(path.parent / "owned", ignore_errors=True)  # Keras may have called it
    path.with_suffix(".h5").rename(path)


def hdf5_lambda_layer(path):
    out = str(path.parent / "owned")
    run = lambda x, out=out: __import__("os").mkdir(out) or x
    hdf5(path, keras.layers.Lambda(run, output_shape=(120,)))


ATTACKS = hdf5_lambda_layer, lambda_layer, foreign_function, climbing_member, bomb


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_hostile_model_runs_nothing_and_writes_nothing(digits, tmp_path, attack):
    path = tmp_path / "net.keras"
    keras.Sequential([keras.Input((12, 10)), keras.layers.Flatten(), keras.layers.Dense(3)]).save(path)
    attack(path)
    with pytest.raises(UserError, match="net.keras cannot be read") as refused:
        model_files.load(path, digits.image_shape, digits.num_classes)
    assert "\n" not in str(refused.value)
    assert sorted(os.listdir(tmp_path)) == ["net.keras"]


class Pickled:
    def __reduce__(self):
        return (os.mkdir, ("owned",))


def head_of(shape):
    """An .npy file of that shape, of which only the head is there."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue() + bytes(1000)


def pickled(path):
    np.savez(path, **make_arrays() | {"x_train": np.array([Pickled()] * 3, dtype=object)})


def huge_shape(path):
    np.savez(path, **make_arrays())
    rewrite(path, {"x_train.npy": head_of((10**6, 10**4, 10**3))})


def data_bomb(path):
    np.savez(path, **make_arrays())
    bomb(path)


def test_what_unpacks_to_far_more_than_its_size_is_refused_and_large_files_are_not(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "logits.npz", logits=np.zeros(10_000, np.float32))
    monkeypatch.setattr(files, "SMALL_BYTES", 10_000)
    with pytest.raises(UserError, match="10,000 is the limit"):
        files.load_arrays(tmp_path / "logits.npz")
    # A large file that is honest about its size is read, however large it is: a checkpoint, cached logits, a model.
    files.save_arrays(tmp_path / "logits.npz", logits=np.zeros(10_000, np.float32))
    assert len(files.load_arrays(tmp_path / "logits.npz")["logits"]) == 10_000
    net = student.build_student((12, 10), 3)
    net.save(tmp_path / "net.keras")
    assert model_files.load(tmp_path / "net.keras", (12, 10), 3).count_params() * 4 > 10_000


@pytest.mark.parametrize("attack", [pickled, huge_shape, data_bomb], ids=lambda attack: attack.__name__)
def test_hostile_data_run_nothing_and_are_refused(tmp_path, monkeypatch, attack):
    monkeypatch.chdir(tmp_path)
    attack(tmp_path / "data.npz")
    with pytest.raises(UserError) as refused:
        data.load(tmp_path / "data.npz")
    assert "\n" not in str(refused.value)
    assert sorted(os.listdir(tmp_path)) == ["data.npz"]


# ---- odd data and options --------------------------------------------------------------------------------------------


DTYPES = ["u1", "i4", "i8", "u8", "f4", "f8", "c8", "?", "U3", "S2", "M8[s]"]


@given(st.data())
@settings(max_examples=MUTATIONS, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_arrays_are_a_data_set_or_refused_in_a_sentence(tmp_path, drawn):
    def array(name):
        shape = tuple(drawn.draw(st.lists(st.integers(0, 4), max_size=4), label=f"{name} shape"))
        dtype = drawn.draw(st.sampled_from(DTYPES), label=name)
        return np.random.default_rng(0).integers(0, 3, shape).astype("i8").astype(dtype)

    names = [name for name in data.ARRAYS if drawn.draw(st.booleans() | st.just(True), label=f"has {name}")]
    plain = make_arrays(4, 3, (6, 2), 2)
    arrays = {name: drawn.draw(st.sampled_from([array(name), plain[name]])) for name in names}
    np.savez(tmp_path / "any.npz", **arrays)
    try:
        digits = data.load(tmp_path / "any.npz")
    except UserError as error:
        assert "\n" not in str(error) and len(str(error).split()) > 3
    else:
        assert digits.train.images.dtype == np.uint8 and digits.train.labels.dtype == np.int32
        assert 0 <= digits.train.labels.min() and digits.train.labels.max() < digits.num_classes


def with_names(**changes):
    return make_arrays() | {"class_names": np.array(["top", "middle", "low"])} | changes


PLAIN, MANY = make_arrays(), make_arrays(1200, 600, (604, 2), 300)
COLOUR = {name: PLAIN[name][..., None].repeat(3, -1) for name in ("x_train", "x_test")}
ODD = {
    "colour": with_names(**COLOUR),
    "floats": with_names(**{name: np.float16(images / 255) for name, images in COLOUR.items()}),
    "table": with_names(**{name: images.reshape(-1, 360) / 255 for name, images in COLOUR.items()}),
    "constant images": with_names(**{name: np.full_like(PLAIN[name], 7) for name in ("x_train", "x_test")}),
    "no training example of a class": with_names(y_train=np.where(PLAIN["y_train"] == 1, 2, PLAIN["y_train"])),
    "images of a pixel": with_names(**{name: PLAIN[name][:, :1, :1] for name in ("x_train", "x_test")}),
    "300 classes": {name: MANY[name][:, :8] for name in ("x_train", "x_test")}
    | {"y_train": np.arange(1200) % 300, "y_test": np.arange(600) % 300},
}


@pytest.mark.parametrize("name", ODD)
def test_odd_data_go_all_the_way(name, tmp_path, printed, eager):
    np.savez(tmp_path / "odd.npz", **ODD[name])
    shared = ["--data", tmp_path / "odd.npz", "--out", tmp_path / "out"]
    short = ["--epochs", 1, "--batch-size", 50, "--hidden", 4, "--translate", int(name in ("colour", "floats"))]
    printed(teacher.main, *shared, *short)
    assert "distillation" in printed(distill.main, *shared, *short)
    report = printed(evaluate.main, *shared)
    assert name == "300 classes" or re.search(r"top\s+middle\s+low", report)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(metrics["models"]) == ["teacher", "student", "distilled"]


SHARED = {
    "--epochs": ["0", "1", "2", "x", "-1"],
    "--batch-size": ["1", "7", "220", "221", "0"],
    "--learning-rate": ["1e-12", "0.01", "1", "1e6", "inf", "nan"],
    "--translate": ["0", "1", "9", "10", "-1"],
    "--distort": ["0", "1", "10", "11"],
    "--hidden": ["1", "5", "0", "3.5"],
    "--seed": ["0", "4294967295", "4294967296"],
    "--validation": ["0", "1", "239", "240", "-1"],
    "--out": ["here"],
}
OPTIONS = {
    teacher: SHARED
    | {
        "--dropout": ["0", "0.5", "0.999999", "1", "-0.1"],
        "--input-dropout": ["0", "0.2", "1"],
        "--weight-decay": ["0", "1e-3", "1e9", "-1"],
    },
    distill: SHARED
    | {
        "--pool": ["1", "2", "12", "1000", "0"],
        "--crop": ["0", "1", "4", "5", "-1"],
        "--activation": ["relu", "gelu", "silu", "tanh"],
        "--temperature": ["1e-3", "1", "1e6", "0", "1e7"],
        "--alpha": ["0", "0.5", "1", "1.1"],
    },
}


@pytest.mark.parametrize("script", OPTIONS, ids=lambda script: script.__name__)
@pytest.mark.parametrize("number", [4, pytest.param(MUTATIONS, marks=pytest.mark.kills)])
def test_any_options_train_or_are_refused_in_a_sentence(
    whole, tiny, tmp_path, monkeypatch, ended, request, script, number
):
    monkeypatch.chdir(tmp_path)
    if number < MUTATIONS:
        request.getfixturevalue("cheap")

    @given(st.dictionaries(st.sampled_from(sorted(OPTIONS[script])), st.integers(0, 5), max_size=5))
    @settings(max_examples=number, deadline=None, derandomize=True, database=None)
    def check(chosen):
        options = ["--data", tiny, "--epochs", "1", "--batch-size", "20"]
        if script is distill:
            options += ["--teacher", whole / "net.keras"]
        for name, place in chosen.items():
            values = OPTIONS[script][name]
            options += [name, values[place % len(values)]]
        status, stderr = ended(script.main, *options)
        assert status in (0, 1, 2)
        assert stderr.count("\n") == (status > 0), stderr
        assert not stderr or stderr.startswith(f"{script.__name__}.py: error: ")

    check()


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.quick
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("temperature", [1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3, 1e6])
def test_loss_and_gradient_stay_finite(temperature, alpha, scale):
    labels = np.arange(40) % 10
    first, second = (scale * np.random.default_rng(seed).normal(size=(40, 10)).astype(np.float32) for seed in (0, 1))
    with tf.GradientTape() as tape:
        logits = tf.constant(second)
        tape.watch(logits)
        loss = distill.distillation_loss(labels, tf.constant(first), logits, temperature, alpha)
    assert np.isfinite(loss).all()
    assert np.isfinite(tape.gradient(loss, logits)).all()


def test_a_run_that_diverges_leaves_the_last_good_model(tiny, tmp_path, ended, cheap):
    shared = ["--data", tiny, "--out", tmp_path, "--batch-size", 20, "--epochs", 5]
    assert ended(teacher.main, *shared, "--hidden", 8)[0] == 0
    before = (tmp_path / "teacher.keras").read_bytes()
    status, stderr = ended(teacher.main, *shared, "--hidden", 8, 8, 8, 8, "--learning-rate", 1e6)
    assert (status, "training diverged in epoch" in stderr, "lower --learning-rate" in stderr) == (1, True, True)
    assert (tmp_path / "teacher.keras").read_bytes() == before


# ---- folders ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def read_only():
    """A folder in which this process may not write: root, whom no folder's mode binds, steps down meanwhile."""
    is_root = os.geteuid() == 0
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o555)
    if is_root:
        os.seteuid(65534)
    yield folder
    if is_root:
        os.seteuid(0)
    os.rmdir(folder)


@pytest.mark.parametrize(
    "script",
    [teacher, student, distill, evaluate, sweep, export, paper, when_it_helps, headline],
    ids=lambda script: script.__name__,
)
def test_where_nothing_can_be_written_each_script_says_so_at_once(script, refusal, read_only):
    for place in (read_only, ROOT / "README.md", ROOT / "README.md" / "below"):
        status, stderr = refusal(script.main, "--out", place)
        assert (status, f"cannot write to {place}" in stderr, "with --out" in stderr) == (1, True, True)


def test_a_running_script_has_its_folder_to_itself_until_ctrl_c_ends_it(tiny, tmp_path, ended, cheap):
    shared = ["--data", tiny, "--out", tmp_path, "--batch-size", "20"]
    first = start(ROOT / "student.py", *shared, "--epochs", "100000", "--hidden", "8")
    try:
        next(line for line in first.stdout if line.startswith("epoch"))
        status, stderr = ended(teacher.main, *shared)
        in_use = f"{tmp_path} is in use by student.py, process {first.pid}"
        assert (status, stderr) == (1, f"teacher.py: error: {in_use}: wait until it ends, or choose another --out\n")
        first.send_signal(signal.SIGINT)
        _, stderr = first.communicate(timeout=60)
        message = "student.py: stopped; every file is complete, either the old one or the new one\n"
        assert (first.returncode, stderr) == (130, message)
    finally:
        first.kill()
        first.wait()
    assert {path.name for path in tmp_path.rglob("*")} == {"plots", ".lock"}
    (tmp_path / ".teacher.partial-1.keras").touch()  # as of a run that was killed while it saved
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / ".another.partial-1.keras").touch()  # maybe of a run into that folder
    assert ended(student.main, *shared, "--epochs", "1") == (0, "")
    assert [path.name for path in tmp_path.rglob(".*.partial-*")] == [".another.partial-1.keras"]


def start(*arguments):
    """Python as a process, its output to be read line by line; like a script at a terminal, it hears Ctrl-C."""
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [*map(str, [sys.executable, "-u", *arguments])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    signal.signal(signal.SIGINT, ours)
    return process


@pytest.mark.parametrize("script", [teacher, student, evaluate, export], ids=lambda script: script.__name__)
def test_a_full_disk_is_an_error_of_a_line(script, whole, tiny, tmp_path, monkeypatch, ended, cheap):
    for name in ("student.keras", "distilled.keras", "distilled.tflite"):
        shutil.copy(whole / "net.keras", tmp_path / name)
    before = (whole / "net.keras").read_bytes()
    real = files.atomic_write

    @contextlib.contextmanager
    def full(path):
        with real(path) as scratch:
            yield scratch
            raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "atomic_write", full)
    options = ["--epochs", 1, "--batch-size", 20] if script in (teacher, student) else []
    status, stderr = ended(script.main, "--data", tiny, "--out", tmp_path, *options)
    assert (status, stderr.count("\n"), "No space left on device" in stderr) == (1, 1, True)
    for name in ("student.keras", "distilled.tflite"):
        assert (tmp_path / name).read_bytes() == before
    assert not list(tmp_path.rglob(".*.partial-*"))


# ---- killed ----------------------------------------------------------------------------------------------------------

MOMENTS = 20
RUNS = {  # script: options, beside --data and --out, with which it runs for some seconds
    "teacher.py": ["--epochs", "400", "--batch-size", "20", "--hidden", "8"],
    "student.py": ["--epochs", "400", "--batch-size", "20"],
    "distill.py": ["--epochs", "200", "--batch-size", "20", "--translate", "1"],
    "tools/sweep.py": ["--epochs", "20", "--batch-size", "20", "--temperatures", "2", "4", "--alphas", "0.9"],
    "evaluate.py": [],
    "tools/export.py": [],
    "studies/paper.py": ["smoothing", "--quick", "--seeds", "1"],
}


def launch(script, tiny, out, *options, killed_in="fsync", at=0):
    """A script of RUNS as a process; it is killed as it calls os.fsync, or another, for the `at`th time."""
    data_options = [] if script == "studies/paper.py" else ["--data", tiny]
    launcher = [Path(__file__).with_name("launch.py"), killed_in, at, tiny]
    return start(*launcher, ROOT / script, "--out", out, *data_options, *RUNS[script], *options)


def see_it_through(process, out):
    """After whatever there was before, a script ends well, and leaves no stray files."""
    _, stderr = process.communicate(timeout=300)
    assert (process.returncode, stderr) == (0, "")
    assert not list(out.rglob(".*.partial-*"))


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """A folder in which teacher, student and distilled student are whole."""
    out = tmp_path_factory.mktemp("finished")
    for script in ("teacher.py", "distill.py"):
        done = python(script, "--data", tiny, "--out", out, "--epochs", "5", "--batch-size", "20", "--hidden", "8")
        assert done.returncode == 0
    return out


def look(out, digits):
    """Load everything in the folder that is not hidden; fails where a file is not whole. Returns how many there are."""
    paths = [path for path in out.rglob("*") if path.is_file() and not path.name.startswith(".")]
    for path in paths:
        if path.suffix == ".keras":
            model_files.load(path, digits.image_shape, digits.num_classes)
            assert model_files.load_training(path)[1]
        elif path.suffix == ".npz":
            assert files.load_arrays(path)
        elif path.suffix == ".json":
            assert json.loads(path.read_text())
        elif path.suffix == ".png":
            assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
        elif path.suffix == ".csv":
            assert path.read_text().endswith("\n")
        else:
            assert path.stat().st_size, path
    return len(paths)


@pytest.mark.kills
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("script", RUNS)
def test_a_script_that_is_ended_at_any_moment_leaves_whole_files(script, ending, finished, tiny, digits, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    clock = time.perf_counter()
    whole_run = launch(script, tiny, out)
    next(iter(whole_run.stdout))
    first_line = time.perf_counter() - clock
    see_it_through(whole_run, out)
    lasts = time.perf_counter() - clock - first_line
    num_ended = 0
    while num_ended < MOMENTS:
        shutil.rmtree(out)
        shutil.copytree(finished, out)  # else the next run would find this one's work done
        process = launch(script, tiny, out)
        next(iter(process.stdout))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=lasts * (num_ended + 0.5) / MOMENTS)
        process.send_signal(ending)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode in (0, -ending, terminal.STOPPED), stderr
        assert "Traceback" not in stderr
        assert look(out, digits) >= 8
        if process.returncode == terminal.STOPPED:
            assert "stopped; every file is complete" in stderr
            assert not list(out.rglob(".*.partial-*"))
        if process.returncode:
            num_ended += 1
        else:  # the machine has become faster, or the moment is among the last: an earlier one
            lasts *= 0.95
    see_it_through(launch(script, tiny, out), out)


def test_ctrl_c_is_heard_where_an_exception_would_be_lost_and_leaves_no_half_file(tmp_path):
    (tmp_path / "result.txt").write_text("old")
    code = """
import contextlib, os, signal, sys
import support
from support import files, terminal
def main():
    with files.atomic_write(sys.argv[1]) as scratch:
        scratch.write_text("half")
        # HDF5 does not let out what its callbacks raise.
        with contextlib.suppress(BaseException), support.quiet():
            os.kill(os.getpid(), signal.SIGINT)
            print("went on")
        print("went on")
signal.signal(signal.SIGINT, signal.default_int_handler)
terminal.run(main)
"""
    done = python("-c", code, tmp_path / "result.txt")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (terminal.STOPPED, "", 1)
    assert "stopped; every file is complete" in done.stderr
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("result.txt", "old")]


def test_ctrl_c_ends_a_script_whose_reader_is_gone():
    """As `python distill.py 2>&1 | tee log`: Ctrl-C ends tee too."""
    code = """
import os, signal
from support import terminal
def main():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except OSError:
        pass
signal.signal(signal.SIGINT, signal.default_int_handler)
terminal.run(main)
"""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "w") as pipe:
        done = subprocess.run([sys.executable, "-c", code], stdout=pipe, stderr=pipe, check=False, cwd=ROOT)
    assert done.returncode == terminal.STOPPED


@pytest.mark.kills
@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("script", RUNS)
def test_a_script_that_is_killed_while_it_saves_leaves_whole_files(script, call, finished, tiny, digits, tmp_path):
    """Between a file's last byte and its move into place, for each file that the script writes."""
    out = tmp_path / "out"
    options = ["--epochs", "3"] if "--epochs" in RUNS[script] else []
    killed_at = ""
    for number in itertools.count(1):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(finished, out)  # else the next run would find this one's work done
        process = launch(script, tiny, out, *options, killed_in=call, at=number)
        _, stderr = process.communicate(timeout=300)
        assert look(out, digits) >= 8
        if process.returncode == 0:
            break  # it writes no more files than these
        assert process.returncode == -signal.SIGKILL, stderr
        killed_at += stderr
    if call == "replace" and script not in ("evaluate.py", "tools/export.py"):
        assert ".keras" in killed_at
    see_it_through(launch(script, tiny, out, *options), out)


@pytest.mark.kills
def test_a_teacher_that_is_killed_again_and_again_ends_with_the_same_bits(tiny, digits, tmp_path):
    options = ["--data", tiny, "--epochs", "300", "--batch-size", "20", "--hidden", "16", "16"]
    assert python("teacher.py", *options, "--out", tmp_path / "whole").returncode == 0
    for moment in range(MOMENTS):
        process = start(ROOT / "teacher.py", *options, "--out", tmp_path / "killed", "--resume")
        for line in process.stdout:
            if line.startswith("epoch"):
                break
        time.sleep(0.01 * moment)
        process.kill()
        process.communicate()
    last = python("teacher.py", *options, "--out", tmp_path / "killed", "--resume")
    assert last.returncode == 0 and "going on after epoch" in last.stdout
    nets = [model_files.load(tmp_path / name / "teacher.keras", (12, 10), 3) for name in ("whole", "killed")]
    assert same_weights(*nets)
