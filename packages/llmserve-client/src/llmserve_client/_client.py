"""`LLMServeEnv`, the synchronous client. It performs the effects of `_core.py` and decides nothing."""

from __future__ import annotations

import ssl
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import httpx

from llmserve_client._base import BaseClient, Options
from llmserve_client._effects import Dial, Effect, Exchange, Flow, HangUp, HttpCall, Pause
from llmserve_client._endpoint import Endpoint, space_url
from llmserve_client._exceptions import ClientClosedError, ConnectionLostError
from llmserve_client._network import SyncDialer, SyncSocket, http_errors, http_options, to_answer, to_request
from llmserve_client._options import Retries, Timeouts, TransportChoice

if TYPE_CHECKING:
    from llmserve_client._core import Core, StepResult
    from llmserve_sim.schema import EpisodeLog, GradeReport, ServeAction, ServeObservation, ServeState

__all__ = ["LLMServeEnv", "SyncOptions"]

_Result = TypeVar("_Result")


class SyncOptions(Options, total=False):
    """What `LLMServeEnv` is made with besides the address."""

    http_transport: httpx.BaseTransport | None
    dial: SyncDialer | None
    sleep: Callable[[float], None]


class LLMServeEnv(BaseClient):
    """A running LLMServeEnv server's environment: one session, one connection.

    ::

        with LLMServeEnv.from_url("http://localhost:7860") as env:
            observation = env.reset(task_id="static_workload", seed=42)
            while not observation.done:
                observation, reward, done, info = env.step({"batch_cap": 32})
            print(env.grade())

    Args:
        url: the server's base address; a path prefix and a trailing slash are understood.
        transport: "websocket", "http", or "auto": WebSocket where the server offers it. Nothing is asked before the first
            call; `transport` then says what was chosen.
        token: the server's API token, sent as a bearer token.
        headers: sent with every request.
        timeouts, retries: how long to wait, and how often to try again what may be tried again.
        ssl_context: whom to trust over https; by default what httpx trusts (certifi, or $SSL_CERT_FILE).
        http_transport: an httpx transport in place of the network; it stays the caller's to close.
        dial: what opens a WebSocket, in place of the network.
        sleep: what waits between tries.

    Every verb raises a leaf of the tree in `llmserve_client._exceptions`; after a refusal the session is as it was. A client
    may be used from several threads, one call at a time.
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
        http_transport: httpx.BaseTransport | None = None,
        dial: SyncDialer | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(url, transport=transport, token=token, headers=headers, timeouts=timeouts, retries=retries)
        self._hands = _Hands(
            self._endpoint, self._headers, self._core.timeouts, ssl_context, http_transport, dial, sleep
        )
        self._lock = threading.Lock()
        # The documented example never closes its environment: leaving the program does.
        self._finalizer = weakref.finalize(self, self._hands.close)

    @classmethod
    def from_url(cls, url: str, **options: Unpack[SyncOptions]) -> Self:
        """Return a client of the server at `url`; options as in the constructor. Asks no network yet."""
        return cls(url, **options)

    @classmethod
    def from_hub(
        cls, repo_id: str, *, resolve: Callable[[str], str] = space_url, **options: Unpack[SyncOptions]
    ) -> Self:
        """Return a client of the Hugging Face Space ``user/space``, at the host that the Space itself has.

        `resolve` turns the name into an address; by default by the Hub's naming rule, which asks no network. For a private
        Space, pass your Hub token as `token`.
        """
        return cls(resolve(repo_id), **options)

    def reset(
        self, task_id: str | None = None, seed: int | None = None, *, episode_id: str | None = None
    ) -> ServeObservation:
        """Start an episode and return its first observation: the queue before any action.

        Without a task it is ``static_workload``; without a seed the server draws a training seed, which `state()` shows.
        A client has one session: an episode that was running in it ends here, and can still be graded by its id.
        """
        return self._run(self._core.reset(task_id, seed, episode_id))

    def resume(self, session_id: str | None = None) -> ServeObservation:
        """Re-attach to a session (this client's own, or a named one) and return its last observation; changes nothing."""
        return self._run(self._core.resume(session_id))

    def step(self, action: ServeAction | Mapping[str, object]) -> StepResult:
        """Apply an action for one window; returns ``(observation, reward, done, info)``.

        Omitted fields take their documented defaults. Raises `InvalidFieldError` naming a wrong field and its bound. A step
        whose answer was lost is sent again and applied once; after a `DeadlineError` the same call may be repeated.
        """
        return self._run(self._core.step(action))

    def state(self) -> ServeState:
        """Return where the episode stands."""
        return self._run(self._core.state())

    def tasks(self) -> list[dict[str, Any]]:
        """Return the server's catalogue: for each task its id, name, difficulty, episode length, targets, seeds."""
        return self._run(self._core.tasks())

    def grade(
        self, log: EpisodeLog | Mapping[str, Any] | str | bytes | None = None, *, episode_id: str | None = None
    ) -> GradeReport:
        """Return the grade of this session's episode, of the server's episode of that id, or of a given log."""
        return self._run(self._core.grade(log, episode_id))

    def baseline(
        self,
        *,
        task_id: str | None = None,
        seed: int | None = None,
        use_openai: bool = False,
        model: str | None = None,
    ) -> dict[str, Any]:
        """Return the report of the server's baseline suite; with `use_openai` it spends the server owner's key."""
        return self._run(self._core.baseline(task_id, seed, model, use_openai=use_openai))

    def episode_log(self) -> EpisodeLog:
        """Return the episode so far as evidence: anyone with the simulator can replay and grade it."""
        return self._run(self._core.episode_log())

    def fork(self) -> Self:
        """Return another client, in a session of its own, that goes on from this very state: "what if I had…"."""
        return self._like(self._run(self._core.fork()))

    def close(self) -> None:
        """Close the connection; the session stays at the server and can be resumed. Closing twice is allowed."""
        if not self._closed:
            try:
                self._run(self._core.close())
            finally:
                self._closed = True
                self._finalizer()

    def __enter__(self) -> Self:
        if self._closed:
            raise ClientClosedError("this client was closed: make another one")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _like(self, core: Core) -> Self:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._core, twin._hands, twin._lock = core, self._hands.twin(), threading.Lock()
        twin._finalizer = weakref.finalize(twin, twin._hands.close)
        return twin

    def _run(self, flow: Flow[_Result]) -> _Result:
        with self._lock:
            if self._closed:
                raise ClientClosedError("this client was closed: make another one")
            try:
                effect = next(flow)
                while True:
                    try:
                        answer = self._hands.perform(effect)
                    except BaseException as error:  # noqa: BLE001 - the flow decides, and raises what it cannot mend
                        effect = flow.throw(error)
                    else:
                        effect = flow.send(answer)
            except StopIteration as result:
                value: _Result = result.value
                return value


class _Hands:
    """Does what flows ask for; holds the connection. Knows no client, so that a forgotten client can be finalized."""

    def __init__(
        self,
        endpoint: Endpoint,
        headers: Mapping[str, str],
        timeouts: Timeouts,
        tls: ssl.SSLContext | None,
        transport: httpx.BaseTransport | None,
        dial: SyncDialer | None,
        sleep: Callable[[float], None],
    ) -> None:
        self._made_with = (endpoint, headers, timeouts, tls, transport, dial, sleep)
        self._endpoint, self._headers, self._connect_s = endpoint, headers, timeouts.connect_s
        self._tls = tls
        self._transport, self._dial, self._sleep = transport, dial, sleep
        self._http: httpx.Client | None = None
        self._socket: SyncSocket | None = None

    def twin(self) -> _Hands:
        return _Hands(*self._made_with)

    def perform(self, effect: Effect) -> object:
        match effect:
            case Exchange():
                return self._exchange(effect)
            case HttpCall():
                return self._call(effect)
            case Dial():
                self._hang_up()
                dial = self._dial or _real_dial(self._tls)
                self._socket = dial(self._endpoint, self._headers, effect.timeout_s)
            case HangUp():
                self._hang_up()
            case Pause():
                self._sleep(effect.seconds)
        return None

    def close(self) -> None:
        self._hang_up()
        if self._http is not None:
            self._http.close()
            self._http = None

    def _call(self, call: HttpCall) -> object:
        if self._http is None:
            borrowed = None if self._transport is None else _Borrowed(self._transport)
            self._http = httpx.Client(
                transport=borrowed, **http_options(self._endpoint, self._headers, self._connect_s, self._tls)
            )
        with http_errors(self._endpoint):
            return to_answer(self._http.send(to_request(self._http, call, self._connect_s)))

    def _exchange(self, exchange: Exchange) -> str:
        socket = self._socket
        if socket is None:
            raise ConnectionLostError("there is no WebSocket", unsent=True)
        try:
            try:
                socket.send(exchange.text)
            except ConnectionLostError as lost:
                return _last_words(socket, lost)
            return socket.receive(exchange.timeout_s)
        except BaseException:
            self._hang_up()
            raise

    def _hang_up(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.close()


def _last_words(socket: SyncSocket, lost: ConnectionLostError) -> str:
    """Return what the server said before it hung up: one without room says so at once."""
    try:
        return socket.receive(0.1)
    except ConnectionError:
        raise lost from None


def _real_dial(tls: ssl.SSLContext | None) -> SyncDialer:
    from llmserve_client._sockets import dial  # here, since a client over HTTP never needs it

    return partial(dial, tls=tls)


class _Borrowed(httpx.BaseTransport):
    """A caller's transport, which httpx must not close with its client."""

    def __init__(self, transport: httpx.BaseTransport) -> None:
        self._transport = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._transport.handle_request(request)
