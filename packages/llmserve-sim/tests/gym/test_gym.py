"""The Gymnasium environments conform, and say the same as `ServingEnv`."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence

from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import EpisodeStateError, InvalidInputError
from llmserve_sim.grid import GRID_SIZES, from_indices
from llmserve_sim.gym import IDS, ServingGymEnv, decode_action
from llmserve_sim.metrics import encode, observation_names
from llmserve_sim.schema import ACTION_FIELDS, ServeAction

NEUTRAL = np.array([6, 8, 0, 0, 0, 0])


@pytest.mark.parametrize("name", list(IDS))
@pytest.mark.parametrize("observation", ["base", "extended"])
@pytest.mark.parametrize("action", ["multi_discrete", "dict"])
def test_every_registered_id_passes_gymnasiums_own_check_without_a_warning(
    name: str, observation: str, action: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(name, observation=observation, action=action)
        check_env(env.unwrapped)
        env.close()


def test_importing_the_module_registers_the_ids_and_importing_the_package_does_not() -> None:
    code = (
        "import sys, llmserve_sim; assert 'gymnasium' not in sys.modules\n"
        "import gymnasium, llmserve_sim.gym; gymnasium.spec('LLMServe/StaticWorkload-v0')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_gymnasium_the_missing_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['gymnasium'] = None\n"
        "from llmserve_sim.errors import MissingExtraError\n"
        "try: import llmserve_sim.gym\n"
        "except MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "pip install 'llmserve-sim[gym]'" in done.stdout


@pytest.mark.parametrize("kind", ["base", "extended"])
def test_observations_and_rewards_are_those_of_the_serving_environment(kind: Any) -> None:
    env = ServingGymEnv("bursty_workload", observation=kind)
    plain = ServingEnv("bursty_workload")
    seen, info = env.reset(seed=11)
    assert info == {"episode_seed": 11}
    assert seen.tolist() == np.array(encode(plain.start(11).measurement, kind), np.float32).tolist()
    assert env.observation_space.shape == (len(observation_names(kind)),)
    rng = np.random.default_rng(0)
    for _ in range(12):
        action = rng.integers(0, GRID_SIZES)
        seen, reward, terminated, truncated, info = env.step(action)
        outcome = plain.advance(from_indices(action.tolist()))
        assert seen.dtype == np.float32
        assert seen.tolist() == np.array(encode(outcome.measurement, kind), np.float32).tolist()
        assert (reward, terminated, truncated) == (outcome.reward, False, False)
        assert sum(info["reward_terms"].values()) == pytest.approx(reward)


def test_the_time_limit_is_a_truncation_and_the_next_step_is_refused() -> None:
    env = ServingGymEnv()
    env.reset(seed=1)
    ends = [env.step(NEUTRAL)[2:4] for _ in range(120)]
    assert ends == [(False, False)] * 119 + [(False, True)]
    with pytest.raises(EpisodeStateError):
        env.step(NEUTRAL)


def test_resets_without_a_seed_draw_training_seeds_that_the_last_seed_determines() -> None:
    env = ServingGymEnv()
    env.reset(seed=3)
    first = [env.reset()[1]["episode_seed"] for _ in range(3)]
    env.reset(seed=3)
    assert [env.reset()[1]["episode_seed"] for _ in range(3)] == first
    assert len(set(first)) == 3
    assert all(seed in env.serving.task.seeds.train for seed in first)


def test_the_dict_space_spans_exactly_what_the_schema_allows() -> None:
    space = ServingGymEnv(action="dict").action_space
    assert isinstance(space, gymnasium.spaces.Dict)
    assert set(space) == set(ACTION_FIELDS)
    space.seed(0)
    for _ in range(50):
        action = decode_action(space.sample())
        assert ServeAction.model_validate(action.model_dump()) == action
    low = dict.fromkeys(ACTION_FIELDS, 0) | {"batch_cap": 1, "kv_budget_fraction": np.array(0.1)}
    assert decode_action(low).kv_budget_fraction == 0.1


@pytest.mark.parametrize(
    ("action", "field"),
    [
        (np.array([10, 0, 0, 0, 0, 0]), "batch_cap"),
        (np.array([0, 0, 0, 0, 0, 2]), "priority_routing"),
        (np.array([0, 0, 0]), "action"),
        (np.array([0.5] * 6), "action"),
        (3, "action"),
        (None, "action"),
        ({"quantization_tier": 3}, "quantization_tier"),
        ({"quantization_tier": "FP16"}, "quantization_tier"),
        ({"batch_cap": 0}, "batch_cap"),
        ({"kv_budget_fraction": math.nan}, "kv_budget_fraction"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_an_action_outside_its_space_is_refused_and_changes_nothing(action: Any, field: str) -> None:
    env, untouched = ServingGymEnv(), ServingGymEnv()
    env.reset(seed=5)
    untouched.reset(seed=5)
    with pytest.raises(InvalidInputError) as refused:
        env.step(action)
    assert refused.value.field == field
    assert data_equivalence(env.step(NEUTRAL), untouched.step(NEUTRAL))


def test_an_unknown_option_of_the_constructor_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="observation: must be one of base, extended"):
        ServingGymEnv(observation="all")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="action: must be one of multi_discrete, dict"):
        ServingGymEnv(action="box")  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [gymnasium.make, lambda name: gymnasium.make_vec(name, num_envs=2)])
def test_an_option_that_nobody_defined_is_refused_and_not_ignored(make: Any) -> None:
    env = make("LLMServe/StaticWorkload-v0")
    with pytest.raises(InvalidInputError) as refused:
        env.reset(seed=1, options={"task": "bursty_workload"})
    assert refused.value.field == "options"
    env.close()


def test_the_old_names_of_both_environments_still_work_and_say_what_replaces_them() -> None:
    from llmserve_sim import gym, vector

    with pytest.warns(DeprecationWarning, match=r"use llmserve_sim\.gym\.ServingGymEnv"):
        assert gym.LLMServeEnv is ServingGymEnv
    with pytest.warns(DeprecationWarning, match=r"use llmserve_sim\.vector\.ServingVectorEnv"):
        assert vector.LLMServeVectorEnv is vector.ServingVectorEnv
