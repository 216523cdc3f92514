"""Puts the page on the app: OpenEnv's Gradio interface at /web with our tab first, and the redirects to it.

OpenEnv's own tab comes from OpenEnv's own functions and keeps one environment for all visitors, as it does everywhere; ours
keeps one episode per visitor. Everything is served from this machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from openenv.core.env_server.gradio_theme import OPENENV_GRADIO_CSS

from llmserve_agents.policy import AGENTS
from llmserve_server.ui import look
from llmserve_server.ui.desk import Desk
from llmserve_server.ui.layout import build
from llmserve_server.ui.playground import playground

if TYPE_CHECKING:
    from llmserve_server.sessions import SessionRegistry
    from llmserve_server.settings import Settings

__all__ = ["PATH", "blocks", "serve"]

PATH: Final = "/web"
_TITLE: Final = "LLMServeEnv"
_TAB: Final = "Serve"


def blocks(registry: SessionRegistry, settings: Settings) -> gr.Blocks:
    """The page: our tab, and OpenEnv's."""
    desk = Desk(registry, AGENTS, replayable=settings.mode == "sim")
    page = gr.TabbedInterface([build(desk), playground(registry)], tab_names=[_TAB, "Playground"])
    page.title = _TITLE
    return page


def serve(app: FastAPI, registry: SessionRegistry, settings: Settings) -> None:
    """Mount the page on `app` and redirect ``/``, ``/demo`` and ``/web`` to it."""
    for route in ("/", "/demo", PATH):
        app.add_api_route(route, _to_page, methods=["GET"], include_in_schema=False)
    app.add_api_route("/favicon.ico", _icon, methods=["GET"], include_in_schema=False)
    gr.mount_gradio_app(
        app,
        blocks(registry, settings),
        path=PATH,
        theme=look.theme(),
        css=OPENENV_GRADIO_CSS + look.style_sheet(),
        head=look.head(),
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size="1kb",  # nothing is uploaded here
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
    )


async def _to_page(request: Request) -> RedirectResponse:
    """To the page with its slash; under a proxy's prefix too."""
    return RedirectResponse(f"{request.scope.get('root_path', '')}{PATH}/")


async def _icon() -> Response:
    """What every browser asks for, whatever the page says."""
    return Response(look.icon(), media_type="image/svg+xml")
