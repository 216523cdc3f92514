"""`WebSocketMiddleware`: answer malformed frames, complete OpenEnv's error frames, and use the fast path for steps.

OpenEnv's socket handler fails on some malformed frames. They are answered here with an error frame. OpenEnv's own error
frames contain only a message; the typed error behind it is added here. An `internal_error` is logged with its exception.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any, Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmserve_server.callers.callers import Callers, current_scope
from llmserve_server.errors import AtCapacity, Busy, InvalidField, ServiceError, TooLarge, UnknownSession
from llmserve_server.fast_path import FastPath, current_fast_path
from llmserve_server.json_rpc import INVALID_PARAMS, INVALID_REQUEST, PARSE_ERROR
from llmserve_server.middleware.json_text import not_json, parse_json, rpc_error, rpc_problem
from llmserve_server.middleware.refusal import refuse
from llmserve_server.middleware.silence import SilenceWatch
from llmserve_server.settings import Settings
from llmserve_server.wire import last_refusal

__all__ = ["WebSocketMiddleware", "frame_problem"]

_SOCKETS: Final = ("/ws", "/mcp")
_MOST_BRACKETS: Final = 64
"""A frame with more opening brackets, or with anything else that is rare in a message, is parsed and checked."""
_LONG_FRAME: Final = 4000
"""Frames with more characters are parsed and checked: Python refuses to read an integer of over 4300 digits."""
_RETRY_S: Final = 5
_SILENT: Final = 1013
"""Close code of a socket that was silent for too long: try again later."""
_log = structlog.get_logger(__name__)


class WebSocketMiddleware:
    """Keeps OpenEnv's sockets open after malformed frames, and completes OpenEnv's error frames.

    OpenEnv's handler closes the socket on a binary frame, on JSON that is not an object, on nesting or integers that
    Python's parser refuses, and on invalid Unicode. Such a frame is answered here and does not reach the handler.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._bound = settings.max_message_bytes
        self._callers = Callers(settings)
        self._reset_within_s = settings.reset_within_s
        self._idle_timeout_s = settings.idle_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one socket; pass on anything else."""
        current_scope.set(scope)
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        if scope["path"] not in _SOCKETS:
            said = f"there is no socket here: those are {' and '.join(_SOCKETS)}"
            await refuse(ServiceError(said, code="not_found"), scope, send, status=404)
            return
        refused: list[ServiceError] = []
        last_refusal.set(refused)  # the socket has its own task, so the context variable is its own too
        fast_path = FastPath(self._callers.of(scope).address)
        current_fast_path.set(fast_path)
        watch = SilenceWatch(
            lambda: self._reset_within_s if fast_path.environment is None else self._idle_timeout_s,
            partial(_hang_up, send),
        )
        is_rpc = scope["path"] == "/mcp"  # the routes put a proxy's prefix back into the path
        answer = _rpc_frame if is_rpc else _error_frame

        async def guarded_receive() -> Message:
            while True:
                watch.listen()
                message = await receive()
                watch.heard()
                if message["type"] != "websocket.receive":
                    return message
                refused.clear()
                text = message.get("text")
                problem = frame_problem(text, self._bound)
                if problem is not None:
                    await send({"type": "websocket.send", "text": answer(*problem)})
                    continue
                try:
                    step = None if is_rpc else await fast_path.answer(str(text))
                except Exception as error:  # noqa: BLE001 - answered as OpenEnv's handler would answer it
                    _log.error("request_failed", exc_info=error)
                    step = _error_frame("EXECUTION_ERROR", _defect())
                if step is None:
                    step = _unhandled(str(text), is_rpc=is_rpc)
                if step is None:
                    return message
                await send({"type": "websocket.send", "text": step})

        async def completed_send(message: Message) -> None:
            if (message.get("text") or "").startswith('{"type":"error"'):
                text = message["text"]
                message = {"type": "websocket.send", "text": _completed(text, refused)}
            try:
                await send(message)
            except OSError:
                if message["type"] != "websocket.close":  # some releases of OpenEnv close a socket twice
                    raise

        try:
            await self._app(scope, guarded_receive, completed_send)
        finally:
            # OpenEnv closes the environment in a thread, and not at all if the socket's task is cancelled before a
            # thread is free. The slot would then stay in use until it is idle.
            fast_path.close()
            watch.close()


async def _hang_up(send: Send) -> None:
    """Close a socket; OpenEnv's handler then ends as if its client had left."""
    await send({"type": "websocket.close", "code": _SILENT, "reason": "silent for too long: connect again"})


def frame_problem(text: str | None, bound: int) -> tuple[str, ServiceError] | None:
    """Return OpenEnv's code and the error of a malformed frame or one over `bound` bytes; None if it is well-formed."""
    if text is None:
        return "VALIDATION_ERROR", InvalidField("message: must be a text frame", field="message", bound="a text frame")
    if len(text) > bound or (len(text) * 4 > bound and len(text.encode()) > bound):
        return "VALIDATION_ERROR", TooLarge.of_bytes("message", bound)
    is_plain = text[:1] == "{" and len(text) <= _LONG_FRAME and "\\u" not in text and "NaN" not in text
    if is_plain and text.count("{") + text.count("[") <= _MOST_BRACKETS and "Infinity" not in text:
        return None  # OpenEnv's handler answers what else may be wrong with it
    try:
        value = parse_json(text)
    except InvalidField as error:
        return "INVALID_JSON", error
    if not isinstance(value, dict):
        bound_ = "a JSON object with a type and data"
        return "VALIDATION_ERROR", InvalidField(f"message: must be {bound_}", field="message", bound=bound_)
    return None


def _unhandled(text: str, *, is_rpc: bool) -> str | None:
    """Return the answer to a well-formed frame that OpenEnv's handler fails on; None for all others.

    It looks up `type` in an action, and `session_id` in a JSON-RPC call, in a set, which not every value can be in.
    """
    try:
        frame = parse_json(text)
    except InvalidField:
        return None  # the handler says so itself
    if is_rpc:
        problem = rpc_problem(frame)
        return None if problem is None else rpc_error(INVALID_PARAMS, problem, frame)
    kind, data = frame.get("type"), frame.get("data")
    if kind == "mcp" and isinstance(data, dict) and (problem := rpc_problem(data)) is not None:
        return json.dumps({"type": "mcp", "data": json.loads(rpc_error(INVALID_PARAMS, problem, data))})
    if kind == "step" and isinstance(data, dict) and not isinstance(data.get("type"), str | None):
        bound = "must be left out: an action has no such field"
        return _error_frame("VALIDATION_ERROR", InvalidField(f"type: {bound}", field="type", bound=bound))
    return None


def _error_frame(code: str, error: ServiceError) -> str:
    data = {"message": error.message, "code": code, "error": error.body()["error"]}
    return json.dumps({"type": "error", "data": data})


def _rpc_frame(code: str, error: ServiceError) -> str:
    return rpc_error(PARSE_ERROR if code == "INVALID_JSON" else INVALID_REQUEST, error)


def _from_openenv(code: str, data: dict[str, Any]) -> ServiceError:
    """Return the typed error for a message that OpenEnv itself refused; log one that it failed on.

    OpenEnv sends its error frame while it handles the exception, which is why the log can have it.
    """
    said = str(data.get("message", ""))
    if code == "INVALID_JSON":
        return not_json("message")
    if code == "UNKNOWN_TYPE":
        bound = "one of reset, step, state, close, mcp"
        return InvalidField(f"type: must be {bound}", field="type", bound=bound)
    if code == "VALIDATION_ERROR":
        return _from_pydantic(data.get("errors") or [{}])
    if code == "CAPACITY_REACHED":
        return AtCapacity(f"all {data.get('max_sessions')} sockets are taken: try again later", retry_after_s=_RETRY_S)
    if code == "SESSION_ERROR" and (error := _attachment_refused(said)) is not None:
        return error
    _log.error("request_failed", code=code, said=said, exc_info=sys.exc_info()[1] or True)
    return _defect()


def _attachment_refused(said: str) -> ServiceError | None:
    """Return the error of a handshake that names one of OpenEnv's own sessions; None if another thing is wrong."""
    if said.startswith("Unknown session_id"):
        return UnknownSession("session_id: OpenEnv has no such session: leave it out", field="session_id")
    if said.endswith(("is still initializing", "already has an attached WebSocket")):
        return Busy("session_id: another socket has this session: try again later", retry_after_s=_RETRY_S)
    return None


def _defect() -> ServiceError:
    return ServiceError("the server failed on this message; its log says why", code="internal_error")


def _from_pydantic(problems: list[dict[str, Any]]) -> InvalidField:
    field = ".".join(str(part) for part in problems[0].get("loc", ())) or "message"
    bound = str(problems[0].get("msg", "must be a message"))
    return InvalidField(f"{field}: {bound}", field=field, bound=bound)


def _completed(text: str, refused: list[ServiceError]) -> str:
    """Return one of OpenEnv's error frames with the typed error added and Python's internal messages removed."""
    data = json.loads(text)["data"]
    code = str(data.get("code"))
    error = refused.pop() if refused else _from_openenv(code, data)
    if error.status in {InvalidField.status, TooLarge.status} and code == "EXECUTION_ERROR":
        code = "VALIDATION_ERROR"
    if error.code == AtCapacity.code:
        code = "CAPACITY_REACHED"
    return _error_frame(code, error)
