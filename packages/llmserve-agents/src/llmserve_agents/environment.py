"""The one small protocol that agents are run on, and its two sides: the simulator here, or a server anywhere.

An agent that runs on one runs on the other, action for action. The module knows nothing about agents.
"""

from __future__ import annotations

from typing import Any, Protocol, Self, runtime_checkable
from urllib.parse import urlsplit, urlunsplit

from llmserve_client import LLMServeEnv
from llmserve_sim.env import EngineKind, ServingEnv
from llmserve_sim.grader import grade
from llmserve_sim.schema import GradeReport, ServeAction, ServeObservation

__all__ = ["Environment", "InProcess", "Remote", "public_url"]


@runtime_checkable
class Environment(Protocol):
    """One episode at a time: reset, step until done, grade."""

    def reset(self, task_id: str, seed: int) -> ServeObservation:
        """Start an episode and return its first observation."""
        ...

    def step(self, action: ServeAction) -> ServeObservation:
        """Simulate a window; reward and done are in the observation."""
        ...

    def episode_length(self) -> int:
        """Return the windows of the running episode."""
        ...

    def grade(self) -> GradeReport:
        """Grade the running episode, replayed."""
        ...

    def close(self) -> None:
        """Let go of what the environment holds; closing twice is allowed."""
        ...


class InProcess:
    """The simulator in this process; needs no server."""

    def __init__(self, *, engine: EngineKind = "auto") -> None:
        self._env = ServingEnv(engine=engine)
        self._engine = engine

    def reset(self, task_id: str, seed: int) -> ServeObservation:
        """Start an episode and return its first observation."""
        return self._env.reset(seed, task_id)

    def step(self, action: ServeAction) -> ServeObservation:
        """Simulate a window."""
        return self._env.step(action)

    def episode_length(self) -> int:
        """Return the windows of the running episode."""
        return self._env.episode_length

    def grade(self) -> GradeReport:
        """Grade the running episode, replayed."""
        return grade(self._env.episode_log(), engine=self._engine)

    def close(self) -> None:
        """Drop the episode."""
        self._env.close()


class Remote:
    """A running server, through a client of it."""

    def __init__(self, client: LLMServeEnv) -> None:
        self._env = client

    @classmethod
    def at(cls, base_url: str, **options: Any) -> Self:
        """Return the server at an address; options are those of `LLMServeEnv.from_url`. Asks no network yet."""
        return cls(LLMServeEnv.from_url(base_url, **options))

    def reset(self, task_id: str, seed: int) -> ServeObservation:
        """Start an episode and return its first observation."""
        return self._env.reset(task_id=task_id, seed=seed)

    def step(self, action: ServeAction) -> ServeObservation:
        """Apply an action to the next window, once."""
        return self._env.step(action).observation

    def episode_length(self) -> int:
        """Return the windows of the running episode."""
        return self._env.state().episode_length

    def grade(self) -> GradeReport:
        """Let the server grade the running episode."""
        return self._env.grade()

    def close(self) -> None:
        """Close the connections; the server keeps the episode."""
        self._env.close()


def public_url(url: str) -> str:
    """Return a URL without a user, a password, a query or a fragment: fit to be reported."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))
