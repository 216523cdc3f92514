"""The client's protocol without I/O: what each method sends, retries, resumes and refuses.

Every method is a flow: a generator that yields one operation at a time (`_operations.py`). The caller performs the
operation and sends back its result or throws its error; the generator returns the method's result. The synchronous and
the asynchronous client run the same flows, so every decision is made here, once.

- If a connection cannot be made or a message is not sent, the client tries again.
- If an answer is lost, the client repeats the request where that is safe: reads, grading and steps. A step carries the
  index of the observation it answers, and the server applies each index once.
- If a socket breaks, the client opens a new one and attaches it to the session before the next message.
- If the server has no place (429), the client waits as long as the server says and tries again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

from llmserve_client import _wire
from llmserve_client._exceptions import (
    AnswerError,
    AtCapacityError,
    ClientError,
    ConnectError,
    ConnectionLostError,
    EpisodeStateError,
    RefusedError,
    ServerFailureError,
    UnknownSessionError,
    WebSocketUnavailableError,
    handshake_refusal,
)
from llmserve_client._operations import CloseSocket, Flow, HttpRequest, HttpResponse, OpenSocket, SendAndReceive, Sleep
from llmserve_client._options import Retries, Timeouts, TransportChoice, TransportKind
from llmserve_client._places import with_place
from llmserve_client._wire import SESSION_HEADER
from llmserve_sim.schema import EpisodeLog, GradeReport, ServeAction, ServeObservation, ServeState

__all__ = ["ClientProtocol", "StepResult"]

_RETRYABLE: Final = frozenset({502, 503, 504})
"""HTTP statuses that a proxy returns while its server restarts; the client tries again."""
_STATE: Final = '{"type": "state"}'
_Result = TypeVar("_Result")


class StepResult(NamedTuple):
    """What `step` returns: unpacks as ``observation, reward, done, info``."""

    observation: ServeObservation
    reward: float
    """Reward of the window; also in the observation."""
    done: bool
    """Whether the episode's time limit is reached; also in the observation."""
    info: dict[str, Any]
    """The observation's metadata: reward terms, per-class figures, the configuration in force."""


class ClientProtocol:
    """State and decisions of one client: its session, the last observation, the chosen transport."""

    def __init__(self, choice: TransportChoice, timeouts: Timeouts, retries: Retries) -> None:
        self.choice: TransportChoice = choice
        self.timeouts = timeouts
        self.retries = retries
        self.transport: TransportKind | None = None if choice == "auto" else choice
        self.session_id: str | None = None
        self.observation: ServeObservation | None = None
        self._reached = False
        """Whether a server or a proxy has ever answered at the address."""
        self._socket_open = False
        """Whether a socket is open."""
        self._attached = False
        """Whether the open socket is attached to `session_id` on the server."""
        self._keeps_place = False
        """Whether this client began the session over HTTP, where only `close` tells the server that it is done."""

    def clone(self, session_id: str, observation: ServeObservation) -> ClientProtocol:
        """Return the protocol of another client of the same server, with another session."""
        clone = ClientProtocol(self.choice, self.timeouts, self.retries)
        clone.transport, clone.session_id, clone.observation = self.transport, session_id, observation
        clone._reached = clone._keeps_place = True
        return clone

    def drop_connection(self) -> None:
        """Forget the connection: it belongs to the process that this one was forked from."""
        self._socket_open = self._attached = False

    def reset(self, task_id: str | None, seed: int | None, episode_id: str | None) -> Flow[ServeObservation]:
        """Start an episode in this client's session, or in a new one."""
        fields = _wire.check_episode(task_id, seed, episode_id)
        return (yield from self._with_place(lambda: self._reset(fields)))

    def _reset(self, fields: dict[str, Any]) -> Flow[ServeObservation]:
        yield from self._choose_transport()
        try:
            return (yield from self._start({**fields, "session_id": self.session_id}))
        except UnknownSessionError:
            if self.session_id is None:
                raise
            # The server no longer has the session. A reset needs nothing from it, so start a new one.
            self.session_id = self.observation = None
            return (yield from self._start(fields))
        except (ConnectError, RefusedError):
            raise
        except BaseException:
            # It is unknown which episode the session now runs. Refuse steps until the next reset or resume.
            self.observation = None
            raise

    def resume(self, session_id: str | None) -> Flow[ServeObservation]:
        """Attach to a session at its current step; changes nothing on the server."""
        wanted = session_id or self.session_id
        if wanted is None:
            raise EpisodeStateError("there is no session to resume: reset first, or name one", code="not_reset")
        return (yield from self._with_place(lambda: self._resume(wanted)))

    def _resume(self, wanted: str) -> Flow[ServeObservation]:
        yield from self._choose_transport()
        if wanted != self.session_id:
            self._keeps_place = False
            if self._attached:
                yield from self._close_socket()
        return (yield from self._start({"session_id": wanted, "resume": True}, repeatable=True))

    def step(self, action: object) -> Flow[StepResult]:
        """Apply an action once, even if it is sent several times."""
        checked = _wire.check_action(action)
        if self.observation is None:
            raise EpisodeStateError("there is no episode: reset first", code="not_reset")
        index = self.observation.step_index
        data = yield from self._with_place(lambda: self._send_step(checked, index))
        observation = self.observation = _wire.read_observation(data)
        return StepResult(observation, observation.reward, observation.done, dict(observation.metadata))

    def _send_step(self, action: ServeAction, index: int) -> Flow[Any]:
        if self.transport == "websocket":
            return (yield from self._send_message(_wire.socket_step(action, index), "observation", repeatable=True))
        body = {"session_id": self.session_id, "action": action.model_dump(), "step_index": index}
        return _wire.read_http((yield from self._send_request(self._request("POST", "/step", body), repeatable=True)))

    def state(self) -> Flow[ServeState]:
        """Read the episode's state."""
        yield from self._choose_transport()
        if self.transport == "websocket":
            return _wire.read_state((yield from self._send_message(_STATE, "state", repeatable=True)))
        return _wire.read_state((yield from self._get("/state")))

    def tasks(self) -> Flow[list[dict[str, Any]]]:
        """Read the server's list of tasks."""
        content = yield from self._get("/tasks")
        rows = content.get("tasks") if isinstance(content, dict) else content
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise AnswerError("no list of tasks in the answer")
        return rows

    def grade(self, log: object, episode_id: str | None) -> Flow[GradeReport]:
        """Grade the given log, the named episode, or this session's episode."""
        body: dict[str, object] | None = None
        if log is not None:
            body = {"episode_log": _wire.check_log(log).model_dump(mode="json")}
        elif episode_id is not None:
            body = {"episode_id": episode_id}
        elif self.session_id is None:
            raise EpisodeStateError("there is no episode to grade: reset first, or pass a log", code="not_reset")
        return _wire.read_grade(
            (yield from self._send_request(self._request("POST", "/grader", body), repeatable=True))
        )

    def baseline(
        self, task_id: str | None, seed: int | None, model: str | None, *, use_openai: bool
    ) -> Flow[dict[str, Any]]:
        """Run the server's baseline suite. A request that spends the owner's key is never repeated."""
        fields = {**_wire.check_episode(task_id, seed, None), "model": model}
        params = {name: str(value) for name, value in fields.items() if value is not None}
        if use_openai:
            params["use_openai"] = "true"
        call = HttpRequest("GET", "/baseline", self.timeouts.baseline_s, params=params)
        content = _wire.read_http((yield from self._send_request(call, repeatable=not use_openai)))
        if not isinstance(content, dict):
            raise AnswerError("no report in the answer")
        return content

    def episode_log(self) -> Flow[EpisodeLog]:
        """Read the log of the episode so far, for the grader."""
        return _wire.read_log((yield from self._send_request(self._request("GET", "/log", None), repeatable=True)))

    def fork(self) -> Flow[ClientProtocol]:
        """Copy this session on the server; return the protocol of a client for the copy."""
        if self.session_id is None:
            raise EpisodeStateError("there is no episode to fork: reset first", code="not_reset")
        call = self._request("POST", "/fork", {"session_id": self.session_id})
        content = yield from self._with_place(lambda: self._read(call))
        return self.clone(_wire.session_of(content), _wire.read_observation(content))

    def close(self) -> Flow[None]:
        """Close the connection, and free the place of a session that was begun over HTTP; it can still be resumed."""
        if self._keeps_place and self.session_id is not None:
            self._keeps_place = False
            headers = {SESSION_HEADER: self.session_id}
            with suppress(ClientError):  # the server may be gone, and the place with it
                yield HttpRequest("DELETE", "/session", self.timeouts.connect_s, headers=headers)
        yield from self._close_socket()

    def _read(self, call: HttpRequest) -> Flow[Any]:
        return _wire.read_http((yield from self._send_request(call)))

    def _with_place(self, flow: Callable[[], Flow[_Result]]) -> Flow[_Result]:
        return with_place(flow, self.timeouts.answer_s if self.retries.wait_for_place else 0.0)

    def _close_socket(self) -> Flow[None]:
        self._socket_open = self._attached = False
        yield CloseSocket()

    def _start(self, fields: Mapping[str, object], *, repeatable: bool = False) -> Flow[ServeObservation]:
        if self.transport == "websocket":
            data = yield from self._send_message(
                _wire.socket_reset(fields), "observation", attach=False, repeatable=repeatable
            )
            observation = _wire.read_observation(data)
            session = fields.get("session_id")
            if not isinstance(session, str):
                # OpenEnv's answer to a reset has no field for the session's id; the state has one.
                session = _wire.session_of((yield from self._send_and_receive(_STATE, "state")))
            self._attached, self._keeps_place = True, False
        else:
            call = HttpRequest("POST", "/reset", self.timeouts.answer_s, *_json_body(fields))
            content = _wire.read_http((yield from self._send_request(call, repeatable=repeatable)))
            observation, session = _wire.read_observation(content), _wire.session_of(content)
            self._keeps_place = self._keeps_place or fields.get("session_id") is None
        self.session_id, self.observation = session, observation
        return observation

    def _choose_transport(self) -> Flow[None]:
        """Choose the transport, once: the first handshake that gets an answer decides."""
        if self.transport is not None:
            return
        try:
            yield from self._open_socket(self._pauses())
        except WebSocketUnavailableError as error:
            found = handshake_refusal(error)
            if found is not error:
                raise found from error
            self.transport = "http"
        else:
            self.transport = "websocket"

    def _open_socket(self, pauses: Iterator[float]) -> Flow[None]:
        while True:
            try:
                yield OpenSocket(self.timeouts.connect_s)
            except WebSocketUnavailableError as error:
                self._reached = True
                if error.status not in _RETRYABLE or not (yield from self._pause(pauses)):
                    raise
            except ConnectError:
                if not (yield from self._pause(pauses)):
                    raise
            else:
                self._reached, self._socket_open, self._attached = True, True, False
                return

    def _send_message(
        self, text: str, expected: str, *, attach: bool = True, repeatable: bool = False
    ) -> Flow[dict[str, Any]]:
        """Send a message and return the data of its answer. `attach`: attach the socket to the session first."""
        pauses = self._pauses()
        while True:
            try:
                if not self._socket_open:
                    yield from self._reopen_socket(pauses)
                if attach and self.session_id is not None and not self._attached:
                    again = _wire.socket_reset({"session_id": self.session_id, "resume": True})
                    yield from self._send_and_receive(again, "observation")
                    self._attached, self._keeps_place = True, False
                return (yield from self._send_and_receive(text, expected))
            except ConnectionLostError as error:
                if not (repeatable or error.unsent) or not (yield from self._pause(pauses)):
                    raise

    def _reopen_socket(self, pauses: Iterator[float]) -> Flow[None]:
        try:
            yield from self._open_socket(pauses)
        except WebSocketUnavailableError as error:
            raise handshake_refusal(error) from error

    def _send_and_receive(self, text: str, expected: str) -> Flow[dict[str, Any]]:
        try:
            answer: str = yield SendAndReceive(text, self.timeouts.answer_s)
        except BaseException:
            # After any error, Ctrl-C too, the answer may still arrive; it must not be read as the next answer.
            self._socket_open = self._attached = False
            raise
        try:
            return _wire.read_socket(answer, expected)
        except (AnswerError, AtCapacityError, ServerFailureError):
            # OpenEnv closes a socket that it has no room for. It may not be closed yet, so close it here.
            yield from self._close_socket()
            raise

    def _get(self, path: str) -> Flow[Any]:
        return _wire.read_http((yield from self._send_request(self._request("GET", path, None), repeatable=True)))

    def _request(self, method: str, path: str, body: Mapping[str, object] | None) -> HttpRequest:
        content, headers = (None, {}) if body is None else _json_body(body)
        # The id gives access to the session. It goes into a header because URLs end up in access logs.
        if self.session_id is not None:
            headers = {**headers, SESSION_HEADER: self.session_id}
        return HttpRequest(method, path, self.timeouts.answer_s, content, headers)

    def _send_request(self, call: HttpRequest, *, repeatable: bool = False) -> Flow[HttpResponse]:
        pauses = self._pauses()
        while True:
            try:
                answer: HttpResponse = yield call
            except ConnectError:
                if not (yield from self._pause(pauses)):
                    raise
            except ConnectionLostError:
                if not repeatable or not (yield from self._pause(pauses)):
                    raise
            else:
                self._reached = True
                if not repeatable or answer.status not in _RETRYABLE or not (yield from self._pause(pauses)):
                    return answer

    def _pauses(self) -> Iterator[float]:
        """Yield the pause in s before each further try."""
        for tries, pause in enumerate(self.retries.pauses()):
            if not self._reached and tries >= self.retries.first_attempts:
                return
            yield pause

    def _pause(self, pauses: Iterator[float]) -> Flow[bool]:
        """Wait before the next try; return False if no try is left."""
        seconds = next(pauses, None)
        if seconds is None:
            return False
        yield Sleep(seconds)
        return True


def _json_body(fields: Mapping[str, object]) -> tuple[bytes, dict[str, str]]:
    return _wire.payload(fields), {"Content-Type": "application/json"}
