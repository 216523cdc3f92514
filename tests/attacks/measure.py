"""What an attack costs the server: its resident memory, and how long `GET /health` takes meanwhile."""

from __future__ import annotations

import http.client
import multiprocessing
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Final, Self

__all__ = ["FAILED", "Watch", "memory_mb", "run_apart"]

FAILED: Final = "the attack itself failed"

_EVERY_S: Final = 0.02


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


class Watch:
    """Watches a server from threads of this process, while the attack runs in another."""

    def __init__(self, pid: int, port: int) -> None:
        self._pid = pid
        self._port = port
        self._over = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._weigh, self._ask)]
        self.peak_mb = memory_mb(pid)
        self.waits_ms: list[float] = []
        self.failed = 0

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def p99_ms(self) -> float:
        """Return the 99th percentile of the waits for `GET /health`."""
        waits = sorted(self.waits_ms)
        return waits[min(len(waits) - 1, int(len(waits) * 0.99))] if waits else float("inf")

    def _weigh(self) -> None:
        while not self._over.wait(_EVERY_S):
            self.peak_mb = max(self.peak_mb, memory_mb(self._pid))

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        while not self._over.wait(_EVERY_S):
            start = time.perf_counter()
            try:
                connection.request("GET", "/health")
                answer = connection.getresponse()
                answer.read()
                self.failed += answer.status != 200
            except (OSError, http.client.HTTPException):
                self.failed += 1
                connection.close()
            self.waits_ms.append((time.perf_counter() - start) * 1000)
        connection.close()


def run_apart(attack: Callable[[int], str], port: int) -> str:
    """Run an attack in a process of its own, so that it does not slow down what is measured here."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(attack, port, theirs))
    process.start()
    theirs.close()
    try:
        return str(ours.recv())
    except EOFError:
        return FAILED
    finally:
        process.join()


def _tell(attack: Callable[[int], str], port: int, where: Connection) -> None:
    where.send(attack(port))
