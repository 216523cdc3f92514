"""Requests that are only half sent: headers cut off, bodies cut off, sockets dropped in the middle of a frame."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections import Counter
from urllib.parse import urlsplit

import httpx
from tests.fuzz import bodies
from tests.fuzz.findings import Findings

PATHS = (
    "/reset",
    "/step",
    "/fork",
    "/grader",
    "/mcp",
    "/llmserve_env/tasks",
    "/web/gradio_api/queue/join",
    "/web/",
    "/ws",
)
LOOK_EVERY = 250
PROMPT_S = 5.0


class WireFuzz:
    """Opens a connection for each case, sends a part of something, and leaves; the server must not mind."""

    def __init__(self, url: str, headers: dict[str, str], findings: Findings, seed: int) -> None:
        parts = urlsplit(url)
        self._address = (str(parts.hostname), int(parts.port or 80))
        self._url = url
        self._headers = headers
        self._findings = findings
        self._random = random.Random(seed)
        self.sent = 0
        self.answers: Counter[str] = Counter()

    def run(self, cases: int) -> None:
        """Send `cases` halves; look now and then whether the server still answers at once."""
        makers = (self._request, self._request, self._chunked, self._socket, self._garbage)
        for _ in range(cases):
            data = self._random.choice(makers)()
            self._drop(data)
            self.sent += 1
            if self.sent % LOOK_EVERY == 0:
                self._look()

    def _head(self, method: str, path: str, *lines: str) -> bytes:
        known = [f"{name}: {value}" for name, value in self._headers.items()]
        return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *known, *lines, "", ""]).encode()

    def _request(self) -> bytes:
        """Return a request that breaks off anywhere, or whose body is shorter than it says."""
        body = bodies.rpc(self._random)
        length = len(body) + self._random.choice((1, 10, 60_000, 10**9))
        path = self._random.choice(PATHS)
        whole = self._head("POST", path, f"Content-Length: {length}", "Content-Type: application/json") + body
        return whole[: self._random.randrange(1, len(whole))] if self._random.random() < 0.6 else whole

    def _chunked(self) -> bytes:
        head = self._head("POST", self._random.choice(PATHS), "Transfer-Encoding: chunked")
        chunk = self._random.choice(
            (
                b"5\r\nhel",
                b"5\r\nhello\r\n",
                b"zz\r\n",
                b"-1\r\n",
                b"ffffffffffffffff\r\nx",
                b"\r\n",
                b"5;" + b"x" * 500,
            )
        )
        return head + b'a\r\n{"seed": 1 \r\n' * self._random.randrange(3) + chunk

    def _socket(self) -> bytes:
        """Return a handshake, and a frame that breaks off, or is none."""
        key = "dGhlIHNhbXBsZSBub25jZQ=="
        head = self._head(
            "GET",
            self._random.choice(("/ws", "/mcp")),
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        )
        text = self._random.choice(
            (b'{"type":"reset","data":{"seed":7}}', b'{"type":"state"}', bodies.rpc(self._random)[:120])
        )
        mask = self._random.randbytes(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(text))
        frame = (
            bytes([0x81, 0x80 | len(text)]) + mask + masked if len(text) < 126 else b"\x81\xfe\xff\xff" + mask + masked
        )
        rest = self._random.choice(
            (frame[: self._random.randrange(len(frame))], frame + frame[:5], b"\x81\xff" + b"\xff" * 8, b"\xff" * 20)
        )
        return head + frame + rest if self._random.random() < 0.5 else head + rest

    def _garbage(self) -> bytes:
        return self._random.choice(
            (
                self._random.randbytes(self._random.randrange(1, 400)),
                b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * self._random.randrange(300),
                b"GET /" + b"a" * self._random.randrange(20_000),
                b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
                b"GET /health HTTP/9.9\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                self._head("GET", "/health") * self._random.randrange(1, 5) + b"GET",
            )
        )

    def _drop(self, data: bytes) -> None:
        """Send `data`; read what comes at once, or nothing; close the connection, or reset it."""
        try:
            with socket.create_connection(self._address, timeout=PROMPT_S) as wire:
                wire.sendall(data)
                if self._random.random() < 0.5:
                    wire.settimeout(0.02)
                    answer = wire.recv(65_536)
                    self._judge(answer, data)
                if self._random.random() < 0.5:
                    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except TimeoutError:
            self.answers["none yet"] += 1
        except OSError as error:
            self.answers[type(error).__name__] += 1

    def _judge(self, answer: bytes, data: bytes) -> None:
        status = answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/1.1 ") else "closed"
        self.answers[status] += 1
        if status.startswith("5"):
            self._findings.add(f"{answer[:300]!r}\n    to the half of a request {data[:400]!r}")
        self._findings.look(answer.decode("latin-1"), data.decode("latin-1"))

    def _look(self) -> None:
        start = time.monotonic()
        try:
            status = httpx.get(f"{self._url}/health", timeout=30).status_code
        except httpx.TransportError as error:
            self._findings.add(f"after {self.sent} half requests /health does not answer: {error!r}")
            return
        took_s = time.monotonic() - start
        if status != httpx.codes.OK or took_s > PROMPT_S:
            self._findings.add(f"after {self.sent} half requests /health answers {status} after {took_s:.1f} s")
