"""LLMServeEnv's simulator: a deterministic, request-level model of an LLM serving fleet, useful on its own.

This module only names things and loads them when they are first used: importing it (or `llmserve_sim.schema`) loads
neither numpy nor numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmserve_sim.__about__ import __version__ as __version__
from llmserve_sim._lazy import attach

if TYPE_CHECKING:
    from llmserve_sim.env import ServingEnv as ServingEnv
    from llmserve_sim.errors import EpisodeStateError as EpisodeStateError
    from llmserve_sim.errors import InvalidInputError as InvalidInputError
    from llmserve_sim.errors import LLMServeError as LLMServeError
    from llmserve_sim.errors import MissingExtraError as MissingExtraError
    from llmserve_sim.grader import grade as grade
    from llmserve_sim.schema import EpisodeLog as EpisodeLog
    from llmserve_sim.schema import GradeReport as GradeReport
    from llmserve_sim.schema import ServeAction as ServeAction
    from llmserve_sim.schema import ServeObservation as ServeObservation
    from llmserve_sim.schema import ServeState as ServeState
    from llmserve_sim.tasks import Task as Task
    from llmserve_sim.tasks import list_tasks as list_tasks
    from llmserve_sim.tasks import load_task as load_task

    __all__: list[str]
else:
    __getattr__, __dir__, __all__ = attach(__name__)
