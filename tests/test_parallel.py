"""Tasks in this process, in processes of their own, and on a Dask cluster give the same results."""

import os
import signal
import subprocess
import sys

from support import UserError, files, model_files, parallel

import numpy as np
import pytest
from conftest import ROOT

import data
import teacher

GRID = [
    "--temperatures",
    "1",
    "4",
    "--alphas",
    "0.5",
    "--seeds",
    "2",
    "--hidden",
    "8",
    "--epochs",
    "3",
    "--batch-size",
    "20",
]


def add(first, second):
    return first + second


def die_once(marker, value):
    """Kill the worker process that runs it for the first time."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def fail():
    raise UserError("of the task")


def results(pool):
    """What three tasks return, of which the last needs the others, and a shared array."""
    array = pool.share(np.arange(5))
    first = pool.submit(add, array, 1, name="first")
    second = pool.submit(add, first, array, name="second")
    tasks = [first, second, pool.submit(add, second, first, name="third")]
    found = dict(pool.finished(tasks, lambda: "running"))
    return [found[task].tolist() for task in tasks]


EXPECTED = [[1, 2, 3, 4, 5], [1, 3, 5, 7, 9], [2, 5, 8, 11, 14]]


@pytest.fixture(scope="module")
def cluster():
    """The address of a Dask cluster of two workers."""
    import distributed

    made = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": 0, "dashboard_address": ":0"}
    with distributed.LocalCluster(**made) as cluster:
        yield cluster.scheduler_address


def test_tasks_in_this_process_need_no_dask(monkeypatch):
    monkeypatch.setattr(parallel.importlib.util, "find_spec", lambda name: None)
    with parallel.pool() as pool:
        assert results(pool) == EXPECTED
    with pytest.raises(UserError, match="need Dask: pip install distributed"), parallel.pool(2):
        pass


def test_a_finished_task_frees_what_nobody_else_needs():
    pool = parallel.InThisProcess()
    task = pool.submit(add, np.zeros(3), 1, name="")
    assert next(pool.finished([task], str))[1].tolist() == [1, 1, 1]
    assert task.arguments == ()


def test_a_running_cluster_gives_the_same(cluster):
    with parallel.pool(cluster=cluster) as pool:
        assert results(pool) == EXPECTED


def test_a_task_whose_worker_died_is_run_again_and_an_error_is_the_tasks_own(cluster, tmp_path):
    with parallel.pool(cluster=cluster) as pool:
        task = pool.submit(die_once, tmp_path / "died", 3, name="killed")
        assert [*pool.finished([task], str)] == [(task, 3)]
        with pytest.raises(UserError, match="of the task"):
            [*pool.finished([pool.submit(fail, name="failing")], str)]


def test_workers_with_other_code_are_refused(cluster, monkeypatch):
    versions = parallel.files.versions()
    monkeypatch.setattr(parallel.files, "versions", lambda: versions | {"commit": "other"})
    with pytest.raises(UserError, match="but here is .*start workers in a clone"), parallel.pool(cluster=cluster):
        pass


def test_an_address_without_a_cluster_is_refused():
    with (
        pytest.raises(UserError, match="no Dask cluster answers at nonsense://1"),
        parallel.pool(cluster="nonsense://1"),
    ):
        pass


def run_sweep(tiny, out, *options):
    command = [sys.executable, ROOT / "tools" / "sweep.py", "--data", tiny, "--out", out, *GRID, *options]
    return subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_student_does_not_depend_on_the_number_of_workers_nor_on_a_kill(tiny, tmp_path):
    nets, made = {}, {"data": files.fingerprint(*data.load(tiny).train)}
    for name, workers in (("one", "1"), ("two", "2")):
        out = tmp_path / name
        out.mkdir()
        parallel.tf.keras.utils.set_random_seed(3)
        model_files.save(
            teacher.build_teacher((12, 10), 3, teacher.TeacherRecipe(hidden=(16,))), out / "teacher.keras", made, []
        )
        if workers == "2":
            killed = run_sweep(tiny, out, "--workers", workers)
            next(line for line in killed.stdout if "images wrong" in line)
            killed.kill()
            killed.communicate()
        ended = run_sweep(tiny, out, "--workers", workers)
        printed, errors = ended.communicate()
        assert (ended.returncode, errors) == (0, "")
        assert ("of 4 students are there already" in printed) == (workers == "2")
        nets[name] = {path.name: path for path in (out / "sweep").glob("*.keras")}
    assert nets["one"].keys() == nets["two"].keys() and len(nets["one"]) == 4
    for name, path in nets["one"].items():
        one, other = (model_files.load(its, (12, 10), 3).get_weights() for its in (path, nets["two"][name]))
        for first, second in zip(one, other):
            np.testing.assert_array_equal(first, second)


class LostCluster:
    """A Dask client whose tasks never finish. processing: what each of its workers does."""

    def __init__(self, processing):
        self.processing = lambda: processing


def test_a_cluster_that_has_lost_its_workers_is_given_up(monkeypatch):
    import distributed

    answers = iter([distributed.TimeoutError()] * 3 + [distributed.client.FuturesCancelledError([])])

    def wait(tasks, **options):
        raise next(answers)

    monkeypatch.setattr(distributed, "wait", wait)
    monkeypatch.setattr(parallel, "PATIENCE", -1)
    with pytest.raises(UserError, match="has had no workers for -1 s: start it again, and this command too"):
        [*parallel.OnDask(LostCluster({})).finished(["task"], str)]
    monkeypatch.setattr(parallel, "PATIENCE", 60)
    with pytest.raises(UserError, match="the connection to the cluster's scheduler is lost: start it again"):
        [*parallel.OnDask(LostCluster({"worker": []})).finished(["task"], str)]


def test_a_scheduler_without_this_code_is_told_how_to_start():
    def result():
        raise RuntimeError("Error during deserialization of the task graph. This frequently occurs")

    with pytest.raises(UserError, match="scheduler cannot read this code.*PYTHONPATH=. dask scheduler"):
        parallel._ask(result)
