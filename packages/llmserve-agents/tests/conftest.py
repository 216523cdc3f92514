"""Fixtures: a short task, and a scripted OpenAI-compatible endpoint, a real HTTP server on the loopback.

Tests reach everything through the fixture `endpoint`: `endpoint.good()`, `endpoint.reply(...)`, `endpoint.KEY`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from llmserve_sim.schema import ServeAction

SHORT = {"windows = 120": "windows = 6", 'id = "bursty_workload"': 'id = "short"'}
"""What a short task has in place of what `bursty_workload` has."""


@pytest.fixture
def short_task(tmp_path: Path) -> Path:
    """The file of a task of one's own, whose episodes have 6 windows."""
    text = files("llmserve_sim.tasks").joinpath("bursty_workload.toml").read_text(encoding="utf-8")
    for old, new in SHORT.items():
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "short.toml"
    path.write_text(text, encoding="utf-8")
    return path


GOOD = ServeAction(batch_cap=64, kv_budget_fraction=0.5, speculation_depth=2, quantization_tier="INT8")


@dataclass
class Reply:
    """One scripted answer."""

    content: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    finish_reason: str = "stop"
    refusal: str | None = None
    usage: dict[str, Any] | None = field(default_factory=lambda: {"prompt_tokens": 100, "completion_tokens": 20})
    error: str = "no"
    raw: bytes | None = None
    """The body as it stands, in place of a completion."""
    cut: bool = False
    """Announce the whole body and send half."""
    delay: threading.Event | None = None
    """Wait for this before answering."""

    def body(self) -> bytes:
        """What goes over the wire."""
        if self.raw is not None:
            return self.raw
        if self.status != 200:
            return json.dumps({"error": {"message": self.error, "type": "test", "param": None, "code": None}}).encode()
        message = {"role": "assistant", "content": self.content, "refusal": self.refusal}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason, "logprobs": None}
        completion = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        return json.dumps(completion | ({} if self.usage is None else {"usage": self.usage})).encode()


def good(action: ServeAction = GOOD, **changes: Any) -> Reply:
    """An answer with a valid action."""
    return Reply(json.dumps(action.model_dump()), **changes)


Script = Callable[[int, dict[str, Any]], Reply]
"""From the request's number (0 first) and its body to the answer."""


class Endpoint:
    """The running server: its address, what it was asked, and the script that it follows."""

    KEY = "sk-test-4f9a-never-to-be-seen"
    GOOD = GOOD
    good = staticmethod(good)
    reply = Reply

    def __init__(self) -> None:
        self.script: Script = lambda _n, _body: good()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # headers and body in one packet: no waiting for acknowledgements

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                number = len(owner.bodies)
                owner.bodies.append(body)
                owner.headers.append({name.lower(): value for name, value in self.headers.items()})
                assert self.path == "/v1/chat/completions"
                reply = owner.script(number, body)
                if reply.delay is not None:
                    reply.delay.wait(10)
                text = reply.body()
                self.send_response(reply.status)
                headers = {"content-type": "application/json", "content-length": str(len(text))} | reply.headers
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    self.wfile.write(text[: len(text) // 2] if reply.cut else text)
                except OSError:  # the client has given up
                    self.close_connection = True
                if reply.cut:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def follow(self, *replies: Reply) -> None:
        """Give these answers in order, and the last one ever after."""
        self.script = lambda n, _body: replies[min(n, len(replies) - 1)]

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A scripted endpoint that answers every question with `GOOD` until it is told otherwise."""
    server = Endpoint()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "LLMSERVE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
