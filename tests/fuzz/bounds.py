"""The limits hold: bodies, logs and messages that are too large, a missing token, a key that an endpoint says back."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
from tests.fuzz.findings import Findings
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from llmserve_sim.env import ServingEnv
from llmserve_sim.schema import EpisodeLog

#: What the server under test is started with, so that reaching a limit takes little.
MAX_BODY, MAX_LOG, MAX_MESSAGE, MAX_LOG_STEPS = 65_536, 1_000_000, 65_536, 150
SETTINGS = {
    "LLMSERVE_MAX_BODY_BYTES": str(MAX_BODY),
    "LLMSERVE_MAX_LOG_BYTES": str(MAX_LOG),
    "LLMSERVE_MAX_MESSAGE_BYTES": str(MAX_MESSAGE),
    "LLMSERVE_MAX_LOG_STEPS": str(MAX_LOG_STEPS),
}


def check(url: str, headers: dict[str, str], findings: Findings) -> int:
    """Reach for every limit once or twice; returns how many requests and messages that took."""
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        tries = [
            _over(client, "/step", b'{"action":{},"session_id":"' + b"x" * MAX_BODY + b'"}', 413, findings),
            _over(client, "/reset", _endless(MAX_BODY), 413, findings),
            _over(client, "/grader", b'{"episode_id":"' + b"x" * MAX_LOG + b'"}', 413, findings),
            _over(client, "/grader", _endless(MAX_LOG), 413, findings),
            _over(client, "/grader", _long_log(), 413, findings),
            _over(client, "/step", b"[" * 20_000, 422, findings),
            _over(client, "/grader", b'{"episode_log":' + b'{"a":' * 100_000, 422, findings),
        ]
    with httpx.Client(base_url=url, timeout=60) as stranger:
        for path in ("/state", "/tasks", "/metrics", "/log", "/openapi.json"):
            tries.append(stranger.get(path))
            if tries[-1].status_code != 401:
                findings.add(f"{path} answers a caller without the token with {tries[-1].status_code}")
        tries.append(stranger.get("/tasks", headers={"Authorization": "Bearer wrong"}))
        if tries[-1].status_code != 401:
            findings.add(f"a wrong token is answered with {tries[-1].status_code}")
    for answer in tries:
        findings.look(answer.text + repr(answer.headers), "")
    return len(tries) + _messages(url, headers, findings)


def spend(url: str, headers: dict[str, str], findings: Findings) -> int:
    """Let the server use its key on an endpoint that answers with it, and read everything the server then says."""
    with httpx.Client(base_url=url, headers=headers, timeout=180) as client:
        answers = [
            client.get("/baseline", params={"use_openai": "true", "task_id": "static_workload", "seed": 1}),
            client.get("/baseline", params={"use_openai": "true"}),
            client.get("/metrics"),
            client.get("/health"),
        ]
    for answer in answers:
        findings.look(answer.text + repr(answer.headers), str(answer.request.url))
        if answer.status_code == 500:
            findings.add(f"{answer.request.url.path} answers 500: {answer.text[:300]}")
    return len(answers)


@contextmanager
def tactless_endpoint() -> Iterator[str]:
    """Run an OpenAI-like endpoint on loopback that refuses the key and says it back in full; yields its base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            said = f"Incorrect API key provided: {self.headers.get('Authorization')}"
            body = json.dumps({"error": {"message": said, "type": "invalid_request_error", "code": "invalid_api_key"}})
            self.send_response(401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _over(
    client: httpx.Client, path: str, body: bytes | Iterator[bytes], expected: int, findings: Findings
) -> httpx.Response:
    """Send what is too large; a server that hangs up before it has read all of it has answered all the same."""
    what = f"{path} with {f'{len(body):,} bytes' if isinstance(body, bytes) else 'an endless body'}"
    try:
        answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    except httpx.TransportError as error:
        if isinstance(error, httpx.TimeoutException):
            findings.add(f"{what} hangs")
        return httpx.Response(expected)
    if answer.status_code != expected:
        findings.add(f"{what} is answered with {answer.status_code}, not {expected}: {answer.text[:200]}")
    return answer


def _endless(bound: int) -> Iterator[bytes]:
    for _ in range(64):
        yield b" " * (bound // 16)


def _long_log() -> bytes:
    env = ServingEnv("static_workload")
    observation = env.reset(seed=1)
    while not observation.done:
        observation = env.step({})
    log = env.episode_log()
    steps = (log.steps * 2)[: MAX_LOG_STEPS + 1]
    longer: EpisodeLog = log.model_copy(update={"steps": steps})
    return b'{"episode_log":' + longer.model_dump_json().encode() + b"}"


def _messages(url: str, headers: dict[str, str], findings: Findings) -> int:
    address = url.replace("http", "ws", 1) + "/ws"
    try:
        with connect(address, open_timeout=30):
            findings.add("a socket without the token is opened")
    except (InvalidStatus, ConnectionClosed):
        pass
    frames = [
        json.dumps({"type": "step", "data": {"batch_cap": 1, "x": "y" * size}})
        for size in (MAX_MESSAGE, 20 * MAX_MESSAGE)
    ]
    for frame in frames:
        with connect(address, additional_headers=headers) as socket:
            try:
                socket.send(frame)
                answer = str(socket.recv(timeout=30))
                if '"error"' not in answer:
                    findings.add(f"a message of {len(frame):,} characters is answered with {answer[:200]}")
            except ConnectionClosed as error:
                if error.rcvd is None or error.rcvd.code != 1009:
                    findings.add(f"a message of {len(frame):,} characters ends the socket with {error}")
            except TimeoutError:
                findings.add(f"a message of {len(frame):,} characters hangs")
    return 1 + len(frames)
