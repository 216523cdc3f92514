"""What a client knows and says next: every verb as a flow of effects, with no I/O in it.

A flow is a generator. It yields one effect at a time (`HttpCall`, `Dial`, `Exchange`, `HangUp`, `Pause`), is sent the
effect's answer or thrown its error, and returns the verb's result. The synchronous and the asynchronous client only
perform effects; what is retried, resumed and refused is decided here, once.

- A connection that could not be made, and a message that was not sent, are tried again.
- An answer that was lost is asked for again where asking twice changes nothing: reads, grading, and steps, since a step
  carries the index of the observation that it answers and the server applies an index once.
- A socket that died is dialled again and re-attached to the session before the next message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from llmserve_client import _wire
from llmserve_client._effects import Answer, Dial, Exchange, Flow, HangUp, HttpCall, Pause
from llmserve_client._exceptions import (
    AnswerError,
    AtCapacityError,
    ConnectError,
    ConnectionLostError,
    EpisodeStateError,
    RefusedError,
    ServerFailureError,
    UnknownSessionError,
    WebSocketUnavailableError,
    refusal,
)
from llmserve_client._options import Retries, Timeouts, TransportChoice, TransportKind
from llmserve_client._wire import SESSION_HEADER
from llmserve_sim.schema import EpisodeLog, GradeReport, ServeAction, ServeObservation, ServeState

__all__ = ["Core", "StepResult"]

_PASSING: Final = frozenset({502, 503, 504})
"""Statuses of a proxy whose server is restarting."""
_STATE: Final = '{"type": "state"}'
_NO_FALLBACK: Final = frozenset({401, 407, 429})
"""Statuses of a handshake that plain HTTP would get too."""


class StepResult(NamedTuple):
    """What `step` returns: unpacks as ``observation, reward, done, info``."""

    observation: ServeObservation
    reward: float
    """Reward of the window; also in the observation."""
    done: bool
    """Whether the episode's time limit is reached; also in the observation."""
    info: dict[str, Any]
    """The observation's metadata: reward terms, per-class figures, the configuration in force."""


class Core:
    """One client's memory: its session, the last observation, the transport that was chosen."""

    def __init__(self, choice: TransportChoice, timeouts: Timeouts, retries: Retries) -> None:
        self.choice: TransportChoice = choice
        self.timeouts = timeouts
        self.retries = retries
        self.transport: TransportKind | None = None if choice == "auto" else choice
        self.session_id: str | None = None
        self.observation: ServeObservation | None = None
        self._met = False
        """Whether anything has ever answered at the address, be it a proxy whose server is restarting."""
        self._open = False
        """Whether a socket is open."""
        self._attached = False
        """Whether the server ties that socket to `session_id`."""

    def twin(self, session_id: str, observation: ServeObservation) -> Core:
        """Return the memory of another client of the same server, at another session."""
        twin = Core(self.choice, self.timeouts, self.retries)
        twin.transport, twin.session_id, twin.observation = self.transport, session_id, observation
        twin._met = True
        return twin

    def reset(self, task_id: str | None, seed: int | None, episode_id: str | None) -> Flow[ServeObservation]:
        """Start an episode in this client's session, or in a new one."""
        fields = _wire.check_episode(task_id, seed, episode_id)
        yield from self._choose()
        try:
            return (yield from self._start({**fields, "session_id": self.session_id}))
        except UnknownSessionError:
            if self.session_id is None:
                raise
            # The server forgot it. A reset needs nothing of the old session, so it starts a new one.
            self.session_id = self.observation = None
            return (yield from self._start(fields))
        except (ConnectError, RefusedError):
            raise
        except BaseException:
            # Which episode the session runs now is unknown: a step must not meet the wrong one.
            self.observation = None
            raise

    def resume(self, session_id: str | None) -> Flow[ServeObservation]:
        """Go on with a session where the server has it; changes nothing there."""
        wanted = session_id or self.session_id
        if wanted is None:
            raise EpisodeStateError("there is no session to resume: reset first, or name one", code="not_reset")
        yield from self._choose()
        if self._attached and wanted != self.session_id:
            yield from self._hang_up()
        return (yield from self._start({"session_id": wanted, "resume": True}, repeatable=True))

    def step(self, action: object) -> Flow[StepResult]:
        """Apply an action once, however often it has to be sent."""
        checked = _wire.check_action(action)
        if self.observation is None:
            raise EpisodeStateError("there is no episode: reset first", code="not_reset")
        index = self.observation.step_index
        if self.transport == "websocket":
            data = yield from self._say(_wire.socket_step(checked, index), "observation", repeatable=True)
        else:
            data = yield from self._post_step(checked, index)
        seen = self.observation = _wire.read_observation(data)
        return StepResult(seen, seen.reward, seen.done, dict(seen.metadata))

    def _post_step(self, action: ServeAction, index: int) -> Flow[Any]:
        body = {"session_id": self.session_id, "action": action.model_dump(), "step_index": index}
        return _wire.read_http((yield from self._ask(self._call("POST", "/step", body), repeatable=True)))

    def state(self) -> Flow[ServeState]:
        """Read where the episode stands."""
        yield from self._choose()
        if self.transport == "websocket":
            return _wire.read_state((yield from self._say(_STATE, "state", repeatable=True)))
        return _wire.read_state((yield from self._get("/state")))

    def tasks(self) -> Flow[list[dict[str, Any]]]:
        """Read the server's catalogue of tasks."""
        content = yield from self._get("/tasks")
        rows = content.get("tasks") if isinstance(content, dict) else content
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise AnswerError("no list of tasks in the answer")
        return rows

    def grade(self, log: object, episode_id: str | None) -> Flow[GradeReport]:
        """Have an episode graded: the given log, the named episode, or this session's."""
        body: dict[str, object] | None = None
        if log is not None:
            body = {"episode_log": _wire.check_log(log).model_dump(mode="json")}
        elif episode_id is not None:
            body = {"episode_id": episode_id}
        elif self.session_id is None:
            raise EpisodeStateError("there is no episode to grade: reset first, or pass a log", code="not_reset")
        return _wire.read_grade((yield from self._ask(self._call("POST", "/grader", body), repeatable=True)))

    def baseline(
        self, task_id: str | None, seed: int | None, model: str | None, *, use_openai: bool
    ) -> Flow[dict[str, Any]]:
        """Have the server run its baseline suite. A run that spends the owner's key is asked for once."""
        fields = {**_wire.check_episode(task_id, seed, None), "model": model}
        params = {name: str(value) for name, value in fields.items() if value is not None}
        if use_openai:
            params["use_openai"] = "true"
        call = HttpCall("GET", "/baseline", self.timeouts.baseline_s, params=params)
        content = _wire.read_http((yield from self._ask(call, repeatable=not use_openai)))
        if not isinstance(content, dict):
            raise AnswerError("no report in the answer")
        return content

    def episode_log(self) -> Flow[EpisodeLog]:
        """Read the episode so far as evidence for the grader."""
        return _wire.read_log((yield from self._ask(self._call("GET", "/log", None), repeatable=True)))

    def fork(self) -> Flow[Core]:
        """Make a session that goes on from here, and the memory of a client for it."""
        if self.session_id is None:
            raise EpisodeStateError("there is no episode to fork: reset first", code="not_reset")
        call = self._call("POST", "/fork", {"session_id": self.session_id})
        content = _wire.read_http((yield from self._ask(call)))
        return self.twin(_wire.session_of(content), _wire.read_observation(content))

    def close(self) -> Flow[None]:
        """Leave the server; the session stays there and can be resumed."""
        yield from self._hang_up()

    def _hang_up(self) -> Flow[None]:
        self._open = self._attached = False
        yield HangUp()

    def _start(self, fields: Mapping[str, object], *, repeatable: bool = False) -> Flow[ServeObservation]:
        if self.transport == "websocket":
            data = yield from self._say(_wire.socket_reset(fields), "observation", attach=False, repeatable=repeatable)
            observation = _wire.read_observation(data)
            session = fields.get("session_id")
            if not isinstance(session, str):
                # OpenEnv's answer to a reset has no room for the session's id; the state does.
                session = _wire.session_of((yield from self._exchange(_STATE, "state")))
            self._attached = True
        else:
            call = HttpCall("POST", "/reset", self.timeouts.answer_s, *_json_body(fields))
            content = _wire.read_http((yield from self._ask(call, repeatable=repeatable)))
            observation, session = _wire.read_observation(content), _wire.session_of(content)
        self.session_id, self.observation = session, observation
        return observation

    def _choose(self) -> Flow[None]:
        """Settle the transport, once: the first handshake that is answered decides."""
        if self.transport is not None:
            return
        try:
            yield from self._dial(self._pauses())
        except WebSocketUnavailableError as error:
            if error.status in _NO_FALLBACK or error.status >= 500:
                raise _handshake_refusal(error) from error
            self.transport = "http"
        else:
            self.transport = "websocket"

    def _dial(self, pauses: Iterator[float]) -> Flow[None]:
        while True:
            try:
                yield Dial(self.timeouts.connect_s)
            except WebSocketUnavailableError as error:
                self._met = True
                if error.status not in _PASSING or not (yield from self._pause(pauses)):
                    raise
            except ConnectError:
                if not (yield from self._pause(pauses)):
                    raise
            else:
                self._met, self._open, self._attached = True, True, False
                return

    def _say(self, text: str, expected: str, *, attach: bool = True, repeatable: bool = False) -> Flow[dict[str, Any]]:
        """Send a message and return the data of its answer; `attach` where it speaks to this client's session."""
        pauses = self._pauses()
        while True:
            try:
                if not self._open:
                    yield from self._redial(pauses)
                if attach and self.session_id is not None and not self._attached:
                    again = _wire.socket_reset({"session_id": self.session_id, "resume": True})
                    yield from self._exchange(again, "observation")
                    self._attached = True
                return (yield from self._exchange(text, expected))
            except ConnectionLostError as error:
                if not (repeatable or error.unsent) or not (yield from self._pause(pauses)):
                    raise

    def _redial(self, pauses: Iterator[float]) -> Flow[None]:
        try:
            yield from self._dial(pauses)
        except WebSocketUnavailableError as error:
            raise _handshake_refusal(error) from error

    def _exchange(self, text: str, expected: str) -> Flow[dict[str, Any]]:
        try:
            answer: str = yield Exchange(text, self.timeouts.answer_s)
        except BaseException:
            # Whatever came between, Ctrl-C too: an answer may still be on its way, and must not meet another question.
            self._open = self._attached = False
            raise
        try:
            return _wire.read_socket(answer, expected)
        except (AnswerError, AtCapacityError, ServerFailureError):
            # OpenEnv closes a socket that it has no place for; whether this one is closed yet is a race not to run.
            yield from self._hang_up()
            raise

    def _get(self, path: str) -> Flow[Any]:
        return _wire.read_http((yield from self._ask(self._call("GET", path, None), repeatable=True)))

    def _call(self, method: str, path: str, body: Mapping[str, object] | None) -> HttpCall:
        content, headers = (None, {}) if body is None else _json_body(body)
        # In a header, since addresses end up in access logs and an id is the key to a session.
        if self.session_id is not None:
            headers = {**headers, SESSION_HEADER: self.session_id}
        return HttpCall(method, path, self.timeouts.answer_s, content, headers)

    def _ask(self, call: HttpCall, *, repeatable: bool = False) -> Flow[Answer]:
        pauses = self._pauses()
        while True:
            try:
                answer: Answer = yield call
            except ConnectError:
                if not (yield from self._pause(pauses)):
                    raise
            except ConnectionLostError:
                if not repeatable or not (yield from self._pause(pauses)):
                    raise
            else:
                self._met = True
                if not repeatable or answer.status not in _PASSING or not (yield from self._pause(pauses)):
                    return answer

    def _pauses(self) -> Iterator[float]:
        """Yield the pause before each further try, while there is one."""
        for tries, pause in enumerate(self.retries.pauses()):
            if not self._met and tries >= self.retries.first_attempts:
                return
            yield pause

    def _pause(self, pauses: Iterator[float]) -> Flow[bool]:
        """Wait before the next try; return whether there is one."""
        seconds = next(pauses, None)
        if seconds is None:
            return False
        yield Pause(seconds)
        return True


def _json_body(fields: Mapping[str, object]) -> tuple[bytes, dict[str, str]]:
    return _wire.payload(fields), {"Content-Type": "application/json"}


def _handshake_refusal(error: WebSocketUnavailableError) -> Exception:
    """Return what a refused handshake means where HTTP would be refused alike."""
    if error.status in _NO_FALLBACK or error.status >= 500:
        return refusal(str(error), code=f"http_{error.status}", status=error.status)
    return error
