"""Messages for OpenEnv's WebSockets (`/ws` and `/mcp`): good ones, spoiled ones, and frames that are no messages at all."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.fuzz.findings import Findings
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

Frame = str | bytes
ACTION = {
    "batch_cap": 32,
    "kv_budget_fraction": 1.0,
    "speculation_depth": 0,
    "quantization_tier": "FP16",
    "prefill_decode_split": False,
    "priority_routing": False,
}
RESET = {
    "task_id": "static_workload",
    "seed": 5,
    "episode_id": "e",
    "session_id": "nobody",
    "resume": True,
    "split": "train",
    "index": 3,
}
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 513, 2**63, -(2**63), 10**400, 0.0, -0.0, 1e308, 1e-320, "", "FP16", "fp16", "\x00", "💥" * 50,
    "a" * 5000, "../../etc/passwd", "'; DROP TABLE steps; --", "${jndi:x}", "{{7*7}}", [], {}, [[]], {"": {}}, [None] * 500,
    {"batch_cap": 1}, "static_workload", "NaN", "Infinity", "1", [1], {"a": {"b": {"c": [{}]}}},
)  # fmt: skip
RAW: tuple[str, ...] = (
    "", " ", "null", "true", "0", "-0", "1e999", '"reset"', "[]", "{}", "[[[[]]]]", "[" * 3000, '{"a":' * 3000, "\ufeff{}", "{,}",
    '{"type":"step","data":{"batch_cap":NaN}}', '{"type":"step","data":{"kv_budget_fraction":Infinity}}',
    '{"type":"step","data":{"batch_cap":1' + "0" * 5000 + "}}", '{"type":"reset","data":{"seed":"\\ud800"}}',
    '{"type":"reset","type":"step","data":{},"data":[]}', '{"type":"state"}', '{"type":"mcp"}', '{"type":["reset"],"data":{}}',
    '{"type":"step"}', '{"data":{}}', '{"type":"reset","data":{"task_id":"\\u0000"}}', "GET / HTTP/1.1\r\n\r\n", "\x00\x01\x02",
)  # fmt: skip
METHODS = (
    "tools/list",
    "tools/call",
    "initialize",
    "openenv/session/create",
    "openenv/session/close",
    "resources/list",
    "x" * 300,
)


class SocketFuzz:
    """Sends frames over a few sockets in turn; every frame wants an answer, and the socket must survive it."""

    def __init__(self, url: str, headers: dict[str, str], findings: Findings, seed: int) -> None:
        self._url = url.replace("http", "ws", 1)
        self._headers = headers
        self._findings = findings
        self._random = random.Random(seed)
        self._sockets: dict[str, ClientConnection] = {}
        self.sent = 0
        self.answers: Counter[str] = Counter()

    def run(self, cases: int) -> None:
        """Send `cases` frames."""
        while self.sent < cases:
            path = self._random.choice(("/ws",) * 9 + ("/mcp",))
            self._exchange(path, self._rpc() if path == "/mcp" else self._message())
        for socket in self._sockets.values():
            socket.close()
        self._sockets.clear()

    def _exchange(self, path: str, frame: Frame) -> None:
        name = f"{path}#{self._random.randrange(4)}"
        socket = self._sockets.get(name)
        if socket is None:
            socket = self._sockets[name] = self._open(path)
        sent = f"{path} {frame[:600]!r}"
        self.sent += 1
        try:
            socket.send(frame)
            answer = str(socket.recv(timeout=30))
        except TimeoutError:
            self._findings.add(f"no answer within 30 s to {sent}")
            self._sockets.pop(name).close()
        except ConnectionClosed as error:
            self._sockets.pop(name)
            self.answers["closed"] += 1
            if not _asks_to_close(frame):
                self._findings.add(f"the socket was closed ({error}) over {sent}")
        else:
            self._judge(answer, sent)

    def _open(self, path: str) -> ClientConnection:
        """Open a socket; a house that is full for the moment (the HTTP cases' sessions) is tried again."""
        for _ in range(60):
            try:
                return connect(self._url + path, additional_headers=self._headers, max_size=2**24, compression=None)
            except InvalidStatus as error:
                answer = f"{error.response.status_code} {(error.response.body or b'').decode(errors='replace')}"
                if error.response.status_code != 429:
                    break
                time.sleep(1)
        raise RuntimeError(f"no socket at {path}: {answer}")

    def _judge(self, answer: str, sent: str) -> None:
        try:
            reply = json.loads(answer)
            kind = reply.get("type", "rpc")
        except (ValueError, AttributeError):
            self._findings.add(f"no JSON object came back: {answer[:300]}\n    to {sent}")
            return
        error = reply.get("data", {}).get("error", {}) if kind == "error" else {}
        self.answers[f"error {error['code']}" if error else kind] += 1
        if "internal_error" in answer or ("EXECUTION_ERROR" in answer and not error):
            self._findings.add(f"the server failed: {answer[:300]}\n    to {sent}")
        if kind == "error" and not error.get("message"):
            self._findings.add(f"an error without a typed refusal: {answer[:300]}\n    to {sent}")
        self._findings.look(answer, sent)

    def _message(self) -> Frame:
        makers: tuple[tuple[int, Callable[[], Frame]], ...] = (
            (20, lambda: _text("step", self._some(ACTION))),
            (
                8,
                lambda: _text(
                    "reset", self._some({"task_id": "static_workload", "seed": self._random.randrange(2**63)})
                ),
            ),
            (4, lambda: json.dumps({"type": "state"})),
            (20, lambda: _text("step", self._spoiled(ACTION))),
            (20, lambda: _text("reset", self._spoiled(RESET))),
            (6, lambda: _text(self._random.choice(("step", "reset", "state", "mcp", "", "STEP")), self._odd())),
            (3, lambda: json.dumps({"type": self._odd(), "data": {}})),
            (5, lambda: self._random.choice(RAW)),
            (5, lambda: _cut(_text("step", ACTION), self._random)),
            (2, lambda: self._random.randbytes(self._random.randrange(200))),
            (2, self._rpc_in_socket),
            (1, lambda: json.dumps({"type": "close"})),
        )
        make = self._random.choices([maker for _, maker in makers], [weight for weight, _ in makers])[0]
        return make()

    def _rpc_in_socket(self) -> str:
        return json.dumps({"type": "mcp", "data": json.loads(self._call())})

    def _rpc(self) -> Frame:
        return self._random.choice((self._call(), self._random.choice(RAW), json.dumps(self._odd())))

    def _call(self) -> str:
        call: dict[str, Any] = {
            "jsonrpc": "2.0",
            "id": self._random.choice((1, "a", None, 2**70)),
            "method": self._random.choice(METHODS),
        }
        if self._random.random() < 0.7:
            call["params"] = self._random.choice(({}, {"name": self._odd(), "arguments": self._odd()}, self._odd()))
        if self._random.random() < 0.2:
            call[self._random.choice(tuple(call))] = self._odd()
        return json.dumps(call)

    def _some(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if self._random.random() < 0.8}

    def _spoiled(self, fields: dict[str, Any]) -> dict[str, Any]:
        data = self._some(fields)
        for _ in range(self._random.randint(1, 3)):
            name = self._random.choice((*fields, *fields, "metadata", "timeout_s", "self", "x" * 50))
            data[name] = self._odd()
        return data

    def _odd(self) -> Any:
        return self._random.choice(ODD)


def _text(kind: str, data: Any) -> str:
    return json.dumps({"type": kind, "data": data})


def _cut(text: str, chance: random.Random) -> str:
    """Return `text` with a piece missing, doubled or replaced."""
    at, length = chance.randrange(len(text)), chance.randrange(1, 8)
    middle = chance.choice(("", text[at : at + length] * 2, chr(chance.randrange(1, 0x2FFF))))
    return text[:at] + middle + text[at + length :]


def _asks_to_close(frame: Frame) -> bool:
    """Whether OpenEnv's protocol ends the socket over this frame: a `close` message."""
    try:
        message = json.loads(frame)
    except (ValueError, RecursionError):
        return False
    return isinstance(message, dict) and message.get("type") == "close"
