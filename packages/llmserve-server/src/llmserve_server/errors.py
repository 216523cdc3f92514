"""The errors that the server answers with: one class per remedy of the caller, each with a stable code and HTTP status.

::

    ServiceError
    ├── MissingApiKey      400 missing_api_key      give the server the key that this call spends
    ├── Unauthorized       401 unauthorized         send the bearer token
    ├── ForeignHost        403 foreign_host         add the name to LLMSERVE_ALLOWED_HOSTS
    ├── ForeignOrigin      403 foreign_origin       call from the server's own page, or add the origin's name there
    ├── TokenRequired      403 token_required       give the server a token, and send it
    ├── UnknownSession     404 unknown_session      reset without a session id, or fix it
    ├── UnknownEpisode     404 unknown_episode      fix the episode id
    ├── UnknownTask        404 unknown_task         pick a task that exists
    ├── AgentUnavailable   404 agent_unavailable    pick another agent, or another task
    ├── TooSlow            408 too_slow             send the request faster
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
    ├── Overloaded         429 overloaded           come back after `retry_after_s`
    ├── HeadersTooLarge    431 headers_too_large    send shorter headers
    ├── EndpointFailed     502 endpoint_failed      look at the model's endpoint, or take another
    ├── ShuttingDown       503 shutting_down        take the step again once the server is back
    └── StoreUnavailable   503 store_unavailable    come back after `retry_after_s`

`to_service_error` converts the simulator's errors. `routes/exception_handlers.py` turns all of them into HTTP responses.
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
    "ForeignHost",
    "ForeignOrigin",
    "HeadersTooLarge",
    "InvalidField",
    "MissingApiKey",
    "NotForkable",
    "Overloaded",
    "ServiceError",
    "ShuttingDown",
    "StepConflict",
    "StoreUnavailable",
    "TokenRequired",
    "TooLarge",
    "TooSlow",
    "Unauthorized",
    "UnknownEpisode",
    "UnknownSession",
    "UnknownTask",
    "VersionChanged",
    "to_service_error",
]


class ServiceError(Exception):
    """Base class of every refused call. A refused call does not change the session.

    `message` is a sentence for a person, `field` the dotted path of the wrong value, `bound` what would have been
    accepted, `retry_after_s` how long to wait if waiting helps.
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
        """Return the JSON body; ``detail`` repeats the message, because clients of FastAPI read it there."""
        error = {"code": self.code, "message": self.message, "field": self.field, "bound": self.bound}
        waiting = {} if self.retry_after_s is None else {"retry_after_s": self.retry_after_s}
        return {"error": error | waiting, "detail": self.message}


class MissingApiKey(ServiceError):
    """The call needs an API key that the server does not have."""

    code = "missing_api_key"
    status = 400


class Unauthorized(ServiceError):
    """The server requires a bearer token, and the call has none or a wrong one."""

    code = "unauthorized"
    status = 401


class ForeignHost(ServiceError):
    """The request's ``Host`` is a name that the server does not go by, as after DNS rebinding."""

    code = "foreign_host"
    status = 403


class ForeignOrigin(ServiceError):
    """A page of another origin sent the request through its visitor's browser."""

    code = "foreign_origin"
    status = 403


class TokenRequired(ServiceError):
    """The call spends the owner's key, and comes from another machine to a server that has no token."""

    code = "token_required"
    status = 403


class UnknownSession(ServiceError):
    """There is no such session."""

    code = "unknown_session"
    status = 404


class UnknownEpisode(ServiceError):
    """There is no such episode in the store."""

    code = "unknown_episode"
    status = 404


class UnknownTask(ServiceError):
    """There is no such task in the catalogue."""

    code = "unknown_task"
    status = 404


class AgentUnavailable(ServiceError):
    """An agent lacks something it needs, most likely weights for the task."""

    code = "agent_unavailable"
    status = 404


class TooSlow(ServiceError):
    """The request's headers or body did not arrive in time."""

    code = "too_slow"
    status = 408


class EpisodeState(ServiceError):
    """The state of the episode does not allow the call: ``not_reset``, ``episode_done`` or ``interrupted``."""

    code = "not_reset"
    status = 409


class StepConflict(ServiceError):
    """The step answers an observation that is no longer the last one."""

    code = "step_conflict"
    status = 409


class AmbiguousSession(ServiceError):
    """The call names no session, and several are possible."""

    code = "ambiguous_session"
    status = 409


class AmbiguousEpisode(ServiceError):
    """Several sessions have an episode with that id."""

    code = "ambiguous_episode"
    status = 409


class VersionChanged(ServiceError):
    """The episode was made by another version of the simulator or in another mode, and cannot be rebuilt."""

    code = "version_changed"
    status = 409


class NotForkable(ServiceError):
    """The episode runs on a real endpoint, which cannot be copied."""

    code = "not_forkable"
    status = 409


class TooLarge(ServiceError):
    """The body, message or log is larger than the server's limit."""

    code = "too_large"
    status = 413

    @classmethod
    def of_bytes(cls, field: str, bound: int) -> Self:
        """Return the error for a `field` (a body, a message) of more than `bound` bytes."""
        return cls(f"{field}: must be at most {bound} bytes", field=field, bound=f"at most {bound} bytes")


class InvalidField(ServiceError):
    """A field is wrong; `field` says which, `bound` what would have been accepted."""

    code = "invalid_field"
    status = 422


class AtCapacity(ServiceError):
    """All sessions that the server, or the address, may have are in use."""

    code = "at_capacity"
    status = 429


class Busy(ServiceError):
    """The resource is in use, or was used too recently."""

    code = "busy"
    status = 429


class Overloaded(ServiceError):
    """The bodies that are being received take all the memory that is set aside for them."""

    code = "overloaded"
    status = 429


class HeadersTooLarge(ServiceError):
    """The request's headers are larger than the server's limit."""

    code = "headers_too_large"
    status = 431


class EndpointFailed(ServiceError):
    """The model's endpoint refused the requests, or failed too often."""

    code = "endpoint_failed"
    status = 502


class ShuttingDown(ServiceError):
    """The server stops: a running step was cancelled and does not count."""

    code = "shutting_down"
    status = 503


class StoreUnavailable(ServiceError):
    """The episode store failed; the call was not applied."""

    code = "store_unavailable"
    status = 503


def to_service_error(error: Exception) -> ServiceError:
    """Return `error`, which the simulator, an agent or the server itself raised, as a `ServiceError`.

    Raises any other error unchanged: a defect must not look like a mistake of the caller.
    """
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, UnknownTaskError):
        return UnknownTask(str(error), field=error.field, bound=error.bound)
    if isinstance(error, InvalidInputError):
        return InvalidField(str(error), field=error.field, bound=error.bound)
    if isinstance(error, EpisodeStateError):
        return EpisodeState(str(error))
    if isinstance(error, AgentError):  # not its own message, which may name folders of this machine
        return AgentUnavailable(
            "an agent that is asked for cannot act on that task here, since what it needs (weights, most likely) is "
            "missing: choose another agent or task"
        )
    raise error
