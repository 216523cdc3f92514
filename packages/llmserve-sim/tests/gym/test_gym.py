"""The Gymnasium environments conform, and say the same as `ServingEnv`."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence

from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import EpisodeStateError, InvalidInputError
from llmserve_sim.grid import GRID_SIZES, from_indices
from llmserve_sim.gym import IDS, ServingGymEnv, decode_action
from llmserve_sim.hardware import DEPLOYMENTS
from llmserve_sim.metrics import encode, observation_names
from llmserve_sim.schema import ACTION_FIELDS, ServeAction
from llmserve_sim.tasks import load_task

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
        check_env(env.unwrapped, skip_render_check=True)  # `render` has a test of its own
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
    assert info["episode_seed"] == 11
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


def _shape(info: Any) -> Any:
    """The keys of an info, at every level, with the types of its values."""
    return {key: _shape(value) for key, value in info.items()} if isinstance(info, dict) else type(info)


def test_infos_have_the_same_keys_and_types_after_a_reset_and_after_every_step() -> None:
    env = gymnasium.make("LLMServe/StaticWorkload-v0", max_episode_steps=3)
    _, info = env.reset(seed=np.int64(9))
    infos = [info, *(env.step(NEUTRAL)[4] for _ in range(3)), env.reset()[1]]
    assert {str(_shape(info)) for info in infos} == {str(_shape(info))}
    assert _shape(info)["reward_terms"] == dict.fromkeys(("throughput", "slo", "memory", "cost"), float)
    assert [info["episode_seed"] for info in infos[:-1]] == [9] * 4
    infos[0]["reward_terms"]["slo"] = 1.0  # a caller's own dictionary
    assert env.reset()[1]["reward_terms"]["slo"] == 0.0


SINGLE = [name for name, deployment in DEPLOYMENTS.items() if not deployment.can_split]


@pytest.mark.parametrize("deployment", [*SINGLE, replace(DEPLOYMENTS["a100-llama3.1-8b"], name="mine", replicas=1)])
@pytest.mark.parametrize("action", ["multi_discrete", "dict"])
def test_on_a_single_replica_the_spaces_offer_no_split_and_pass_gymnasiums_check(deployment: Any, action: str) -> None:
    env = gymnasium.make("LLMServe/BurstyWorkload-v0", deployment=deployment, action=action)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, skip_render_check=True)
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(40):
        env.step(env.action_space.sample())
    space: Any = env.action_space
    offered = space.nvec.tolist() if action == "multi_discrete" else space["prefill_decode_split"].n
    assert offered == ([10, 13, 9, 3, 1, 2] if action == "multi_discrete" else 1)


def test_a_split_on_a_single_replica_is_refused_by_name() -> None:
    env = ServingGymEnv(deployment=SINGLE[0])
    env.reset(seed=0)
    with pytest.raises(InvalidInputError, match=r"^prefill_decode_split: must be false.*single replica"):
        env.step(np.array([6, 8, 0, 0, 1, 0]))


@pytest.mark.parametrize("seed", [True, np.True_, 1.0, "7", -1])
def test_a_seed_that_is_no_seed_is_refused_by_name_and_changes_nothing(seed: Any) -> None:
    env, untouched = ServingGymEnv(), ServingGymEnv()
    env.reset(seed=3), untouched.reset(seed=3)
    with pytest.raises(InvalidInputError, match=r"^seed"):
        env.reset(seed=seed)
    assert data_equivalence(env.step(NEUTRAL), untouched.step(NEUTRAL))
    assert env.reset()[1] == untouched.reset()[1]


@pytest.mark.parametrize(
    "action",
    [
        [6, np.int64(8), 0, 0, np.True_, np.False_],
        (np.int32(6), 8, 0, np.uint8(0), np.bool_(True), False),
        np.array([6, 8, 0, 0, 1, 0]),
        {"batch_cap": np.int64(128), "kv_budget_fraction": np.float32(0.7), "prefill_decode_split": np.True_},
        {"batch_cap": np.array(128), "kv_budget_fraction": np.array(0.7), "prefill_decode_split": np.array(True)},
    ],
)
def test_numpys_scalars_are_taken_wherever_an_action_is(action: Any) -> None:
    decoded = decode_action(action)
    assert (decoded.batch_cap, decoded.prefill_decode_split, decoded.priority_routing) == (128, True, False)
    env = ServingGymEnv()
    env.reset(seed=1)
    env.step(action)


def test_the_specs_step_limit_is_the_tasks_and_gymnasiums_wrappers_find_it() -> None:
    for name, task in IDS.items():
        assert gymnasium.spec(name).max_episode_steps == load_task(task).windows
    env = gymnasium.wrappers.TimeAwareObservation(gymnasium.make("LLMServe/StaticWorkload-v0", max_episode_steps=4))
    env.reset(seed=1)
    assert [env.step(NEUTRAL)[3] for _ in range(4)] == [False, False, False, True]


def test_an_episode_is_drawn_as_a_picture_of_one_size_and_other_render_modes_are_refused() -> None:
    pytest.importorskip("matplotlib", reason="needs the extra cli")
    env = gymnasium.make("LLMServe/StaticWorkload-v0", render_mode="rgb_array")
    env.reset(seed=1)
    before: Any = env.render()
    env.step(NEUTRAL)
    after: Any = env.render()
    assert before.shape == after.shape
    assert (before.dtype, before.shape[2], (before != after).any()) == (np.uint8, 3, True)
    assert ServingGymEnv().render() is None
    with pytest.raises(InvalidInputError, match="render_mode"):
        ServingGymEnv(render_mode="human")  # type: ignore[arg-type]
