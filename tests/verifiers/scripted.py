"""A model that says what it is to say: an endpoint with OpenAI's chat API, which streams as verifiers asks for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Call = tuple[str, dict[str, Any]]


@contextmanager
def scripted(calls: Sequence[Call]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve a model that calls these tools, one a turn, and then says "Done."; yield its URL and the requests."""
    asked: list[dict[str, Any]] = []

    class Model(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(request)
            turn = sum(message["role"] == "assistant" for message in request["messages"])
            delta: dict[str, Any] = {"role": "assistant", "content": "Done."}
            if turn < len(calls):
                name, arguments = calls[turn]
                function = {"name": name, "arguments": json.dumps(arguments)}
                call = {"index": 0, "id": f"call-{turn}", "type": "function", "function": function}
                delta = {"role": "assistant", "content": None, "tool_calls": [call]}
            reason = "tool_calls" if "tool_calls" in delta else "stop"
            chunk = {"id": f"turn-{turn}", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            chunks = [
                chunk | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
                chunk | {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
                chunk | {"choices": [], "usage": usage},
            ]
            lines = [*(f"data: {json.dumps(one)}\n\n" for one in chunks), "data: [DONE]\n\n"]
            body = "".join(lines).encode()
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
