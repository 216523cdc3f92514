"""`Backend`: the seam between a session and what its episode runs on. Sessions know this protocol and nothing behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from llmserve_sim.schema import EpisodeLog, GradeReport, ServeAction, ServeObservation, ServeState

__all__ = ["Backend", "BackendFactory", "StoredStep"]


@dataclass(frozen=True, slots=True)
class StoredStep:
    """A step as the store gives it back."""

    action: ServeAction
    observation: ServeObservation | None
    """What was answered; None where the backend is replayable and the store did not keep it."""


class Backend(Protocol):
    """One episode. The session's lock is held around every call but `grade`, so one call runs at a time.

    A refused call (`llmserve_sim.errors.LLMServeError`, `llmserve_server.errors.ServiceError`) leaves the episode exactly
    as it was.
    """

    @property
    def replayable(self) -> bool:
        """Whether the same task, seed and actions give the same bytes; if not, the store keeps every observation."""
        ...

    def reset(self, task_id: str, seed: int | None, episode_id: str) -> ServeObservation:
        """Start an episode of a task in the catalogue; without a seed one of its training seeds is drawn."""
        ...

    def restore(self, task_id: str, seed: int, episode_id: str, steps: Sequence[StoredStep]) -> None:
        """Stand where an episode stood after `steps`, as if nothing had happened since."""
        ...

    def step(self, action: ServeAction) -> ServeObservation:
        """Run one window under `action`."""
        ...

    def observation(self) -> ServeObservation:
        """Return the last observation again: the same bytes."""
        ...

    def state(self) -> ServeState:
        """Return where the episode stands; `step_count` is exact."""
        ...

    def log(self) -> EpisodeLog:
        """Return the episode so far as evidence for the grader."""
        ...

    def fork(self) -> Backend:
        """Return an independent episode, with an id of its own, that goes on from here; raises `NotForkable`."""
        ...

    def grade(self, log: EpisodeLog) -> GradeReport:
        """Return what `log` is worth; it need not be this episode's, and the episode does not notice."""
        ...

    def close(self) -> None:
        """Let go of what the episode holds; closing twice is allowed."""
        ...


BackendFactory = Callable[[], Backend]
"""Makes a backend that `reset` or `restore` is called on first."""
