"""The vector environment is the scalar one, many times over."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.grid import GRID_SIZES
from llmserve_sim.gym import IDS, ServingGymEnv
from llmserve_sim.tasks import Task, load_task
from llmserve_sim.vector import ServingVectorEnv


def _short(task_id: str, windows: int) -> Task:
    return load_task(task_id).model_copy(update={"windows": windows})


def _same(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> bool:
    # Gymnasium's reference keeps its result arrays and fills them again; comparing copies avoids its aliasing.
    return data_equivalence(ours[:-1], theirs[:-1], exact=True) and data_equivalence(ours[-1], theirs[-1], exact=True)


@pytest.mark.parametrize("task_id", list(IDS.values()))
@pytest.mark.parametrize("action", ["multi_discrete", "dict"])
def test_it_agrees_with_gymnasiums_own_vectorisation_of_the_scalar_environment_step_for_step(
    task_id: str, action: Any
) -> None:
    task = _short(task_id, 5)
    ours = ServingVectorEnv(3, task, observation="extended", action=action)
    theirs = SyncVectorEnv(
        [lambda: ServingGymEnv(task, observation="extended", action=action)] * 3,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert _same(ours.reset(seed=40), theirs.reset(seed=40))
    ours.action_space.seed(1)
    for _ in range(12):
        actions = ours.action_space.sample()
        assert _same(ours.step(actions), theirs.step(actions))
    assert _same(ours.reset(seed=[7, None, 9]), theirs.reset(seed=[7, None, 9]))


def test_make_vec_uses_it_for_every_registered_id() -> None:
    for name in IDS:
        env = gymnasium.make_vec(name, num_envs=2, observation="extended")
        assert isinstance(env.unwrapped, ServingVectorEnv)
        assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
        observations, _ = env.reset(seed=0)
        assert observations in env.observation_space
        env.close()


@pytest.mark.parametrize("seed", [1.0, "7", [1.5, 2], [True, 2], 2.0])
def test_seeds_that_are_no_integers_are_refused_by_name(seed: Any) -> None:
    env = ServingVectorEnv(2, _short("static_workload", 3))
    with pytest.raises(InvalidInputError, match=r"^seed"):
        env.reset(seed=seed)
    env.close()


def test_an_array_of_seeds_does_what_a_list_does() -> None:
    env = ServingVectorEnv(2, _short("static_workload", 3))
    assert _same(env.reset(seed=np.array([3, 5])), env.reset(seed=[3, 5]))  # type: ignore[arg-type]
    env.close()


def test_no_actions_at_all_are_refused_by_name() -> None:
    env = ServingVectorEnv(2, _short("static_workload", 3))
    env.reset(seed=0)
    with pytest.raises(InvalidInputError, match="actions: must be 2 actions"):
        env.step(None)
    env.close()


def test_a_refused_action_leaves_every_episode_as_it_was() -> None:
    env, untouched = ServingVectorEnv(3), ServingVectorEnv(3)
    env.reset(seed=0)
    untouched.reset(seed=0)
    actions = np.zeros((3, len(GRID_SIZES)), dtype=np.int64)
    bad = actions.copy()
    bad[2, 3] = 3
    for refused in (bad, actions[:2], np.zeros((3, 5), dtype=np.int64)):
        with pytest.raises(InvalidInputError):
            env.step(refused)
    assert _same(env.step(actions), untouched.step(actions))


@pytest.mark.parametrize("count", [0, -1, 2.0, True, 10**6])
def test_a_wrong_number_of_environments_is_refused(count: Any) -> None:
    with pytest.raises(InvalidInputError, match="num_envs"):
        ServingVectorEnv(count)


def test_a_wrong_number_of_seeds_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="seed: must have one entry for each of 2 environments"):
        ServingVectorEnv(2).reset(seed=[1])
