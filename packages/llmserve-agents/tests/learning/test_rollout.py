"""Episodes for training: the same ones, and the same draws, however many processes play them."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmserve_agents.learning.features import FEATURES
from llmserve_agents.learning.network import HEAD_SIZES, MLPPolicy
from llmserve_agents.learning.rollout import ROLLOUT_SHARDS, Rollout, RolloutWorkers
from llmserve_sim.batch import ServingBatch
from llmserve_sim.tasks import Task, load_task

WINDOWS = 6


@pytest.fixture
def task(short_task: Path) -> Task:
    return load_task(short_task)


def policy(seed: int = 0) -> MLPPolicy:
    """A policy that nobody trained."""
    rng = np.random.default_rng(seed)
    sizes = (len(FEATURES), 8, 8, sum(HEAD_SIZES))
    layers = tuple(
        (rng.normal(size=(n, m)).astype(np.float32), np.zeros(n, dtype=np.float32)) for m, n in pairwise(sizes)
    )
    still = np.zeros(len(FEATURES), dtype=np.float32)
    return MLPPolicy(still, still + 1.0, layers, can_split=True)


def played(task: Task, size: int, *, threads: int = 1, group_size: int = 1, trials: float = 0.3) -> Rollout:
    workers = RolloutWorkers(task, size, group_size=group_size, threads=threads)
    try:
        rollout, _ = workers.collect(policy(), list(range(size)), trials, np.random.default_rng(7))
    finally:
        workers.close()
    return rollout


@pytest.mark.parametrize("size", [1, 5, 8])
def test_the_number_of_processes_changes_no_number(task: Task, size: int) -> None:
    here, apart = played(task, size), played(task, size, threads=3)
    for column in fields(Rollout):
        np.testing.assert_array_equal(getattr(here, column.name), getattr(apart, column.name))
    assert here.inputs.shape == (WINDOWS, size, len(FEATURES))


def test_the_same_draws_give_the_same_episodes_and_other_draws_other_ones(task: Task) -> None:
    workers = RolloutWorkers(task, 4)
    first, again, other = (
        workers.collect(policy(), [3, 4, 5, 6], 0.0, np.random.default_rng(seed))[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.actions, again.actions)
    assert (first.actions != other.actions).any()
    assert (first.actions[:, :2] != first.actions[:, 2:]).any(), "the shards draw on their own"


@pytest.mark.parametrize(("size", "group_size", "shards"), [(8, 4, [4, 4]), (12, 4, [4, 8]), (4, 4, [4]), (1, 1, [1])])
def test_a_group_is_not_parted(
    task: Task, monkeypatch: pytest.MonkeyPatch, size: int, group_size: int, shards: list[int]
) -> None:
    begun: list[int] = []
    start = ServingBatch.start
    monkeypatch.setattr(ServingBatch, "start", lambda self, seeds: begun.append(len(seeds)) or start(self, seeds))
    played(task, size, group_size=group_size)
    assert begun == shards
    assert len(shards) <= ROLLOUT_SHARDS


def test_what_playing_took_is_what_passed_by_the_clock(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts at once take half of what their own clocks add up to, and parts one after the other all of it."""
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(
        "llmserve_agents.learning.rollout.RolloutWorker.collect", lambda *_: {"act": 1.0, "simulate": 4.0}
    )
    monkeypatch.setattr("llmserve_agents.learning.rollout.time.perf_counter", lambda: next(clock))
    _, seconds = RolloutWorkers(task, 4).collect(policy(), [1, 2, 3, 4], 0.0, np.random.default_rng(0))
    assert seconds == {"act": pytest.approx(2.0), "simulate": pytest.approx(8.0)}


def test_what_a_worker_raises_is_raised_and_ends_the_processes(task: Task) -> None:
    workers = RolloutWorkers(task, 4, threads=2)
    wrong: Any = ["no seed"] * 4
    with pytest.raises(Exception, match="seed"):
        workers.collect(policy(), wrong, 0.0, np.random.default_rng(0))
    assert workers._pool is not None
    assert not any(process.is_alive() for process in workers._pool._processes)
