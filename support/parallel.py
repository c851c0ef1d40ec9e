"""Tasks one by one in this process, on all cores; or side by side, in processes here or on a Dask cluster.

A worker computes on one core, so the result of a task does not depend on how many others run beside it. A task may take
the results of other tasks as arguments; Dask moves them between processes, so no shared disk is needed.
"""

import argparse
import contextlib
import functools
import importlib.util
import itertools
import logging
import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from support import UserError, files
from support.recipe import integer
from support.terminal import clear_progress, num_cores, progress

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:  # for the hints only: Dask is optional
    from distributed import Client, Future

_one_task = threading.Lock()  # Keras' random state belongs to the process, but a Dask worker may have several threads
HOW_TO_START = (
    "start workers in a clone of this repository with `PYTHONPATH=. dask worker ADDRESS --nthreads 1`, and the"
    " scheduler with `PYTHONPATH=. dask scheduler`"
)
GO_ON = "start it again, and this command too; finished results are kept"
PATIENCE = 60  # seconds without any worker; Dask replaces a dead one within a few
AT_ONCE = 8  # students that are trained at once on each core; they are lost when one is stopped


def add_options(options: argparse.ArgumentParser) -> None:
    """Add --workers and --cluster to the options of a script."""
    workers_help = "processes on this machine with one core each; needs Dask (default: 1, which has all cores)"
    cluster_help = "the address of a running Dask cluster, such as tcp://10.0.0.1:8786"
    exclusive = options.add_mutually_exclusive_group()
    exclusive.add_argument("--workers", type=integer(1, 1000), default=1, metavar="N", help=workers_help)
    exclusive.add_argument("--cluster", metavar="ADDRESS", help=cluster_help)


@contextlib.contextmanager
def pool(workers: int = 1, cluster: str | None = None) -> Iterator["InThisProcess | OnDask"]:
    """A context manager that gives an object with `submit`, `share` and `finished`.

    workers, cluster: the values of the options, see `add_options`. Raises UserError: Dask's package `distributed` is
    needed and missing; the cluster does not answer, has no workers, or has other code.
    """
    if not cluster and workers == 1:
        yield InThisProcess()
        return
    if not importlib.util.find_spec("distributed"):
        raise UserError("--cluster and --workers above 1 need Dask: pip install distributed")
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a worker that dies is replaced
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")  # what Python would say after Ctrl-C
    with _client(workers, cluster) as client:
        clear_progress()
        _check_workers(client)
        yield OnDask(client)


def _client(workers: int, cluster: str | None) -> "Client":
    """A Dask client of a running cluster, or of new processes on this machine, which end when the client is closed."""
    import dask
    import distributed

    if not cluster:
        progress("starting workers")
        settings = {"n_workers": workers, "threads_per_worker": 1, "memory_limit": 0}
        # Dask expects 0.5 s of a task that it does not know. Then a worker with many small tasks behind a long one
        # counts as idle, and none of them go to a worker that really is.
        with dask.config.set({"distributed.scheduler.unknown-task-duration": "10 minutes"}):
            return distributed.Client(**settings, silence_logs=logging.CRITICAL, dashboard_address=":0")
    try:
        return distributed.Client(cluster, timeout=20)
    except (OSError, ValueError) as error:
        raise UserError(f"no Dask cluster answers at {cluster} ({error}): start one, or leave --cluster out") from error


def _check_workers(client: "Client") -> None:
    """Raises UserError: a cluster has no workers, or they cannot run this code, or have another version of it."""
    try:
        versions_of_workers = client.run(_versions)
    except Exception as error:
        raise UserError(f"the cluster's workers cannot run this code ({error}): {HOW_TO_START}") from error
    if not versions_of_workers:
        raise UserError(f"the cluster has no workers: {HOW_TO_START}")
    here = _versions()
    for address, versions in versions_of_workers.items():
        if versions != here:
            raise UserError(f"worker {address} has {versions}, but here is {here}: {HOW_TO_START}")


def _versions() -> dict[str, Any]:
    """What all workers must have in common."""
    versions = files.versions()
    return {name: versions[name] for name in ("tensorflow", "keras", "numpy", "commit")}


def use_one_core() -> None:
    """Have TensorFlow compute on one core, so that it adds in one order; too late if it has computed anything."""
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)


def time_left(start: float, done: float, total: float) -> str:
    """', about 12 min left', extrapolated from the share done / total since `start`; '' before anything is done.

    start: a value of time.perf_counter().
    """
    if not done:
        return ""
    minutes = (time.perf_counter() - start) / 60 * (total / done - 1)
    return f", about {minutes:.0f} min left" if minutes >= 1 else ", less than a minute left"


def parts(students: list, cores: int) -> list[list]:
    """The students in lists of nearly the same length, with at most AT_ONCE for each core."""
    number = math.ceil(len(students) / (AT_ONCE * cores))
    return [[students[place] for place in part] for part in np.array_split(range(len(students)), number)]


class _Task:
    """A function call that is made when its result is first asked for."""

    def __init__(self, function: Callable[..., Any], arguments: tuple, name: str) -> None:
        self.function, self.arguments, self.name = function, arguments, name

    @functools.cached_property
    def result(self) -> Any:
        arguments = [value.result if isinstance(value, _Task) else value for value in self.arguments]
        self.arguments = ()  # frees the results that no other task needs
        return self.function(*arguments)


class InThisProcess:
    """Tasks in this process, one after the other, each when `finished` comes to it."""

    cores = num_cores()  # that a task has for students that it trains side by side

    def share(self, value: Any) -> Any:
        """A handle to give to tasks in place of `value`, which is sent to each worker once."""
        return value

    def submit(self, function: Callable[..., Any], *arguments: Any, name: str) -> _Task:
        """A task, function(*arguments); arguments may be tasks or shared values. name: shown while it runs."""
        return _Task(function, arguments, name)

    def finished(self, tasks: Iterable[_Task], describe: Callable[[], str]) -> Iterator[tuple[_Task, Any]]:
        """Yield (task, its result) as the tasks finish. describe() is shown on the line of progress meanwhile."""
        for task in tasks:
            progress(f"{describe()}  running: {task.name}")
            yield task, task.result


class OnDask:
    """Tasks on the workers of a Dask client. If a worker dies, another one runs its tasks again."""

    cores = 1

    def __init__(self, client: "Client") -> None:
        self.client, self._numbers = client, itertools.count()

    def share(self, value: Any) -> "Future":
        """As InThisProcess.share."""
        # Not `scatter`: Dask computes the result of a task again where a worker dies, but loses what was scattered.
        with warnings.catch_warnings(action="ignore"):  # of its size
            return self.client.submit(_shared_value, value, pure=False)

    def submit(self, function: Callable[..., Any], *arguments: Any, name: str) -> "Future":
        """As InThisProcess.submit."""
        # In the order of submission: Dask's own order may leave a teacher, and all its students, for last.
        key, number = f"{name} #{time.time_ns()}", next(self._numbers)
        return self.client.submit(_run, function, *arguments, key=key, priority=-number)

    def finished(self, tasks: Iterable["Future"], describe: Callable[[], str]) -> Iterator[tuple["Future", Any]]:
        """As InThisProcess.finished.

        Raises what a task raised. Raises UserError: a task's worker died four times; the cluster is lost.
        """
        import distributed

        waiting, seen_workers = set(tasks), time.monotonic()
        while waiting:
            try:
                done = _ask(distributed.wait, waiting, timeout=1, return_when="FIRST_COMPLETED").done
            except distributed.TimeoutError:
                queues = _ask(self.client.processing)
                running = [str(keys[0]).split(" #")[0] for keys in queues.values() if keys]  # the other keys wait
                progress(f"{describe()}  running: {', '.join(running)}")
                seen_workers = time.monotonic() if queues else seen_workers
                if time.monotonic() - seen_workers > PATIENCE:
                    raise UserError(f"the cluster has had no workers for {PATIENCE} s: {GO_ON}") from None
                continue
            for task in sorted(done, key=lambda task: task.status == "error"):  # results first: an error ends it all
                clear_progress()
                yield task, _ask(task.result)
            waiting -= done


def _ask(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """function(*arguments, **options), which asks the cluster.

    Raises UserError: the cluster is lost, cannot run this code, or has given up a task whose workers died.
    """
    import distributed
    from distributed.comm import CommClosedError

    try:
        return function(*arguments, **options)
    except distributed.KilledWorker as error:
        raise UserError(f"{error}: is there enough memory? Try fewer --workers") from error
    except (CancelledError, CommClosedError) as error:
        raise UserError(f"the connection to the cluster's scheduler is lost: {GO_ON}") from error
    except RuntimeError as error:
        if "deserialization of the task graph" not in str(error):
            raise
        raise UserError(f"the cluster's scheduler cannot read this code: {HOW_TO_START}") from error


def _shared_value(value: Any) -> Any:
    return value


def _run(function: Callable[..., Any], *arguments: Any) -> Any:
    with _one_task:
        use_one_core()
        return function(*arguments)
