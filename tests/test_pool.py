"""Tasks in this process and on a Dask cluster of two workers give the same results, also where a worker dies."""

import os
import signal
import sys
import time

from support import UserError, files, pool

import numpy as np
import pytest


def multiplied(item, factors, offset):
    return item * factors + offset


def die_once(item, marker):
    """Kill the worker process that runs it for the first time."""
    if item == 2 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def die(item):
    os.kill(os.getpid(), signal.SIGKILL)


def fail(item):
    raise UserError("of the task")


@pytest.fixture(scope="module")
def cluster():
    """The address of a cluster of two workers, as --cluster takes it."""
    import distributed

    options = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": 0, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options, silence_logs=50) as started:
        yield started.scheduler_address


def test_here_and_on_a_cluster_the_results_are_the_same(cluster):
    shared = np.arange(4), 1
    for address in (None, cluster):
        with pool.pool(address) as workers:
            results = dict(workers.map(multiplied, [1, 2, 3], *shared))
        assert {item: result.tolist() for item, result in results.items()} == {
            item: (item * shared[0] + 1).tolist() for item in (1, 2, 3)
        }


def test_here_a_task_runs_when_its_result_is_asked_for():
    results = pool.InThisProcess().map(fail, [1])
    with pytest.raises(UserError, match="of the task"):
        next(results)


def test_a_task_whose_worker_died_is_run_again_and_an_error_is_the_tasks_own(cluster, tmp_path):
    with pool.pool(cluster) as workers:
        assert sorted(workers.map(die_once, [1, 2, 3], tmp_path / "died")) == [(1, 1), (2, 2), (3, 3)]
        with pytest.raises(UserError, match="of the task"):
            [*workers.map(fail, [1])]
        with pytest.raises(UserError, match="the cluster is lost, or a task has ended its workers .*start it again"):
            [*workers.map(die, [1])]


def test_a_cluster_that_has_lost_its_workers_is_given_up(cluster, monkeypatch):
    import distributed

    def wait(tasks, **options):
        raise distributed.TimeoutError

    monkeypatch.setattr(distributed, "wait", wait)
    monkeypatch.setattr(distributed.Client, "processing", lambda client: {})
    monkeypatch.setattr(pool, "PATIENCE", -1)
    lost = pytest.raises(UserError, match="has had no workers for -1 s: start it again, and this command too")
    with pool.pool(cluster) as workers, lost:
        [*workers.map(multiplied, [1], 1, 1)]


def test_workers_with_other_code_are_refused(cluster, monkeypatch):
    versions = files.versions()
    monkeypatch.setattr(files, "versions", lambda: versions | {"commit": "other"})
    with pytest.raises(UserError, match="but here is .*start workers in a clone"), pool.pool(cluster):
        pass


def test_without_dask_or_a_cluster_the_remedy_is_named(monkeypatch):
    with pytest.raises(UserError, match="no Dask cluster answers at nonsense://1"), pool.pool("nonsense://1"):
        pass
    monkeypatch.setattr(pool.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--cluster needs Dask: pip install distributed"), pool.pool("tcp://here:1"):
        pass


def test_the_time_that_is_left():
    start = time.perf_counter() - 60
    assert pool.time_left(start, 0, 10) == ""
    assert pool.time_left(start, 1, 10) == ", about 9 min left"
    assert pool.time_left(start, 9, 10) == ", less than a minute left"


@pytest.mark.parametrize(
    ("script", "full", "starts"),
    [
        ("studies/ladder.py", 0, 1),
        ("tools/sweep.py", 0, 1),
        (".venv/pytest/__main__.py", 0, 0),
        ("tools/sweep.py", 1, 0),
    ],
)
def test_a_full_process_starts_its_script_again(monkeypatch, script, full, starts):
    started = []
    monkeypatch.setattr(pool.os, "execv", lambda *command: started.append(command))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-u", "sweep.py", "--folds", "5"])
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(files.ROOT / script), raising=False)
    monkeypatch.setattr(pool, "FULL", full)
    pool.make_room()
    assert started == starts * [(sys.executable, [sys.executable, "-u", "sweep.py", "--folds", "5"])]
