"""LLMServeEnv as an OpenEnv server: sessions over HTTP, WebSocket and a web page that survive a restart.

`create_app` makes the application, `Settings` holds its limits, ``python -m llmserve_server`` serves it. The two names
are imported on first use, because OpenEnv takes seconds to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmserve_server.__about__ import __version__

if TYPE_CHECKING:
    from llmserve_server.app import create_app
    from llmserve_server.settings import Settings

__all__ = ["Settings", "__version__", "create_app"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name == "create_app":
        from llmserve_server.app import create_app

        return create_app
    if name == "Settings":
        from llmserve_server.settings import Settings

        return Settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
