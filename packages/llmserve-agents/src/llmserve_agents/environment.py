"""The environments that agents run on: one protocol, for the simulator in this process and for a server.

An agent takes the same actions on both. The module knows nothing about agents.
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
    """Plays one episode at a time: reset, step until done, grade."""

    def reset(self, task_id: str, seed: int) -> ServeObservation:
        """Start an episode and return its first observation."""
        ...

    def step(self, action: ServeAction) -> ServeObservation:
        """Simulate a window. The observation holds the reward and whether the episode is done."""
        ...

    def episode_length(self) -> int:
        """Return the windows of the running episode."""
        ...

    def grade(self) -> GradeReport:
        """Grade the running episode by replay."""
        ...

    def close(self) -> None:
        """Free the environment's resources; may be called twice."""
        ...


class InProcess:
    """Runs the simulator in this process, without a server."""

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
        """Grade the running episode by replay."""
        return grade(self._env.episode_log(), engine=self._engine)

    def close(self) -> None:
        """Drop the episode."""
        self._env.close()


class Remote:
    """Talks to a running server through the client."""

    def __init__(self, client: LLMServeEnv) -> None:
        self._env = client

    @classmethod
    def at(cls, base_url: str, **options: Any) -> Self:
        """Return the server at an address, without connecting yet. `options` are those of `LLMServeEnv.from_url`."""
        return cls(LLMServeEnv.from_url(base_url, **options))

    def reset(self, task_id: str, seed: int) -> ServeObservation:
        """Start an episode and return its first observation."""
        return self._env.reset(task_id=task_id, seed=seed)

    def step(self, action: ServeAction) -> ServeObservation:
        """Apply an action to the next window. A repeated request does not apply it twice."""
        return self._env.step(action).observation

    def episode_length(self) -> int:
        """Return the windows of the running episode."""
        return self._env.state().episode_length

    def grade(self) -> GradeReport:
        """Grade the running episode on the server."""
        return self._env.grade()

    def close(self) -> None:
        """Close the connections. The server keeps the episode."""
        self._env.close()


def public_url(url: str) -> str:
    """Return a URL without user, password, query and fragment, so that it can be reported."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))
