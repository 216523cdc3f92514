"""The WebSocket of a local server: OpenEnv's messages, one session per socket, synchronous and asynchronous."""

from __future__ import annotations

import hmac
import json
from collections import deque
from collections.abc import Mapping
from typing import Any

from llmserve_client._endpoint import Endpoint
from llmserve_client._exceptions import (
    ConnectError,
    ConnectionLostError,
    DeadlineError,
    RefusedError,
    WebSocketUnavailableError,
)
from llmserve_client.testing._http import ServerState, error_body
from llmserve_client.testing._sessions import refused
from llmserve_sim.errors import InvalidInputError, LLMServeError
from llmserve_sim.schema import ServeObservation

__all__ = ["AsyncLocalSocket", "LocalSocket", "open_socket"]


def open_socket(server: ServerState, endpoint: Endpoint, headers: Mapping[str, str], *, offered: bool) -> LocalSocket:
    """Do the handshake and return the open socket."""
    if server.faults.connection_fails():
        raise ConnectError(f"cannot connect to {endpoint.socket}: connection refused")
    server.calls.append("GET /ws")
    given = headers.get("Authorization", "")
    if server.token is not None and not hmac.compare_digest(given.encode(), f"Bearer {server.token}".encode()):
        raise WebSocketUnavailableError(f"{endpoint.socket} answered with HTTP 401", 401)
    if not offered:
        raise WebSocketUnavailableError(f"{endpoint.socket} answered with HTTP 404", 404)
    return LocalSocket(server)


class LocalSocket:
    """One open socket."""

    def __init__(self, server: ServerState) -> None:
        self._server = server
        self._session_id: str | None = None
        self._answers: deque[str | None] = deque()
        """None stands for an answer that never comes."""
        self.open = True

    def send(self, text: str) -> None:
        """Handle a message and queue its answer."""
        if not self.open:
            raise ConnectionLostError("the WebSocket is closed", unsent=True)
        self._server.calls.append(f"ws {json.loads(text).get('type')}")
        fault = self._server.faults.next()
        if fault == "lose_request" or isinstance(fault, int):
            self.open = False
            return
        answer = self._answer(text)
        if fault == "lose_answer":
            self.open = False
            return
        self._answers.append(None if fault == "stall" else answer)

    def receive(self, timeout_s: float) -> str:
        """Return the next answer."""
        if not self._answers:
            raise ConnectionLostError("the WebSocket closed before the answer came")
        answer = self._answers.popleft()
        if answer is None:
            raise DeadlineError(f"no answer within {timeout_s:g} s")
        return answer

    def close(self) -> None:
        """Close; the session stays."""
        self.open = False

    def _answer(self, text: str) -> str:
        try:
            return json.dumps(self._message(json.loads(text)))
        except (LLMServeError, RefusedError) as error:
            said = refused(error)
            data = {"message": said.message, "code": "EXECUTION_ERROR", **error_body(said)}
            return json.dumps({"type": "error", "data": data})

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        sessions = self._server.sessions
        data = message.get("data", {})
        match message.get("type"):
            case "reset":
                mine = self._session_id if data.get("session_id") is None else data["session_id"]
                self._session_id, seen = sessions.reset({**data, "session_id": mine} if mine else data)
                return _observed(seen)
            case "step":
                action = {name: value for name, value in data.items() if name != "metadata"}
                index = data.get("metadata", {}).get("step_index")
                return _observed(sessions.step(self._session_id, action, index)[1])
            case "state":
                return {"type": "state", "data": sessions.state(self._session_id)}
        raise InvalidInputError("type", "must be one of reset, step, state", got=message.get("type"))


class AsyncLocalSocket:
    """`LocalSocket` with awaited methods."""

    def __init__(self, socket: LocalSocket) -> None:
        self._socket = socket

    async def send(self, text: str) -> None:
        """Handle a message and queue its answer."""
        self._socket.send(text)

    async def receive(self, timeout_s: float) -> str:
        """Return the next answer."""
        return self._socket.receive(timeout_s)

    async def close(self) -> None:
        """Close; the session stays."""
        self._socket.close()


def _observed(observation: ServeObservation) -> dict[str, Any]:
    seen = observation.model_dump(mode="json")
    reward, done = seen.pop("reward"), seen.pop("done")
    data = {"observation": seen, "reward": reward, "done": done, "metadata": seen["metadata"]}
    return {"type": "observation", "data": data}
