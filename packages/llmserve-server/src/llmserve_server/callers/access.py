"""`Access`: who knows the server's token, and who may spend the owner's key.

A program sends the token as a bearer token. A browser sends the cookie that the page's form sets; it is derived from
the token, so it is void once the token changes, and holds the time until which it is good.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterable
from typing import Final

from starlette.types import Scope

from llmserve_server.callers.callers import Callers
from llmserve_server.settings import Settings

__all__ = ["COOKIE", "COOKIE_S", "Access"]

COOKIE: Final = "llmserve_access"
COOKIE_S: Final = 30 * 86400
"""Seconds for which the cookie is good."""
_COOKIE: Final = COOKIE.encode() + b"="
_SALT: Final = b"llmserve-server: the page's cookie"


class Access:
    """Compares what a caller shows with the server's token."""

    def __init__(self, settings: Settings) -> None:
        token = settings.api_token
        self._token = b"" if token is None else token.get_secret_value().encode()
        self.required = token is not None
        self._callers = Callers(settings)
        # A slow derivation: who finds a cookie should not be able to guess a weak token from it.
        self._key = hashlib.scrypt(self._token, salt=_SALT, n=2**14, r=8, p=1) if self.required else b""

    def admits(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Return whether the headers of a request hold the token or the cookie; True where no token is required."""
        if not self.required:
            return True
        for name, value in headers:
            if name == b"authorization":
                scheme, _, given = value.partition(b" ")
                if scheme.lower() == b"bearer" and self.is_token(given.strip()):
                    return True
            elif name == b"cookie" and self._has_cookie(value):
                return True
        return False

    def may_spend(self, scope: Scope) -> bool:
        """Return whether a call that was let in may spend the owner's key: it showed the token, or is local."""
        return self.required or self._callers.of(scope).is_local

    def is_token(self, given: bytes) -> bool:
        """Return whether `given` is the token, in a time that does not depend on where it differs."""
        return hmac.compare_digest(given, self._token)

    def cookie(self) -> str:
        """Return a cookie's value for a browser whose visitor has given the token."""
        until = str(int(time.time()) + COOKIE_S)
        return f"{until}.{self._sign(until.encode())}"

    def _sign(self, until: bytes) -> str:
        return hmac.new(self._key, until, hashlib.sha256).hexdigest()

    def _has_cookie(self, header: bytes) -> bool:
        for part in header.split(b";"):
            part = part.strip()  # noqa: PLW2901 - the same part without its blanks
            if part.startswith(_COOKIE):
                until, _, signature = part.removeprefix(_COOKIE).partition(b".")
                is_ours = hmac.compare_digest(signature, self._sign(until).encode())
                if is_ours and int(until) > time.time():
                    return True
        return False
