"""The client's errors. Each leaf of the tree stands for something that a caller can do about the error.

::

    llmserve_sim.errors.LLMServeError
    └── ClientError                                   anything below
        ├── TransportError (also ConnectionError)     no answer came
        │   ├── ConnectError                          no connection could be made; nothing was sent
        │   │   └── WebSocketUnavailableError         the server does not speak WebSocket here: use transport="http"
        │   ├── ConnectionLostError                   the connection broke before the answer came
        │   └── DeadlineError (also TimeoutError)     the answer did not come in time
        ├── AnswerError                               an answer of another service or another version
        ├── ClientClosedError (also RuntimeError)     the client was closed
        └── RefusedError                              the server refused the call; the session is unchanged
            ├── InvalidFieldError                     a field is wrong (also llmserve_sim's InvalidInputError)
            │   └── UnknownTaskError                  no such task (also llmserve_sim's UnknownTaskError)
            ├── EpisodeStateError                     reset first, or the episode is over (also llmserve_sim's)
            ├── StepConflictError                     the session is at another step: resume() to see where
            ├── UnknownSessionError                   the session is gone: reset
            ├── UnknownEpisodeError                   no such episode to grade
            ├── AmbiguousError                        several sessions or episodes fit: say which
            ├── VersionChangedError                   another simulator made the episode: reset
            ├── NotForkableError                      an episode in real mode has no second copy
            ├── TooLargeError                         the log or the message is over the server's limit
            ├── AtCapacityError                       no room now: come back after `retry_after_s`
            ├── UnauthorizedError                     the server wants another bearer token
            ├── MissingApiKeyError                    the server has no OPENAI_API_KEY for what was asked
            └── ServerFailureError                    the server, or a proxy before it, broke down

If the client itself refuses a call before it sends anything, it raises the same leaves with `status` 0. Some leaves are
subclasses of the simulator's errors, so an agent can handle a local and a remote environment alike.
"""

from __future__ import annotations

from typing import Any, Final

from llmserve_sim import errors

__all__ = [
    "AmbiguousError",
    "AnswerError",
    "AtCapacityError",
    "ClientClosedError",
    "ClientError",
    "ConnectError",
    "ConnectionLostError",
    "DeadlineError",
    "EpisodeStateError",
    "InvalidFieldError",
    "MissingApiKeyError",
    "NotForkableError",
    "RefusedError",
    "ServerFailureError",
    "StepConflictError",
    "TooLargeError",
    "TransportError",
    "UnauthorizedError",
    "UnknownEpisodeError",
    "UnknownSessionError",
    "UnknownTaskError",
    "VersionChangedError",
    "WebSocketUnavailableError",
    "handshake_refusal",
    "refusal",
]


class ClientError(errors.LLMServeError):
    """Root of every error that this package raises."""


class TransportError(ClientError, ConnectionError):
    """No answer came."""


class ConnectError(TransportError):
    """No connection could be made; nothing was sent."""


class WebSocketUnavailableError(ConnectError):
    """The server answered the WebSocket handshake with plain HTTP; `status` is its HTTP status."""

    def __init__(self, message: str, status: int = 0, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


class ConnectionLostError(TransportError):
    """The connection broke before the answer came; it is unknown whether the server acted.

    A step may be sent again: the server applies it once. `unsent` is true if the server cannot have received the call.
    """

    def __init__(self, message: str, *, unsent: bool = False) -> None:
        super().__init__(message)
        self.unsent = unsent


class DeadlineError(TransportError, TimeoutError):
    """The answer did not come within the client's time limit; it is unknown whether the server acted."""


class AnswerError(ClientError):
    """The client cannot read the answer: the URL belongs to another service, or the versions differ too much."""


class ClientClosedError(ClientError, RuntimeError):
    """The client was closed; make another one, and `resume` its session there."""


class RefusedError(ClientError):
    """The server refused the call and changed nothing.

    Attributes:
        code: the stable name of the reason, such as ``invalid_field``.
        status: the HTTP status; 0 if the client refused before it sent anything.
        message: what a person can do about it.
        field: the dotted name of the wrong field, or "".
        bound: what that field accepts, or "".
        retry_after_s: seconds to wait before the next try, if the server gives them.
    """

    got: object = None

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int = 0,
        field: str = "",
        bound: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        Exception.__init__(self, message)
        self.message = message
        self.code = code
        self.status = status
        self.field = field
        self.bound = bound
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling: worker processes send errors to their parent."""
        named = {name: getattr(self, name) for name in ("code", "status", "field", "bound", "retry_after_s")}
        return _rebuild, (type(self), self.message, named)


def _rebuild(kind: type[RefusedError], message: str, named: dict[str, Any]) -> RefusedError:
    return kind(message, **named)


class InvalidFieldError(RefusedError, errors.InvalidInputError):
    """A field is wrong: `field` names it and `bound` says what it accepts."""


class UnknownTaskError(InvalidFieldError, errors.UnknownTaskError):
    """The server has no such task; `bound` lists its tasks."""


class EpisodeStateError(RefusedError, errors.EpisodeStateError):
    """A step before a reset or after the episode's end."""


class StepConflictError(RefusedError):
    """Another client has stepped the session. `resume()` returns its current observation."""


class UnknownSessionError(RefusedError):
    """The server has no such session, or no longer has it."""


class UnknownEpisodeError(RefusedError):
    """The server has no such episode, or no longer has it."""


class AmbiguousError(RefusedError):
    """Several sessions or episodes match the request."""


class VersionChangedError(RefusedError):
    """The episode was made by another simulator version or in another mode; it cannot continue here."""


class NotForkableError(RefusedError):
    """The episode runs in real mode: a real endpoint cannot be copied."""


class TooLargeError(RefusedError):
    """The body, the message or the log exceeds the server's limit. The error message gives the limit."""


class AtCapacityError(RefusedError):
    """The server is full, or another call of this session is running. Try again after `retry_after_s`."""


class UnauthorizedError(RefusedError):
    """The bearer token is missing or wrong: pass `token=`."""


class MissingApiKeyError(RefusedError):
    """The server has no OPENAI_API_KEY, which this call needs."""


class ServerFailureError(RefusedError):
    """The server, or a proxy in front of it, failed."""


_BY_CODE: Final[dict[str, tuple[int, type[RefusedError]]]] = {
    "ambiguous_episode": (409, AmbiguousError),
    "ambiguous_session": (409, AmbiguousError),
    "at_capacity": (429, AtCapacityError),
    "busy": (429, AtCapacityError),
    "episode_done": (409, EpisodeStateError),
    "internal_error": (500, ServerFailureError),
    "interrupted": (409, EpisodeStateError),
    "invalid_field": (422, InvalidFieldError),
    "missing_api_key": (400, MissingApiKeyError),
    "not_forkable": (409, NotForkableError),
    "not_reset": (409, EpisodeStateError),
    "step_conflict": (409, StepConflictError),
    "store_unavailable": (503, ServerFailureError),
    "too_large": (413, TooLargeError),
    "unauthorized": (401, UnauthorizedError),
    "unknown_episode": (404, UnknownEpisodeError),
    "unknown_session": (404, UnknownSessionError),
    "unknown_task": (404, UnknownTaskError),
    "version_changed": (409, VersionChangedError),
}
"""A refusal over the WebSocket carries only the code; this gives the status that HTTP would use."""
_BY_STATUS: Final[dict[int, type[RefusedError]]] = {
    401: UnauthorizedError,
    403: UnauthorizedError,
    413: TooLargeError,
    422: InvalidFieldError,
    429: AtCapacityError,
}


def refusal(
    message: str,
    *,
    code: str,
    status: int = 0,
    field: str = "",
    bound: str = "",
    retry_after_s: float | None = None,
) -> RefusedError:
    """Return the error for a code or, if the code is unknown, for the HTTP status."""
    usual, kind = _BY_CODE.get(code, (0, _BY_STATUS.get(status, ServerFailureError if status >= 500 else RefusedError)))
    return kind(message, code=code, status=status or usual, field=field, bound=bound, retry_after_s=retry_after_s)


_NO_FALLBACK: Final = frozenset({401, 403, 407, 429})
"""Handshake statuses that plain HTTP would get too, so falling back to HTTP does not help."""


def handshake_refusal(error: WebSocketUnavailableError) -> ClientError:
    """Return the error of a refused handshake: a refusal if HTTP would be refused too, else `error` itself."""
    if error.status in _NO_FALLBACK or error.status >= 500:
        code = f"http_{error.status}"
        return refusal(str(error), code=code, status=error.status, retry_after_s=error.retry_after_s)
    return error
