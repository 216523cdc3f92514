"""What stands before every route: the bearer token, the sizes of bodies and messages, and frames that are no messages.

Plain ASGI layers, outermost first `Guard`: it asks for the token and bounds bodies; `SocketGuard` answers a frame that
OpenEnv's socket handler would stumble over with an error frame, and completes OpenEnv's error frames with the typed
refusal behind them. Nothing here knows what the routes do.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable
from typing import Any, Final

import structlog
from pydantic_core import from_json
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmserve_server.errors import AtCapacity, InvalidField, ServiceError, TooLarge, Unauthorized
from llmserve_server.express import ExpressLane, current_lane
from llmserve_server.settings import Settings
from llmserve_server.wire import last_refusal

__all__ = ["Guard", "SocketGuard", "frame_problem", "is_open", "refuse"]

_OPEN: Final = ("/health", "/web", "/", "/demo", "/favicon.ico")
"""Paths that no token guards: the health check, the page with its icon, and the redirects to the page."""
_SOCKETS: Final = ("/ws", "/mcp")
_MOST_BRACKETS: Final = 64
"""A frame with more opening brackets, or with anything else that is rare in a message, is looked at closely."""
_LONG_FRAME: Final = 4000
"""Characters; Python refuses to read an integer of more than 4300 digits."""
_RETRY_S: Final = 5
_log = structlog.get_logger(__name__)


def is_open(path: str) -> bool:
    """Whether `path` needs no token."""
    return path in _OPEN or path.startswith("/web/")


class Guard:
    """Refuses HTTP requests and socket handshakes without the token, and bodies that are too large.

    A body is read whole before the route runs, so that the bound holds for a body without a length as well.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        token = settings.api_token
        self._token = None if token is None else token.get_secret_value().encode()
        self._bounds = {"/grader": settings.max_log_bytes}
        self._bound = settings.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or socket."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if self._token is not None and not is_open(scope["path"]) and not self._known(headers):
            error = Unauthorized("send the server's token: Authorization: Bearer <token>")
            await refuse(error, scope, send)
            return
        if scope["type"] == "http" and scope["method"] in {"POST", "PUT", "PATCH", "DELETE"}:
            bound = self._bounds.get(scope["path"], self._bound)
            try:
                if not scope["path"].startswith("/web"):
                    receive = await _whole_body(receive, headers, bound)
                elif _declared(headers) > bound:
                    raise _too_large("body", bound)
            except ServiceError as error:
                await refuse(error, scope, send)
                return
        await self._app(scope, receive, send)

    def _known(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._token or b"")


def _declared(headers: dict[bytes, bytes]) -> int:
    length = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


def _too_large(field: str, bound: int) -> TooLarge:
    return TooLarge(f"{field}: must be at most {bound} bytes", field=field, bound=f"at most {bound} bytes")


async def _whole_body(receive: Receive, headers: dict[bytes, bytes], bound: int) -> Receive:
    """Read the body, and return a `receive` that gives it back in one message."""
    if _declared(headers) > bound:
        raise _too_large("body", bound)
    message = await receive()
    if message.get("more_body"):
        parts, length = [message.get("body", b"")], len(message.get("body", b""))
        while message.get("more_body"):
            message = await receive()
            if message["type"] != "http.request":
                break
            parts.append(message.get("body", b""))
            length += len(parts[-1])
            if length > bound:
                raise _too_large("body", bound)
        if message["type"] == "http.request":
            message = {"type": "http.request", "body": b"".join(parts), "more_body": False}
    elif len(message.get("body", b"")) > bound:
        raise _too_large("body", bound)
    first: list[Message] = [message]

    async def again() -> Message:
        return first.pop() if first else await receive()

    return again


async def refuse(error: ServiceError, scope: Scope, send: Send, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Answer a request, or a socket's handshake, with `error`."""
    body = json.dumps(error.body()).encode()
    prefix = "http"
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": error.code})
            return
        prefix = "websocket.http"
    sent = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    if error.status == Unauthorized.status:
        sent.append((b"www-authenticate", b"Bearer"))
    if error.retry_after_s is not None:
        sent.append((b"retry-after", str(error.retry_after_s).encode()))
    if error.status == TooLarge.status and prefix == "http":
        sent.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": f"{prefix}.response.start", "status": error.status, "headers": sent})
    await send({"type": f"{prefix}.response.body", "body": body})


class SocketGuard:
    """Keeps OpenEnv's sockets alive and talkative.

    OpenEnv's handler ends the socket over a binary frame, JSON that is no object, nesting or integers that Python's
    parser gives up on, and text that is no Unicode. Such a frame is answered here and never reaches it.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._bound = settings.max_message_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one socket; anything else passes."""
        if scope["type"] != "websocket" or scope["path"] not in _SOCKETS:
            await self._app(scope, receive, send)
            return
        refused: list[ServiceError] = []
        last_refusal.set(refused)  # this task is the socket's own
        lane = ExpressLane(scope["client"][0] if scope.get("client") else None)
        current_lane.set(lane)
        answer = _rpc_frame if scope["path"] == "/mcp" else _error_frame

        async def guarded_receive() -> Message:
            while True:
                message = await receive()
                if message["type"] != "websocket.receive":
                    return message
                refused.clear()
                text = message.get("text")
                problem = frame_problem(text, self._bound)
                if problem is not None:
                    await send({"type": "websocket.send", "text": answer(*problem)})
                    continue
                try:
                    step = await lane.answer(str(text))
                except Exception as error:  # noqa: BLE001 - told as OpenEnv's handler would tell it
                    _log.error("request_failed", exc_info=error)
                    step = _error_frame("EXECUTION_ERROR", _defect())
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
                if message["type"] != "websocket.close":  # some releases of OpenEnv close a socket that is closed
                    raise

        try:
            await self._app(scope, guarded_receive, completed_send)
        finally:
            # OpenEnv closes the environment in a thread, and not at all where the socket's task is cancelled before that
            # thread is free; the place would then be taken until it is idle.
            lane.close()


def frame_problem(text: str | None, bound: int) -> tuple[str, ServiceError] | None:
    """Return OpenEnv's code and the refusal of a frame that is no message of at most `bound` bytes; None if it is one."""
    if text is None:
        return "VALIDATION_ERROR", InvalidField("message: must be a text frame", field="message", bound="a text frame")
    if len(text) > bound or (len(text) * 4 > bound and len(text.encode()) > bound):
        return "VALIDATION_ERROR", _too_large("message", bound)
    is_plain = text[:1] == "{" and len(text) <= _LONG_FRAME and "\\u" not in text and "NaN" not in text
    if is_plain and text.count("{") + text.count("[") <= _MOST_BRACKETS and "Infinity" not in text:
        return None  # what is wrong with it, OpenEnv says
    try:
        # The first refuses what the second lets pass (deep nesting, half surrogates, NaN), the second what OpenEnv's
        # own reading would end the socket over.
        value = from_json(text, allow_inf_nan=False)
        json.loads(text)
    except (ValueError, RecursionError):
        return "INVALID_JSON", _not_json()
    if not isinstance(value, dict):
        bound_ = "a JSON object with a type and data"
        return "VALIDATION_ERROR", InvalidField(f"message: must be {bound_}", field="message", bound=bound_)
    return None


def _not_json() -> InvalidField:
    bound = "one JSON document, nested at most 100 deep, without NaN"
    return InvalidField(f"message: must be {bound}", field="message", bound=bound)


def _error_frame(code: str, error: ServiceError) -> str:
    data = {"message": error.message, "code": code, "error": error.body()["error"]}
    return json.dumps({"type": "error", "data": data})


def _rpc_frame(code: str, error: ServiceError) -> str:
    number = -32700 if code == "INVALID_JSON" else -32600
    return json.dumps({"jsonrpc": "2.0", "id": None, "error": {"code": number, "message": error.message}})


def _from_openenv(code: str, data: dict[str, Any]) -> ServiceError:
    """Return the typed refusal behind what OpenEnv refused by itself."""
    if code == "INVALID_JSON":
        return _not_json()
    if code == "UNKNOWN_TYPE":
        bound = "one of reset, step, state, close, mcp"
        return InvalidField(f"type: must be {bound}", field="type", bound=bound)
    if code == "VALIDATION_ERROR":
        return _from_pydantic(data.get("errors") or [{}])
    if code == "CAPACITY_REACHED":
        return AtCapacity(f"all {data.get('max_sessions')} sockets are taken: try again later", retry_after_s=_RETRY_S)
    return _defect()


def _defect() -> ServiceError:
    return ServiceError("the server failed on this message; its log says why", code="internal_error")


def _from_pydantic(problems: list[dict[str, Any]]) -> InvalidField:
    field = ".".join(str(part) for part in problems[0].get("loc", ())) or "message"
    bound = str(problems[0].get("msg", "must be a message"))
    return InvalidField(f"{field}: {bound}", field=field, bound=bound)


def _completed(text: str, refused: list[ServiceError]) -> str:
    """Return one of OpenEnv's error frames with the typed refusal in it, and with nothing that only Python says."""
    data = json.loads(text)["data"]
    code = str(data.get("code"))
    error = refused.pop() if refused else _from_openenv(code, data)
    if error.status in {InvalidField.status, TooLarge.status} and code == "EXECUTION_ERROR":
        code = "VALIDATION_ERROR"
    return _error_frame(code, error)
