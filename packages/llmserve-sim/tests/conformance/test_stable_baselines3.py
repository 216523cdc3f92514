"""The registered environments satisfy Stable-Baselines3: its checker is silent and its PPO trains on them.

Runs where Stable-Baselines3 is installed: `nox -s conformance`.
"""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest

from llmserve_sim.tasks import load_task

pytest.importorskip("stable_baselines3", reason="needs stable-baselines3: nox -s conformance")
pytestmark = pytest.mark.filterwarnings("default:::torch", "default:::stable_baselines3")

TRAINING_STEPS = 20_000


def _ids() -> list[str]:
    from llmserve_sim.gym import IDS

    return list(IDS)


@pytest.mark.parametrize("observation", ["base", "extended"])
@pytest.mark.parametrize("name", _ids())
def test_every_registered_id_passes_sb3s_checker_without_a_warning(name: str, observation: str) -> None:
    from stable_baselines3.common.env_checker import check_env

    env = gymnasium.make(name, observation=observation)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, warn=True)
    env.close()


@pytest.mark.parametrize("name", _ids())
def test_sb3_makes_every_registered_id_itself_without_a_warning(name: str) -> None:
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_vec_env(name, n_envs=2).close()
        PPO("MlpPolicy", name, n_steps=8, batch_size=8, device="cpu")


def _step(env: Any, rng: np.random.Generator) -> tuple[Any, ...]:
    actions = rng.integers(0, env.action_space.nvec, (env.num_envs, len(env.action_space.nvec)))
    observations, rewards, dones, infos = env.step(actions)
    return observations.tobytes(), rewards.tolist(), dones.tolist(), [repr(sorted(info.items())) for info in infos]


@pytest.mark.parametrize("deployment", [None, "rtx4090-llama3.1-8b"])
def test_the_adapter_says_step_for_step_what_sb3s_own_vectorisation_says(deployment: str | None) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    from llmserve_sim.gym import ServingGymEnv
    from llmserve_sim.sb3 import ServingVecEnv

    task = load_task("bursty_workload").model_copy(update={"windows": 4})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = ServingVecEnv(3, task, observation="extended", deployment=deployment)
        theirs = DummyVecEnv([lambda: ServingGymEnv(task, observation="extended", deployment=deployment)] * 3)
    for env in (ours, theirs):
        env.seed(5)
    assert ours.reset().tobytes() == theirs.reset().tobytes()
    assert ours.reset_infos == theirs.reset_infos
    rngs = np.random.default_rng(1), np.random.default_rng(1)
    for _ in range(10):
        assert _step(ours, rngs[0]) == _step(theirs, rngs[1])
        assert ours.reset_infos == theirs.reset_infos
    for env in (ours, theirs):
        env.close()


def test_the_adapter_answers_sb3s_questions_and_refuses_what_has_no_meaning() -> None:
    from stable_baselines3.common.monitor import Monitor

    from llmserve_sim.sb3 import ServingVecEnv

    env = ServingVecEnv(3)
    assert env.get_attr("render_mode") == [None] * 3
    assert env.get_attr("num_envs", indices=[0, 2]) == [3, 3]
    assert env.env_is_wrapped(Monitor, indices=1) == [False]
    with pytest.raises(AttributeError, match="no environments of their own"):
        env.env_method("fork")
    with pytest.raises(AttributeError, match="no environments of their own"):
        env.set_attr("x", 1)
    env.close()


def test_sb3s_ppo_trains_on_the_adapter_and_logs_the_rewards_of_whole_episodes() -> None:
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecMonitor

    from llmserve_sim.sb3 import ServingVecEnv

    torch.set_num_threads(1)
    env = VecMonitor(ServingVecEnv(8, "bursty_workload", observation="extended"))
    model = PPO("MlpPolicy", env, n_steps=120, batch_size=240, n_epochs=2, seed=0, device="cpu")
    model.learn(3 * 960)
    assert [episode["l"] for episode in model.ep_info_buffer] == [120] * 24
    env.close()


def test_sb3s_own_ppo_trains_for_twenty_thousand_steps_and_its_policy_acts() -> None:
    import torch
    from stable_baselines3 import PPO

    torch.set_num_threads(1)  # on matrices this small, threads only wait for one another
    env = gymnasium.make("LLMServe/BurstyWorkload-v0", observation="extended")
    model = PPO("MlpPolicy", env, n_steps=1000, batch_size=250, n_epochs=4, seed=0, device="cpu")
    model.learn(TRAINING_STEPS)
    assert model.num_timesteps >= TRAINING_STEPS
    assert all(np.isfinite(parameter.detach().numpy()).all() for parameter in model.policy.parameters())
    observation, _ = env.reset(seed=1)
    action, _ = model.predict(observation, deterministic=True)
    assert env.action_space.contains(action)
    env.close()
