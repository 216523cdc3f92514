"""Mounts the page on the app: OpenEnv's Gradio interface at /web with our tab first, and the redirects to it.

Our tab keeps one episode per visitor. OpenEnv's tab is built by OpenEnv's own functions and keeps one environment for
all visitors. Everything is served from this machine.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from openenv.core.env_server.gradio_theme import OPENENV_GRADIO_CSS
from starlette.routing import Mount

from llmserve_agents.policy import AGENTS
from llmserve_server.ui import theme
from llmserve_server.ui.controller import PageController
from llmserve_server.ui.gate import PageGate
from llmserve_server.ui.gradio_log import quiet_gradio
from llmserve_server.ui.handlers import Handlers
from llmserve_server.ui.layout import Layout
from llmserve_server.ui.login import add_login
from llmserve_server.ui.playground import playground
from llmserve_server.ui.visitor import visitor_address

if TYPE_CHECKING:
    from llmserve_server.callers.access import Access
    from llmserve_server.sessions.registry import SessionRegistry
    from llmserve_server.settings import Settings

__all__ = ["PATH", "blocks", "serve"]

PATH: Final = "/web"
_TITLE: Final = "LLMServeEnv"
_TAB: Final = "Serve"
_MOST_STATES: Final = 64
"""Pages whose state Gradio keeps, a third of a megabyte each. The browser has what the page needs if it is gone."""
_MOST_UNREAD: Final = 256
"""Pages whose answers wait to be read, a tenth of a megabyte each. Beyond it the oldest, which nobody reads, are lost."""


def blocks(registry: SessionRegistry, settings: Settings) -> gr.Blocks:
    """Return the page: our tab, and OpenEnv's."""
    address = partial(visitor_address, registry.callers)
    controller = PageController(registry, AGENTS, replayable=settings.mode == "sim", address=address)
    page = gr.TabbedInterface([_serve_tab(controller), playground(registry)], tab_names=[_TAB, "Playground"])
    page.title = _TITLE
    # Whoever asks makes up the page that asks, so that there is no end to them.
    page.state_session_capacity = _MOST_STATES
    page._queue.pending_messages_per_session.max_size = _MOST_UNREAD  # noqa: SLF001 - Gradio has no option for it
    return page


def _serve_tab(controller: PageController) -> gr.Blocks:
    tab = gr.Blocks(title=_TITLE, analytics_enabled=False)
    with tab:
        Handlers(controller, Layout(controller.tasks, controller.agents, controller.usable_agents)).connect(tab)
    return tab


def serve(app: FastAPI, registry: SessionRegistry, settings: Settings, access: Access | None = None) -> None:
    """Mount the page on `app` and redirect ``/``, ``/demo`` and ``/web`` to it; with a token add its form."""
    for route in ("/", "/demo", PATH):
        app.add_api_route(route, _to_page, methods=["GET"], include_in_schema=False)
    app.add_api_route("/favicon.ico", _icon, methods=["GET"], include_in_schema=False)
    if access is not None and access.required:
        add_login(app, access)
    quiet_gradio()
    gr.mount_gradio_app(
        app,
        blocks(registry, settings),
        path=PATH,
        theme=theme.gradio_theme(),
        css=OPENENV_GRADIO_CSS + theme.style_sheet(),
        head=theme.head(),
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size="1kb",  # nothing is uploaded here
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
    )
    mount = app.router.routes[-1]
    assert isinstance(mount, Mount)
    mount.app = PageGate(mount.app)


async def _to_page(request: Request) -> RedirectResponse:
    """Redirect to the page with its trailing slash, below a proxy's prefix if there is one."""
    return RedirectResponse(f"{request.scope.get('root_path', '')}{PATH}/")


async def _icon() -> Response:
    """Return the icon that every browser asks for."""
    return Response(theme.icon(), media_type="image/svg+xml")
