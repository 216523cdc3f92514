"""What `SessionRegistry` returns: replies, and figures about the sessions for metrics."""

from __future__ import annotations

from dataclasses import dataclass

from llmserve_server.sessions.slots import Transport
from llmserve_sim.schema import ServeObservation

__all__ = ["OpenSession", "RegistryStats", "Reply"]


@dataclass(frozen=True, slots=True)
class Reply:
    """An observation and its session."""

    session_id: str
    observation: ServeObservation
    repeated: bool = False
    """Whether the step had been applied before, and this repeats its answer."""


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session in memory, for metrics. Its id grants access to it: never show the id."""

    session_id: str
    transport: Transport
    task_id: str
    steps: int
    idle_s: float


@dataclass(frozen=True, slots=True)
class RegistryStats:
    """What the registry has done since it was created."""

    live: int
    """Sessions in memory at present."""
    places: int
    """Most sessions in memory at once."""
    episodes: int
    """Episodes started, forks included."""
    steps: int
    """Steps applied."""
    repeated: int
    """Repeated steps that got their first answer again."""
    rebuilt: int
    """Sessions rebuilt from the store."""
    fenced: int
    """Times that another process had stored a step first."""
    dropped: int
    """Idle sessions removed from memory."""
    refused: int
    """Sessions refused because no slot was free."""
    pruned: int
    """Episodes removed from the store."""
