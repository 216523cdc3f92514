"""Executors: the same results wherever jobs run, and no process left behind whatever happens."""

from __future__ import annotations

import importlib.util
import math
import multiprocessing
import operator
import os
import signal
import subprocess
import sys
import time

import pytest

from llmserve_agents.errors import MissingExtraError
from llmserve_agents.executors import (
    EXECUTORS,
    Executor,
    ProcessExecutor,
    RayExecutor,
    SerialExecutor,
    cpu_count,
    make_executor,
)
from llmserve_sim.errors import InvalidInputError

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="ray is not installed: pip install 'llmserve-agents[ray]'")
KINDS = [name if name != "ray" else pytest.param(name, marks=needs_ray) for name in EXECUTORS]


@pytest.mark.parametrize("name", KINDS)
def test_every_executor_gives_every_result(name: str) -> None:
    executor = make_executor(name, 1 if name == "serial" else 2)
    assert isinstance(executor, Executor)
    assert executor.workers == (1 if name == "serial" else 2)
    assert sorted(executor.map(operator.neg, list(range(20)))) == list(range(-19, 1))


@pytest.mark.parametrize("name", KINDS)
def test_what_a_job_raises_is_raised_to_the_caller(name: str) -> None:
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        list(make_executor(name, 1).map(math.sqrt, [1.0, -1.0]))
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("name", ["serial", "process"])
def test_no_jobs_give_no_results(name: str) -> None:
    assert list(make_executor(name).map(math.sqrt, [])) == []


def test_serial_results_come_in_the_order_of_the_jobs_and_lazily() -> None:
    seen: list[int] = []
    results = SerialExecutor().map(lambda job: seen.append(job) or job, [1, 2, 3])
    assert next(results) == 1
    assert seen == [1]


def test_processes_have_one_thread_of_linear_algebra_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    asked = ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"]
    assert sorted(ProcessExecutor(1).map(os.getenv, asked)) == ["1", "3"]
    assert "OPENBLAS_NUM_THREADS" not in os.environ


def test_results_come_as_they_are_done() -> None:
    results = ProcessExecutor(2).map(time.sleep, [30.0, 0.0])
    assert next(results) is None  # the job that does not sleep
    results.close()


def test_closing_the_iterator_ends_the_processes() -> None:
    results = ProcessExecutor(2).map(time.sleep, [0.0, 30.0, 30.0])
    next(results)
    begun = time.monotonic()
    results.close()
    assert multiprocessing.active_children() == []
    assert time.monotonic() - begun < 10.0


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal to a process group")
def test_ctrl_c_ends_the_command_and_its_workers_without_their_tracebacks() -> None:
    program = """
import signal
import time
from llmserve_agents.executors import ProcessExecutor
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    try:
        for _ in ProcessExecutor(2).map(time.sleep, [0.0, 60.0, 60.0]):
            print("one", flush=True)
    except KeyboardInterrupt:
        raise SystemExit(130)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "one\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process
        output, errors = process.communicate(timeout=20)  # until nobody holds the pipes, the workers neither
    assert process.returncode == 130
    assert errors == ""
    assert output == ""


@pytest.mark.skipif(sys.platform == "win32", reason="reads a pipe that the workers inherit")
def test_workers_end_when_the_process_that_asked_is_killed() -> None:
    """Idle or at work: the pipe that all of them hold is closed when the last one is gone."""
    program = """
import time
from llmserve_agents.executors import ProcessExecutor
if __name__ == "__main__":
    for _ in ProcessExecutor(2).map(time.sleep, [0.0, 0.0, 120.0]):
        print("one", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["one\n", "one\n"]
        process.kill()
        begun = time.monotonic()
        process.communicate(timeout=60)
        assert time.monotonic() - begun < 30.0


def test_workers_are_the_processors_that_may_be_used_unless_told_otherwise() -> None:
    assert ProcessExecutor().workers == cpu_count() >= 1


@pytest.mark.parametrize(
    ("name", "workers", "field"),
    [("threads", None, "executor"), ("process", 0, "workers"), ("process", True, "workers"), ("serial", 2, "workers")],
)
def test_bad_input_is_refused_by_name(name: str, workers: int | None, field: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        make_executor(name, workers)
    assert refused.value.field == field


@pytest.mark.skipif(HAS_RAY, reason="ray is installed")
def test_without_ray_the_executor_says_which_extra_it_needs() -> None:
    with pytest.raises(MissingExtraError, match=r"llmserve-agents\[ray\]"):
        make_executor("ray")


@needs_ray
def test_a_ray_cluster_that_is_there_already_is_used_and_left_running() -> None:
    import ray

    ray.init(num_cpus=2, address="local", include_dashboard=False, log_to_driver=False)
    try:
        executor = RayExecutor()
        assert sorted(executor.map(abs, [-1, -2, -3])) == [1, 2, 3]
        assert executor.workers == 2
        assert ray.is_initialized()
    finally:
        ray.shutdown()
