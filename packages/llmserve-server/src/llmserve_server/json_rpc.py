"""JSON-RPC 2.0's error codes and error document, for OpenEnv's JSON-RPC and for MCP, which is built on it."""

from __future__ import annotations

from typing import Any, Final

__all__ = [
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "METHOD_NOT_FOUND",
    "PARSE_ERROR",
    "error_document",
    "is_id",
]

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603


def is_id(value: object) -> bool:
    """Return whether `value` can identify a call: a text or an integer, and no Boolean."""
    return isinstance(value, str) or type(value) is int


def error_document(
    code: int, message: str, call_id: object = None, *, data: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the answer to a call that failed; `call_id` is null where the call has none that is usable."""
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": call_id if is_id(call_id) else None, "error": error}
