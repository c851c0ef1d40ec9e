"""Tasks side by side: in this process, in processes on this machine, or on a Dask cluster.

Every task computes on one core, so its result does not depend on how many others run beside it. A task may take the
results of other tasks as arguments; Dask moves them between processes, so no shared disk is needed.
"""

import contextlib
import functools
import importlib.util
import itertools
import logging
import os
import threading
import time
import warnings
from concurrent.futures import CancelledError

from support import UserError, files
from support.recipe import integer
from support.terminal import clear_progress, num_cores, progress

import tensorflow as tf

_one_task = threading.Lock()  # Keras' random state belongs to the process, but a Dask worker may have several threads
HOW_TO_START = (
    "start workers in a clone of this repository: PYTHONPATH=. dask worker ADDRESS --nthreads 1; and so the scheduler:"
    " PYTHONPATH=. dask scheduler"
)
GO_ON = "start it again, and this command too; what is finished is kept"
PATIENCE = 60  # seconds without any worker; one that died is started again within some


def add_options(options):
    """Add --workers and --cluster to an argparse.ArgumentParser."""
    help_text = (
        "processes on this machine, each on a core (default: one for each core, or 1 where `distributed` is missing)"
    )
    one_of = options.add_mutually_exclusive_group()
    one_of.add_argument("--workers", type=integer(1, 1000), metavar="N", help=help_text)
    one_of.add_argument("--cluster", metavar="ADDRESS", help="a running Dask cluster, such as tcp://10.0.0.1:8786")


@contextlib.contextmanager
def pool(workers=None, cluster=None):
    """A context manager that gives something with `submit`, `share` and `finished`. workers, cluster: as of
    `add_options`.

    Raises UserError: Dask's package `distributed` is needed and missing; the cluster does not answer, or has other
    code.
    """
    has_dask = importlib.util.find_spec("distributed") is not None
    if not cluster and (workers == 1 or workers is None and not has_dask):
        use_one_core()
        yield InThisProcess()
        return
    if not has_dask:
        raise UserError("--cluster and --workers above 1 need Dask: pip install distributed")
    import dask
    import distributed

    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a worker that dies is replaced
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")  # what Python would say after Ctrl-C
    quiet = {"silence_logs": logging.CRITICAL, "dashboard_address": ":0"}
    with contextlib.ExitStack() as stack:
        if not cluster:
            progress("starting workers")
            # Dask takes 0.5 s for a task that it does not know. Then a worker with many small tasks behind a long one
            # counts as
            # idle, and none of them go to one that really is.
            with dask.config.set({"distributed.scheduler.unknown-task-duration": "10 minutes"}):
                made = distributed.LocalCluster(
                    n_workers=workers or num_cores(), threads_per_worker=1, memory_limit=0, **quiet
                )
            cluster = stack.enter_context(made)
        try:
            client = stack.enter_context(distributed.Client(cluster, timeout=20))
        except (OSError, ValueError) as error:
            raise UserError(
                f"no Dask cluster answers at {cluster} ({error}): start one, or leave --cluster out"
            ) from error
        clear_progress()
        _check_workers(client)
        yield OnDask(client)


def _check_workers(client):
    """Raises UserError: a cluster has no workers, or they cannot run this code, or run another version of it."""
    try:
        of_workers = client.run(_versions)
    except Exception as error:
        raise UserError(f"the cluster's workers cannot run this code ({error}): {HOW_TO_START}") from error
    if not of_workers:
        raise UserError(f"the cluster has no workers: {HOW_TO_START}")
    here = _versions()
    for address, versions in of_workers.items():
        if versions != here:
            raise UserError(f"worker {address} has {versions}, but here is {here}: {HOW_TO_START}")


def _versions():
    """What all workers must have in common."""
    versions = files.versions()
    return {name: versions[name] for name in ("tensorflow", "keras", "numpy", "commit")}


def use_one_core():
    """Have TensorFlow compute on one core, if it has not computed anything yet: the sums of products then have one
    order.
    """
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)


def time_left(start, done, total):
    """', 12 min left', estimated from what was done since `start`, a value of time.perf_counter(); '' if nothing was
    done.
    """
    return f", {(time.perf_counter() - start) / 60 * (total / done - 1):.0f} min left" if done else ""


class InThisProcess:
    """Tasks in this process, one after the other, each when `finished` comes to it."""

    def share(self, value):
        """A handle to give to tasks in place of `value`, which is sent to each worker once."""
        return value

    def submit(self, function, *arguments, name):
        """A task, function(*arguments). name: shown while it runs."""
        return _Task(function, arguments, name)

    def finished(self, tasks, describe):
        """Yield (task, its result) of these tasks, in the order in which they finish. describe(): what is shown
        meanwhile.
        """
        for task in tasks:
            progress(f"{describe()}  running: {task.name}")
            yield task, task.result


class _Task:
    def __init__(self, function, arguments, name):
        self.function, self.arguments, self.name = function, arguments, name

    @functools.cached_property
    def result(self):
        arguments = [one.result if isinstance(one, _Task) else one for one in self.arguments]
        self.arguments = ()  # so that what nobody else needs is freed
        return self.function(*arguments)


class OnDask:
    """Tasks on the workers of a Dask client. Where a worker dies, its tasks are run again by another one."""

    def __init__(self, client):
        self.client, self._numbers = client, itertools.count()

    def share(self, value):
        """As InThisProcess.share. The value is the result of a task, so that Dask makes it again where a worker
        dies.
        """
        with warnings.catch_warnings(action="ignore"):  # of its size
            return self.client.submit(_same, value, key=f"shared-{time.time_ns()}", pure=False)

    def submit(self, function, *arguments, name):
        """As InThisProcess.submit."""
        number = next(self._numbers)  # Dask would choose an order of its own, and may leave a teacher for last
        return self.client.submit(
            _run, function, *arguments, key=f"{name} #{time.time_ns()}", priority=-number, pure=False
        )

    def finished(self, tasks, describe):
        """As InThisProcess.finished. Raises what a task raised; UserError: its worker died four times, or the cluster
        is lost.
        """
        import distributed

        waiting, seen_workers = set(tasks), time.monotonic()
        while waiting:
            try:
                done = _ask(distributed.wait, waiting, timeout=1, return_when="FIRST_COMPLETED").done
            except distributed.TimeoutError:
                running = _ask(self.client.processing)
                first = [str(keys[0]) for keys in running.values() if keys]  # the others wait
                progress(f"{describe()}  running: {', '.join(key.split(' #')[0] for key in first)}")
                seen_workers = time.monotonic() if running else seen_workers
                if time.monotonic() - seen_workers > PATIENCE:
                    raise UserError(f"the cluster has had no workers for {PATIENCE} s: {GO_ON}") from None
                continue
            for task in sorted(done, key=lambda task: task.status == "error"):  # which ends it all: results come first
                clear_progress()
                yield task, _ask(task.result)
            waiting -= done


def _ask(function, *arguments, **options):
    """function(*arguments, **options), which asks the cluster. Raises UserError: that is lost, or cannot run this
    code.
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


def _same(value):
    return value


def _run(function, *arguments):
    with _one_task:
        use_one_core()
        return function(*arguments)
