"""Who uses the page: the visitor behind the event that Gradio is handling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradio.context import LocalContext

if TYPE_CHECKING:
    from starlette.types import Scope

    from llmserve_server.callers.callers import Callers

__all__ = ["visitor_address", "visitor_key"]


def visitor_key() -> str:
    """Return what tells one open page from another; empty outside an event."""
    request = LocalContext.request.get(None)
    return "" if request is None else str(request.session_hash or "")


def visitor_address(callers: Callers) -> str | None:
    """Return the address whose share of the places the visitor takes; None for this machine."""
    request = LocalContext.request.get(None)
    inner = None if request is None else request.request
    scope: Scope | None = None if inner is None else inner.scope
    return callers.of(scope).address
