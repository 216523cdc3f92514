"""The registered environments satisfy Stable-Baselines3: its checker is silent and its PPO trains on them.

Runs where Stable-Baselines3 is installed: `nox -s conformance`.
"""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest

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
        check_env(env.unwrapped, warn=True, skip_render_check=True)
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
