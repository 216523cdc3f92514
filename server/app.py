"""``uvicorn server.app:app`` and the `server` script: the composed server. Everything behind it is in llmserve-server."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["app", "main"]

app: FastAPI


def __getattr__(name: str) -> FastAPI:
    """Make `app` when it is first asked for: `main` makes its own, and no process should open the store twice."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llmserve_server.app import create_app
    from llmserve_server.log_config import configure_logging
    from llmserve_server.settings import Settings

    settings = Settings()
    configure_logging(settings)
    globals()["app"] = create_app(settings)
    return globals()["app"]  # type: ignore[no-any-return]


def main() -> None:
    """Serve until SIGTERM; ``--host`` and ``--port`` go before $HOST and $PORT."""
    from llmserve_server.__main__ import main as serve

    serve()


if __name__ == "__main__":
    main()
