"""An OpenAI-compatible endpoint on the loopback that always chooses the same action, in one piece or as a stream.

It stands in for OpenAI's, so that the commands that spend a key can be run without one. Knows chat completions only.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

__all__ = ["Endpoint"]

_ACTION: Final = json.dumps(
    {
        "batch_cap": 64,
        "kv_budget_fraction": 0.5,
        "speculation_depth": 2,
        "quantization_tier": "INT8",
        "prefill_decode_split": False,
        "priority_routing": True,
    }
)
_USAGE: Final = {"prompt_tokens": 100, "completion_tokens": 4, "total_tokens": 104}


class Endpoint:
    """The running endpoint: its base URL, and how many requests of each kind it answered."""

    def __init__(self) -> None:
        self.whole = 0
        self.streamed = 0
        self.keys: set[str] = set()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # headers and body in one packet: no waiting for acknowledgements

            def do_GET(self) -> None:
                self.send_error(404)

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if self.path != "/v1/chat/completions":
                    self.send_error(404)
                    return
                owner.count(self.headers["authorization"], streamed=bool(asked.get("stream")))
                kind, body = _stream(asked) if asked.get("stream") else _whole(asked)
                self.send_response(200)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def count(self, authorization: str | None, *, streamed: bool) -> None:
        """Note one request."""
        with self._lock:
            self.keys.add((authorization or "").removeprefix("Bearer "))
            self.streamed += streamed
            self.whole += not streamed

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _whole(asked: dict[str, Any]) -> tuple[str, bytes]:
    message = {"role": "assistant", "content": _ACTION, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return "application/json", json.dumps(_completion(asked, "chat.completion", [choice]) | {"usage": _USAGE}).encode()


def _stream(asked: dict[str, Any]) -> tuple[str, bytes]:
    pieces: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, *({"content": "word "} for _ in range(4))]
    choices: list[dict[str, Any]] = [{"index": 0, "delta": piece, "finish_reason": None} for piece in pieces]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    chunks = [_completion(asked, "chat.completion.chunk", [choice]) for choice in choices]
    chunks.append(_completion(asked, "chat.completion.chunk", []) | {"usage": _USAGE})
    lines = [json.dumps(chunk) for chunk in chunks]
    return "text/event-stream", "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]).encode()


def _completion(asked: dict[str, Any], kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": "example", "object": kind, "created": 1, "model": asked["model"], "choices": choices}
