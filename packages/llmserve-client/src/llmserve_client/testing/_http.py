"""The HTTP routes of a local server, as an httpx transport, synchronous and asynchronous."""

from __future__ import annotations

import hmac
import json
from typing import Any, Protocol

import httpx

from llmserve_client._exceptions import RefusedError, refusal
from llmserve_client.testing._faults import Faults
from llmserve_client.testing._sessions import Sessions, refused
from llmserve_sim.errors import InvalidInputError, LLMServeError
from llmserve_sim.schema import ServeAction, ServeObservation

__all__ = ["HttpTransport", "ServerState", "error_body"]


class ServerState(Protocol):
    """The part of `LocalServer` that the routes and sockets use."""

    sessions: Sessions
    faults: Faults
    calls: list[str]
    token: str | None
    prefix: str

    def run_baseline(self, params: dict[str, str]) -> dict[str, Any]:
        """Return the report of the baseline that the test supplied."""
        ...


def error_body(error: RefusedError) -> dict[str, Any]:
    """Return the JSON body of a refusal."""
    said: dict[str, Any] = {
        "code": error.code,
        "message": error.message,
        "field": error.field or None,
        "bound": error.bound or None,
    }
    if error.retry_after_s is not None:
        said["retry_after_s"] = error.retry_after_s
    return {"error": said, "detail": error.message}


class HttpTransport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Answers httpx requests from a server in this process."""

    def __init__(self, server: ServerState) -> None:
        self._server = server

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer, or raise the planned network fault."""
        request.read()
        return self._respond(request)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer, or raise the planned network fault."""
        await request.aread()
        return self._respond(request)

    def _respond(self, request: httpx.Request) -> httpx.Response:
        faults = self._server.faults
        if faults.connection_fails():
            raise httpx.ConnectError("connection refused", request=request)
        self._server.calls.append(f"{request.method} {request.url.path}")
        fault = faults.next()
        if isinstance(fault, int):
            return httpx.Response(fault, text="the proxy has no server")
        if fault == "lose_request":
            raise httpx.ReadError("connection reset", request=request)
        response = self._answer(request)
        if fault == "lose_answer":
            raise httpx.RemoteProtocolError("server disconnected", request=request)
        if fault == "stall":
            raise httpx.ReadTimeout("timed out", request=request)
        return response

    def _answer(self, request: httpx.Request) -> httpx.Response:
        try:
            self._check_token(request)
            content = self._route(request)
        except (LLMServeError, RefusedError) as error:
            said = refused(error)
            headers = {} if said.retry_after_s is None else {"Retry-After": f"{said.retry_after_s:g}"}
            return httpx.Response(said.status, json=error_body(said), headers=headers)
        return httpx.Response(204) if content is None else httpx.Response(200, json=content)

    def _check_token(self, request: httpx.Request) -> None:
        wanted = self._server.token
        given = request.headers.get("authorization", "")
        if wanted is not None and not hmac.compare_digest(given.encode(), f"Bearer {wanted}".encode()):
            raise refusal("send the server's bearer token", code="unauthorized", status=401)

    def _route(self, request: httpx.Request) -> Any:
        sessions = self._server.sessions
        body = _body(request)
        session_id = body.get("session_id") or request.headers.get("x-session-id")
        match f"{request.method} {request.url.path.removeprefix(self._server.prefix)}":
            case "GET /health":
                return {"status": "healthy"}
            case "POST /reset":
                return _reply(*sessions.reset(body))
            case "POST /step":
                return _reply(*sessions.step(session_id, body.get("action", {}), body.get("step_index")))
            case "GET /state":
                return sessions.state(session_id)
            case "GET /tasks":
                return {"tasks": sessions.catalogue(), "action_schema": ServeAction.model_json_schema()}
            case "POST /grader":
                return sessions.grade(session_id, body).model_dump(mode="json")
            case "GET /log":
                return sessions.log(session_id).model_dump(mode="json")
            case "POST /fork":
                return _reply(*sessions.fork(session_id))
            case "DELETE /session":
                return sessions.release(request.headers.get("x-session-id"))
            case "GET /baseline":
                return self._server.run_baseline(dict(request.url.params))
        raise refusal("Not Found", code="http_404", status=404)


def _body(request: httpx.Request) -> dict[str, Any]:
    if not request.content:
        return {}
    try:
        content = json.loads(request.content)
    except ValueError as error:
        raise InvalidInputError("body", f"must be JSON ({error})") from None
    if not isinstance(content, dict):
        raise InvalidInputError("body", "must be a JSON object")
    return content


def _reply(session_id: str, observation: ServeObservation) -> dict[str, Any]:
    seen = observation.model_dump(mode="json")
    beside = {name: seen[name] for name in ("reward", "done", "metadata")}
    return {"session_id": session_id, "observation": seen, **beside}
