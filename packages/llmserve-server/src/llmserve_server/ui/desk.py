"""`Desk`: everything a visitor can do, as plain calls on the session registry. The page's model, without a browser.

A `Visit` goes in and a `Visit` comes out; whatever else is shown is read from the sessions' logs, so nothing about an
episode is kept here and a restart of the server loses nothing. Refusals are the server's `ServiceError`s and the simulator's
errors: `sentence` says them to a person.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Final

import structlog

from llmserve_agents.errors import AgentError
from llmserve_server.errors import AgentUnavailable, EpisodeState, InvalidField, NotForkable, ServiceError
from llmserve_server.ui.drive import Driver
from llmserve_server.ui.panels import Run
from llmserve_server.ui.visit import Visit
from llmserve_sim.errors import InvalidInputError, LLMServeError
from llmserve_sim.schema import EpisodeLog, GradeReport, ServeAction
from llmserve_sim.tasks import Task, list_tasks
from llmserve_sim.tasks.registry import catalogue_task

if TYPE_CHECKING:
    from llmserve_server.sessions import SessionRegistry
    from llmserve_sim.policies import Policy

__all__ = ["HOLD", "REPEAT", "Desk", "Graded", "sentence"]

HOLD: Final = "hold"
"""A branch keeps the configuration that it started with."""
REPEAT: Final = "repeat"
"""A branch goes on with what the visitor did next."""

_MAX_STEPS: Final = 1000
_PATIENCE_S: Final = 2.0
"""How long a page may take to finish showing what an agent did; a page that is gone never does."""
_MAX_SETTLED: Final = 64
"""Logs of finished runs that are kept for redrawing, about 200 KB each."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Graded:
    """A run's name and style, and its grade."""

    name: str
    style: str
    report: GradeReport


def sentence(error: ServiceError | LLMServeError) -> str:
    """What was refused, for the person who asked."""
    if isinstance(error, ServiceError):
        return error.message
    return str(error)


class Desk:
    """What the page does. It keeps nothing but a cache of finished logs and who drives now, and serves all visitors at once.

    Args:
        registry: the sessions.
        agents: the agents that can drive, by name.
        replayable: whether an episode can be run again up to a window (not where steps are real requests).
    """

    def __init__(
        self, registry: SessionRegistry, agents: Mapping[str, Callable[[], Policy]], *, replayable: bool = True
    ) -> None:
        self._registry = registry
        self._agents = agents
        self._replayable = replayable
        self._settled: OrderedDict[str, EpisodeLog] = OrderedDict()
        self._drivers: dict[str, Driver] = {}
        """Who is at the wheel, by session."""
        self._lock = Lock()
        self.tasks: tuple[Task, ...] = list_tasks()
        self.agents: tuple[str, ...] = tuple(agents)
        self.able: tuple[str, ...] = tuple(filter(self._is_able, agents))
        """The agents that can act on the first task: not one whose weights are missing."""

    def start(self, visit: Visit, task_id: str, seed: str) -> Visit:
        """A new episode; an empty `seed` has one drawn from the task's training range. What was open is closed."""
        number = _seed(seed)
        catalogue_task(task_id)
        reply = self._registry.reset(task_id, number, transport="page")
        self._close(*visit.sessions)
        return Visit(main=reply.session_id)

    def step(self, visit: Visit, action: ServeAction, windows: int) -> None:
        """Run `windows` windows of the own episode under `action`, fewer at its end."""
        if not 1 <= windows <= _MAX_STEPS:
            raise InvalidField(
                f"The number of windows must be 1 to {_MAX_STEPS}.", field="windows", bound=f"1..{_MAX_STEPS}"
            )
        session = self._own(visit)
        self._refuse_ended(session)
        for _ in range(windows):
            if self._registry.step(session, action).observation.done:
                break

    def drive(self, visit: Visit, agent: str) -> Driver:
        """An agent at the wheel of the own episode from here on; who was there before is let go. `leave` ends it."""
        session = self._own(visit)
        self._refuse_ended(session)
        state = self._registry.state(session)
        policy = self._policy(agent, state.task_id, state.seed)
        self.let_go(visit)
        driver = Driver.enter(self._registry, session, policy)
        with self._lock:
            self._drivers[session] = driver
        return driver

    def leave(self, driver: Driver) -> None:
        """The driver's page is done with it, or gone."""
        driver.left.set()
        with self._lock:
            self._drivers = {session: other for session, other in self._drivers.items() if other is not driver}

    def let_go(self, visit: Visit, *, quietly: bool = False) -> bool:
        """Let the agent go that drives the own episode, for this page or another; whether there was one.

        Nothing moves afterwards; `quietly` where its page is to show other things, and waits until it shows nothing more.
        """
        with self._lock:
            driver = self._drivers.pop(visit.main or "", None)
        if driver is not None:
            driver.let_go(quietly=quietly)
            if quietly:
                driver.left.wait(_PATIENCE_S)
        return driver is not None

    def compare(self, visit: Visit, agent: str) -> Visit:
        """Run `agent` through a whole episode on the own episode's traffic (same task, same seed)."""
        state = self._registry.state(self._own(visit))
        policy = self._policy(agent, state.task_id, state.seed)
        reply = self._registry.reset(state.task_id, state.seed, transport="page")
        Driver(self._registry, reply.session_id, policy, reply.observation).advance(state.episode_length)
        self._close(visit.rival)
        return replace(visit, rival=reply.session_id, rival_name=agent)

    def branch(self, visit: Visit, window: int, action: ServeAction, then: str) -> Visit:
        """What if `action` had been set after `window` windows? The branch then runs as far as the own episode got.

        `then` says who goes on after that one window: `HOLD`, `REPEAT` or an agent's name.
        """
        if not self._replayable:
            raise NotForkable(
                "An episode of real requests cannot be run again up to a window: branch in simulator mode."
            )
        log = self._registry.log(self._own(visit))
        reached = len(log.steps)
        if not 0 <= window < reached:
            bound = f"0..{reached - 1}" if reached else "none yet"
            raise InvalidField(
                f"A branch leaves at a window that your episode has passed ({bound}): step it first.",
                field="window",
                bound=bound,
            )
        policy = None if then in (HOLD, REPEAT) else self._policy(then, log.task_id, log.seed)
        reply = self._registry.reset(log.task_id, log.seed, transport="page")
        session = reply.session_id
        later = (
            [step.action for step in log.steps[window + 1 :]] if then == REPEAT else [action] * (reached - window - 1)
        )
        planned = [*(step.action for step in log.steps[:window]), action, *([] if policy else later)]
        for chosen in planned:
            self._registry.step(session, chosen)
        if policy:
            Driver.enter(self._registry, session, policy).advance(reached - window - 1)
        self._close(visit.branch)
        name = f"branch at {window}" + {HOLD: ", held", REPEAT: ", then as before"}.get(then, f", then {then}")
        return replace(visit, branch=session, branch_name=name, branch_window=window)

    def adopt(self, visit: Visit) -> Visit:
        """Go on in the branch: it becomes the own episode."""
        if visit.branch is None:
            raise EpisodeState("There is no branch yet: choose a window and branch there first.")
        self._close(visit.main)
        with self._lock:
            self._settled.pop(visit.branch, None)
        return replace(visit, main=visit.branch, branch=None, branch_name="", branch_window=0)

    def grade(self, visit: Visit) -> list[Graded]:
        """The grades of all runs, own episode first."""
        return [
            Graded(run.name, run.style, self._registry.grade(session_id=session))
            for session, run in zip(visit.sessions, self.runs(visit), strict=True)
        ]

    def setting(self, visit: Visit) -> tuple[Task, ServeAction | None]:
        """The own episode's task, and the configuration in force, if any."""
        state = self._registry.state(self._own(visit))
        return catalogue_task(state.task_id), state.last_action

    def in_force(self, visit: Visit) -> ServeAction:
        """The configuration in force; raises `EpisodeState` before the first step."""
        action = self.setting(visit)[1]
        if action is None:
            raise EpisodeState("Nothing is in force before the first step.")
        return action

    def length(self, visit: Visit) -> int:
        """Windows in the own episode."""
        return self._registry.state(self._own(visit)).episode_length

    def log(self, visit: Visit) -> str:
        """The own episode's log as JSON."""
        return self._registry.log(self._own(visit)).model_dump_json()

    def runs(self, visit: Visit) -> list[Run]:
        """What there is to draw, own episode first; nothing without one."""
        if visit.main is None:
            return []
        runs = [Run("you", "main", self._registry.log(visit.main))]
        if visit.rival:
            runs.append(Run(visit.rival_name, "rival", self._settled_log(visit.rival)))
        if visit.branch:
            runs.append(Run(visit.branch_name, "branch", self._settled_log(visit.branch), visit.branch_window))
        return runs

    def surviving(self, visit: Visit) -> Visit:
        """The visit without sessions that the store no longer has (pruned, or made by an older simulator)."""
        if not self._answers(visit.main):
            return Visit()
        if visit.rival and not self._answers(visit.rival):
            visit = replace(visit, rival=None, rival_name="")
        if visit.branch and not self._answers(visit.branch):
            visit = replace(visit, branch=None, branch_name="", branch_window=0)
        return visit

    def _settled_log(self, session: str) -> EpisodeLog:
        """The log of a session that nobody steps any more; it leaves the registry's memory, so that it takes no place there."""
        with self._lock:
            if session in self._settled:
                self._settled.move_to_end(session)
                return self._settled[session]
        log = self._registry.log(session)
        self._registry.close(session)
        with self._lock:
            self._settled[session] = log
            while len(self._settled) > _MAX_SETTLED:
                self._settled.popitem(last=False)
        return log

    def _answers(self, session: str | None) -> bool:
        if session is None:
            return False
        try:
            self._registry.log(session)
        except ServiceError:
            return False
        return True

    def _own(self, visit: Visit) -> str:
        if visit.main is None:
            raise EpisodeState("There is no episode yet: pick a task and start one.")
        return visit.main

    def _refuse_ended(self, session: str) -> None:
        state = self._registry.state(session)
        if state.done:
            raise EpisodeState(
                f"The episode ended after {state.step_count} windows: grade it, branch from a window, or start another.",
                code="episode_done",
            )

    def _policy(self, agent: str, task_id: str, seed: int) -> Policy:
        """An agent that was reset; raises `AgentUnavailable` where it lacks what it needs for that task."""
        if agent not in self._agents:
            raise InvalidInputError("agent", "must be one of " + ", ".join(self._agents), got=agent)
        try:
            policy = self._agents[agent]()
            policy.reset(task_id, seed)
        except AgentError as error:
            _log.warning("agent_unavailable", agent=agent, task_id=task_id, reason=str(error))
            raise AgentUnavailable(
                f"{agent} cannot act on {task_id} here: what it needs, its weights most likely, is missing. "
                "Choose another agent."
            ) from None
        return policy

    def _is_able(self, agent: str) -> bool:
        try:
            self._policy(agent, self.tasks[0].id, self.tasks[0].seeds.test.start)
        except (ServiceError, LLMServeError):
            return False
        return True

    def _close(self, *sessions: str | None) -> None:
        for session in sessions:
            if session is not None:
                self._registry.close(session)


def _seed(text: str) -> int | None:
    text = text.strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**63:
        raise InvalidField(
            "The seed must be a whole number from 0 to 2^63-1, or empty.", field="seed", bound="0..2^63-1"
        )
    return int(text)
