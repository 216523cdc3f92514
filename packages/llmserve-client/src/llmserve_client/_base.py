"""`BaseClient`: constructor and read-only properties shared by the synchronous and the asynchronous client."""

from __future__ import annotations

import os
import ssl
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypedDict, get_args

from llmserve_client.__about__ import __version__
from llmserve_client._endpoint import Endpoint
from llmserve_client._exceptions import InvalidFieldError
from llmserve_client._options import Retries, Timeouts, TransportChoice, TransportKind, check_answer_bytes

if TYPE_CHECKING:
    from llmserve_sim.schema import ServeObservation

__all__ = ["BaseClient", "Options"]

_CHOICES: Final = get_args(TransportChoice)
_CLIENTS: Final[weakref.WeakSet[BaseClient]] = weakref.WeakSet()
"""Every client of this process, for `_after_fork`."""


class Options(TypedDict, total=False):
    """Keyword arguments of both clients; `LLMServeEnv` describes them."""

    transport: TransportChoice
    token: str | None
    headers: Mapping[str, str] | None
    timeouts: Timeouts | None
    retries: Retries | None
    max_answer_bytes: int
    ssl_context: ssl.SSLContext | None


class BaseClient:
    """Holds the server's address, the headers of every request, and a `ClientProtocol`.

    A forked process inherits its parent's clients without their connections: it connects again, and attaches to the
    same session. A client cannot be copied or pickled.
    """

    def __init__(
        self,
        url: str,
        *,
        transport: TransportChoice,
        token: str | None,
        headers: Mapping[str, str] | None,
        timeouts: Timeouts | None,
        retries: Retries | None,
        max_answer_bytes: int,
    ) -> None:
        if transport not in _CHOICES:
            bound = "must be one of " + ", ".join(_CHOICES)
            raise InvalidFieldError(
                f"transport: {bound}, got {transport!r}", code="invalid_field", field="transport", bound=bound
            )
        from llmserve_client._protocol import (
            ClientProtocol,  # imported here: it loads pydantic, which takes longer than httpx
        )

        self._max_answer_bytes = check_answer_bytes(max_answer_bytes)
        self._endpoint = Endpoint.parse(url)
        self._headers = {"User-Agent": f"llmserve-client/{__version__}", **_checked(headers), **_bearer(token)}
        self._protocol = ClientProtocol(transport, timeouts or Timeouts(), retries or Retries())
        self._closed = False
        self._heed_forks()

    def _heed_forks(self) -> None:
        """Drop the connection in every process that is forked from this one."""
        _CLIENTS.add(self)

    def _drop_connection(self) -> None:
        """Forget the connection and the lock without using them: they belong to the parent of this process."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """Base address of the server, without a trailing slash."""
        return self._endpoint.http

    @property
    def transport(self) -> TransportKind | None:
        """The transport in use, "websocket" or "http". None before the first call."""
        return self._protocol.transport

    @property
    def session_id(self) -> str | None:
        """Id of the session. Pass it to `resume`, in this or another process. None before the first reset."""
        return self._protocol.session_id

    @property
    def observation(self) -> ServeObservation | None:
        """The last observation. None before the first reset."""
        return self._protocol.observation

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def __reduce_ex__(self, protocol: Any) -> str | tuple[Any, ...]:
        """Refuse to be copied or pickled: two clients on one connection would take each other's answers."""
        raise TypeError(
            f"cannot copy or pickle {type(self).__name__}, which holds a connection: make another client and "
            "resume(session_id) there, or fork() for an episode of its own that continues from here"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.url} over {self.transport or self._protocol.choice}>"


def _after_fork() -> None:
    for client in list(_CLIENTS):
        client._drop_connection()  # noqa: SLF001 - of this module's own class


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork)


def _checked(headers: Mapping[str, str] | None) -> dict[str, str]:
    for name, value in (headers or {}).items():
        _check_header(f"headers.{name}", value)
    return dict(headers or {})


def _bearer(token: str | None) -> dict[str, str]:
    if token is None:
        return {}
    _check_header("token", token)
    return {"Authorization": f"Bearer {token}"}


def _check_header(field: str, value: Any) -> None:
    """Raise for a value that no header can carry. The message does not show the value, which may be a secret."""
    if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable():
        bound = "must be a text of printable ASCII characters"
        raise InvalidFieldError(f"{field}: {bound}", code="invalid_field", field=field, bound=bound)
