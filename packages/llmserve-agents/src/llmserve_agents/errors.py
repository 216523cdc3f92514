"""The errors of agents, as a tree. `AgentError` catches all of them.

::

    LLMServeError (llmserve_sim.errors)
    └── AgentError
        ├── MissingKeyError      no usable API key: set OPENAI_API_KEY
        ├── MissingExtraError    an optional dependency is missing (also ImportError): install the named extra
        ├── MissingWeightsError  no weights for this task: train some, or name their folder
        ├── WeightsMismatchError the weights were made for another interface, task or version: train again
        ├── EndpointError        the model's endpoint refuses or keeps failing: repair it, or choose another
        └── RequestCapError      a run needs more requests than it may send

No message holds a key.
"""

from __future__ import annotations

from typing import Any

from llmserve_sim.errors import LLMServeError

__all__ = [
    "AgentError",
    "EndpointError",
    "MissingExtraError",
    "MissingKeyError",
    "MissingWeightsError",
    "RequestCapError",
    "WeightsMismatchError",
]


class AgentError(LLMServeError):
    """Root of the errors of llmserve-agents."""


class MissingKeyError(AgentError):
    """There is no API key, or its characters are not allowed in an HTTP header."""


class MissingExtraError(AgentError, ImportError):
    """An optional dependency is not installed. The message names the extra that installs it."""

    def __init__(self, extra: str, wanted_by: str) -> None:
        self.extra = extra
        self.wanted_by = wanted_by
        super().__init__(f"{wanted_by} needs the extra '{extra}': pip install 'llmserve-agents[{extra}]'")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the arguments, for the way from a worker process to its parent."""
        return type(self), (self.extra, self.wanted_by)


class EndpointError(AgentError):
    """The endpoint refuses every form of the request, or keeps failing. `status` is the HTTP status, if any."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


class RequestCapError(AgentError):
    """A run needs more requests than its limit."""


class MissingWeightsError(AgentError):
    """There is no file of weights for a task. The message names the folders that were searched."""


class WeightsMismatchError(AgentError):
    """A file of weights does not fit this task or installation.

    `field` is the entry of the card that differs, `made_for` its value there, `here` the value that is needed. `path`
    is the file, if it is known.
    """

    def __init__(self, field: str, made_for: object, here: object, path: object = None) -> None:
        self.field = field
        self.made_for = str(made_for)
        self.here = str(here)
        self.path = None if path is None else str(path)
        said = f"{field}: the weights were made for {made_for}, and here it is {here}: train them again"
        super().__init__(f"{self.path}: {said}" if self.path is not None else said)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the arguments, for the way from a worker process to its parent. The values are sent as text."""
        return type(self), (self.field, self.made_for, self.here, self.path)
