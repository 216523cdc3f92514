"""No line of the log tells who called, or with which query; a client that has gone leaves no trace."""

from __future__ import annotations

import io
import logging

import pytest
from starlette.requests import ClientDisconnect

from llmserve_server.log_config import configure_logging
from llmserve_server.settings import Settings


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a configured process writes."""
    text = io.StringIO()
    monkeypatch.setattr("sys.stderr", text)
    configure_logging(Settings(log_level="debug"))
    return text


LINES = [
    ('%s - "WebSocket %s" [accepted]', ("203.0.113.9:1", "/ws?token=hunter2")),
    ('%s - "WebSocket %s" 403', ("203.0.113.9:1", "/ws?token=hunter2")),
    ('%s - "WebSocket %s" %d', ("203.0.113.9:1", "/ws?token=hunter2", 401)),
    ("connection open", ()),
    ("connection rejected (401 Unauthorized)", ()),
    ("Invalid UTF-8 sequence received from client.", ()),
]


@pytest.mark.parametrize(("message", "arguments"), LINES)
def test_lines_about_sockets_with_address_and_query_are_not_written(
    written: io.StringIO, message: str, arguments: tuple[object, ...]
) -> None:
    for name in ("uvicorn.error", "websockets.server"):
        logging.getLogger(name).info(message, *arguments)
    assert written.getvalue() == ""


@pytest.mark.parametrize("gone", [ClientDisconnect(), ConnectionResetError("gone"), BrokenPipeError()], ids=repr)
def test_a_client_that_has_gone_leaves_no_trace(written: io.StringIO, gone: Exception) -> None:
    logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=gone)
    assert written.getvalue() == ""


def test_defects_and_what_uvicorn_says_of_itself_are_written(written: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=KeyError("defect"))
    logging.getLogger("uvicorn.error").info("Application startup complete.")
    assert "KeyError" in written.getvalue()
    assert "Application startup complete." in written.getvalue()
