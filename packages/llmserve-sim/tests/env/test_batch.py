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
from llmserve_sim.reward import CountedTerms, RewardCounts, RewardTerms
from llmserve_sim.schema import ServeAction
from llmserve_sim.tasks import Task, list_tasks, load_task

SIZE = 4


def counted(task_id: str) -> Task:
    """A built-in task whose reward counts."""
    task = load_task(task_id)
    reward = task.reward.model_copy(update={"requests_per_s": 23.7, "output_tokens_per_s": 4017.0})
    return task.model_copy(update={"id": "counted", "reward": reward})


def _at(outcome: Outcome, index: int, size: int) -> tuple[list[float], list[float] | None]:
    def row(table: Any, kind: Any) -> list[float]:
        return [float(np.broadcast_to(getattr(table, f.name), size)[index]) for f in fields(kind)]

    terms = None if outcome.terms is None else row(outcome.terms, RewardTerms)
    if isinstance(outcome.terms, CountedTerms):
        terms = [*(terms or ()), *row(outcome.terms.counts, RewardCounts)]
    return row(outcome.measurement, Measurement), terms


@pytest.mark.parametrize("task", [*list_tasks(), counted("bursty_workload")], ids=lambda task: task.id)
def test_a_batch_agrees_with_single_environments_in_every_number(task: Task) -> None:
    rng = random.Random(task.id)
    batch, envs = ServingBatch(task, SIZE), [ServingEnv(task) for _ in range(SIZE)]
    seeds = [20, 21, 22, 20]  # one of them twice
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


def _indices(rng: random.Random, size: int) -> Any:
    return np.array([[rng.randrange(n) for n in GRID_SIZES] for _ in range(size)])


def test_indices_on_the_grid_mean_the_same_as_the_actions_they_stand_for() -> None:
    rng = random.Random(3)
    plain, fast = ServingBatch("phase_shift", SIZE), ServingBatch("phase_shift", SIZE)
    plain.start(range(SIZE)), fast.start(range(SIZE))
    for _ in range(10):
        indices = _indices(rng, SIZE)
        expected, got = plain.advance([from_indices(row) for row in indices.tolist()]), fast.advance(indices)
        assert [_at(got, i, SIZE) for i in range(SIZE)] == [_at(expected, i, SIZE) for i in range(SIZE)]


@pytest.mark.parametrize(
    ("actions", "field"),
    [
        (np.zeros((2, 5), np.int64), "actions"),
        (np.zeros((2, 6)), "actions"),
        (np.array([[0, 0, 0, 0, 0, 0], [10, 0, 0, 0, 0, 0]]), "batch_cap"),
        (np.array([[0, 0, 0, -1, 0, 0], [0, 0, 0, 0, 0, 0]]), "quantization_tier"),
        (np.array([[0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]]), "prefill_decode_split"),
    ],
)
def test_indices_off_the_grid_are_refused_with_the_knob_named_and_change_nothing(actions: Any, field: str) -> None:
    batch = ServingBatch("static_workload", 2, deployment="rtx4090-llama3.1-8b")
    batch.start([1, 2])
    with pytest.raises(InvalidInputError) as caught:
        batch.advance(actions)
    assert caught.value.field == field
    assert batch.window == 0


@pytest.mark.parametrize("task", [load_task("bursty_workload"), counted("bursty_workload")], ids=lambda task: task.id)
@pytest.mark.parametrize("backend", ["python", "numba"])
def test_a_selection_goes_on_like_the_episodes_it_copies_and_leaves_them_alone(backend: Any, task: Task) -> None:
    if backend == "numba":
        pytest.importorskip("numba")
    rng = random.Random(5)
    envs = [ServingEnv(task, engine=backend) for _ in range(2)]
    batch = ServingBatch(task, 2, backend=backend)
    batch.start([8, 9])
    for env, seed in zip(envs, (8, 9), strict=True):
        env.start(seed)
    for _ in range(3):
        indices = _indices(rng, 2)
        batch.advance(indices)
        for env, row in zip(envs, indices.tolist(), strict=True):
            env.advance(from_indices(row))
    gathered = ServingBatch.gather(envs)
    spent = batch.select([1, 1, 0])
    spent.advance(_indices(rng, 3))
    chosen = [1, 0, 1]
    copies = batch.select(chosen, into=spent)
    second = copies.select([2, 1])
    for _ in range(2):
        indices = _indices(rng, 2)
        # The selection of a selection, first on its own: if it shared state with the others, they would differ below.
        last = second.advance(indices)
        by_copy, by_env = copies.advance(indices[chosen]), gathered.advance(indices)
        whole = batch.advance(indices)
        alone = [env.advance(from_indices(row)) for env, row in zip(envs, indices.tolist(), strict=True)]
        expected = [_at(outcome, 0, 1) for outcome in alone]
        assert [_at(whole, i, 2) for i in range(2)] == expected
        assert [_at(by_env, i, 2) for i in range(2)] == expected
        assert [_at(by_copy, i, 3) for i in range(3)] == [expected[i] for i in chosen]
        assert last.done is False
    batch.start([8, 9])  # a selection keeps its requests although the batch it came from has new ones
    assert copies.advance(_indices(rng, 3)).done is False


def test_a_batch_can_be_gathered_at_the_start_and_goes_on_to_the_end() -> None:
    env = ServingEnv("static_workload")
    env.start(4)
    batch = ServingBatch.gather([env.fork(), env.fork(forecast=1)])
    action = [ServeAction(batch_cap=64)]
    for _ in range(batch.episode_length):
        outcome = batch.advance(action * 2)
        alone = env.advance(action[0])
        assert _at(outcome, 0, 2) == _at(alone, 0, 1)
    assert outcome.done
    with pytest.raises(EpisodeStateError):
        batch.advance(action * 2)


def test_what_cannot_be_gathered_or_selected_is_named() -> None:
    one, other, slow = ServingEnv("static_workload"), ServingEnv("static_workload"), ServingEnv(engine="reference")
    for env in (one, other, slow):
        env.start(1)
    other.advance(ServeAction())
    for envs in ([], [one, other], [slow]):
        with pytest.raises(InvalidInputError, match="envs"):
            ServingBatch.gather(envs)
    with pytest.raises(EpisodeStateError, match="start first"):
        ServingBatch("static_workload", 2).select([0])
    batch = ServingBatch.gather([one])
    for indices in ([], [1], [-1]):
        with pytest.raises(InvalidInputError, match="indices"):
            batch.select(indices)
