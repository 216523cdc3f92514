"""`OriginMiddleware`: refuse what other people's pages send through a visitor's browser, on every route and socket.

Three headers tell: ``Host`` (the name that the browser believes to talk to), ``Sec-Fetch-Site`` (how the page that
sends is related to this server) and ``Origin`` (which page it is). A page cannot change them. Programs that are no
browser send neither of the last two, and are not affected by them.
"""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from llmserve_server.callers.hosts import Hosts
from llmserve_server.errors import ForeignHost, ForeignOrigin, ServiceError
from llmserve_server.middleware.refusal import refuse
from llmserve_server.settings import Settings

__all__ = ["OriginMiddleware"]

_OWN: Final = frozenset({b"same-origin", b"none"})
"""The page is this server's own, or the visitor has typed the address."""
_EMBEDS: Final = frozenset({b"object", b"embed"})
_HOSTS: Final = frozenset({b"host", b"x-forwarded-host"})


class OriginMiddleware:
    """Refuses foreign hosts and foreign pages with 403.

    With a token the host is not checked: a page under a foreign name has neither the token nor the cookie, which the
    browser keeps for the right name.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._hosts = Hosts(settings.allowed_hosts)
        self._checks_host = settings.api_token is None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or socket."""
        if scope["type"] in {"http", "websocket"}:
            problem = self._problem(scope)
            if problem is not None:
                await refuse(problem, scope, send)
                return
        await self._app(scope, receive, send)

    def _problem(self, scope: Scope) -> ServiceError | None:
        headers = scope["headers"]
        given: dict[bytes, bytes] = dict(headers)
        if len(given) != len(headers) and sum(name == b"host" for name, _ in headers) > 1:
            return ForeignHost("send one Host header", field="Host", bound="one header")
        host = given.get(b"host")
        if self._checks_host and host is not None and not self._hosts.goes_by(host):
            return ForeignHost(
                "this server does not go by that name: if it should, add the name to LLMSERVE_ALLOWED_HOSTS where the "
                "server runs, or set LLMSERVE_API_TOKEN",
                field="Host",
                bound="an IP address, a name of this machine, or one of LLMSERVE_ALLOWED_HOSTS",
            )
        if (b"origin" in given or b"sec-fetch-site" in given) and self._is_foreign(scope, given):
            return ForeignOrigin(
                "a page of another origin sent this: if the page is yours, add its host to LLMSERVE_ALLOWED_HOSTS "
                "where the server runs",
                field="Origin",
                bound="this server's own page, or a page of one of LLMSERVE_ALLOWED_HOSTS",
            )
        return None

    def _is_foreign(self, scope: Scope, given: dict[bytes, bytes]) -> bool:
        site, origin = given.get(b"sec-fetch-site"), given.get(b"origin")
        if site in _OWN:
            return False
        if origin is not None:
            # A page elsewhere cannot send X-Forwarded-Host without a preflight, which is refused here too.
            hosts = [value.decode("latin-1") for name, value in scope["headers"] if name in _HOSTS]
            trusted = self._hosts.trusts(origin.decode("latin-1"), hosts if site is None else ())
            return not trusted
        # A link to the page, or a frame with it (Hugging Face shows a Space in one), changes nothing.
        is_visit = scope["type"] == "http" and scope["method"] in {"GET", "HEAD"}
        return not (
            is_visit and given.get(b"sec-fetch-mode") == b"navigate" and given.get(b"sec-fetch-dest") not in _EMBEDS
        )
