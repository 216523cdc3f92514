"""`quiet_gradio`: what Gradio prints of an event that failed goes to the log instead, in one line if it is the caller's.

Gradio prints a trace for whatever a request makes its code raise, so that a caller could fill the log at will.
"""

from __future__ import annotations

import sys
import traceback
from types import SimpleNamespace

import structlog
from gradio import queueing, routes

__all__ = ["quiet_gradio"]

_log = structlog.get_logger(__name__)


def quiet_gradio() -> None:
    """Replace the name by which Gradio's modules print traces; other users of `traceback` are not affected."""
    for module in (queueing, routes):
        setattr(module, "traceback", SimpleNamespace(print_exc=_report))  # noqa: B010 - the modules do not export it


def _report(*_: object, **__: object) -> None:
    """Log the exception that is being handled: with its trace if our code is part of it."""
    error = sys.exc_info()[1]
    if error is None:
        return
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if any("llmserve" in name.rpartition("site-packages")[2] for name in files):
        _log.error("page_event_failed", exc_info=error)
    else:
        _log.warning("page_event_refused", problem=type(error).__name__)
