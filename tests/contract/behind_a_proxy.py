"""The server as it stands behind a proxy: below a path prefix, and over TLS. Run with: prefix, port, certificate, key."""

from __future__ import annotations

import sys

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from llmserve_server.app import create_app
from llmserve_server.settings import Settings


class Below:
    """An application below a prefix; nothing is above."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take the prefix off, and say so and for whom it is, as a proxy does: all callers have one address here."""
        if scope["type"] in {"http", "websocket"}:
            if not scope["path"].startswith(self._prefix):
                raise RuntimeError(f"a client asked for {scope['path']}, which is not below {self._prefix}")
            inner = scope["path"].removeprefix(self._prefix)
            said = [(b"x-forwarded-prefix", self._prefix.encode()), (b"x-forwarded-for", b"203.0.113.7")]
            headers = [*scope["headers"], *said]
            scope = {**scope, "path": inner, "raw_path": inner.encode(), "headers": headers}
        await self._app(scope, receive, send)


def main() -> None:
    """Serve until told to stop."""
    prefix, port, certificate, key = sys.argv[1:]
    uvicorn.run(
        Below(create_app(Settings()), prefix),
        host="127.0.0.1",
        port=int(port),
        ssl_certfile=certificate,
        ssl_keyfile=key,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
