"""The attacks: each takes the server's port, does its worst, and says in a few words what came of it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

__all__ = ["ATTACKS", "visit"]

_MB: Final = 10**6
_PIECE: Final = 65_536
_JSON: Final = "Content-Type: application/json\r\n"


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def _status(found: bytes) -> str:
    """Return the status of an answer that begins with `found`; "closed" where there is none."""
    return found.split(b" ")[1].decode() if found.startswith(b"HTTP/") else "closed"


def _flood(port: int, head: str, pieces: Iterable[bytes]) -> str:
    """Send a request's head and as much of the rest as the server takes; return how it answered."""
    with _connect(port) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(head.encode())
            for piece in pieces:
                connection.sendall(piece)
        with contextlib.suppress(OSError):
            return _status(connection.recv(4096))
    return "closed"


def _head(method: str, path: str, *lines: str) -> str:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{_JSON}" + "".join(f"{line}\r\n" for line in lines) + "\r\n"


def _chunks(total: int, filling: bytes) -> Iterator[bytes]:
    piece = (filling * (_PIECE // len(filling) + 1))[:_PIECE]
    for _ in range(total // _PIECE):
        yield b"%x\r\n" % len(piece) + piece + b"\r\n"


def _at_once(number: int, work: Callable[[], str]) -> str:
    """Do `work` in several threads at once; return how often each outcome came."""
    outcomes: list[str] = []
    threads = [threading.Thread(target=lambda: outcomes.append(work())) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ", ".join(f"{count} x {outcome}" for outcome, count in Counter(outcomes).most_common())


def chunked_body_to_the_page(port: int) -> str:
    """300 MB without a length to the page's queue."""
    head = _head("POST", "/web/gradio_api/queue/join", "Transfer-Encoding: chunked")
    return _flood(port, head, _chunks(300 * _MB, b"x"))


def logs_of_empty_objects(port: int) -> str:
    """Three logs of 66 MB of `{}` at once, without a length."""
    head = _head("POST", "/grader", "Transfer-Encoding: chunked")

    def send() -> str:
        first = b'{"episode_log":{"steps":[{}'
        opening = b"%x\r\n" % len(first) + first + b"\r\n"
        return _flood(port, head, [opening, *_chunks(66 * _MB, b",{}")])

    return _at_once(3, send)


def logs_just_below_the_bounds(port: int) -> str:
    """Three whole logs at once, with as many empty objects as the bound on values lets pass."""
    body = b'{"episode_log":{"steps":[{}' + b",{}" * 250_000 + b"]}}"
    head = _head("POST", "/grader", f"Content-Length: {len(body)}")
    return _at_once(3, lambda: _flood(port, head, [body]))


def endless_header(port: int) -> str:
    """A header of 200 MB that does not end."""
    head = "GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: "
    return _flood(port, head, (b"x" * _PIECE for _ in range(200 * _MB // _PIECE)))


def endless_trailer(port: int) -> str:
    """A body's trailer of 100 MB that does not end."""
    head = _head("POST", "/step", "Transfer-Encoding: chunked")
    return _flood(port, head, [b"0\r\nX-Long: ", *(b"x" * _PIECE for _ in range(100 * _MB // _PIECE))])


def unfinished_bodies(port: int) -> str:
    """Twenty bodies of 60 MB that lack their end, held for as long as the server lets them."""
    head = _head("POST", "/grader", "Transfer-Encoding: chunked")
    return _at_once(20, lambda: _flood(port, head, _chunks(60 * _MB, b" ")))


def unfinished_bodies_below_the_bound(port: int) -> str:
    """Forty bodies of 12 MB that lack their end."""
    head = _head("POST", "/grader", "Transfer-Encoding: chunked")
    return _at_once(40, lambda: _flood(port, head, _chunks(12 * _MB, b" ")))


def half_open_connections(port: int) -> str:
    """200 connections that send nothing, or half a header, or half a body; how many the server closes within 45 s."""
    halves = [b"", b"GET /health HTTP/1.1\r\nHost: loc", _head("POST", "/reset", "Content-Length: 100").encode() + b"{"]
    connections = [_connect(port) for _ in range(200)]
    for index, connection in enumerate(connections):
        with contextlib.suppress(OSError):
            connection.sendall(halves[index % 3])
    start, is_open = time.monotonic(), set(connections)
    while is_open and time.monotonic() - start < 45:
        for connection in list(is_open):
            connection.setblocking(False)
            try:
                if not connection.recv(4096):
                    is_open.discard(connection)
            except BlockingIOError:
                continue
            except OSError:
                is_open.discard(connection)
        time.sleep(0.2)
    for connection in connections:
        connection.close()
    return f"{len(connections) - len(is_open)} of {len(connections)} closed after {time.monotonic() - start:.0f} s"


def pipelined_requests(port: int) -> str:
    """Twenty connections with 100,000 requests each, sent without reading an answer."""
    request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def send() -> str:
        with _connect(port) as connection:
            connection.settimeout(5)
            with contextlib.suppress(OSError):
                connection.sendall(request * 100_000)
        return "cut off"

    return _at_once(20, send)


def unread_answers(port: int) -> str:
    """200 connections that ask for a long answer and never read it."""
    connections = [_connect(port) for _ in range(200)]
    for connection in connections:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(_head("GET", "/openapi.json").encode())
    time.sleep(5)
    for connection in connections:
        connection.close()
    return "sent"


def unfinished_messages(port: int) -> str:
    """60 sockets, each with a WebSocket message of 15 MB that lacks its end."""
    key = base64.b64encode(os.urandom(16)).decode()
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13")
    frame = b"\x81\xff" + (16 * _MB).to_bytes(8, "big") + b"mask"

    def send() -> str:
        with _connect(port) as connection:
            connection.sendall(_head("GET", "/ws", *upgrade).encode())
            connection.recv(4096)
            with contextlib.suppress(OSError):
                connection.sendall(frame)
                for _ in range(15 * _MB // _PIECE):
                    connection.sendall(b"x" * _PIECE)
                connection.settimeout(2)
                return "closed" if connection.recv(4096)[:1] in {b"", b"\x88"} else "answered"
        return "closed"

    return _at_once(60, send)


def uploads(port: int) -> str:
    """A request with 1,000 files to the page's upload."""
    part = '--x\r\nContent-Disposition: form-data; name="files"; filename="f.txt"\r\n\r\nx\r\n'
    body = part * 1000 + "--x--\r\n"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    outcome = "closed"
    with contextlib.suppress(OSError):
        connection.request("POST", "/web/gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=x"})
        outcome = str(connection.getresponse().status)
    connection.close()
    return outcome


def made_up_pages(port: int) -> str:
    """600 visitors of the page, each of whom opens it and never reads what it shows."""
    outcomes = Counter(visit(port, [f"visitor{visitor}" for visitor in range(600)]))
    return ", ".join(f"{count} x {status}" for status, count in outcomes.most_common())


def visit(port: int, session_hashes: Iterable[str]) -> list[int]:
    """Open the page once under each of Gradio's session hashes, without reading what it shows; return the statuses."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", "/web/config")
        page = json.loads(connection.getresponse().read())
        shown = {component["id"]: component["props"].get("value") for component in page["components"]}
        opening = next(found for found in page["dependencies"] if any("load" in target for target in found["targets"]))
        opens = {"data": [shown[i] for i in opening["inputs"]], "fn_index": opening["id"], "trigger_id": None}
        statuses = []
        for session_hash in session_hashes:
            body = json.dumps(opens | {"session_hash": session_hash, "event_data": None})
            connection.request("POST", "/web/gradio_api/queue/join", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
    return statuses


_FOREIGN: Final = ("Origin: https://evil.example", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors")


def other_peoples_pages(port: int) -> str:
    """What a foreign page makes a visitor's browser send: spend the key, step, read under its name, open a socket."""
    spend = "/baseline?use_openai=true&model=gpt-4.1-mini&task_id=static_workload"
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    sent = {
        "picture": _head("GET", spend, *_FOREIGN[1:]),
        "link": _head("GET", spend, _FOREIGN[1], "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"),
        "old browser": _head("GET", spend, "User-Agent: Mozilla/5.0"),
        "post": _head("POST", "/baseline", *_FOREIGN, "Content-Length: 2") + "{}",
        "step": _head("POST", "/step", *_FOREIGN, "Content-Length: 2").replace("application/json", "text/plain") + "{}",
        "rebinding": _head("GET", "/state").replace("localhost", "evil.example"),
        "socket": _head(
            "GET", "/ws", _FOREIGN[0], "Upgrade: websocket", "Connection: Upgrade", key, "Sec-WebSocket-Version: 13"
        ),
        "page": _head("POST", "/web/gradio_api/queue/join", *_FOREIGN, "Content-Length: 2") + "{}",
    }
    return ", ".join(f"{name} {_flood(port, text, ())}" for name, text in sent.items())


ATTACKS: Final[tuple[Callable[[int], str], ...]] = (
    chunked_body_to_the_page,
    logs_of_empty_objects,
    logs_just_below_the_bounds,
    endless_header,
    endless_trailer,
    unfinished_bodies,
    unfinished_bodies_below_the_bound,
    half_open_connections,
    pipelined_requests,
    unread_answers,
    unfinished_messages,
    uploads,
    made_up_pages,
    other_peoples_pages,
)
