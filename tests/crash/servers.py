"""Server processes that share a store, are killed without warning, and started again on the same port."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

import local_server

__all__ = ["Servers", "servers"]

_START_S = 120
"""A server that has not answered by then never will."""


class Servers:
    """Some server processes over one store. `urls` stay the same whichever process answers there."""

    def __init__(self, nursery: subprocess.Popen[str], number: int) -> None:
        self._nursery = nursery
        self._ports = [local_server.free_port() for _ in range(number)]
        self._processes: dict[int, int] = {}
        self.urls = [f"http://127.0.0.1:{port}" for port in self._ports]

    def __len__(self) -> int:
        return len(self._ports)

    def start(self, which: int) -> None:
        """Start a process; it answers a moment later."""
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        print(self._ports[which], file=self._nursery.stdin, flush=True)
        self._processes[which] = int(self._nursery.stdout.readline())

    def kill(self, which: int) -> None:
        """Kill a process as nothing can be caught or tidied up: SIGKILL."""
        os.kill(self._processes.pop(which), signal.SIGKILL)

    async def answers(self, which: int) -> None:
        """Wait until a server answers; raises `TimeoutError`."""
        async with asyncio.timeout(_START_S), httpx.AsyncClient(timeout=5) as client:
            while True:
                try:
                    if (await client.get(f"{self.urls[which]}/health")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)


@contextmanager
def servers(number: int, settings: dict[str, str], log: Path) -> Iterator[Servers]:
    """Lend the places of `number` servers, none started yet; their output goes to `log`."""
    with log.open("ab") as output:
        nursery = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.nursery"],
            env=os.environ | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            start_new_session=True,
        )
    try:
        assert nursery.stdout is not None
        if nursery.stdout.readline() != "ready\n":
            raise RuntimeError(f"the server could not be imported: {log.read_text(errors='replace')[-2000:]}")
        yield Servers(nursery, number)
    finally:
        os.killpg(nursery.pid, signal.SIGKILL)
        nursery.wait()
        for pipe in (nursery.stdin, nursery.stdout):
            if pipe is not None:
                pipe.close()
