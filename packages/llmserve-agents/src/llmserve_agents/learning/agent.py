"""The trained agent: a checkpoint's network on the features of the observations. Needs numpy only.

A reset loads the weights of its task, and raises an error if there are none; no other agent acts instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from llmserve_agents.errors import MissingWeightsError, WeightsMismatchError
from llmserve_agents.learning.checkpoint import Checkpoint, read
from llmserve_agents.learning.features import FeatureHistory, vectors_of
from llmserve_agents.learning.network import MLPPolicy
from llmserve_agents.search import mean_rewards
from llmserve_agents.weights import POLICY, find_weights
from llmserve_sim.batch import ServingBatch
from llmserve_sim.grid import from_indices
from llmserve_sim.observation import vector
from llmserve_sim.schema import ServeAction, ServeObservation
from llmserve_sim.tasks import Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.env import Outcome

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

__all__ = ["PPOPolicy", "play"]


class PPOPolicy:
    """In every window, takes the likeliest choice of every head of a trained network.

    Args:
        weights: a folder with ``policy.safetensors`` and ``card.json`` of the one task to play. None: the task's
            shipped weights (see `weights.find_weights`).
    """

    def __init__(self, weights: Path | None = None) -> None:
        self._folder = weights
        self._loaded: Checkpoint | None = None
        self._history = FeatureHistory()

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Return the agent with the weights in `folder`."""
        return cls(folder)

    @property
    def loaded(self) -> Checkpoint | None:
        """The checkpoint that the last reset loaded."""
        return self._loaded

    @property
    def weights_path(self) -> Path | None:
        """Path of that checkpoint's policy."""
        return None if self._loaded is None else self._loaded.path

    @property
    def card(self) -> Mapping[str, Any]:
        """Content of its card."""
        return {} if self._loaded is None else self._loaded.card

    def reset(self, task_id: str, seed: int) -> None:
        """Load the weights of a task and clear the history of the previous episode.

        Raises `MissingWeightsError` and `WeightsMismatchError`.
        """
        self._loaded = None  # after a reset that fails, the agent must not act with the previous task's weights
        loaded = read(find_weights(task_id) if self._folder is None else self._folder / POLICY)
        if loaded.card["task_id"] != task_id:
            raise WeightsMismatchError("task_id", loaded.card["task_id"], task_id, loaded.path)
        self._loaded = loaded
        self._history.reset()

    def constrain(self, *, can_split: bool) -> None:
        """Mask the split in this episode if the deployment cannot split."""
        if self._loaded is not None and not can_split:
            policy = replace(self._loaded.policy, can_split=False)
            self._loaded = replace(self._loaded, policy=policy)

    def act(self, observation: ServeObservation) -> ServeAction:
        """Return the next window's configuration.

        Raises `InvalidInputError` for an observation without the extended features, which some backends do not report.
        """
        if self._loaded is None:
            raise MissingWeightsError("no weights are loaded: reset the agent to a task first")
        inputs = self._history.push(np.array([vector(observation, "extended")]))
        return from_indices(self._loaded.policy.act(inputs)[0].tolist())


def play(
    policy: MLPPolicy, task: Task, seeds: Sequence[int], *, held: Mapping[int, int] | None = None, threads: int = 1
) -> Floats:
    """Return float64[seeds]: the mean reward per window of each episode, where the policy takes its likeliest choices.

    `held` maps knobs to the grid index that each stays at, whatever the policy says. All episodes run in one batch.
    """
    batch, history = ServingBatch(task, len(seeds), threads=threads), FeatureHistory(len(seeds))

    def act(_window: int, outcome: Outcome | None) -> Ints:
        assert outcome is not None
        indices = policy.act(history.push(vectors_of(outcome, len(seeds))))
        for knob, index in (held or {}).items():
            indices[:, knob] = index
        return indices

    values = mean_rewards(batch, act, outcome=batch.start(seeds))
    batch.close()
    return values
