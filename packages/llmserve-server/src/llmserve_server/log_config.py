"""`configure_logging`: write all log lines of the process to standard error in one format, JSON or console."""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

import structlog
from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect
from uvicorn.protocols.utils import ClientDisconnected
from websockets.exceptions import ConnectionClosed

from llmserve_server.settings import Settings

__all__ = ["configure_logging"]

_OF_SOCKETS: Final = ('%s - "WebSocket ', "connection open", "connection closed", "connection rejected")
"""How uvicorn's and websockets' lines about a socket begin. They name its address and its whole URL, with the query."""
_OF_CLIENTS: Final = ("Invalid UTF-8 sequence received from client.",)
"""uvicorn's errors that are a client's: its socket is closed with the code that says so."""
_GONE: Final = (ConnectionError, ClientDisconnect, WebSocketDisconnect, ClientDisconnected, ConnectionClosed)
"""What is raised where a client has gone. That is no defect, and needs no trace."""


class _NoCallers(logging.Filter):
    """Drops the lines of other libraries that tell who called, or that a caller has gone; ours tell the rest."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith("llmserve_server"):
            return True
        if isinstance(record.msg, str) and record.msg.startswith(_OF_SOCKETS + _OF_CLIENTS):
            return False
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        return not isinstance(error, _GONE)


def configure_logging(settings: Settings) -> None:
    """Write the process's log lines to standard error in one format, and replace uvicorn's lines about callers by ours."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: Any = structlog.processors.JSONRenderer()
    if settings.log_format == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    handler.addFilter(_NoCallers())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.INFO) if level == logging.DEBUG else level)
    logging.getLogger("llmserve_server").setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = [], True
    logging.getLogger("uvicorn.access").disabled = True  # it would print query strings; ours prints the route's pattern
    for name in ("httpx", "httpx2", "openai"):  # a line for each request, with the endpoint's URL
        logging.getLogger(name).setLevel(logging.WARNING)
