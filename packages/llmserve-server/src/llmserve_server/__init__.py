"""LLMServeEnv as an OpenEnv server: sessions that outlive the process, over HTTP, WebSocket and a page.

`create_app` makes the application, `Settings` says with what limits; ``python -m llmserve_server`` serves it. They are
imported when they are first asked for: OpenEnv takes seconds to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmserve_server.__about__ import __version__ as __version__
from llmserve_sim._lazy import attach

if TYPE_CHECKING:
    from llmserve_server.app import create_app as create_app
    from llmserve_server.settings import Settings as Settings

    __all__: list[str]
else:
    __getattr__, __dir__, __all__ = attach(__name__)
