"""The episodes that the tools work on: one protocol, for the simulator in this process and for a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import httpx

from llmserve_agents.tools.forecasting import FIGURES, Forecast, Spread, forecast
from llmserve_client import LLMServeEnv
from llmserve_sim.env import EngineKind, ServingEnv
from llmserve_sim.errors import EpisodeStateError
from llmserve_sim.grader import grade
from llmserve_sim.observation import to_observation
from llmserve_sim.schema import EpisodeLog, GradeReport, ServeAction, ServeObservation, ServeState, parse_action
from llmserve_sim.tasks.description import describe
from llmserve_sim.tasks.registry import catalogue_task, list_tasks

__all__ = ["LocalEpisode", "RemoteEpisode", "ToolEpisode", "catalogue"]

_FORECAST_S: Final = 60.0
"""Longest wait for a server's forecast, seconds."""


class ToolEpisode(Protocol):
    """One episode after another. A refused call raises and changes nothing."""

    @property
    def can_forecast(self) -> bool:
        """Whether `forecast` works here; if not, the tool is not offered."""
        ...

    def reset(self, task_id: str, seed: int | None) -> ServeObservation:
        """Start an episode; without a seed a training seed is drawn."""
        ...

    def step(self, action: ServeAction, step_index: int) -> ServeObservation:
        """Run one window after the observation `step_index`."""
        ...

    def observation(self) -> ServeObservation:
        """Return the last observation again."""
        ...

    def state(self) -> ServeState:
        """Return the state of the episode."""
        ...

    def log(self) -> EpisodeLog:
        """Return the episode so far."""
        ...

    def forecast(self, plan: Sequence[ServeAction]) -> Forecast:
        """Simulate a plan on drawn futures."""
        ...

    def grade(self) -> GradeReport:
        """Grade the episode so far by replay."""
        ...

    def tasks(self) -> list[dict[str, Any]]:
        """Return the catalogue of tasks, as `llmserve_sim.tasks.description.describe` describes each."""
        ...


class LocalEpisode:
    """An episode of the simulator in this process. Tasks are those of the catalogue."""

    can_forecast = True

    def __init__(self, *, engine: EngineKind = "auto") -> None:
        self._env = ServingEnv(engine=engine)
        self._engine = engine

    def reset(self, task_id: str, seed: int | None) -> ServeObservation:
        """Start an episode."""
        return self._env.reset(seed, catalogue_task(task_id))

    def step(self, action: ServeAction, step_index: int) -> ServeObservation:
        """Run one window."""
        return self._env.step(action)

    def observation(self) -> ServeObservation:
        """Return the last observation again."""
        last = self._env.outcome
        return to_observation(last.measurement, last.terms, task_id=self._env.task.id, done=last.done)

    def state(self) -> ServeState:
        """Return the state of the episode."""
        return self._env.state()

    def log(self) -> EpisodeLog:
        """Return the episode so far."""
        return self._env.episode_log()

    def forecast(self, plan: Sequence[ServeAction]) -> Forecast:
        """Simulate a plan on drawn futures."""
        return forecast(self._env, plan)

    def grade(self) -> GradeReport:
        """Grade the episode so far by replay."""
        return grade(self._env.episode_log(), engine=self._engine)

    def tasks(self) -> list[dict[str, Any]]:
        """Return the catalogue."""
        return catalogue()

    def close(self) -> None:
        """Drop the episode."""
        self._env.close()


class RemoteEpisode:
    """An episode on a server, through the client. A step whose answer was lost is sent again and applied once.

    Args:
        client: its session is played.
        token: the server's API token, for forecasts, which the server makes behind its own tools.
    """

    can_forecast = True

    def __init__(self, client: LLMServeEnv, *, token: str | None = None) -> None:
        self._client = client
        self._token = token
        self._last: ServeObservation | None = None

    def reset(self, task_id: str, seed: int | None) -> ServeObservation:
        """Start an episode."""
        self._last = self._client.reset(task_id, seed)
        return self._last

    def step(self, action: ServeAction, step_index: int) -> ServeObservation:
        """Run one window."""
        self._last = self._client.step(action).observation
        return self._last

    def observation(self) -> ServeObservation:
        """Return the last observation again."""
        if self._last is None:
            raise EpisodeStateError("there is no episode: reset first")
        return self._last

    def state(self) -> ServeState:
        """Return the state of the episode."""
        self.observation()
        return self._client.state()

    def log(self) -> EpisodeLog:
        """Return the episode so far."""
        self.observation()
        return self._client.episode_log()

    def forecast(self, plan: Sequence[ServeAction]) -> Forecast:
        """Let the server simulate a plan on drawn futures; raises `EpisodeStateError` if it cannot."""
        self.observation()
        arguments = {"plan": [action.model_dump() for action in plan], "windows": len(plan)}
        message = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "forecast", "arguments": arguments},
        }
        headers = {"Mcp-Session-Id": str(self._client.session_id)}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            answer = httpx.post(f"{self._client.url}/mcp", json=message, headers=headers, timeout=_FORECAST_S).json()
            result = answer["result"]
            if result["isError"]:
                raise EpisodeStateError(result["content"][0]["text"])
            return _forecast(result["structuredContent"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise EpisodeStateError(f"the server gave no forecast ({type(error).__name__})") from error

    def grade(self) -> GradeReport:
        """Grade the episode so far on the server."""
        self.observation()
        return self._client.grade()

    def tasks(self) -> list[dict[str, Any]]:
        """Return the server's catalogue."""
        return self._client.tasks()

    def close(self) -> None:
        """Close the connection; the server keeps the episode."""
        self._client.close()


def _forecast(data: dict[str, Any]) -> Forecast:
    """Return a forecast from a server's answer."""
    windows = data["windows"]
    return Forecast(
        futures=data["futures"],
        first_window=windows[0]["step_index"],
        actions=tuple(parse_action(window["configuration"]) for window in windows),
        reward_per_window=tuple(data["reward_per_window"]),
        windows=tuple({name: Spread(**window[name]) for name in FIGURES} for window in windows),
    )


def catalogue() -> list[dict[str, Any]]:
    """Return the simulator's catalogue of tasks."""
    return [describe(task) for task in list_tasks()]
