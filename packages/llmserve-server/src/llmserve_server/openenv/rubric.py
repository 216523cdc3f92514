"""`RewardRubric`: the reward as a rubric of OpenEnv with named parts. It computes nothing: it shows what was computed.

An observation holds its reward and the four terms. A rubric is read only by code in the server's process; over the
network the same parts are in the observation's ``metadata.reward_terms``.
"""

from __future__ import annotations

from typing import Any

from openenv.core.rubrics import Rubric

from llmserve_sim.schema import ServeObservation

__all__ = ["PARTS", "RewardRubric"]

PARTS = ("throughput", "slo", "memory", "cost")
"""The terms of the reward, see `llmserve_sim.reward`."""


class _Seen:
    """The observation that was seen last; a step stores it here, and nothing is computed before a score is read."""

    __slots__ = ("observation",)

    def __init__(self) -> None:
        self.observation: ServeObservation | None = None


class _Shown(Rubric):
    """A score that is read off the observation seen last."""

    def __init__(self, seen: _Seen) -> None:
        super().__init__()
        self._seen = seen

    @property
    def last_score(self) -> float | None:
        """The score of the observation seen last; None before the first window."""
        observation = self._seen.observation
        return None if observation is None or observation.step_index == 0 else self._score(observation)

    @last_score.setter
    def last_score(self, value: float | None) -> None:
        """Do nothing: the score is always that of the observation seen last."""

    def forward(self, action: Any, observation: ServeObservation) -> float:
        """Return the score of `observation`."""
        self._seen.observation = observation
        return self._score(observation)

    def _score(self, observation: ServeObservation) -> float:
        raise NotImplementedError

    def reset(self) -> None:
        """Forget the observation."""
        self._seen.observation = None


class _Part(_Shown):
    """One signed, weighted term of the reward."""

    def __init__(self, name: str, seen: _Seen) -> None:
        super().__init__(seen)
        self._name = name

    def _score(self, observation: ServeObservation) -> float:
        terms = observation.metadata.get("reward_terms", {})
        return float(terms.get(self._name, 0.0))


class RewardRubric(_Shown):
    """The reward of a window, the sum of its children `throughput`, `slo`, `memory` and `cost`."""

    def __init__(self) -> None:
        super().__init__(_Seen())
        for name in PARTS:
            setattr(self, name, _Part(name, self._seen))

    def see(self, observation: ServeObservation) -> None:
        """Take the observation whose scores are shown from now on."""
        self._seen.observation = observation

    def _score(self, observation: ServeObservation) -> float:
        return observation.reward
