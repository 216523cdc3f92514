"""Scores a rollout by its actions: the episode is replayed here, so nothing that a tool server says is trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmserve_agents.tools import LocalEpisode
from llmserve_sim.schema import parse_action

__all__ = ["Outcome", "outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rollout has earned."""

    reward: float
    """Mean reward per window of the whole episode; a window that was not run counts as one of the random policy."""
    score: float
    """The grader's score; 0 where no window was run."""
    windows: int
    """Windows that were run."""


def outcome(task_id: str, seed: int, actions: Sequence[Mapping[str, Any]]) -> Outcome:
    """Play the actions again, one a window, and grade the episode.

    Stopping early does not pay: a missing window counts as the random policy's, and -1, the lowest reward, if no window
    was run or the task has no references.
    """
    episode = LocalEpisode()
    episode.reset(task_id, seed)
    for index, action in enumerate(actions):
        episode.step(parse_action(action), index)
    report = episode.grade()
    missing = -1.0 if report.references is None else report.references.random
    total = report.total_reward + missing * (report.episode_length - report.steps)
    return Outcome(total / report.episode_length, report.score or 0.0, report.steps)
