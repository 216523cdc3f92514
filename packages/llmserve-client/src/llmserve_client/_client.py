"""`LLMServeEnv`, the synchronous client.

`_protocol.py` decides what to send; `_Transport` here performs the I/O. `_async_client.py` mirrors this module.
"""

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
from llmserve_client._endpoint import Endpoint, space_url
from llmserve_client._exceptions import ClientClosedError, ConnectionLostError
from llmserve_client._network import SyncDialer, SyncSocket, http_errors, http_options, to_request
from llmserve_client._operations import CloseSocket, Flow, HttpRequest, OpenSocket, Operation, SendAndReceive, Sleep
from llmserve_client._options import MAX_ANSWER_BYTES, Retries, Timeouts, TransportChoice
from llmserve_client._reading import read_answer

if TYPE_CHECKING:
    from llmserve_client._deadline import Deadline
    from llmserve_client._protocol import ClientProtocol, StepResult
    from llmserve_sim.schema import EpisodeLog, GradeReport, ServeAction, ServeObservation, ServeState

__all__ = ["LLMServeEnv", "SyncOptions"]

_Result = TypeVar("_Result")


class SyncOptions(Options, total=False):
    """Keyword arguments of `LLMServeEnv`."""

    http_transport: httpx.BaseTransport | None
    dial: SyncDialer | None
    sleep: Callable[[float], None]


class LLMServeEnv(BaseClient):
    """Client of a running LLMServeEnv server. One client holds one session and one connection.

    ::

        with LLMServeEnv.from_url("http://localhost:7860") as env:
            observation = env.reset(task_id="static_workload", seed=42)
            while not observation.done:
                observation, reward, done, info = env.step({"batch_cap": 32})
            print(env.grade())

    Args:
        url: base address of the server. It may have a path prefix and a trailing slash.
        transport: "websocket", "http" or "auto". "auto" uses a WebSocket if the server offers one. The first call
            connects and sets the property `transport`.
        token: API token of the server, sent as a bearer token.
        headers: sent with every request.
        timeouts: how long to wait for a connection and for an answer.
        retries: how often to repeat a call that is safe to repeat, and whether to wait for a place on a full server.
        max_answer_bytes: largest answer that is read, over HTTP (decompressed) and over the WebSocket.
        ssl_context: trusted certificates for https. Default: those of httpx (certifi, or $SSL_CERT_FILE).
        http_transport: an httpx transport to use instead of the network. The client does not close it.
        dial: a function that opens a WebSocket, instead of the network.
        sleep: a function that waits between retries.

    Every method raises errors of the tree in `llmserve_client._exceptions`. A refused call leaves the session
    unchanged. Several threads may share a client; it runs one call at a time.
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
        http_transport: httpx.BaseTransport | None = None,
        dial: SyncDialer | None = None,
        sleep: Callable[[float], None] = time.sleep,
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
        self._lock = threading.Lock()
        # The documented example never closes its environment, so the connection is closed when the program ends.
        self._finalizer = weakref.finalize(self, self._transport.close)

    @classmethod
    def from_url(cls, url: str, **options: Unpack[SyncOptions]) -> Self:
        """Return a client of the server at `url`, with the constructor's options. Does not connect yet."""
        return cls(url, **options)

    @classmethod
    def from_hub(
        cls, repo_id: str, *, resolve: Callable[[str], str] = space_url, **options: Unpack[SyncOptions]
    ) -> Self:
        """Return a client of the Hugging Face Space ``user/space``.

        `resolve` turns the name into an address. The default applies the Hub's naming rule and needs no network. For a
        private Space, pass your Hub token as `token`.
        """
        return cls(resolve(repo_id), **options)

    def reset(
        self, task_id: str | None = None, seed: int | None = None, *, episode_id: str | None = None
    ) -> ServeObservation:
        """Start an episode and return its first observation: the queue before any action.

        The default task is ``static_workload``. Without a seed the server draws a training seed; `state()` returns it.
        A client has one session, so a reset ends the running episode. It can still be graded by its id.
        """
        return self._run(self._protocol.reset(task_id, seed, episode_id))

    def resume(self, session_id: str | None = None) -> ServeObservation:
        """Attach to a session (this client's, or the one named) and return its last observation. Changes nothing."""
        return self._run(self._protocol.resume(session_id))

    def step(self, action: ServeAction | Mapping[str, object]) -> StepResult:
        """Apply an action for one window and return ``(observation, reward, done, info)``.

        Omitted fields take their documented defaults. If the answer is lost, the client sends the step again and the
        server applies it once. After a `DeadlineError` the same call may be repeated.

        Raises:
            InvalidFieldError: a field is wrong; the error names the field and its bound.
        """
        return self._run(self._protocol.step(action))

    def state(self) -> ServeState:
        """Return the episode's state: seed, episode id, step count and request counts."""
        return self._run(self._protocol.state())

    def tasks(self) -> list[dict[str, Any]]:
        """Return the server's tasks: for each its id, name, difficulty, episode length, targets and seeds."""
        return self._run(self._protocol.tasks())

    def grade(
        self, log: EpisodeLog | Mapping[str, Any] | str | bytes | None = None, *, episode_id: str | None = None
    ) -> GradeReport:
        """Grade this session's episode, the episode with id `episode_id`, or the given log."""
        return self._run(self._protocol.grade(log, episode_id))

    def baseline(
        self,
        *,
        task_id: str | None = None,
        seed: int | None = None,
        use_openai: bool = False,
        model: str | None = None,
    ) -> dict[str, Any]:
        """Run the server's baseline suite and return its report. `use_openai` spends the server owner's OpenAI key."""
        return self._run(self._protocol.baseline(task_id, seed, model, use_openai=use_openai))

    def episode_log(self) -> EpisodeLog:
        """Return the log of the episode so far. Anyone with the simulator can replay and grade it."""
        return self._run(self._protocol.episode_log())

    def fork(self) -> Self:
        """Return a new client with its own session, which continues from the current state of this one."""
        return self._clone(self._run(self._protocol.fork()))

    def close(self) -> None:
        """Close the connection and free the place of a session that this client began over HTTP.

        The session can still be resumed by its id. Closing twice is allowed.
        """
        if not self._closed:
            try:
                self._run(self._protocol.close())
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

    def _drop_connection(self) -> None:
        self._lock = threading.Lock()
        self._protocol.drop_connection()
        self._transport.drop_connection()

    def _clone(self, protocol: ClientProtocol) -> Self:
        clone = object.__new__(type(self))
        clone.__dict__.update(self.__dict__)
        clone._protocol, clone._transport, clone._lock = protocol, self._transport.clone(), threading.Lock()
        clone._finalizer = weakref.finalize(clone, clone._transport.close)
        clone._heed_forks()
        return clone

    def _run(self, flow: Flow[_Result]) -> _Result:
        with self._lock:
            if self._closed:
                raise ClientClosedError("this client was closed: make another one")
            try:
                operation = next(flow)
                while True:
                    try:
                        answer = self._transport.perform(operation)
                    except BaseException as error:  # noqa: BLE001 - the flow handles the error or raises it again
                        operation = flow.throw(error)
                    else:
                        operation = flow.send(answer)
            except StopIteration as result:
                value: _Result = result.value
                return value


class _Transport:
    """Performs I/O operations and holds the connection.

    It has no reference to the client, so an unreachable client is finalized and its connection is closed.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        headers: Mapping[str, str],
        timeouts: Timeouts,
        max_bytes: int,
        tls: ssl.SSLContext | None,
        transport: httpx.BaseTransport | None,
        dial: SyncDialer | None,
        sleep: Callable[[float], None],
    ) -> None:
        self._arguments = (endpoint, headers, timeouts, max_bytes, tls, transport, dial, sleep)
        self._endpoint, self._headers, self._connect_s = endpoint, headers, timeouts.connect_s
        self._max_bytes, self._tls = max_bytes, tls
        self._http_transport, self._dial, self._sleep = transport, dial, sleep
        self._http: tuple[httpx.Client, Deadline] | None = None
        self._socket: SyncSocket | None = None

    def clone(self) -> _Transport:
        return _Transport(*self._arguments)

    def perform(self, operation: Operation) -> object:
        match operation:
            case SendAndReceive():
                return self._send_and_receive(operation)
            case HttpRequest():
                return self._send_request(operation)
            case OpenSocket():
                self._close_socket()
                dial = self._dial or _real_dial(self._max_bytes, self._tls)
                self._socket = dial(self._endpoint, self._headers, operation.timeout_s)
            case CloseSocket():
                self._close_socket()
            case Sleep():
                self._sleep(operation.seconds)
        return None

    def close(self) -> None:
        self._close_socket()
        if self._http is not None:
            self._http[0].close()
            self._http = None

    def drop_connection(self) -> None:
        """Forget the connection of the process that this one was forked from; it stays open there."""
        drop = getattr(self._socket, "drop", None)
        if drop is not None:
            drop()
        self._socket = self._http = None

    def _send_request(self, request: HttpRequest) -> object:
        if self._http is None:
            self._http = self._open_http()
        http, deadline = self._http
        deadline.start(request.timeout_s)
        with http_errors(self._endpoint):
            response = http.send(to_request(http, request, self._connect_s), stream=True)
            try:
                return read_answer(response, self._max_bytes)
            finally:
                response.close()

    def _open_http(self) -> tuple[httpx.Client, Deadline]:
        from llmserve_client._deadline import limit_time  # imported here: it loads httpcore, as httpx does only now

        unclosed = None if self._http_transport is None else _UnclosedTransport(self._http_transport)
        options = http_options(self._endpoint, self._headers, self._connect_s, self._tls)
        http = httpx.Client(transport=unclosed, **options)
        return http, limit_time(http)

    def _send_and_receive(self, message: SendAndReceive) -> str:
        socket = self._socket
        if socket is None:
            raise ConnectionLostError("there is no WebSocket", unsent=True)
        try:
            try:
                socket.send(message.text)
            except ConnectionLostError as lost:
                return _receive_refusal(socket, lost)
            return socket.receive(message.timeout_s)
        except BaseException:
            self._close_socket()
            raise

    def _close_socket(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.close()


def _receive_refusal(socket: SyncSocket, lost: ConnectionLostError) -> str:
    """Return the message that the server sent before it closed the socket: a full server refuses at once."""
    try:
        return socket.receive(0.1)
    except ConnectionError:
        raise lost from None


def _real_dial(max_bytes: int, tls: ssl.SSLContext | None) -> SyncDialer:
    from llmserve_client._sockets import dial  # imported here: a client over HTTP does not need websockets

    return partial(dial, max_bytes=max_bytes, tls=tls)


class _UnclosedTransport(httpx.BaseTransport):
    """The caller's transport. httpx closes a client's transport, but this one stays open."""

    def __init__(self, transport: httpx.BaseTransport) -> None:
        self._http_transport = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._http_transport.handle_request(request)
