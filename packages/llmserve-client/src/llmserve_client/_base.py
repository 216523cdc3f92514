"""`BaseClient`: constructor and read-only properties shared by the synchronous and the asynchronous client."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypedDict, get_args

from llmserve_client.__about__ import __version__
from llmserve_client._endpoint import Endpoint
from llmserve_client._exceptions import InvalidFieldError
from llmserve_client._options import Retries, Timeouts, TransportChoice, TransportKind

if TYPE_CHECKING:
    from llmserve_sim.schema import ServeObservation

__all__ = ["BaseClient", "Options"]

_CHOICES: Final = get_args(TransportChoice)


class Options(TypedDict, total=False):
    """Keyword arguments of both clients; `LLMServeEnv` describes them."""

    transport: TransportChoice
    token: str | None
    headers: Mapping[str, str] | None
    timeouts: Timeouts | None
    retries: Retries | None
    ssl_context: ssl.SSLContext | None


class BaseClient:
    """Holds the server's address, the headers of every request, and a `ClientProtocol`."""

    def __init__(
        self,
        url: str,
        *,
        transport: TransportChoice,
        token: str | None,
        headers: Mapping[str, str] | None,
        timeouts: Timeouts | None,
        retries: Retries | None,
    ) -> None:
        if transport not in _CHOICES:
            bound = "must be one of " + ", ".join(_CHOICES)
            raise InvalidFieldError(
                f"transport: {bound}, got {transport!r}", code="invalid_field", field="transport", bound=bound
            )
        from llmserve_client._protocol import (
            ClientProtocol,  # imported here: it loads pydantic, which takes longer than httpx
        )

        self._endpoint = Endpoint.parse(url)
        self._headers = {"User-Agent": f"llmserve-client/{__version__}", **_checked(headers), **_bearer(token)}
        self._protocol = ClientProtocol(transport, timeouts or Timeouts(), retries or Retries())
        self._closed = False

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

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.url} over {self.transport or self._protocol.choice}>"


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
