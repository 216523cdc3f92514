"""A copy of a simulator object, however it was made, continues identically and shares nothing with the original."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve_sim.batch import ServingBatch
from llmserve_sim.engine.kernel import compiled
from llmserve_sim.env import ServingEnv
from llmserve_sim.grid import GRID_SIZES, from_indices
from llmserve_sim.gym import ServingGymEnv
from llmserve_sim.tasks import Task, load_task
from llmserve_sim.vector import ServingVectorEnv
from llmserve_sim.workload.scenario import generate

Copier = Callable[[Any], Any]
COPIERS: dict[str, Copier] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda made: pickle.loads(pickle.dumps(made)),  # noqa: S301 - our own bytes
    "cloudpickle": lambda made: pickle.loads(cloudpickle.dumps(made)),  # noqa: S301 - our own bytes
}
SIZE = 3
WINDOWS = 6
ENGINES = [("python", 1), *([("numba", 1), ("numba", 2)] if compiled.available() else [])]


def short() -> Task:
    return load_task("adversarial_multitenant").model_copy(update={"windows": WINDOWS})


def actions(window: int, stream: int) -> Any:
    return np.random.default_rng([window, stream]).integers(0, GRID_SIZES, (SIZE, len(GRID_SIZES)))


def play(env: ServingVectorEnv, first: int, last: int, stream: int) -> list[Any]:
    return [env.step(actions(window, stream)) for window in range(first, last)]


def same(ours: list[Any], theirs: list[Any]) -> bool:
    return data_equivalence(tuple(ours), tuple(theirs), exact=True)


@pytest.mark.parametrize("copier", COPIERS.values(), ids=COPIERS)
@pytest.mark.parametrize(("engine", "threads"), ENGINES)
@settings(max_examples=4, deadline=None)
@given(window=st.integers(0, 2 * WINDOWS), seed=st.integers(0, 2**31))
def test_a_copied_vector_environment_continues_with_the_same_bytes_through_further_resets(
    engine: Any, threads: int, copier: Copier, window: int, seed: int
) -> None:
    env, undisturbed = [ServingVectorEnv(SIZE, short(), engine=engine, threads=threads) for _ in range(2)]
    assert same([env.reset(seed=seed)], [undisturbed.reset(seed=seed)])
    play(env, 0, window, 1), play(undisturbed, 0, window, 1)
    twin = copier(env)
    play(twin, window, window + 3, 2)  # the copy goes elsewhere, which the original does not notice
    again = copier(env)
    expected = play(undisturbed, window, 3 * WINDOWS, 1)
    assert same(play(env, window, 3 * WINDOWS, 1), expected)
    assert same(play(again, window, 3 * WINDOWS, 1), expected)
    assert same([again.reset(), *play(again, 0, 2, 1)], [undisturbed.reset(), *play(undisturbed, 0, 2, 1)])
    assert all(np.isfinite(step[0]).all() for step in expected)
    for one in (env, twin, again, undisturbed):
        one.close()


@pytest.mark.parametrize("copier", COPIERS.values(), ids=COPIERS)
@pytest.mark.parametrize(("engine", "threads"), ENGINES)
def test_a_copied_batch_and_a_copied_selection_of_it_continue_with_the_same_bytes(
    engine: Any, threads: int, copier: Copier
) -> None:
    batch, undisturbed = [ServingBatch(short(), SIZE, backend=engine, threads=threads) for _ in range(2)]
    for one in (batch, undisturbed):
        one.start([4, 5, 6])
        one.advance(actions(0, 0))
    chosen = batch.select([2, 0, 0])
    twins = copier(batch), copier(chosen)
    for one in (batch, chosen):
        one.advance(actions(1, 9))
    for twin, original in zip(twins, (undisturbed, undisturbed.select([2, 0, 0])), strict=True):
        for window in range(1, WINDOWS):
            here, there = twin.advance(actions(window, 0)), original.advance(actions(window, 0))
            assert np.array_equal(here.reward, there.reward)
            assert np.array_equal(twin.engine.arena, original.engine.arena)
        twin.start([1, 2, 3]), original.start([1, 2, 3])
        assert np.array_equal(twin.advance(actions(0, 1)).reward, original.advance(actions(0, 1)).reward)
    for one in (batch, undisturbed, *twins):
        one.close()


@pytest.mark.parametrize("copier", COPIERS.values(), ids=COPIERS)
@pytest.mark.parametrize("engine", ["reference", "python", *(["numba"] if compiled.available() else [])])
@pytest.mark.parametrize("kind", [ServingEnv, ServingGymEnv])
def test_a_copied_environment_continues_with_the_same_bytes(kind: Any, engine: Any, copier: Copier) -> None:
    def stepped(env: Any, stream: int) -> list[Any]:
        rows = [actions(window, stream)[0] for window in range(3)]
        if kind is ServingGymEnv:
            return [(seen.tobytes(), *rest) for seen, *rest in map(env.step, rows)]
        return [env.step(from_indices(row)) for row in rows]

    env, undisturbed = [kind(short(), engine=engine) for _ in range(2)]
    env.reset(seed=3), undisturbed.reset(seed=3)
    assert stepped(env, 0) == stepped(undisturbed, 0)
    twin, again = copier(env), copier(env)
    stepped(twin, 5)
    expected = stepped(undisturbed, 1)
    assert stepped(env, 1) == expected
    assert stepped(again, 1) == expected


def test_a_copied_environment_that_was_never_reset_starts_like_the_original() -> None:
    for copier in COPIERS.values():
        env = ServingVectorEnv(SIZE, short(), threads=2)
        twin = copier(env)
        assert same([twin.reset(seed=1)], [env.reset(seed=1)])
        env.close(), twin.close()


def test_a_copied_task_and_a_copied_scenario_are_equal_to_the_original() -> None:
    task = load_task("phase_shift")
    scenario = generate(task, 5)
    for copier in COPIERS.values():
        assert copier(task) == task
        assert copier(task).digest == task.digest
        assert copier(scenario).digest() == scenario.digest()
