"""Another agent's actions, as examples to imitate before training.

An action between two points of the grid becomes the nearest one. The module knows nothing about networks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmserve_agents.clairvoyant import nearest_indices
from llmserve_agents.learning.features import FEATURES, FeatureHistory
from llmserve_agents.policy import make_agent
from llmserve_sim.env import ServingEnv
from llmserve_sim.observation import vector
from llmserve_sim.policies import constrain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.schema import ServeAction
    from llmserve_sim.tasks import Task

__all__ = ["demonstrations"]


def demonstrations(
    task: Task, agent: str, windows: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return an agent's inputs float32[n, features] and grid indices int64[n, 6] in whole episodes, n >= `windows`.

    Episode seeds are random training seeds. Raises the agent's own errors: an unknown name, missing weights.
    """
    policy, env, history = make_agent(agent), ServingEnv(task), FeatureHistory()
    inputs: list[NDArray[np.float32]] = []
    actions: list[ServeAction] = []
    while len(actions) < windows:
        seed = int(rng.integers(task.seeds.train.start, task.seeds.train.stop))
        observation = env.reset(seed)
        policy.reset(task.id, seed)
        constrain(policy, can_split=env.can_split)
        history.reset()
        while not observation.done:
            inputs.append(history.push(np.array([vector(observation, "extended")])))
            actions.append(policy.act(observation))
            observation = env.step(actions[-1])
    return np.concatenate(inputs).reshape(-1, len(FEATURES)), nearest_indices(actions)
