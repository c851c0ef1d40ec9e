"""Tasks in this process, in processes of their own, and on a Dask cluster give the same results."""

import os
import signal
from dataclasses import replace

from support import UserError, files, model_files, parallel

import keras
import numpy as np
import pytest

import teacher
from tools import sweep


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
    by_task = dict(pool.finished(tasks, lambda: "running"))
    return [by_task[task].tolist() for task in tasks]


EXPECTED = [[1, 2, 3, 4, 5], [1, 3, 5, 7, 9], [2, 5, 8, 11, 14]]


@pytest.fixture(scope="module")
def two_workers():
    with parallel.pool(workers=2) as pool:
        yield pool


@pytest.fixture(scope="module")
def cluster(two_workers):
    """The address of these workers' scheduler, as --cluster takes it."""
    return two_workers.client.scheduler.address


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


def test_workers_and_a_running_cluster_give_the_same(two_workers, cluster):
    assert len(two_workers.client.nthreads()) == 2
    assert results(two_workers) == EXPECTED
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


def test_a_student_depends_on_the_workers_that_train_it_by_rounding_alone(cluster, tiny, digits, tmp_path, printed):
    keras.utils.set_random_seed(3)
    net = teacher.build_teacher((12, 10), 3, replace(teacher.DEFAULTS, hidden=(16,)))
    model_files.save(net, tmp_path / "teacher.keras", {"data": files.sha256(*digits.train)}, [])
    options = ["--temperatures", "4", "--alphas", "0.5", "--seeds", "2"]
    options += ["--hidden", "8", "--epochs", "1", "--batch-size", "20"]
    students = {}
    for name, where in (("here", ["--workers", "1"]), ("cluster", ["--cluster", cluster])):
        lines = printed(sweep.main, "--data", tiny, "--out", tmp_path, *options, *where)
        assert "there already" not in lines
        students[name] = (tmp_path / "sweep").rename(tmp_path / name)
    paths = sorted(students["here"].glob("*.keras"))
    assert len(paths) == 4
    for path in paths:
        here, there = (model_files.load(students[name] / path.name, (12, 10), 3).get_weights() for name in students)
        for one, other in zip(here, there, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)


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
