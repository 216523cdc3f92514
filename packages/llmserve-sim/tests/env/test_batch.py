"""A batch of episodes says, number for number, what the same episodes say one by one."""

from __future__ import annotations

import random
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from llmserve_sim.batch import ServingBatch
from llmserve_sim.env import Outcome, ServingEnv
from llmserve_sim.errors import EpisodeStateError, InvalidInputError
from llmserve_sim.grid import GRID_SIZES, from_indices
from llmserve_sim.metrics import Measurement
from llmserve_sim.reward import RewardTerms
from llmserve_sim.schema import ServeAction
from llmserve_sim.tasks import list_tasks

SIZE = 4


def _at(outcome: Outcome, index: int, size: int) -> tuple[list[float], list[float] | None]:
    def row(table: Any, kind: Any) -> list[float]:
        return [float(np.broadcast_to(getattr(table, f.name), size)[index]) for f in fields(kind)]

    terms = None if outcome.terms is None else row(outcome.terms, RewardTerms)
    return row(outcome.measurement, Measurement), terms


@pytest.mark.parametrize("task", [task.id for task in list_tasks()])
def test_a_batch_agrees_with_single_environments_in_every_number(task: str) -> None:
    rng = random.Random(task)
    batch, envs = ServingBatch(task, SIZE), [ServingEnv(task) for _ in range(SIZE)]
    seeds = list(range(20, 20 + SIZE))
    together, apart = batch.start(seeds), [env.start(seed) for env, seed in zip(envs, seeds, strict=True)]
    for window in range(11):
        if window == 8:
            together, apart = batch.start(seeds), [env.start(seed) for env, seed in zip(envs, seeds, strict=True)]
        assert [_at(together, i, SIZE) for i in range(SIZE)] == [_at(outcome, 0, 1) for outcome in apart]
        actions = [from_indices([rng.randrange(n) for n in GRID_SIZES]) for _ in range(SIZE)]
        together = batch.advance(actions)
        apart = [env.advance(action) for env, action in zip(envs, actions, strict=True)]


def test_threads_and_backends_change_no_number() -> None:
    pytest.importorskip("numba")
    batches = [
        ServingBatch("bursty_workload", SIZE, backend="python"),
        ServingBatch("bursty_workload", SIZE, backend="numba"),
        ServingBatch("bursty_workload", SIZE, backend="numba", threads=2),
    ]
    for batch in batches:
        batch.start(range(SIZE))
    for _ in range(4):
        seen = [batch.advance([ServeAction(speculation_depth=2)] * SIZE) for batch in batches]
        assert all(_at(other, i, SIZE) == _at(seen[0], i, SIZE) for other in seen[1:] for i in range(SIZE))
    for batch in batches:
        batch.close()


def test_calls_at_the_wrong_time_or_of_the_wrong_size_are_refused_and_change_nothing() -> None:
    batch = ServingBatch("static_workload", 2, deployment="rtx4090-llama3.1-8b")
    with pytest.raises(EpisodeStateError, match="start first"):
        batch.advance([ServeAction()] * 2)
    with pytest.raises(InvalidInputError, match="seeds"):
        batch.start([1])
    batch.start([1, 2])
    with pytest.raises(InvalidInputError, match="actions"):
        batch.advance([ServeAction()])
    with pytest.raises(InvalidInputError, match="single replica"):
        batch.advance([ServeAction(), ServeAction(prefill_decode_split=True)])
    env = ServingEnv("static_workload", deployment="rtx4090-llama3.1-8b")
    env.start(2)
    assert _at(batch.advance([ServeAction()] * 2), 1, 2) == _at(env.advance(ServeAction()), 0, 1)
