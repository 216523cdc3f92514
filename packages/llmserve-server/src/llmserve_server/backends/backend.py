"""`Backend`: the interface between a session and what its episode runs on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from llmserve_agents.tools.forecasting import Forecast
from llmserve_sim.schema import EpisodeLog, GradeReport, ServeAction, ServeObservation, ServeState

__all__ = ["Backend", "BackendFactory", "StoredStep"]


@dataclass(frozen=True, slots=True)
class StoredStep:
    """A step as the store returns it."""

    action: ServeAction
    observation: ServeObservation | None
    """The reply; None if the backend is replayable, because the store then does not keep it."""


class Backend(Protocol):
    """One episode. The session's lock is held during every call but `grade`, so one call runs at a time.

    A refused call (`llmserve_sim.errors.LLMServeError`, `llmserve_server.errors.ServiceError`) does not change the
    episode.
    """

    @property
    def replayable(self) -> bool:
        """Whether the same task, seed and actions give the same observations; if not, the store keeps each one."""
        ...

    def reset(self, task_id: str, seed: int | None, episode_id: str) -> ServeObservation:
        """Start an episode of a task in the catalogue; without a seed one of its training seeds is drawn."""
        ...

    def restore(
        self,
        task_id: str,
        seed: int,
        episode_id: str,
        steps: Sequence[StoredStep],
        forecasts: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Restore the state of an episode after `steps`.

        `forecasts` are the pairs (number of steps, seed) at which `fork` drew its future anew, in order.
        """
        ...

    def step(self, action: ServeAction) -> ServeObservation:
        """Run one window under `action`."""
        ...

    def observation(self) -> ServeObservation:
        """Return the last observation again, with the same bytes."""
        ...

    def state(self) -> ServeState:
        """Return the state of the episode; `step_count` is exact."""
        ...

    def log(self) -> EpisodeLog:
        """Return the log of the episode so far, for the grader."""
        ...

    def fork(self, *, forecast: int | None = None) -> Backend:
        """Return an independent episode with its own id that continues from here; raises `NotForkable`.

        It has the same future, or with `forecast`, a seed, one that is drawn anew given what has been observed.
        """
        ...

    def forecast(self, plan: Sequence[ServeAction]) -> Forecast:
        """Return what a plan brings on drawn futures of the episode; raises `NotForkable`."""
        ...

    def grade(self, log: EpisodeLog, *, tell_replay: bool = True) -> GradeReport:
        """Return the grade of `log`, which may be any episode's; this episode does not change.

        Without `tell_replay` the reason says where the log does not replay, but not what the replay gives.
        """
        ...

    def close(self) -> None:
        """Release the episode's resources; closing twice is allowed."""
        ...


BackendFactory = Callable[[], Backend]
"""Makes a backend, on which `reset` or `restore` is called first."""
