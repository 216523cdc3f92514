"""The vector environment is the scalar one, many times over."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from llmserve_sim.errors import EpisodeStateError, InvalidInputError
from llmserve_sim.grid import GRID_SIZES
from llmserve_sim.gym import IDS, ServingGymEnv
from llmserve_sim.tasks import Task, load_task
from llmserve_sim.vector import ServingVectorEnv

ACTIONS = np.array([[6, 8, 0, 0, 0, 0], [3, 4, 2, 1, 0, 1]])


def _short(task_id: str, windows: int) -> Task:
    return load_task(task_id).model_copy(update={"windows": windows})


def _same(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> bool:
    # Gymnasium's reference keeps its result arrays and fills them again; comparing copies avoids its aliasing.
    return data_equivalence(ours[:-1], theirs[:-1], exact=True) and data_equivalence(ours[-1], theirs[-1], exact=True)


@pytest.mark.parametrize("task_id", list(IDS.values()))
@pytest.mark.parametrize("action", ["multi_discrete", "dict"])
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_it_agrees_with_gymnasiums_own_vectorisation_of_the_scalar_environment_step_for_step(
    task_id: str, action: Any, mode: AutoresetMode
) -> None:
    task = _short(task_id, 5)
    ours = ServingVectorEnv(3, task, observation="extended", action=action, autoreset_mode=mode)
    theirs = SyncVectorEnv(
        [lambda: ServingGymEnv(task, observation="extended", action=action)] * 3, autoreset_mode=mode
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


@pytest.mark.parametrize("seed", [1.0, "7", [1.5, 2], [True, 2], 2.0, True, np.True_, [np.True_, 2], -1, [1, -1]])
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


def _keys(infos: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _keys(value) if isinstance(value, dict) else (value.dtype.name, value.shape)
        for key, value in infos.items()
        if not key.lstrip("_").startswith("final")
    }


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_infos_have_the_same_keys_and_types_after_a_reset_and_after_every_step(mode: AutoresetMode) -> None:
    env = ServingVectorEnv(2, _short("static_workload", 3), autoreset_mode=mode)
    infos = [env.reset(seed=4)[1], *(env.step(ACTIONS)[4] for _ in range(3))]
    infos.append(env.reset(options={"reset_mask": np.ones(2, dtype=np.bool_)})[1])
    assert all(_keys(one) == _keys(infos[0]) for one in infos)
    assert infos[1]["episode_seed"].tolist() == [4, 5]
    if mode is AutoresetMode.SAME_STEP:
        assert _keys(infos[3]["final_info"]) == _keys(infos[0])
        assert infos[3]["final_info"]["episode_seed"].tolist() == [4, 5] != infos[3]["episode_seed"].tolist()
    env.close()


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_make_vecs_step_limit_cuts_episodes_as_gymnasiums_time_limit_does(mode: str) -> None:
    name = "LLMServe/BurstyWorkload-v0"
    ours = gymnasium.make_vec(name, num_envs=2, max_episode_steps=4, autoreset_mode=mode)
    theirs = gymnasium.make_vec(
        name, num_envs=2, vectorization_mode="sync", max_episode_steps=4, vector_kwargs={"autoreset_mode": mode}
    )
    assert ours.metadata["autoreset_mode"] is theirs.metadata["autoreset_mode"] is AutoresetMode(mode)
    assert _same(ours.reset(seed=3), theirs.reset(seed=3))
    for _ in range(11):
        assert _same(ours.step(ACTIONS), theirs.step(ACTIONS))
    ours.close(), theirs.close()


def test_an_episode_is_no_longer_than_its_task_whatever_the_step_limit() -> None:
    for limit in (None, -1, 50, np.int64(50)):
        env = ServingVectorEnv(2, _short("static_workload", 3), max_episode_steps=limit)
        env.reset(seed=1)
        assert [env.step(ACTIONS)[3].tolist() for _ in range(3)] == [[False] * 2, [False] * 2, [True] * 2]
        env.close()


@pytest.mark.parametrize("limit", [0, -2, 2.0, True, "7"])
def test_a_step_limit_that_is_none_is_refused_by_name(limit: Any) -> None:
    with pytest.raises(InvalidInputError, match="max_episode_steps"):
        ServingVectorEnv(2, max_episode_steps=limit)


def test_without_autoreset_the_caller_resets_and_a_step_before_that_is_refused() -> None:
    env = gymnasium.make_vec("LLMServe/StaticWorkload-v0", num_envs=2, max_episode_steps=2, autoreset_mode="Disabled")
    env.reset(seed=1)
    env.step(ACTIONS)
    assert env.step(ACTIONS)[3].all()
    with pytest.raises(EpisodeStateError, match="reset first"):
        env.step(ACTIONS)
    for wrong in (np.array([True, False]), np.ones(3, dtype=np.bool_)):
        with pytest.raises(InvalidInputError, match=r"options\.reset_mask"):
            env.reset(options={"reset_mask": wrong})
    env.reset(options={"reset_mask": np.ones(2, dtype=np.bool_)})
    assert not env.step(ACTIONS)[3].any()
    env.close()


def test_an_unknown_autoreset_mode_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="autoreset_mode: must be one of NextStep, SameStep, Disabled"):
        ServingVectorEnv(2, autoreset_mode="Never")


def test_gymnasiums_wrappers_for_observations_work_on_the_next_step_mode() -> None:
    env = gymnasium.make_vec("LLMServe/StaticWorkload-v0", num_envs=2, max_episode_steps=3, autoreset_mode="NextStep")
    wrapped = gymnasium.wrappers.vector.NormalizeObservation(gymnasium.wrappers.vector.RecordEpisodeStatistics(env))
    wrapped.reset(seed=1)
    infos = [wrapped.step(ACTIONS)[4] for _ in range(4)]
    assert infos[2]["episode"]["l"].tolist() == [3, 3]
    wrapped.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_after_close_is_refused_alike_with_and_without_threads_and_a_reset_opens_again(threads: int) -> None:
    env, other = ServingVectorEnv(2, threads=threads), ServingVectorEnv(2)
    env.reset(seed=1)
    env.step(ACTIONS)
    env.close(), env.close()
    with pytest.raises(EpisodeStateError, match="the environment was closed: reset first"):
        env.step(ACTIONS)
    assert _same(env.reset(seed=1), other.reset(seed=1))
    assert _same(env.step(ACTIONS), other.step(ACTIONS))
    env.close(), other.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_steps_its_inherited_threads_anew() -> None:
    env = ServingVectorEnv(8, _short("static_workload", 9), threads=2)
    env.reset(seed=1)
    env.step(np.tile(ACTIONS[:1], (8, 1)))
    child = multiprocessing.get_context("fork").Process(target=env.step, args=(np.tile(ACTIONS[:1], (8, 1)),))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    env.close()


@pytest.mark.parametrize("action", ["multi_discrete", "dict"])
def test_on_a_single_replica_the_batched_space_offers_no_split(action: Any) -> None:
    env = ServingVectorEnv(3, deployment="rtx4090-llama3.1-8b", action=action)
    assert env.single_action_space == ServingGymEnv(deployment="rtx4090-llama3.1-8b", action=action).action_space
    env.reset(seed=0)
    for _ in range(20):
        env.step(env.action_space.sample())
    env.close()
