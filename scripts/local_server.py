"""Starts this project's server as a separate process on a free loopback port, waits for its health, and stops it.

For checks that need another process, a real socket and a log file. It uses the command line of `llmserve_server` only.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

HOST = "127.0.0.1"
SERVER = ("-m", "llmserve_server", "--host", HOST, "--port", "{port}")


@dataclass(frozen=True)
class Running:
    """A server that answers: its URLs, its process and the file with its output."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def socket_url(self) -> str:
        """Return the URL of OpenEnv's WebSocket."""
        return self.url.replace("http", "ws", 1) + "/ws"

    def memory_bytes(self) -> int:
        """Return the resident memory of the process, as Linux reports it."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024


def free_port() -> int:
    """Return a loopback port that no process listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    folder: Path,
    command: Sequence[str] = SERVER,
    *,
    env: dict[str, str] | None = None,
    within_s: float = 120,
) -> Iterator[Running]:
    """Run `command` (arguments of this Python; `{port}` is filled in) with its log and its store in `folder`.

    Raises:
        RuntimeError: the process stopped, or did not answer `/health` in time; the message ends with its last lines.
    """
    port = free_port()
    log = folder / f"server-{port}.log"
    settings = {"LLMSERVE_STORE_URL": f"sqlite:///{folder / f'store-{port}.db'}"} | (env or {})
    arguments = [sys.executable, *(part.format(port=port) for part in command)]
    with log.open("wb") as output:
        process = subprocess.Popen(arguments, env=os.environ | settings, stdout=output, stderr=subprocess.STDOUT)
    server = Running(f"http://{HOST}:{port}", process, log)
    try:
        _wait(server, within_s)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(server: Running, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            if httpx.get(f"{server.url}/health", timeout=2).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    said = server.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
    raise RuntimeError("the server did not come up; its last lines:\n" + "\n".join(said))
