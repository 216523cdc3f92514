"""`create_app`: the whole server as one FastAPI application.

Our routes are registered first, so that they answer `/reset`, `/step` and `/state`; then OpenEnv's other routes; then
the page.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import structlog
from fastapi import FastAPI, Response
from openenv.core.env_server.types import ServerMode

from llmserve_server.backends import BackendFactory, SimulatedBackend
from llmserve_server.backends.kernel import Kernel
from llmserve_server.backends.latencies import Latencies
from llmserve_server.baseline import BaselineRunner
from llmserve_server.callers.access import Access
from llmserve_server.dispatch import Dispatcher
from llmserve_server.errors import ServiceError
from llmserve_server.metrics import CONTENT_TYPE, Metrics
from llmserve_server.middleware.auth import AuthMiddleware
from llmserve_server.middleware.head import HeadMiddleware
from llmserve_server.middleware.json_bodies import JsonBodyMiddleware
from llmserve_server.middleware.limits import LimitsMiddleware
from llmserve_server.middleware.origin import OriginMiddleware
from llmserve_server.middleware.prefix import PrefixMiddleware, RestorePrefixMiddleware
from llmserve_server.middleware.telemetry import TelemetryMiddleware
from llmserve_server.middleware.websocket import WebSocketMiddleware
from llmserve_server.openapi import errors, openapi_of
from llmserve_server.openenv.server import OpenEnvServer
from llmserve_server.protocol import ServerMiddleware
from llmserve_server.routes.docs_page import add_docs
from llmserve_server.routes.episodes import register
from llmserve_server.routes.exception_handlers import add_exception_handlers
from llmserve_server.sessions.registry import SessionRegistry
from llmserve_server.settings import Settings, unknown_variables
from llmserve_server.store.episodes import open_store
from llmserve_server.tools.routes import register as register_tools
from llmserve_server.tools.streamable import McpSessions

__all__ = ["API_VERSION", "create_app"]

API_VERSION: Final = "1.0.0"
"""Version of the HTTP interface; OpenEnv's validator requires that it begins with 1."""
_REAP_EVERY_S: Final = 60.0
_log = structlog.get_logger(__name__)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the server with `settings`, or with those of the environment variables if None.

    Raises:
        SettingsError: it names each wrong variable.
        MissingApiKey: real mode needs a key and has none.
    """
    settings = Settings() if settings is None else settings
    kernel, latencies = Kernel(settings.engine), Latencies()
    backends: BackendFactory = partial(SimulatedBackend, kernel, latencies=latencies)
    closing: list[Callable[[], None]] = [kernel.close]
    if settings.mode == "real":  # imported only here: the client library is slow to import and large
        from llmserve_server.backends.real.backend import RealBackendFactory

        backends = real = RealBackendFactory(settings)
        closing.append(real.close)
    registry = SessionRegistry(settings=settings, store=open_store(settings), backend_factory=backends)
    metrics = Metrics(registry, latencies)
    dispatcher = Dispatcher(registry, metrics, threads=_threads(settings))
    baselines = BaselineRunner(settings, engine=kernel.settled)
    access = Access(settings)
    closing.insert(0, baselines.close)
    app = FastAPI(
        title="LLMServeEnv",
        version=API_VERSION,
        description="An OpenEnv environment for learning LLM inference serving policies.",
        lifespan=partial(
            _lifespan, settings=settings, registry=registry, dispatcher=dispatcher, kernel=kernel, closing=closing
        ),
        redirect_slashes=False,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.registry, app.state.settings, app.state.metrics = registry, settings, metrics
    app.state.dispatcher = dispatcher
    app.state.mcp = mcp = McpSessions(registry, dispatcher, idle_s=settings.idle_timeout_s)
    register(app, registry, dispatcher, baselines, access)
    OpenEnvServer(settings, registry, dispatcher).register_routes(app, mode=ServerMode.PRODUCTION)
    register_tools(app, mcp, registry.callers)

    @app.get("/metrics", tags=["Health"], summary="Prometheus metrics", responses=_metrics_responses())
    async def prometheus() -> Response:
        """Return the metrics in Prometheus's text format."""
        return Response(metrics.page(), media_type=CONTENT_TYPE)

    add_docs(app)
    add_exception_handlers(app)
    app.openapi = partial(openapi_of, app)  # type: ignore[method-assign]
    app.add_middleware(RestorePrefixMiddleware)
    app.add_middleware(HeadMiddleware)
    app.add_middleware(JsonBodyMiddleware)
    app.add_middleware(WebSocketMiddleware, settings=settings)
    app.add_middleware(LimitsMiddleware, settings=settings)
    app.add_middleware(AuthMiddleware, settings=settings, access=access)
    app.add_middleware(OriginMiddleware, settings=settings)
    app.add_middleware(ServerMiddleware, settings=settings)
    app.add_middleware(TelemetryMiddleware, metrics=metrics)
    app.add_middleware(PrefixMiddleware, settings=settings)
    if settings.web:
        from llmserve_server import ui

        ui.mount(app, registry, settings, access)
    return app


def _threads(settings: Settings) -> int:
    """Return the number of threads: simulated calls are CPU-bound, real ones wait for the endpoint."""
    return 8 if settings.mode == "sim" else min(settings.max_concurrent_envs, 256)


@asynccontextmanager
async def _lifespan(
    app: FastAPI,
    *,
    settings: Settings,
    registry: SessionRegistry,
    dispatcher: Dispatcher,
    kernel: Kernel,
    closing: Sequence[Callable[[], None]],
) -> AsyncIterator[None]:
    for variable in unknown_variables():
        _log.warning("unknown_setting", variable=variable)
    for start in app.router.on_startup:  # OpenEnv's start-up handlers, which our own lifespan replaces
        await start()
    tasks = [asyncio.create_task(_keep_tidy(registry, dispatcher, app.state.mcp))]
    if settings.mode == "sim":
        tasks.append(asyncio.create_task(_warm_up(settings, kernel, dispatcher)))
    _log.info("started", mode=settings.mode, max_concurrent_envs=settings.max_concurrent_envs)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for stop in app.router.on_shutdown:
            await stop()
        for close in closing:
            await asyncio.to_thread(close)
        dispatcher.close()
        await asyncio.to_thread(registry.shutdown)
        _log.info("stopped")


async def _warm_up(settings: Settings, kernel: Kernel, dispatcher: Dispatcher) -> None:
    """Load the compiled kernel, compile it first if need be. Until that is done, steps run in threads."""
    await kernel.warmed_up()
    is_local = settings.store_url is None or settings.store_url.get_secret_value().startswith("sqlite")
    dispatcher.inline_steps = is_local and kernel.is_fast


async def _keep_tidy(registry: SessionRegistry, dispatcher: Dispatcher, mcp: McpSessions) -> None:
    while True:
        await asyncio.sleep(_REAP_EVERY_S)
        mcp.forget_idle()
        try:
            await dispatcher.run(registry.reap)
        except ServiceError as error:
            _log.warning("reap_failed", code=error.code)


def _metrics_responses() -> dict[int | str, dict[str, Any]]:
    text = {"text/plain": {"schema": {"type": "string"}}}
    return {200: {"description": "The metrics.", "content": text}, **errors()}
