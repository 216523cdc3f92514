"""`AsyncLLMServeEnv`, the asynchronous client, for asyncio. It performs the effects of `_core.py` and decides nothing."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import httpx

from llmserve_client._base import BaseClient, Options
from llmserve_client._effects import Dial, Effect, Exchange, Flow, HangUp, HttpCall, Pause
from llmserve_client._endpoint import Endpoint, space_url
from llmserve_client._exceptions import ClientClosedError, ConnectionLostError
from llmserve_client._network import AsyncDialer, AsyncSocket, http_errors, http_options, to_answer, to_request
from llmserve_client._options import Retries, Timeouts, TransportChoice

if TYPE_CHECKING:
    from llmserve_client._core import Core, StepResult
    from llmserve_sim.schema import EpisodeLog, GradeReport, ServeAction, ServeObservation, ServeState

__all__ = ["AsyncLLMServeEnv", "AsyncOptions"]

_Result = TypeVar("_Result")


class AsyncOptions(Options, total=False):
    """What `AsyncLLMServeEnv` is made with besides the address."""

    http_transport: httpx.AsyncBaseTransport | None
    dial: AsyncDialer | None
    sleep: Callable[[float], Awaitable[None]]


class AsyncLLMServeEnv(BaseClient):
    """A running LLMServeEnv server's environment: one session, one connection.

    ::

        async with AsyncLLMServeEnv.from_url("http://localhost:7860") as env:
            observation = await env.reset(task_id="static_workload", seed=42)
            while not observation.done:
                observation, reward, done, info = await env.step({"batch_cap": 32})
            print(await env.grade())

    Arguments, verbs and errors are those of `LLMServeEnv`, awaited. One client belongs to one event loop and does one call
    at a time; run many clients to step many sessions at once. A call that is cancelled drops the connection, and the next
    one re-attaches: a step that was cancelled may be repeated.
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
        ssl_context: ssl.SSLContext | None = None,
        http_transport: httpx.AsyncBaseTransport | None = None,
        dial: AsyncDialer | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(url, transport=transport, token=token, headers=headers, timeouts=timeouts, retries=retries)
        self._hands = _Hands(
            self._endpoint, self._headers, self._core.timeouts, ssl_context, http_transport, dial, sleep
        )
        self._lock = asyncio.Lock()

    @classmethod
    def from_url(cls, url: str, **options: Unpack[AsyncOptions]) -> Self:
        """Return a client of the server at `url`; options as in the constructor. Asks no network yet."""
        return cls(url, **options)

    @classmethod
    def from_hub(
        cls, repo_id: str, *, resolve: Callable[[str], str] = space_url, **options: Unpack[AsyncOptions]
    ) -> Self:
        """Return a client of the Hugging Face Space ``user/space``, at the host that the Space itself has.

        `resolve` turns the name into an address; by default by the Hub's naming rule, which asks no network. For a private
        Space, pass your Hub token as `token`.
        """
        return cls(resolve(repo_id), **options)

    async def reset(
        self, task_id: str | None = None, seed: int | None = None, *, episode_id: str | None = None
    ) -> ServeObservation:
        """Start an episode and return its first observation: the queue before any action.

        Without a task it is ``static_workload``; without a seed the server draws a training seed, which `state()` shows.
        A client has one session: an episode that was running in it ends here, and can still be graded by its id.
        """
        return await self._run(self._core.reset(task_id, seed, episode_id))

    async def resume(self, session_id: str | None = None) -> ServeObservation:
        """Re-attach to a session (this client's own, or a named one) and return its last observation; changes nothing."""
        return await self._run(self._core.resume(session_id))

    async def step(self, action: ServeAction | Mapping[str, object]) -> StepResult:
        """Apply an action for one window; returns ``(observation, reward, done, info)``.

        Omitted fields take their documented defaults. Raises `InvalidFieldError` naming a wrong field and its bound. A step
        whose answer was lost is sent again and applied once; after a `DeadlineError` the same call may be repeated.
        """
        return await self._run(self._core.step(action))

    async def state(self) -> ServeState:
        """Return where the episode stands."""
        return await self._run(self._core.state())

    async def tasks(self) -> list[dict[str, Any]]:
        """Return the server's catalogue: for each task its id, name, difficulty, episode length, targets, seeds."""
        return await self._run(self._core.tasks())

    async def grade(
        self, log: EpisodeLog | Mapping[str, Any] | str | bytes | None = None, *, episode_id: str | None = None
    ) -> GradeReport:
        """Return the grade of this session's episode, of the server's episode of that id, or of a given log."""
        return await self._run(self._core.grade(log, episode_id))

    async def baseline(
        self,
        *,
        task_id: str | None = None,
        seed: int | None = None,
        use_openai: bool = False,
        model: str | None = None,
    ) -> dict[str, Any]:
        """Return the report of the server's baseline suite; with `use_openai` it spends the server owner's key."""
        return await self._run(self._core.baseline(task_id, seed, model, use_openai=use_openai))

    async def episode_log(self) -> EpisodeLog:
        """Return the episode so far as evidence: anyone with the simulator can replay and grade it."""
        return await self._run(self._core.episode_log())

    async def fork(self) -> Self:
        """Return another client, in a session of its own, that goes on from this very state: "what if I had…"."""
        return self._like(await self._run(self._core.fork()))

    async def close(self) -> None:
        """Close the connection; the session stays at the server and can be resumed. Closing twice is allowed."""
        if not self._closed:
            try:
                await self._run(self._core.close())
            finally:
                self._closed = True
                await self._hands.close()

    async def __aenter__(self) -> Self:
        if self._closed:
            raise ClientClosedError("this client was closed: make another one")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _like(self, core: Core) -> Self:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._core, twin._hands, twin._lock = core, self._hands.twin(), asyncio.Lock()
        return twin

    async def _run(self, flow: Flow[_Result]) -> _Result:
        async with self._lock:
            if self._closed:
                raise ClientClosedError("this client was closed: make another one")
            try:
                effect = next(flow)
                while True:
                    try:
                        answer = await self._hands.perform(effect)
                    except BaseException as error:  # noqa: BLE001 - the flow decides, and raises what it cannot mend
                        effect = flow.throw(error)
                    else:
                        effect = flow.send(answer)
            except StopIteration as result:
                value: _Result = result.value
                return value


class _Hands:
    """Does what flows ask for; holds the connection."""

    def __init__(
        self,
        endpoint: Endpoint,
        headers: Mapping[str, str],
        timeouts: Timeouts,
        tls: ssl.SSLContext | None,
        transport: httpx.AsyncBaseTransport | None,
        dial: AsyncDialer | None,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._made_with = (endpoint, headers, timeouts, tls, transport, dial, sleep)
        self._endpoint, self._headers, self._connect_s = endpoint, headers, timeouts.connect_s
        self._tls = tls
        self._transport, self._dial, self._sleep = transport, dial, sleep
        self._http: httpx.AsyncClient | None = None
        self._socket: AsyncSocket | None = None

    def twin(self) -> _Hands:
        return _Hands(*self._made_with)

    async def perform(self, effect: Effect) -> object:
        match effect:
            case Exchange():
                return await self._exchange(effect)
            case HttpCall():
                return await self._call(effect)
            case Dial():
                await self._hang_up()
                dial = self._dial or _real_dial(self._tls)
                self._socket = await dial(self._endpoint, self._headers, effect.timeout_s)
            case HangUp():
                await self._hang_up()
            case Pause():
                await self._sleep(effect.seconds)
        return None

    async def close(self) -> None:
        await self._hang_up()
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def _call(self, call: HttpCall) -> object:
        if self._http is None:
            borrowed = None if self._transport is None else _Borrowed(self._transport)
            self._http = httpx.AsyncClient(
                transport=borrowed, **http_options(self._endpoint, self._headers, self._connect_s, self._tls)
            )
        with http_errors(self._endpoint):
            return to_answer(await self._http.send(to_request(self._http, call, self._connect_s)))

    async def _exchange(self, exchange: Exchange) -> str:
        socket = self._socket
        if socket is None:
            raise ConnectionLostError("there is no WebSocket", unsent=True)
        try:
            try:
                await socket.send(exchange.text)
            except ConnectionLostError as lost:
                return await _last_words(socket, lost)
            return await socket.receive(exchange.timeout_s)
        except BaseException:
            await self._hang_up()
            raise

    async def _hang_up(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()


async def _last_words(socket: AsyncSocket, lost: ConnectionLostError) -> str:
    """Return what the server said before it hung up: one without room says so at once."""
    try:
        return await socket.receive(0.1)
    except ConnectionError:
        raise lost from None


def _real_dial(tls: ssl.SSLContext | None) -> AsyncDialer:
    from llmserve_client._sockets import dial_async  # here, since a client over HTTP never needs it

    return partial(dial_async, tls=tls)


class _Borrowed(httpx.AsyncBaseTransport):
    """A caller's transport, which httpx must not close with its client."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._transport.handle_async_request(request)
