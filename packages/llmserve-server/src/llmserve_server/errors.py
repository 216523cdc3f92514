"""The refusals of the server: one root, one leaf per thing a caller can do about it; each has a stable code and a status.

::

    ServiceError
    ├── MissingApiKey      400 missing_api_key      give the server the key that this call spends
    ├── Unauthorized       401 unauthorized         send the bearer token
    ├── UnknownSession     404 unknown_session      reset without a session id, or fix it
    ├── UnknownEpisode     404 unknown_episode      fix the episode id
    ├── UnknownTask        404 unknown_task         pick a task that exists
    ├── AgentUnavailable   404 agent_unavailable    pick another agent, or another task
    ├── EpisodeState       409 not_reset, episode_done, interrupted    reset first
    ├── StepConflict       409 step_conflict        somebody else stepped: read the state
    ├── AmbiguousSession   409 ambiguous_session    name the session
    ├── AmbiguousEpisode   409 ambiguous_episode    name the session as well
    ├── VersionChanged     409 version_changed      start a new episode
    ├── NotForkable        409 not_forkable         fork in simulator mode
    ├── TooLarge           413 too_large            send less
    ├── InvalidField       422 invalid_field        fix the field
    ├── AtCapacity         429 at_capacity          come back after `retry_after_s`
    ├── Busy               429 busy                 come back after `retry_after_s`
    ├── EndpointFailed     502 endpoint_failed      look at the model's endpoint, or take another
    ├── ShuttingDown       503 shutting_down        take the step again once the server is back
    └── StoreUnavailable   503 store_unavailable    come back after `retry_after_s`

This module knows nothing about HTTP but the status numbers, and nothing about how a body is sent.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

from llmserve_agents.errors import AgentError
from llmserve_sim.errors import EpisodeStateError, InvalidInputError, UnknownTaskError

__all__ = [
    "AgentUnavailable",
    "AmbiguousEpisode",
    "AmbiguousSession",
    "AtCapacity",
    "Busy",
    "EndpointFailed",
    "EpisodeState",
    "InvalidField",
    "MissingApiKey",
    "NotForkable",
    "ServiceError",
    "ShuttingDown",
    "StepConflict",
    "StoreUnavailable",
    "TooLarge",
    "Unauthorized",
    "UnknownEpisode",
    "UnknownSession",
    "UnknownTask",
    "VersionChanged",
    "to_service_error",
]


class ServiceError(Exception):
    """Root of every refusal; the session answers afterwards as it did before.

    `message` is a sentence a person can act on, `field` the dotted path of what was wrong, `bound` what would have been
    accepted, `retry_after_s` how long to wait where waiting helps.
    """

    code: str = "service_error"
    status: ClassVar[int] = 500

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        field: str | None = None,
        bound: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = type(self).code if code is None else code
        self.field = field
        self.bound = bound
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """Return the JSON body of the refusal; ``detail`` is the message again, where FastAPI's clients look for it."""
        error = {"code": self.code, "message": self.message, "field": self.field, "bound": self.bound}
        waiting = {} if self.retry_after_s is None else {"retry_after_s": self.retry_after_s}
        return {"error": error | waiting, "detail": self.message}


class MissingApiKey(ServiceError):
    """The call spends a key that the server was not given."""

    code = "missing_api_key"
    status = 400


class Unauthorized(ServiceError):
    """The server wants a bearer token, and the call has none or another."""

    code = "unauthorized"
    status = 401


class UnknownSession(ServiceError):
    """No such session, in memory or in the store."""

    code = "unknown_session"
    status = 404


class UnknownEpisode(ServiceError):
    """No such episode in the store."""

    code = "unknown_episode"
    status = 404


class UnknownTask(ServiceError):
    """No such task in the catalogue."""

    code = "unknown_task"
    status = 404


class AgentUnavailable(ServiceError):
    """An agent lacks what it needs here: weights for the task, most likely."""

    code = "agent_unavailable"
    status = 404


class EpisodeState(ServiceError):
    """The episode's present state does not allow the call: ``not_reset``, ``episode_done`` or ``interrupted``."""

    code = "not_reset"
    status = 409


class StepConflict(ServiceError):
    """The step answers an observation that is not the last one."""

    code = "step_conflict"
    status = 409


class AmbiguousSession(ServiceError):
    """The call names no session, and several would fit."""

    code = "ambiguous_session"
    status = 409


class AmbiguousEpisode(ServiceError):
    """Several sessions have an episode of that id."""

    code = "ambiguous_episode"
    status = 409


class VersionChanged(ServiceError):
    """The episode was made by another simulator or in another mode, and cannot be rebuilt here."""

    code = "version_changed"
    status = 409


class NotForkable(ServiceError):
    """The episode runs on something that has no second copy."""

    code = "not_forkable"
    status = 409


class TooLarge(ServiceError):
    """More bytes, or a longer log, than the server's limits admit."""

    code = "too_large"
    status = 413

    @classmethod
    def of_bytes(cls, field: str, bound: int) -> Self:
        """Return the error for a `field` (a body, a message) of more than `bound` bytes."""
        return cls(f"{field}: must be at most {bound} bytes", field=field, bound=f"at most {bound} bytes")


class InvalidField(ServiceError):
    """A field is wrong; `field` and `bound` say which and what would have been accepted."""

    code = "invalid_field"
    status = 422


class AtCapacity(ServiceError):
    """Every place is taken by a session in use."""

    code = "at_capacity"
    status = 429


class Busy(ServiceError):
    """The resource is in use, or was used too recently."""

    code = "busy"
    status = 429


class EndpointFailed(ServiceError):
    """The model's endpoint refused, or failed too often."""

    code = "endpoint_failed"
    status = 502


class ShuttingDown(ServiceError):
    """The server stops: a step that takes its time was cut short, and does not count."""

    code = "shutting_down"
    status = 503


class StoreUnavailable(ServiceError):
    """The episode store did not take or give what was asked of it; the call was not applied."""

    code = "store_unavailable"
    status = 503


def to_service_error(error: Exception) -> ServiceError:
    """Return the refusal that says what `error` (the simulator's, an agent's, or a refusal already) says.

    Raises `error` itself where it is neither: a defect is not dressed up as a refusal.
    """
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, UnknownTaskError):
        return UnknownTask(str(error), field=error.field, bound=error.bound)
    if isinstance(error, InvalidInputError):
        return InvalidField(str(error), field=error.field, bound=error.bound)
    if isinstance(error, EpisodeStateError):
        return EpisodeState(str(error))
    if isinstance(error, AgentError):  # in our words: its own may name folders of this machine
        return AgentUnavailable(
            "an agent that is asked for cannot act on that task here, since what it needs (weights, most likely) is "
            "missing: choose another agent or task"
        )
    raise error
