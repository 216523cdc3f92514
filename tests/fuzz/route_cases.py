"""`POST /mcp` and the routes below `/web`, which no document describes: odd bodies, odd paths, odd methods."""

from __future__ import annotations

import random
import time
from collections import Counter
from urllib.parse import quote

import httpx
from tests.fuzz import bodies
from tests.fuzz.findings import Findings

API = "/web/gradio_api"
#: Routes of the page's framework, with what its script sends there.
PAGE: dict[str, dict[str, object]] = {
    f"{API}/queue/join": {"data": [], "fn_index": 0, "session_hash": "fuzz", "trigger_id": 1, "event_data": None},
    f"{API}/run/predict": {"data": [], "fn_index": 0, "session_hash": "fuzz"},
    f"{API}/api/predict": {"data": [], "fn_index": 0},
    f"{API}/call/predict": {"data": []},
    f"{API}/reset": {"event_id": "x", "session_hash": "fuzz", "fn_index": 0},
    f"{API}/cancel": {"event_id": "x", "session_hash": "fuzz", "fn_index": 0},
    f"{API}/component_server": {"component_id": 1, "fn_name": "load", "session_hash": "fuzz", "data": None},
    f"{API}/upload": {"files": []},
    "/web/login": {"username": "a", "password": "b"},
}
FOLDERS = ("/web/assets/", "/web/static/", f"{API}/file=", f"{API}/proxy=", f"{API}/stream/x/1/", "/web/", f"{API}/")
NAMES = (
    "x", "..%2f..%2fetc%2fpasswd", "%00", "%ED%A0%80", "%ff", "a" * 300, "a" * 6000, "%2e%2e/%2e%2e", "/etc/passwd", "config",
    "http://127.0.0.1:9/", "queue/status", "info", "startup-events", "theme.css", "\\x", "%0d%0aX-A:%20b", "🙂", "mcp/sse",
)  # fmt: skip
QUERIES = ("", "?session_hash=%ED%A0%80", "?session_id=%00", "?__theme=x", "?a=" + "b" * 5000, "?%ff", "?upload_id=x")
METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "X")
SLOWEST_S = 30.0


class RouteFuzz:
    """Sends requests with a plain client; every one wants an answer below 500."""

    def __init__(self, url: str, headers: dict[str, str], findings: Findings, seed: int) -> None:
        self._client = httpx.Client(base_url=url, headers=headers, timeout=SLOWEST_S)
        self._findings = findings
        self._random = random.Random(seed)
        self.sent = 0
        self.slowest_s = 0.0
        self.statuses: Counter[int] = Counter()

    def run(self, cases: int, *, page: bool) -> None:
        """Send `cases` requests to the page's routes, or to ``/mcp``."""
        for _ in range(cases):
            self._page() if page else self._rpc()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _rpc(self) -> None:
        headers = {"content-type": self._random.choice(bodies.KINDS), "accept": "application/json, text/event-stream"}
        if self._random.random() < 0.2:
            headers["mcp-session-id"] = self._random.choice(("x", "a" * 3000, "%00"))
        self._send("POST", "/mcp", bodies.rpc(self._random), headers)

    def _page(self) -> None:
        if self._random.random() < 0.6:
            path = self._random.choice(list(PAGE))
            kind = "application/json" if self._random.random() < 0.7 else self._random.choice(bodies.KINDS)
            self._send("POST", path, bodies.spoiled(self._random, PAGE[path]), {"content-type": kind})
            return
        path = self._random.choice((*FOLDERS, *PAGE)) + quote(self._random.choice(NAMES), safe="/%:=\\")
        method = "GET" if self._random.random() < 0.6 else self._random.choice(METHODS)
        self._send(method, path + self._random.choice(QUERIES), b"", {})

    def _send(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> None:
        sent = f"{method} {path[:200]} {headers} {body[:400]!r}"
        start = time.monotonic()
        try:
            with self._client.stream(method, path, content=body or None, headers=headers) as answer:
                text = ""
                if "event-stream" not in answer.headers.get("content-type", ""):  # which may go on without an end
                    text = answer.read()[:100_000].decode(errors="replace")
        except httpx.TimeoutException:
            self._findings.add(f"no answer within {SLOWEST_S:g} s to {sent}")
            return
        except (httpx.InvalidURL, httpx.LocalProtocolError):
            return  # the client refuses to send it
        except httpx.TransportError as error:
            self._findings.add(f"the connection broke ({error!r}) after {sent}")
            return
        self.sent += 1
        self.slowest_s = max(self.slowest_s, time.monotonic() - start)
        self.statuses[answer.status_code] += 1
        if answer.status_code >= 500:
            self._findings.add(f"{answer.status_code} {text[:300]}\n    to {sent}")
        if "text/html" not in answer.headers.get("content-type", "") and "/assets/" not in path:
            self._findings.look(text + repr(answer.headers), sent)
