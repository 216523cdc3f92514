"""The clients, the same for both servers: each sends a given message, and parses and checks the answer.

They are OpenEnv's own client and, for each transport, one as thin as a correct client can be (the standard library's
HTTP, `websockets`), so that a step's time is the server's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any, Protocol

from openenv.core.generic_client import GenericEnvClient
from websockets.sync.client import connect


@dataclass(frozen=True)
class Speech:
    """The messages for one of the two servers."""

    reset: dict[str, Any]
    action: dict[str, Any]
    sessions: bool
    """Whether its HTTP answers carry a session id that the next request names."""


OURS = Speech(
    reset={"task_id": "bursty_workload", "seed": 7},
    action={
        "batch_cap": 64,
        "kv_budget_fraction": 0.9,
        "speculation_depth": 2,
        "quantization_tier": "INT8",
        "prefill_decode_split": False,
        "priority_routing": True,
    },
    sessions=True,
)
ECHO = Speech(reset={}, action={"message": "hello"}, sessions=False)


class Session(Protocol):
    """One open session; `step` returns whether the episode ended."""

    def reset(self) -> None:
        """Begin an episode."""
        ...

    def step(self) -> bool:
        """Take one step."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class SocketSession:
    """A session over OpenEnv's WebSocket."""

    def __init__(self, url: str, speech: Speech) -> None:
        self._socket = connect(url.replace("http", "ws", 1) + "/ws", compression=None, max_size=2**24)
        self._reset = json.dumps({"type": "reset", "data": speech.reset})
        self._step = json.dumps({"type": "step", "data": speech.action})

    def reset(self) -> None:
        """Begin an episode."""
        self._ask(self._reset)

    def step(self) -> bool:
        """Take one step."""
        return bool(self._ask(self._step)["done"])

    def close(self) -> None:
        """Let go of the connection."""
        self._socket.close()

    def _ask(self, message: str) -> Any:
        self._socket.send(message)
        reply = json.loads(self._socket.recv(timeout=60))
        if reply["type"] != "observation":
            raise RuntimeError(f"answered with {reply}")
        return reply["data"]


class OpenEnvSession:
    """A session over the same WebSocket with the client that OpenEnv's users have."""

    def __init__(self, url: str, speech: Speech) -> None:
        self._client = GenericEnvClient(base_url=url).sync()
        self._speech = speech
        self._client.connect()

    def reset(self) -> None:
        """Begin an episode."""
        self._client.reset(**self._speech.reset)

    def step(self) -> bool:
        """Take one step."""
        return bool(self._client.step(self._speech.action).done)

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


class HttpSession:
    """A session over HTTP on one kept-alive connection."""

    def __init__(self, url: str, speech: Speech) -> None:
        self._connection = HTTPConnection(url.partition("//")[2], timeout=60)
        self._speech = speech
        self._reset = json.dumps(speech.reset)
        self._step = json.dumps({"action": speech.action})

    def reset(self) -> None:
        """Begin an episode; from now on steps name its session."""
        reply = self._ask("/reset", self._reset)
        if self._speech.sessions:
            session = {"session_id": reply["session_id"]}
            self._reset = json.dumps(self._speech.reset | session)
            self._step = json.dumps({"action": self._speech.action} | session)

    def step(self) -> bool:
        """Take one step."""
        return bool(self._ask("/step", self._step)["done"])

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def _ask(self, path: str, body: str) -> Any:
        self._connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path} answered {response.status}: {text[:300]!r}")
        return json.loads(text)


CLIENTS: dict[str, Callable[[str, Speech], Session]] = {
    "WebSocket, OpenEnv's client": OpenEnvSession,
    "WebSocket, bare": SocketSession,
    "HTTP, bare": HttpSession,
}


def steps_per_second(session: Session, seconds: float) -> float:
    """Return the steps per second; the resets in between are not counted."""
    session.reset()
    taken, spent = 0, 0.0
    while spent < seconds:
        start = time.perf_counter()
        ended = session.step()
        spent += time.perf_counter() - start
        taken += 1
        if ended:
            session.reset()
    return taken / spent
