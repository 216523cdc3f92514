"""`Endpoint`: parses a server's base URL into its HTTP and WebSocket addresses. Does no I/O.

A base URL may end in a slash, have a path prefix (a server behind a proxy), and use http, https, ws or wss.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from llmserve_client._exceptions import InvalidFieldError

__all__ = ["Endpoint", "space_url"]

_SCHEMES: Final = {"http": ("http", "ws"), "ws": ("http", "ws"), "https": ("https", "wss"), "wss": ("https", "wss")}
_SPACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def _wrong(field: str, bound: str, got: object) -> InvalidFieldError:
    return InvalidFieldError(f"{field}: {bound}, got {got!r}", code="invalid_field", field=field, bound=bound)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The two addresses of one server."""

    http: str
    """Base of every HTTP route, without a trailing slash."""
    socket: str
    """Address of the WebSocket."""
    host: str
    """Host as written in a URL: IPv6 in brackets."""
    secure: bool
    """Whether TLS is used."""
    local: bool
    """Whether the server is on this machine; then no proxy is used."""

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Parse a base URL; raises `InvalidFieldError` (field ``url``)."""
        if not isinstance(url, str):
            raise _wrong("url", "must be a text such as http://localhost:7860", url)
        try:
            parts = urlsplit(url.strip())
            port = parts.port
        except ValueError as error:
            raise _wrong("url", f"must be a URL ({error})", url) from None
        if parts.scheme.lower() not in _SCHEMES or not parts.hostname:
            raise _wrong("url", "must begin with http://, https://, ws:// or wss:// and name a host", url)
        if parts.username is not None or parts.password is not None:
            # The message does not show the URL, since it holds a password.
            message = "url: must hold no user name or password: pass token= or headers="
            raise InvalidFieldError(message, code="invalid_field", field="url", bound="no user name or password")
        if parts.query or parts.fragment:
            raise _wrong("url", "must have no query and no fragment", url)
        plain, socket = _SCHEMES[parts.scheme.lower()]
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        rest = (host if port is None else f"{host}:{port}") + parts.path.rstrip("/")
        return cls(f"{plain}://{rest}", f"{socket}://{rest}/ws", host, plain == "https", _is_loopback(parts.hostname))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def space_url(repo_id: str) -> str:
    """Return the address of a Hugging Face Space: ``user/my_space`` is served at ``https://user-my-space.hf.space``.

    This is the Hub's naming rule and needs no network. Raises `InvalidFieldError` (field ``repo_id``) for other names.
    """
    if not _SPACE.fullmatch(str(repo_id)):
        raise _wrong("repo_id", "must name a Space as user/space", repo_id)
    return f"https://{re.sub(r'[^a-z0-9]', '-', repo_id.lower())}.hf.space"
