"""Sessions of a local server over in-process environments, independent of the transport.

A refusal is a `RefusedError` of this package with the code, status, field and bound of the real server.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmserve_client._exceptions import RefusedError, refusal
from llmserve_sim.env import EngineKind, ServingEnv
from llmserve_sim.errors import EpisodeStateError, InvalidInputError, UnknownTaskError
from llmserve_sim.grader import grade
from llmserve_sim.schema import EpisodeLog, GradeReport, ServeAction, ServeObservation, parse_action, parse_log
from llmserve_sim.tasks import list_tasks
from llmserve_sim.tasks.description import describe
from llmserve_sim.tasks.registry import catalogue_task

__all__ = ["Sessions", "refused"]


def refused(error: Exception) -> RefusedError:
    """Return the server's refusal for an error of the simulator; raise any other error."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, InvalidInputError):
        unknown = isinstance(error, UnknownTaskError)
        code, status = ("unknown_task", 404) if unknown else ("invalid_field", 422)
        return refusal(str(error), code=code, status=status, field=error.field, bound=error.bound)
    if isinstance(error, EpisodeStateError):
        return refusal(str(error), code="not_reset", status=409)
    raise error


@dataclass(slots=True)
class _Session:
    env: ServingEnv
    last: ServeObservation
    action: ServeAction | None = None
    """The action that led to `last`; None after a reset."""


class Sessions:
    """Every session of a server, by id."""

    def __init__(self, engine: EngineKind, capacity: int) -> None:
        self._engine: EngineKind = engine
        self._capacity = capacity
        self._open: dict[str, _Session] = {}
        self._released: dict[str, _Session] = {}
        """Sessions without a place; they get one again when they are next used."""
        self._finished: dict[str, EpisodeLog] = {}

    def reset(self, fields: Mapping[str, Any]) -> tuple[str, ServeObservation]:
        """Start an episode in a new or the named session, or resume the named session."""
        _known(fields, {"task_id", "seed", "episode_id", "session_id", "resume"})
        session_id = fields.get("session_id")
        if fields.get("resume"):
            if session_id is None:
                raise InvalidInputError("session_id", "is required to resume")
            return session_id, self._find(session_id).last
        old = None if session_id is None else self._find(session_id)
        task = catalogue_task(fields.get("task_id") or "static_workload")
        env = ServingEnv(task, engine=self._engine)
        first = env.reset(fields.get("seed"), episode_id=fields.get("episode_id"))
        if old is not None:
            self._finished[old.env.state().episode_id] = old.env.episode_log()
        return self._keep(session_id, _Session(env, first))

    def step(self, session_id: str | None, action: object, step_index: object) -> tuple[str, ServeObservation]:
        """Apply an action. A repeated step (index of the step before) is answered again but not applied."""
        session = self._find(session_id)
        checked = parse_action(action)
        now = session.last.step_index
        if step_index is not None and (type(step_index) is not int or step_index < 0):
            raise InvalidInputError("step_index", "must be an integer from 0 on", got=step_index)
        if step_index is not None and step_index == now - 1 and checked == session.action:
            return str(session_id), session.last
        if step_index is not None and step_index != now:
            raise refusal(f"the session is at step {now}, not {step_index}", code="step_conflict", status=409)
        if session.last.done:
            raise refusal(f"the episode ended after {now} windows: reset first", code="episode_done", status=409)
        session.last = session.env.step(checked)
        session.action = checked
        return str(session_id), session.last

    def state(self, session_id: str | None) -> dict[str, Any]:
        """Return the state and the session's id."""
        return {**self._find(session_id).env.state().model_dump(mode="json"), "session_id": session_id}

    def log(self, session_id: str | None) -> EpisodeLog:
        """Return the episode so far."""
        return self._find(session_id).env.episode_log()

    def fork(self, session_id: str | None) -> tuple[str, ServeObservation]:
        """Start a session that continues from another one."""
        session = self._find(session_id)
        return self._keep(None, _Session(session.env.fork(), session.last, session.action))

    def grade(self, session_id: str | None, fields: Mapping[str, Any]) -> GradeReport:
        """Grade a log, a named episode, or the session's episode."""
        _known(fields, {"episode_log", "episode_id", "session_id"})
        if fields.get("episode_log") is not None:
            return grade(parse_log(fields["episode_log"]), engine=self._engine)
        if fields.get("episode_id") is not None:
            return grade(self._episode(fields["episode_id"]), engine=self._engine)
        return grade(self.log(fields.get("session_id") or session_id), engine=self._engine)

    def catalogue(self) -> list[dict[str, Any]]:
        """Return the descriptions of the tasks."""
        return [describe(task) for task in list_tasks()]

    def release(self, session_id: str | None) -> None:
        """Free the session's place. It can still be used by its id, and then takes a place again."""
        self._released[str(session_id)] = self._find(session_id)
        del self._open[str(session_id)]

    def forget(self) -> None:
        """Drop every session, as a server without a store does when it restarts."""
        self._open.clear()
        self._released.clear()

    def _find(self, session_id: str | None) -> _Session:
        if session_id is None:
            raise refusal("there is no episode: reset first", code="not_reset", status=409)
        if session_id in self._released:
            self._check_place()
            self._open[session_id] = self._released.pop(session_id)
        if session_id not in self._open:
            raise refusal("no such session: reset without a session_id", code="unknown_session", status=404)
        return self._open[session_id]

    def _keep(self, session_id: str | None, session: _Session) -> tuple[str, ServeObservation]:
        if session_id is None:
            self._check_place()
            session_id = secrets.token_urlsafe(24)
        self._open[session_id] = session
        return session_id, session.last

    def _check_place(self) -> None:
        if len(self._open) >= self._capacity:
            said = f"all {self._capacity} places are taken"
            raise refusal(said, code="at_capacity", status=429, retry_after_s=5)

    def _episode(self, episode_id: object) -> EpisodeLog:
        for session in (*self._open.values(), *self._released.values()):
            if session.env.state().episode_id == episode_id:
                return session.env.episode_log()
        if episode_id not in self._finished:
            raise refusal("no such episode", code="unknown_episode", status=404)
        return self._finished[str(episode_id)]


def _known(fields: Mapping[str, Any], names: set[str]) -> None:
    for name in fields:
        if name not in names:
            raise InvalidInputError(name, "unknown field; the fields are " + ", ".join(sorted(names)))
