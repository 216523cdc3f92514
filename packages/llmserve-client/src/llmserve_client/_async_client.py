"""`AsyncLLMServeEnv`, the asynchronous client, for asyncio.

`_protocol.py` decides what to send; `_Transport` here performs the I/O. `_client.py` mirrors this module.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import httpx

from llmserve_client._base import BaseClient, Options
from llmserve_client._endpoint import Endpoint, space_url
from llmserve_client._exceptions import ClientClosedError, ConnectionLostError, DeadlineError
from llmserve_client._network import AsyncDialer, AsyncSocket, http_errors, http_options, to_request
from llmserve_client._operations import CloseSocket, Flow, HttpRequest, OpenSocket, Operation, SendAndReceive, Sleep
from llmserve_client._options import MAX_ANSWER_BYTES, Retries, Timeouts, TransportChoice
from llmserve_client._reading import read_answer_async

if TYPE_CHECKING:
    from llmserve_client._protocol import ClientProtocol, StepResult
    from llmserve_sim.schema import EpisodeLog, GradeReport, ServeAction, ServeObservation, ServeState

__all__ = ["AsyncLLMServeEnv", "AsyncOptions"]

_Result = TypeVar("_Result")


class AsyncOptions(Options, total=False):
    """Keyword arguments of `AsyncLLMServeEnv`."""

    http_transport: httpx.AsyncBaseTransport | None
    dial: AsyncDialer | None
    sleep: Callable[[float], Awaitable[None]]


class AsyncLLMServeEnv(BaseClient):
    """Asynchronous client of a running LLMServeEnv server. One client holds one session and one connection.

    ::

        async with AsyncLLMServeEnv.from_url("http://localhost:7860") as env:
            observation = await env.reset(task_id="static_workload", seed=42)
            while not observation.done:
                observation, reward, done, info = await env.step({"batch_cap": 32})
            print(await env.grade())

    It has the arguments, methods and errors of `LLMServeEnv`; its methods are awaited. A client belongs to one event
    loop and runs one call at a time. Use one client per session to step many sessions at once. If a call is cancelled,
    the client drops the connection and the next call attaches again, so a cancelled step may be repeated.
    """

    def __init__(
        self,
        url: str,
        *,
        transport: TransportChoice = "auto",
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
        retries: Retries | None = None,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        ssl_context: ssl.SSLContext | None = None,
        http_transport: httpx.AsyncBaseTransport | None = None,
        dial: AsyncDialer | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(
            url,
            transport=transport,
            token=token,
            headers=headers,
            timeouts=timeouts,
            retries=retries,
            max_answer_bytes=max_answer_bytes,
        )
        timeouts, most = self._protocol.timeouts, self._max_answer_bytes
        self._transport = _Transport(
            self._endpoint, self._headers, timeouts, most, ssl_context, http_transport, dial, sleep
        )
        self._lock = asyncio.Lock()

    @classmethod
    def from_url(cls, url: str, **options: Unpack[AsyncOptions]) -> Self:
        """Return a client of the server at `url`, with the constructor's options. Does not connect yet."""
        return cls(url, **options)

    @classmethod
    def from_hub(
        cls, repo_id: str, *, resolve: Callable[[str], str] = space_url, **options: Unpack[AsyncOptions]
    ) -> Self:
        """Return a client of the Hugging Face Space ``user/space``.

        `resolve` turns the name into an address. The default applies the Hub's naming rule and needs no network. For a
        private Space, pass your Hub token as `token`.
        """
        return cls(resolve(repo_id), **options)

    async def reset(
        self, task_id: str | None = None, seed: int | None = None, *, episode_id: str | None = None
    ) -> ServeObservation:
        """Start an episode and return its first observation: the queue before any action.

        The default task is ``static_workload``. Without a seed the server draws a training seed; `state()` returns it.
        A client has one session, so a reset ends the running episode. It can still be graded by its id.
        """
        return await self._run(self._protocol.reset(task_id, seed, episode_id))

    async def resume(self, session_id: str | None = None) -> ServeObservation:
        """Attach to a session (this client's, or the one named) and return its last observation. Changes nothing."""
        return await self._run(self._protocol.resume(session_id))

    async def step(self, action: ServeAction | Mapping[str, object]) -> StepResult:
        """Apply an action for one window and return ``(observation, reward, done, info)``.

        Omitted fields take their documented defaults. If the answer is lost, the client sends the step again and the
        server applies it once. After a `DeadlineError` the same call may be repeated.

        Raises:
            InvalidFieldError: a field is wrong; the error names the field and its bound.
        """
        return await self._run(self._protocol.step(action))

    async def state(self) -> ServeState:
        """Return the episode's state: seed, episode id, step count and request counts."""
        return await self._run(self._protocol.state())

    async def tasks(self) -> list[dict[str, Any]]:
        """Return the server's tasks: for each its id, name, difficulty, episode length, targets and seeds."""
        return await self._run(self._protocol.tasks())

    async def grade(
        self, log: EpisodeLog | Mapping[str, Any] | str | bytes | None = None, *, episode_id: str | None = None
    ) -> GradeReport:
        """Grade this session's episode, the episode with id `episode_id`, or the given log."""
        return await self._run(self._protocol.grade(log, episode_id))

    async def baseline(
        self,
        *,
        task_id: str | None = None,
        seed: int | None = None,
        use_openai: bool = False,
        model: str | None = None,
    ) -> dict[str, Any]:
        """Run the server's baseline suite and return its report. `use_openai` spends the server owner's OpenAI key."""
        return await self._run(self._protocol.baseline(task_id, seed, model, use_openai=use_openai))

    async def episode_log(self) -> EpisodeLog:
        """Return the log of the episode so far. Anyone with the simulator can replay and grade it."""
        return await self._run(self._protocol.episode_log())

    async def fork(self) -> Self:
        """Return a new client with its own session, which continues from the current state of this one."""
        return self._clone(await self._run(self._protocol.fork()))

    async def close(self) -> None:
        """Close the connection and free the place of a session that this client began over HTTP.

        The session can still be resumed by its id. Closing twice is allowed.
        """
        if not self._closed:
            try:
                await self._run(self._protocol.close())
            finally:
                self._closed = True
                await self._transport.close()

    async def __aenter__(self) -> Self:
        if self._closed:
            raise ClientClosedError("this client was closed: make another one")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _drop_connection(self) -> None:
        self._lock = asyncio.Lock()
        self._protocol.drop_connection()
        self._transport.drop_connection()

    def _clone(self, protocol: ClientProtocol) -> Self:
        clone = object.__new__(type(self))
        clone.__dict__.update(self.__dict__)
        clone._protocol, clone._transport, clone._lock = protocol, self._transport.clone(), asyncio.Lock()
        clone._heed_forks()
        return clone

    async def _run(self, flow: Flow[_Result]) -> _Result:
        async with self._lock:
            if self._closed:
                raise ClientClosedError("this client was closed: make another one")
            try:
                operation = next(flow)
                while True:
                    try:
                        answer = await self._transport.perform(operation)
                    except BaseException as error:  # noqa: BLE001 - the flow handles the error or raises it again
                        operation = flow.throw(error)
                    else:
                        operation = flow.send(answer)
            except StopIteration as result:
                value: _Result = result.value
                return value


class _Transport:
    """Performs I/O operations and holds the connection."""

    def __init__(
        self,
        endpoint: Endpoint,
        headers: Mapping[str, str],
        timeouts: Timeouts,
        max_bytes: int,
        tls: ssl.SSLContext | None,
        transport: httpx.AsyncBaseTransport | None,
        dial: AsyncDialer | None,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._arguments = (endpoint, headers, timeouts, max_bytes, tls, transport, dial, sleep)
        self._endpoint, self._headers, self._connect_s = endpoint, headers, timeouts.connect_s
        self._max_bytes, self._tls = max_bytes, tls
        self._http_transport, self._dial, self._sleep = transport, dial, sleep
        self._http: httpx.AsyncClient | None = None
        self._socket: AsyncSocket | None = None

    def clone(self) -> _Transport:
        return _Transport(*self._arguments)

    async def perform(self, operation: Operation) -> object:
        match operation:
            case SendAndReceive():
                return await self._send_and_receive(operation)
            case HttpRequest():
                return await self._send_request(operation)
            case OpenSocket():
                await self._close_socket()
                dial = self._dial or _real_dial(self._max_bytes, self._tls)
                self._socket = await dial(self._endpoint, self._headers, operation.timeout_s)
            case CloseSocket():
                await self._close_socket()
            case Sleep():
                await self._sleep(operation.seconds)
        return None

    async def close(self) -> None:
        await self._close_socket()
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    def drop_connection(self) -> None:
        """Forget the connection of the process that this one was forked from; it stays open there."""
        self._socket = self._http = None

    async def _send_request(self, request: HttpRequest) -> object:
        if self._http is None:
            unclosed = None if self._http_transport is None else _UnclosedTransport(self._http_transport)
            self._http = httpx.AsyncClient(
                transport=unclosed, **http_options(self._endpoint, self._headers, self._connect_s, self._tls)
            )
        try:
            async with asyncio.timeout(request.timeout_s):
                return await self._exchange(self._http, request)
        except TimeoutError as error:
            raise DeadlineError(f"no whole answer from {self._endpoint.http} within {request.timeout_s:g} s") from error

    async def _exchange(self, http: httpx.AsyncClient, request: HttpRequest) -> object:
        with http_errors(self._endpoint):
            response = await http.send(to_request(http, request, self._connect_s), stream=True)
            try:
                return await read_answer_async(response, self._max_bytes)
            finally:
                await response.aclose()

    async def _send_and_receive(self, message: SendAndReceive) -> str:
        socket = self._socket
        if socket is None:
            raise ConnectionLostError("there is no WebSocket", unsent=True)
        try:
            try:
                await socket.send(message.text)
            except ConnectionLostError as lost:
                return await _receive_refusal(socket, lost)
            return await socket.receive(message.timeout_s)
        except BaseException:
            await self._close_socket()
            raise

    async def _close_socket(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()


async def _receive_refusal(socket: AsyncSocket, lost: ConnectionLostError) -> str:
    """Return the message that the server sent before it closed the socket: a full server refuses at once."""
    try:
        return await socket.receive(0.1)
    except ConnectionError:
        raise lost from None


def _real_dial(max_bytes: int, tls: ssl.SSLContext | None) -> AsyncDialer:
    from llmserve_client._sockets import dial_async  # imported here: a client over HTTP does not need websockets

    return partial(dial_async, max_bytes=max_bytes, tls=tls)


class _UnclosedTransport(httpx.AsyncBaseTransport):
    """The caller's transport. httpx closes a client's transport, but this one stays open."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._http_transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._http_transport.handle_async_request(request)
