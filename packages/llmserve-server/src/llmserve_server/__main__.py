"""The command of the server: ``python -m llmserve_server``, and the scripts `llmserve-server` and `server`.

SIGTERM stops it with exit code 0.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

import uvicorn

from llmserve_server.__about__ import __version__
from llmserve_server.app import create_app
from llmserve_server.errors import ServiceError
from llmserve_server.log_config import configure_logging
from llmserve_server.middleware.prefix import behind_proxies
from llmserve_server.protocol import server_options
from llmserve_server.settings import Settings, SettingsError

__all__ = ["main"]

_KEEP_ALIVE_S = 75
"""Longer than proxies and clients keep an idle connection, so the server never closes one about to be used."""
_GRACE_S = 10
"""Seconds that running requests may take after SIGTERM; sockets are closed at once, with code 1012."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; exit with 2 if a setting is wrong."""
    parser = argparse.ArgumentParser(
        prog="llmserve-server",
        description="Serve LLMServeEnv. Every setting is an environment variable LLMSERVE_*; these two have options too.",
    )
    parser.add_argument("--host", help="address to listen on (default: $HOST, else 0.0.0.0)")
    parser.add_argument("--port", type=int, help="TCP port, 0 for a free one (default: $PORT, else 7860)")
    parser.add_argument("--version", action="version", version=__version__)
    options = parser.parse_args(arguments)
    given = {name: value for name in ("host", "port") if (value := getattr(options, name)) is not None}
    try:
        settings = Settings(**given)
        configure_logging(settings)
        app = create_app(settings)
    except (SettingsError, ServiceError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - the command's own answer
        raise SystemExit(2) from None
    # uvicorn raises the signal again after it has stopped; unhandled, it would end the process with an error.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.run(
        behind_proxies(app, settings.forwarded_allow_ips),
        proxy_headers=False,  # `behind_proxies` does it, after it has looked at the peer
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_GRACE_S,
        timeout_keep_alive=_KEEP_ALIVE_S,
        ws_ping_interval=30.0,
        ws_ping_timeout=60.0,
        **server_options(settings),
    )


if __name__ == "__main__":
    main()
