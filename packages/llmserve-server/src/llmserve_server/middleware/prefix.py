"""The path prefix below which a proxy serves the application, such as ``/envs/llm``.

The prefix is the proxy's ``X-Forwarded-Prefix``, else ``LLMSERVE_ROOT_PATH``, else what the server program was told
(uvicorn's ``--root-path``). Like uvicorn's other forwarded headers, ``X-Forwarded-Prefix`` counts only from the
addresses in ``FORWARDED_ALLOW_IPS`` (default: 127.0.0.1). A proxy may remove the prefix from the path or leave it there.

`PrefixMiddleware` is outermost: what lies inside it sees paths without the prefix. `RestorePrefixMiddleware` is
innermost: routes, redirects, the page and the documentation see the path and ``root_path`` as ASGI defines them.
"""

from __future__ import annotations

import ipaddress
import os
import re
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from llmserve_server.callers.paths import KEPT_PREFIX
from llmserve_server.errors import ServiceError
from llmserve_server.middleware.refusal import refuse
from llmserve_server.settings import ROOT_PATH, Settings

__all__ = ["PrefixMiddleware", "RestorePrefixMiddleware", "behind_proxies"]

_PREFIX: Final = re.compile(ROOT_PATH)
_MAX_LETTERS: Final = 200
_HEADER: Final = b"x-forwarded-prefix"
_TRUSTED: Final = "llmserve.trusted_peer"
"""Key of a scope: whether its peer is a trusted proxy. uvicorn replaces the peer's address by the visitor's."""


class _Proxies:
    """The addresses and networks of the believed proxies, as uvicorn reads them.

    Args:
        named: the setting; None: what uvicorn finds in ``FORWARDED_ALLOW_IPS``, where an empty text names nobody.
    """

    def __init__(self, named: str | None) -> None:
        self.text = os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1") if named is None else named
        names = [name.strip() for name in self.text.split(",")]
        self._everyone = names == ["*"]
        self._names = set(names)
        self._networks = []
        for name in names:
            try:
                self._networks.append(ipaddress.ip_network(name))
            except ValueError:
                continue  # a name, such as a socket's path

    def __contains__(self, host: str | None) -> bool:
        if self._everyone or host in self._names:
            return True
        try:
            address = ipaddress.ip_address(host or "")
        except ValueError:
            return False
        return any(address in network for network in self._networks)


class PrefixMiddleware:
    """Finds the prefix of a request, and removes it from the path.

    Args:
        app: the application.
        settings: the path, "" for none, and the proxies that may name another.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._root_path = settings.root_path
        self._proxies = _Proxies(settings.forwarded_allow_ips)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or socket."""
        if scope["type"] in {"http", "websocket"}:
            if "\n" in scope["path"]:  # Starlette's patterns would match it without its last line's end
                await refuse(ServiceError("Not Found", code="not_found"), scope, send, status=404)
                return
            prefix = self._prefix(scope)
            if prefix:
                scope["path"] = _below(prefix, scope["path"])
                scope["root_path"], scope[KEPT_PREFIX] = "", prefix
        await self._app(scope, receive, send)

    def _prefix(self, scope: Scope) -> str:
        said = [value for name, value in scope["headers"] if name == _HEADER]
        if said and (scope.get(_TRUSTED) or _peer(scope) in self._proxies):
            # Each of several proxies adds its own, the outermost first.
            parts = b",".join(said).decode("latin-1").split(",")
            prefix = "".join(part.strip().rstrip("/") for part in parts)
            if len(prefix) <= _MAX_LETTERS and _PREFIX.fullmatch(prefix):
                return prefix
        return self._root_path or str(scope.get("root_path", "")).rstrip("/")


class RestorePrefixMiddleware:
    """Gives the routes the whole path, and ``root_path``, in the same scope: telemetry reads the route from it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or socket."""
        prefix = scope.get(KEPT_PREFIX)
        if prefix is None:
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        scope["path"], scope["root_path"] = prefix + path, prefix
        try:
            await self._app(scope, receive, send)
        finally:
            scope["path"], scope["root_path"] = path, ""


def behind_proxies(app: ASGIApp, named: str | None = None) -> ASGIApp:
    """Return `app` with uvicorn's handling of forwarded headers, which also notes whether the peer is trusted.

    `named` is the setting of the believed proxies. Start uvicorn with ``proxy_headers=False``: its own handling would
    hide the peer before it is noted.
    """
    proxies = _Proxies(named)
    inner = ProxyHeadersMiddleware(app, proxies.text)  # type: ignore[arg-type]

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in {"http", "websocket"}:
            scope[_TRUSTED] = _peer(scope) in proxies
        await inner(scope, receive, send)  # type: ignore[arg-type]

    return noting


def _peer(scope: Scope) -> str | None:
    return scope["client"][0] if scope.get("client") else None


def _below(prefix: str, path: str) -> str:
    """Return the part of `path` below `prefix`, or `path` if the proxy has removed the prefix."""
    if path == prefix:
        return "/"
    return path[len(prefix) :] if path.startswith(f"{prefix}/") else path
