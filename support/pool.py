"""Independent tasks: one by one in this process, on all cores; or side by side on the workers of a Dask cluster.

A worker computes on one core, so the result of a task does not depend on how many others run beside it.
"""

import contextlib
import importlib.util
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

from support import UserError, files
from support.terminal import num_cores

import tensorflow as tf

HOW_TO_START = (
    "start workers in a clone of this repository with `PYTHONPATH=. dask worker ADDRESS --nthreads 1`, and the"
    " scheduler with `PYTHONPATH=. dask scheduler`"
)
GO_ON = "start it again, and this command too; finished results are kept"
FULL = 0.6  # of the memory maps that a process may have: the next task needs room too
PATIENCE = 60  # seconds without any worker; Dask replaces a dead one within a few
_one_task = threading.Lock()  # Keras' random state belongs to the process, but a Dask worker may have several threads


@contextlib.contextmanager
def pool(cluster: str | None = None) -> Iterator["InThisProcess | OnDask"]:
    """A context manager that gives what runs tasks. cluster: the address of a Dask scheduler, as --cluster takes it."""
    if not cluster:
        yield InThisProcess()
        return
    if not importlib.util.find_spec("distributed"):
        raise UserError("--cluster needs Dask: pip install distributed")
    import distributed

    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a worker that dies is replaced
    try:
        client = distributed.Client(cluster, timeout=20)
    except (OSError, ValueError) as error:
        raise UserError(f"no Dask cluster answers at {cluster} ({error}): start one, or leave --cluster out") from error
    with client:
        yield OnDask(client)


class InThisProcess:
    """Runs tasks one after the other, each with all cores of this machine."""

    cores = num_cores()  # that a task has for nets that it trains side by side

    def map(self, function: Callable[..., Any], items: Iterable[Any], *shared: Any) -> Iterator[tuple[Any, Any]]:
        """Yield (item, function(item, *shared)) as the results come. shared: sent to each worker once."""
        for item in items:
            yield item, function(item, *shared)


class OnDask:
    """Runs tasks on the workers of a Dask client. If a worker dies, another one runs its task again."""

    cores = 1

    def __init__(self, client: Any) -> None:
        self.client = client
        try:
            versions = client.run(_versions)
        except Exception as error:
            raise UserError(f"the cluster's workers cannot run this code ({error}): {HOW_TO_START}") from error
        if not versions:
            raise UserError(f"the cluster has no workers: {HOW_TO_START}")
        for address, version in versions.items():
            if version != _versions():
                raise UserError(f"worker {address} has {version}, but here is {_versions()}: {HOW_TO_START}")

    def map(self, function: Callable[..., Any], items: Iterable[Any], *shared: Any) -> Iterator[tuple[Any, Any]]:
        """As InThisProcess.map, in the order in which the tasks end. Raises what a task raised."""
        import distributed

        with warnings.catch_warnings(action="ignore"):  # of the size of what is sent
            # Not `scatter`: Dask computes the result of a task again where a worker dies, but loses what was scattered.
            futures = [self.client.submit(_same, value, pure=False) for value in shared]
            # The first items first: Dask's own order may leave a long task for last.
            tasks = {
                self.client.submit(_run, function, item, *futures, pure=False, priority=-place): item
                for place, item in enumerate(items)
            }
        waiting, seen_workers = set(tasks), time.monotonic()
        try:
            while waiting:
                try:
                    done = distributed.wait(waiting, timeout=1, return_when="FIRST_COMPLETED").done
                except distributed.TimeoutError:
                    seen_workers = time.monotonic() if self.client.processing() else seen_workers
                    if time.monotonic() - seen_workers > PATIENCE:
                        raise UserError(f"the cluster has had no workers for {PATIENCE} s: {GO_ON}") from None
                    continue
                for task in sorted(done, key=lambda task: task.status == "error"):  # results first: an error ends it
                    yield tasks[task], task.result()
                waiting -= done
        except (distributed.KilledWorker, CancelledError, OSError) as error:
            raise UserError(f"the cluster is lost, or a task has ended its workers ({error}): {GO_ON}") from error
        except RuntimeError as error:
            if "deserialization of the task graph" not in str(error):
                raise
            raise UserError(f"the cluster's scheduler cannot read this code: {HOW_TO_START}") from error


def make_room() -> None:
    """Start the script of this process again, once memory maps are about to run out; it goes on where it stopped.

    TensorFlow never frees what XLA has compiled: each net that is trained leaves a hundred memory maps or more. Linux
    allows a process 65,530 by default, and it crashes on the next one. To be called between two tasks, when all that
    is finished has been saved; by scripts of this project alone.
    """
    script = getattr(sys.modules["__main__"], "__file__", None) or ""
    if Path(script).resolve().parent not in (files.ROOT / "studies", files.ROOT / "tools"):
        return
    with contextlib.suppress(OSError):  # there is no such file outside of Linux
        allowed = int(Path("/proc/sys/vm/max_map_count").read_text())
        if Path("/proc/self/maps").read_bytes().count(b"\n") > allowed * FULL:
            print("starting again, as TensorFlow has filled this process with compiled code", flush=True)
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


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


def _versions() -> dict[str, Any]:
    """What all workers must have in common."""
    versions = files.versions()
    return {name: versions[name] for name in ("tensorflow", "keras", "numpy", "commit")}


def _same(value: Any) -> Any:
    return value


def _run(function: Callable[..., Any], *arguments: Any) -> Any:
    with _one_task:
        use_one_core()
        return function(*arguments)
