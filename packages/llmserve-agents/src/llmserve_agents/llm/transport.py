"""`guarded_client`: an HTTP client for an endpoint that may be broken or hostile, below the official client.

A body is read up to a bound, and is never decompressed: the client asks for plain bodies and refuses others, because a
small one may unpack to gigabytes. Redirects are not followed, because they would carry prompts to another host. Cookies
are not kept. User, password and query of a URL do not appear in the HTTP libraries' log lines. A time limit for the
whole exchange is the caller's (`asyncio.timeout`): the libraries' own limits hold for each read.
"""

from __future__ import annotations

import importlib
import logging
import re
from contextlib import aclosing
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import ModuleType

__all__ = [
    "OversizedBodyError",
    "UnacceptableBodyError",
    "bare_url",
    "guarded_client",
    "official_http",
    "redact_urls",
]

_ERROR_BYTES: Final = 64 * 2**10
"""Bytes of an error's body that are read; the rest is not."""
_LOGGERS: Final = ("httpx", "httpx2", "openai._base_client", "openai._response", "openai._legacy_response")
"""The loggers that write URLs. A filter holds for one logger, not for those below it."""
_USER: Final = re.compile(r"(?<=://)[^/\s?#\"']*@")
_QUERY: Final = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?#\"']*)\?[^\s#\"']*")


class UnacceptableBodyError(Exception):
    """The endpoint sent a body that is not read: a compressed one, or `OversizedBodyError`."""


class OversizedBodyError(UnacceptableBodyError):
    """The endpoint sent more bytes than the bound."""


def guarded_client(
    http: ModuleType, url: str | None = None, *, max_bytes: int, max_connections: int, **options: Any
) -> Any:
    """Return an `AsyncClient` of `http` (httpx or its successor) with the guards of this module.

    Args:
        http: the library.
        url: the endpoint; a user and a password in it are sent as basic authentication.
        max_bytes: longest body of a reply, bytes; reading more raises `OversizedBodyError`. Bodies of errors are cut
            off instead, so that the status is still seen.
        max_connections: most connections at once; further requests wait.
        options: further arguments of `AsyncClient`.
    """
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if _redaction not in logger.filters:
            logger.addFilter(_redaction)

    async def guard(response: Any) -> None:
        client.cookies.clear()
        is_error = response.status_code >= 300
        if response.headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
            if not is_error:
                raise UnacceptableBodyError("the body is compressed, which was not asked for")
            del response.headers["content-encoding"]  # what is read of it is text that nobody can read
        bound = min(_ERROR_BYTES, max_bytes) if is_error else max_bytes
        response.stream = _bounded_stream(http)(response.stream, bound, is_error)

    client = http.AsyncClient(
        **{
            "auth": _auth(http, url),
            "headers": {"accept-encoding": "identity"},
            "follow_redirects": False,
            "limits": http.Limits(max_connections=max_connections, max_keepalive_connections=max_connections),
            "event_hooks": {"response": [guard]},
            **options,
        }
    )
    return client


def official_http() -> ModuleType:
    """Return the HTTP library of the installed official client, whose releases use httpx or its successor."""
    import openai

    base: type = openai.DefaultAsyncHttpxClient.__mro__[1]
    return importlib.import_module(base.__module__.partition(".")[0])


def bare_url(url: str) -> str:
    """Return `url` without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def redact_urls(text: str) -> str:
    """Return `text` without the user, password and query of any URL in it."""
    return _QUERY.sub(r"\1?[redacted]", _USER.sub("[redacted]@", text))


def _auth(http: ModuleType, url: str | None) -> Any:
    parts = None if url is None else urlsplit(url)
    if parts is None or "@" not in parts.netloc:
        return None
    return http.BasicAuth(unquote(parts.username or ""), unquote(parts.password or ""))


@cache
def _bounded_stream(http: ModuleType) -> Any:
    """Return the class of a response's stream with a bound; the library demands its own base class."""
    base: Any = http.AsyncByteStream

    class BoundedStream(base):  # type: ignore[misc]
        def __init__(self, inner: Any, bound: int, cut: bool) -> None:
            self._inner = inner
            self._bound = bound
            self._cut = cut

        async def __aiter__(self) -> AsyncIterator[bytes]:
            left = self._bound
            async with aclosing(aiter(self._inner)) as pieces:
                async for piece in pieces:
                    left -= len(piece)
                    if left >= 0:
                        yield piece
                    elif self._cut:
                        yield piece[:left]
                        return
                    else:
                        raise OversizedBodyError(f"the body has more than {self._bound} bytes")

        async def aclose(self) -> None:
            await self._inner.aclose()

    return BoundedStream


class _Redaction(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        redacted = redact_urls(text)
        if redacted != text:
            record.msg, record.args = redacted, None
        return True


_redaction: Final = _Redaction()
