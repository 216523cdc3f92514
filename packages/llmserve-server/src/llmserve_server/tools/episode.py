"""`RegistryEpisode`: a session of the registry as the episode that the tools work on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import Any

from llmserve_agents.tools import Forecast
from llmserve_agents.tools.episode import catalogue
from llmserve_server.errors import EpisodeState, UnknownSession
from llmserve_server.sessions.registry import SessionRegistry, Transport
from llmserve_sim.schema import EpisodeLog, GradeReport, ServeAction, ServeObservation, ServeState

__all__ = ["RegistryEpisode"]


class RegistryEpisode:
    """The episodes of one session: places, storing and grading are the registry's.

    Args:
        registry: the sessions.
        transport: what a session that is started here came in by.
        address: the caller's network address, to whose share a session counts.
        new_session_id: the id of a session that is started here; None makes one.
    """

    def __init__(
        self,
        registry: SessionRegistry,
        *,
        transport: Transport,
        address: str | None = None,
        new_session_id: str | None = None,
    ) -> None:
        self._registry = registry
        self._transport: Transport = transport
        self.address = address
        """The caller's network address; None for this machine."""
        self._new_session_id = new_session_id
        self.session_id: str | None = None
        """The session; None before the first reset."""
        self.steps: list[tuple[str, ServeObservation, float]] = []
        """Steps that were applied and are not counted yet: session, observation, seconds."""

    @property
    def can_forecast(self) -> bool:
        """Whether episodes can be forecast: those of a real endpoint cannot."""
        return self._registry.can_forecast

    def reset(self, task_id: str, seed: int | None) -> ServeObservation:
        """Start an episode, in a new session or in the present one."""
        begin = partial(self._registry.reset, task_id, seed, transport=self._transport, address=self.address)
        try:
            reply = begin(session_id=self.session_id, new_session_id=self._id_of_a_new_session)
        except UnknownSession:  # the store has pruned it
            self.session_id = None
            reply = begin(new_session_id=self._id_of_a_new_session)
        self.session_id = reply.session_id
        return reply.observation

    def step(self, action: ServeAction, step_index: int) -> ServeObservation:
        """Run one window and store it."""
        start = perf_counter()
        session_id = self._session()
        reply = self._registry.step(session_id, action, step_index=step_index)
        self.steps.append((session_id, reply.observation, perf_counter() - start))
        return reply.observation

    def observation(self) -> ServeObservation:
        """Return the last observation again."""
        return self._registry.observation(self._session()).observation

    def state(self) -> ServeState:
        """Return the state of the episode."""
        return self._registry.state(self._session())

    def log(self) -> EpisodeLog:
        """Return the episode so far."""
        return self._registry.log(self._session())

    def forecast(self, plan: Sequence[ServeAction]) -> Forecast:
        """Simulate a plan on drawn futures."""
        return self._registry.forecast(self._session(), plan)

    def grade(self) -> GradeReport:
        """Grade the episode so far by replay."""
        return self._registry.grade(self._session())

    def tasks(self) -> list[dict[str, Any]]:
        """Return the catalogue."""
        return catalogue()

    def close(self) -> None:
        """Remove the session from memory; it stays in the store."""
        if self.session_id is not None:
            self._registry.close(self.session_id)

    @property
    def _id_of_a_new_session(self) -> str | None:
        return self._new_session_id if self.session_id is None else None

    def _session(self) -> str:
        if self.session_id is None:
            raise EpisodeState("there is no episode: call reset first")
        return self.session_id
