"""Where jobs run: in this process, in several on this machine, or on a Ray cluster. One small protocol, three executors.

An executor maps a function over jobs and gives the results in the order in which they are done. Functions, jobs and results
are pickled on the way, so a function stands at the top of its module. The module knows nothing about agents or episodes.
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
"""Executors by the name that commands use."""
_MAX_WORKERS: Final = 1024
_THREADS: Final = ("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What libraries of linear algebra take their number of threads from when they are loaded."""

Job = TypeVar("Job")
Result = TypeVar("Result")


@runtime_checkable
class Executor(Protocol):
    """What jobs are given to."""

    @property
    def workers(self) -> int:
        """How many jobs run at a time."""
        ...

    def map(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Generator[Result, None, None]:
        """Yield ``function(job)`` of every job as it is done, begun in the order of `jobs`.

        What a job raises is raised here; what is still running then, or when the iterator is closed or interrupted, is
        ended and leaves no process behind.
        """
        ...


class SerialExecutor:
    """One job after the other, in this process."""

    workers = 1

    def map(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Generator[Result, None, None]:
        """Yield the results in the order of the jobs."""
        yield from map(function, jobs)


class ProcessExecutor:
    """Several processes on this machine, as many as it has processors unless told otherwise; new ones for each `map`.

    A script that maps needs the usual ``if __name__ == "__main__"``: the processes import it anew.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._workers = cpu_count() if workers is None else _checked(workers)

    @property
    def workers(self) -> int:
        """How many processes work."""
        return self._workers

    def map(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Generator[Result, None, None]:
        """Yield the results as they are done. Raises `concurrent.futures.BrokenExecutor` where a process is killed."""
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
    """Processes of this machine that stay until they are told to end, and to which Ctrl-C means nothing.

    Args:
        workers: how many.
        begin: what each does first, with the arguments `given`; a function at the top of its module.
    """

    def __init__(self, workers: int, begin: Callable[..., None] | None = None, given: tuple[Any, ...] = ()) -> None:
        # Not forked: a fork copies locks that other threads (a progress bar's, say) happen to hold.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(workers, context, _begin, (begin, given))
        self._mine: set[multiprocessing.process.BaseProcess] = set()

    def submit(self, function: Callable[[Job], Result], job: Job) -> Future[Result]:
        """Let a process work at a job."""
        before = set(multiprocessing.active_children())
        with _interrupts_blocked(), _one_thread_each():
            future = self._pool.submit(function, job)
        self._mine |= set(multiprocessing.active_children()) - before
        return future

    def map(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
        """Return ``function(job)`` of every job. When that fails or is interrupted, all processes are ended."""
        try:
            return [future.result() for future in [self.submit(function, job) for job in jobs]]
        except BaseException:
            self.kill()
            raise

    def close(self) -> None:
        """Let the processes end what they work at, and end."""
        self._pool.shutdown()

    def kill(self) -> None:
        """End the processes at once."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in self._mine:
            process.terminate()
        for process in self._mine:
            while process.exitcode is None:  # the pool's own thread may have reaped it, and not have noted it yet
                process.join(0.01)


class RayExecutor:
    """A Ray cluster: the one at `address` or ``$RAY_ADDRESS``, else a local one of `workers` processes for each `map`.

    A cluster that this process is already connected to is used and left as it is. Raises `MissingExtraError` where ray is
    not installed.
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
        """Processors of the cluster, once there is one; before, what a local one will have."""
        if self._ray.is_initialized():
            return int(self._ray.cluster_resources().get("CPU", 1))
        return self._workers

    def map(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Generator[Result, None, None]:
        """Yield the results as they are done; each job takes one processor, and is not repeated when it fails."""
        ray = self._ray
        mine = not ray.is_initialized()
        if mine:
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
            if mine:
                ray.shutdown()


def make_executor(name: str, workers: int | None = None) -> Executor:
    """Return an executor by name; raises `InvalidInputError` for a name not in `EXECUTORS` or a count out of bounds."""
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
    """What Ray runs: it takes plain functions only, and jobs may be of any callable."""
    return function(job)


def _checked(workers: int) -> int:
    if type(workers) is not int or not 1 <= workers <= _MAX_WORKERS:
        raise InvalidInputError("workers", f"must be an integer in 1..{_MAX_WORKERS}", got=workers)
    return workers


def _begin(begin: Callable[..., None] | None, given: tuple[Any, ...]) -> None:
    """Leave Ctrl-C, which a terminal sends to every process, to the one that is asked; end with it; and begin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin(*given)


def _end_with_parent() -> None:
    """Wait until the process that asked is there no more: killed, it could not tell anyone, and jobs would be waited for."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Within it, processes are born with one thread for linear algebra, unless told otherwise.

    Several processes that each use all processors for their small products wait for one another most of the time.
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
    """Within it, processes are born deaf to Ctrl-C: until their initializer runs they would die of it with a traceback."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
