"""LLMServeEnv's simulator: a deterministic, request-level model of an LLM serving fleet, useful on its own.

This module only names things and loads them when they are first used: importing it (or `llmserve_sim.schema`) loads
neither numpy nor numba.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llmserve_sim.__about__ import __version__

if TYPE_CHECKING:
    from llmserve_sim.env import ServingEnv
    from llmserve_sim.errors import EpisodeStateError, InvalidInputError, LLMServeError, MissingExtraError
    from llmserve_sim.grader import grade
    from llmserve_sim.schema import EpisodeLog, GradeReport, ServeAction, ServeObservation, ServeState
    from llmserve_sim.tasks import Task, list_tasks, load_task

__all__ = [
    "EpisodeLog",
    "EpisodeStateError",
    "GradeReport",
    "InvalidInputError",
    "LLMServeError",
    "MissingExtraError",
    "ServeAction",
    "ServeObservation",
    "ServeState",
    "ServingEnv",
    "Task",
    "__version__",
    "grade",
    "list_tasks",
    "load_task",
]

_HOME = {
    "EpisodeLog": "schema",
    "EpisodeStateError": "errors",
    "GradeReport": "schema",
    "InvalidInputError": "errors",
    "LLMServeError": "errors",
    "MissingExtraError": "errors",
    "ServeAction": "schema",
    "ServeObservation": "schema",
    "ServeState": "schema",
    "ServingEnv": "env",
    "Task": "tasks",
    "grade": "grader",
    "list_tasks": "tasks",
    "load_task": "tasks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
