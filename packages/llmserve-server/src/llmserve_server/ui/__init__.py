"""The page at /web: OpenEnv's Gradio interface with our tab first, one episode per visitor.

Start reading in `controller.py` (what a visitor can do), `layout.py` (what is on the page) and `handlers.py` (which
component does what). Gradio takes seconds to import, so nothing here is imported before `mount` is called.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

    from llmserve_server.callers.access import Access
    from llmserve_server.sessions.registry import SessionRegistry
    from llmserve_server.settings import Settings

__all__ = ["mount"]


def mount(app: FastAPI, registry: SessionRegistry, settings: Settings, access: Access | None = None) -> None:
    """Serve the page on `app` unless the settings turn it off: ``/web``, and the redirects ``/`` and ``/demo`` to it.

    Where `access` requires a token, the form that asks for it is at ``/web/login``.

    Call it after the app has its other routes and its lifespan: Gradio adds its own to that lifespan.
    """
    if not settings.web:
        return
    # Without this Gradio sends usage data to its makers' servers.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from llmserve_server.ui.page import serve

    async def build() -> None:
        serve(app, registry, settings, access)

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        # Outside a running event loop Gradio makes one for each of its locks and closes none of them.
        loop = asyncio.new_event_loop()
        loop.run_until_complete(build())
        loop.close()
    else:
        serve(app, registry, settings, access)
