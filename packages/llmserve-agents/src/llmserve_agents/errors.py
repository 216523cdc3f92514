"""What can go wrong with an agent, as a tree; a caller who wants one net catches `AgentError`.

::

    LLMServeError (llmserve_sim.errors)
    └── AgentError
        ├── MissingKeyError      no usable API key: set OPENAI_API_KEY
        ├── MissingExtraError    an optional dependency is absent (also ImportError): install the named extra
        ├── MissingWeightsError  there are no weights for this task: train some, or name their folder
        ├── WeightsMismatchError weights were made for another interface, task or version: train anew
        ├── EndpointError        the model's endpoint refuses or fails for good: mend it, or choose another
        └── RequestCapError      a run needs, or has used up, more requests than it may send

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
    """There is no API key, or one that no HTTP header can carry."""


class MissingExtraError(AgentError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    def __init__(self, extra: str, wanted_by: str) -> None:
        self.extra = extra
        self.wanted_by = wanted_by
        super().__init__(f"{wanted_by} needs the extra '{extra}': pip install 'llmserve-agents[{extra}]'")

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive the way from a worker process to its parent."""
        return type(self), (self.extra, self.wanted_by)


class EndpointError(AgentError):
    """The endpoint refuses every form of the request, or has failed too often in a row. `status` is HTTP's, if any."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


class RequestCapError(AgentError):
    """A run would send more requests than its cap allows."""


class MissingWeightsError(AgentError):
    """There is no file of weights for a task; the message names the places that were looked at."""


class WeightsMismatchError(AgentError):
    """A file of weights does not fit what it would act on. `field` is what differs, `made_for` and `here` say how.

    `path` is the file, where it is known.
    """

    def __init__(self, field: str, made_for: object, here: object, path: object = None) -> None:
        self.field = field
        self.made_for = str(made_for)
        self.here = str(here)
        self.path = None if path is None else str(path)
        said = f"{field}: the weights were made for {made_for}, and here it is {here}: train them anew"
        super().__init__(f"{self.path}: {said}" if self.path is not None else said)

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive the way from a worker process to its parent; what was compared goes as its text."""
        return type(self), (self.field, self.made_for, self.here, self.path)
