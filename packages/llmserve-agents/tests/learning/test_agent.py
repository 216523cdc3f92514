"""The trained agent: it acts, says what it loaded, and never acts with what is not the task's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmserve_agents.environment import Environment, InProcess, Remote
from llmserve_agents.errors import MissingWeightsError, WeightsMismatchError
from llmserve_agents.learning import checkpoint
from llmserve_agents.learning.agent import PPOPolicy
from llmserve_agents.learning.checkpoint import identity, write
from llmserve_agents.learning.features import FEATURES, FeatureHistory
from llmserve_agents.learning.network import HEAD_SIZES
from llmserve_agents.policy import AGENTS, make_agent
from llmserve_agents.weights import CARD, POLICY, WEIGHTS_VARIABLE
from llmserve_client.testing import LocalServer
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.grid import from_indices
from llmserve_sim.observation import vector
from llmserve_sim.schema import ServeAction
from llmserve_sim.tasks import load_task

TASK, OTHER = "bursty_workload", "static_workload"


def weights(folder: Path, task_id: str = TASK, *, seed: int = 0) -> Path:
    """Lay down a policy that nobody trained, lively enough to change its mind."""
    rng = np.random.default_rng(seed)
    shapes = {"0": (8, len(FEATURES)), "1": (8, 8), "2": (sum(HEAD_SIZES), 8)}
    found: dict[str, Any] = {f"actor.{i}.weight": rng.normal(size=shape) for i, shape in shapes.items()}
    found |= {f"actor.{i}.bias": rng.normal(size=shape[0]) for i, shape in shapes.items()}
    found |= {"normalizer.mean": rng.random(len(FEATURES)), "normalizer.std": 0.1 + rng.random(len(FEATURES))}
    arrays = {name: value.astype(np.float32) for name, value in found.items()}
    return write(folder, arrays, {**identity(load_task(task_id)), "can_split": False, "seed": seed})


def actions(policy: PPOPolicy, env: Environment, windows: int = 15) -> list[ServeAction]:
    observation = env.reset(TASK, 5)
    policy.reset(TASK, 5)
    done = []
    for _ in range(windows):
        done.append(policy.act(observation))
        observation = env.step(done[-1])
    return done


def test_it_acts_as_its_network_says_window_by_window(tmp_path: Path) -> None:
    policy, env = PPOPolicy(weights(tmp_path).parent), ServingEnv(TASK)
    network, history = checkpoint.read(tmp_path / POLICY).policy, FeatureHistory()
    observation = env.reset(5)
    policy.reset(TASK, 5)
    seen = set()
    for _ in range(20):
        inputs = history.push(np.array([vector(observation, "extended")]))
        action = policy.act(observation)
        assert action == from_indices(network.act(inputs)[0].tolist())
        seen.add(action)
        observation = env.step(action)
    assert len(seen) > 1


def test_it_says_what_it_loaded(tmp_path: Path) -> None:
    path = weights(tmp_path, seed=3)
    policy = PPOPolicy.from_folder(tmp_path)
    assert (policy.loaded, policy.weights_path, policy.card) == (None, None, {})
    policy.reset(TASK, 1)
    assert policy.weights_path == path
    assert (policy.card["task_id"], policy.card["seed"]) == (TASK, 3)


def test_episodes_do_not_remember_one_another(tmp_path: Path) -> None:
    policy = PPOPolicy(weights(tmp_path).parent)
    assert actions(policy, InProcess()) == actions(policy, InProcess())


@pytest.mark.parametrize("transport", ["http", "websocket"])
def test_it_acts_alike_in_process_and_through_a_server(tmp_path: Path, transport: Any) -> None:
    policy = PPOPolicy(weights(tmp_path).parent)
    there = Remote(LocalServer().client(transport=transport))
    try:
        assert actions(policy, there) == actions(policy, InProcess())
    finally:
        there.close()


def test_by_name_it_finds_the_shipped_weights_of_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {task: weights(tmp_path / task, task) for task in (TASK, OTHER)}
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    policy = make_agent("ppo")
    assert isinstance(policy, PPOPolicy)
    for task, path in paths.items():
        policy.reset(task, 1)
        assert policy.weights_path == path
    assert isinstance(AGENTS["ppo"].from_folder(tmp_path / TASK), PPOPolicy)  # type: ignore[attr-defined]


def test_another_tasks_weights_are_refused(tmp_path: Path) -> None:
    policy = PPOPolicy(weights(tmp_path, OTHER).parent)
    with pytest.raises(WeightsMismatchError, match=f"task_id: the weights were made for {OTHER}"):
        policy.reset(TASK, 1)
    with pytest.raises(MissingWeightsError):
        policy.act(ServingEnv(TASK).reset(1))


def test_without_weights_it_says_so_and_does_not_act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    for policy in (PPOPolicy(), PPOPolicy(tmp_path)):
        with pytest.raises(MissingWeightsError, match=POLICY):
            policy.reset(TASK, 1)
        with pytest.raises(MissingWeightsError, match="reset the agent"):
            policy.act(ServingEnv(TASK).reset(1))


def test_after_a_reset_that_failed_it_does_not_act_with_the_last_ones(tmp_path: Path) -> None:
    weights(tmp_path)
    policy = PPOPolicy(tmp_path)
    policy.reset(TASK, 1)
    with pytest.raises(WeightsMismatchError):
        policy.reset(OTHER, 1)
    with pytest.raises(MissingWeightsError):
        policy.act(ServingEnv(OTHER).reset(1))


def test_files_that_changed_are_read_again(tmp_path: Path) -> None:
    weights(tmp_path, seed=1)
    weights(tmp_path / "new", seed=2)
    policy = PPOPolicy(tmp_path)
    policy.reset(TASK, 1)
    first = policy.loaded
    for name in (POLICY, CARD):
        (tmp_path / name).write_bytes((tmp_path / "new" / name).read_bytes())
    policy.reset(TASK, 1)
    assert first is not None
    assert policy.loaded is not None
    assert (first.card["seed"], policy.card["seed"]) == (1, 2)
    assert (first.policy.mean != policy.loaded.policy.mean).any()


def test_an_observation_without_the_extended_features_is_refused(tmp_path: Path) -> None:
    policy = PPOPolicy(weights(tmp_path).parent)
    policy.reset(TASK, 1)
    observation = ServingEnv(TASK).reset(1).model_copy(update={"metadata": {}})
    with pytest.raises(InvalidInputError):
        policy.act(observation)


def test_acting_needs_no_torch() -> None:
    program = "import sys, llmserve_agents.learning.agent; print(sorted({'torch', 'typer', 'tensorboard'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
