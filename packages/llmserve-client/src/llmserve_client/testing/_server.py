"""`LocalServer`: combines sessions, faults and both transports, and makes clients for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Unpack

from llmserve_client._async_client import AsyncLLMServeEnv, AsyncOptions
from llmserve_client._client import LLMServeEnv, SyncOptions
from llmserve_client._endpoint import Endpoint
from llmserve_client._exceptions import refusal
from llmserve_client.testing._faults import Faults
from llmserve_client.testing._http import HttpTransport
from llmserve_client.testing._sessions import Sessions
from llmserve_client.testing._sockets import AsyncLocalSocket, LocalSocket, open_socket
from llmserve_sim.env import EngineKind

__all__ = ["LocalServer"]

_HOST: Final = "http://llmserve.test"


class LocalServer:
    """A server in this process.

    Args:
        websocket: whether it offers the WebSocket transport.
        token: the bearer token that it requires, if any.
        capacity: the largest number of sessions.
        engine: the simulator's engine. "python" starts at once; "auto" compiles first if numba is installed.
        prefix: path prefix of its routes, such as "/envs/llm".
        baseline: answers `GET /baseline`, given the query's parameters. Without it the route answers 404.

    `calls` lists the calls that reached the server, in order: ``POST /step`` or ``ws step``. Each later call takes one
    planned fault.
    """

    def __init__(
        self,
        *,
        websocket: bool = True,
        token: str | None = None,
        capacity: int = 64,
        engine: EngineKind = "python",
        prefix: str = "",
        baseline: Callable[[Mapping[str, str]], dict[str, Any]] | None = None,
    ) -> None:
        self.websocket = websocket
        self.token = token
        self.prefix = prefix
        self.url = _HOST + prefix
        self.sessions = Sessions(engine, capacity)
        self.faults = Faults()
        self.calls: list[str] = []
        self.pauses: list[float] = []
        """Seconds that its clients would have waited between tries; in tests they do not wait."""
        self.http_transport = HttpTransport(self)
        """An httpx transport for both the synchronous and the asynchronous client."""
        self._baseline = baseline
        self._sockets: list[LocalSocket] = []

    def client(self, **options: Unpack[SyncOptions]) -> LLMServeEnv:
        """Return a synchronous client of this server; options as in `LLMServeEnv`."""
        given: SyncOptions = {
            "http_transport": self.http_transport,
            "dial": self.dial,
            "sleep": self.pauses.append,
            "token": self.token,
        }
        given.update(options)
        return LLMServeEnv(self.url, **given)

    def async_client(self, **options: Unpack[AsyncOptions]) -> AsyncLLMServeEnv:
        """Return an asynchronous client of this server; options as in `AsyncLLMServeEnv`."""
        given: AsyncOptions = {
            "http_transport": self.http_transport,
            "dial": self.dial_async,
            "sleep": self._sleep,
            "token": self.token,
        }
        given.update(options)
        return AsyncLLMServeEnv(self.url, **given)

    def dial(self, endpoint: Endpoint, headers: Mapping[str, str], timeout_s: float) -> LocalSocket:
        """Open a WebSocket to this server."""
        socket = open_socket(self, endpoint, headers, offered=self.websocket)
        self._sockets.append(socket)
        return socket

    async def dial_async(self, endpoint: Endpoint, headers: Mapping[str, str], timeout_s: float) -> AsyncLocalSocket:
        """Open a WebSocket to this server."""
        return AsyncLocalSocket(self.dial(endpoint, headers, timeout_s))

    def lose_answer(self, times: int = 1) -> None:
        """Carry out the next call, but break the connection before its answer."""
        self.faults.plan("lose_answer", times)

    def lose_request(self, times: int = 1) -> None:
        """Break the connection before the next call is carried out."""
        self.faults.plan("lose_request", times)

    def stall(self, times: int = 1) -> None:
        """Carry out the next call, but answer too late."""
        self.faults.plan("stall", times)

    def fail(self, status: int, times: int = 1) -> None:
        """Answer the next HTTP call with `status`, as a proxy would; a WebSocket breaks instead."""
        self.faults.plan(status, times)

    def refuse_connections(self, times: int = 1) -> None:
        """Make the next connection attempts fail."""
        self.faults.refuse_connections(times)

    def restart(self, *, forget: bool = False) -> None:
        """Break every connection. With `forget`, drop the sessions too, as a server without a store does."""
        for socket in self._sockets:
            socket.close()
        self._sockets.clear()
        if forget:
            self.sessions.forget()

    def run_baseline(self, params: Mapping[str, str]) -> dict[str, Any]:
        """Return the report of the baseline that was passed in."""
        if self._baseline is None:
            raise refusal("this local server was given no baseline", code="http_404", status=404)
        return self._baseline(params)

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
