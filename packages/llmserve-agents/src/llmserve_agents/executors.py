"""Executors, which run jobs in this process, in several processes of this machine, or on a Ray cluster.

An executor maps a function over jobs and yields each result as soon as its job is done. Functions, jobs and results are
pickled, so a function must be defined at the top level of its module. This module knows nothing about agents or
episodes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

from llmserve_agents.errors import MissingExtraError
from llmserve_sim.errors import InvalidInputError

__all__ = [
    "EXECUTORS",
    "Executor",
    "ProcessExecutor",
    "RayExecutor",
    "SerialExecutor",
    "WorkerPool",
    "cpu_count",
    "make_executor",
]

EXECUTORS: Final = ("serial", "process", "ray")
"""Names of the executors."""
_MAX_WORKERS: Final = 1024
_THREADS: Final = ("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Environment variables from which linear algebra libraries read their number of threads when they are loaded."""

Job = TypeVar("Job")
Result = TypeVar("Result")


@runtime_checkable
class Executor(Protocol):
    """Runs jobs."""

    @property
    def workers(self) -> int:
        """Number of jobs that run at a time."""
        ...

    def map(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Generator[Result, None, None]:
        """Yield ``function(job)`` of every job as soon as it is done. Jobs start in the order of `jobs`.

        Raises what a job raises. Jobs that are still running then, or when the iterator is closed or interrupted, are
        ended, and their processes with them.
        """
        ...


class SerialExecutor:
    """Runs one job after the other in this process."""

    workers = 1

    def map(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Generator[Result, None, None]:
        """Yield the results in the order of the jobs."""
        yield from map(function, jobs)


class ProcessExecutor:
    """Runs jobs in processes of this machine, by default one per processor. Every `map` starts new ones.

    A script that calls `map` needs ``if __name__ == "__main__"``, because the processes import it.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._workers = cpu_count() if workers is None else _checked(workers)

    @property
    def workers(self) -> int:
        """Number of processes."""
        return self._workers

    def map(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Generator[Result, None, None]:
        """Yield the results as they are done. Raises `concurrent.futures.BrokenExecutor` if a process is killed."""
        if not jobs:
            return
        pool = WorkerPool(min(self._workers, len(jobs)))
        try:
            for future in as_completed([pool.submit(function, job) for job in jobs]):
                yield future.result()
        except BaseException:
            pool.kill()
            raise
        else:
            pool.close()


class WorkerPool:
    """Processes of this machine that run until `close` or `kill` and ignore Ctrl-C.

    Args:
        workers: number of processes.
        initializer: a top-level function that every process calls first.
        initargs: its arguments.
    """

    def __init__(
        self, workers: int, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
    ) -> None:
        # Not "fork": it copies locks that other threads hold at that moment, a progress bar's for example.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(workers, context, _initialize, (initializer, initargs))
        self._processes: set[multiprocessing.process.BaseProcess] = set()

    def submit(self, function: Callable[[Job], Result], job: Job) -> Future[Result]:
        """Start a job and return its future."""
        before = set(multiprocessing.active_children())
        with _interrupts_blocked(), _one_thread_each():
            future = self._pool.submit(function, job)
        self._processes |= set(multiprocessing.active_children()) - before
        return future

    def map(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
        """Return ``function(job)`` of every job. If one fails, or on Ctrl-C, all processes are ended."""
        try:
            return [future.result() for future in [self.submit(function, job) for job in jobs]]
        except BaseException:
            self.kill()
            raise

    def close(self) -> None:
        """Wait for the running jobs and end the processes."""
        self._pool.shutdown()

    def kill(self) -> None:
        """End the processes at once."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            while process.exitcode is None:  # the pool's thread may have reaped it without having set the exit code yet
                process.join(0.01)


class RayExecutor:
    """Runs jobs on the Ray cluster at `address` or ``$RAY_ADDRESS``, else on a local one with `workers` processes.

    Every `map` connects to the cluster, or starts the local one, and disconnects at the end. If this process is already
    connected to a cluster, that one is used and stays connected. Raises `MissingExtraError` if ray is not installed.
    """

    def __init__(self, workers: int | None = None, *, address: str | None = None) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise MissingExtraError("ray", "the executor 'ray'") from error
        self._ray: Any = ray
        self._address = address or os.environ.get("RAY_ADDRESS") or None
        self._workers = cpu_count() if workers is None else _checked(workers)

    @property
    def workers(self) -> int:
        """Processors of the connected cluster; before a connection, those that a local cluster will have."""
        if self._ray.is_initialized():
            return int(self._ray.cluster_resources().get("CPU", 1))
        return self._workers

    def map(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Generator[Result, None, None]:
        """Yield the results as they are done. Each job takes one processor; a job that fails is not repeated."""
        ray = self._ray
        connect = not ray.is_initialized()
        if connect:
            options = {"address": self._address} if self._address else {"address": "local", "num_cpus": self._workers}
            ray.init(include_dashboard=None if self._address else False, log_to_driver=False, **options)
        waiting = []
        try:
            remote = ray.remote(num_cpus=1, max_retries=0)(_call)
            waiting = [remote.remote(function, job) for job in jobs]
            while waiting:
                done, waiting = ray.wait(waiting, num_returns=1)
                try:
                    yield ray.get(done[0])
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from None
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)
            if connect:
                ray.shutdown()


def make_executor(name: str, workers: int | None = None) -> Executor:
    """Return an executor by name; raises `InvalidInputError` for an unknown name or an invalid number of workers."""
    if name == "serial":
        if workers not in {None, 1}:
            raise InvalidInputError("workers", "must be 1 with the executor serial", got=workers)
        return SerialExecutor()
    if name == "process":
        return ProcessExecutor(workers)
    if name == "ray":
        return RayExecutor(workers)
    raise InvalidInputError("executor", "must be one of " + ", ".join(EXECUTORS), got=name)


def cpu_count() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _call(function: Callable[[Job], Result], job: Job) -> Result:
    """Call any callable from a plain function, which is what Ray needs."""
    return function(job)


def _checked(workers: int) -> int:
    if type(workers) is not int or not 1 <= workers <= _MAX_WORKERS:
        raise InvalidInputError("workers", f"must be an integer in 1..{_MAX_WORKERS}", got=workers)
    return workers


def _initialize(initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    """Make a worker process ignore Ctrl-C, which the terminal sends to all processes, and end with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    if initializer is not None:
        initializer(*initargs)


def _exit_with_parent() -> None:
    """Wait for the parent to end, then exit. A parent that is killed cannot end its workers itself."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Start processes with one thread for linear algebra, unless the environment already sets a number.

    Otherwise each of several processes uses all processors for its small products, and they mostly wait for each other.
    """
    unset = [name for name in _THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(unset, "1"))
    try:
        yield
    finally:
        for name in unset:
            del os.environ[name]


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Start processes with Ctrl-C blocked: before their initializer runs, it would end them with a traceback."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
