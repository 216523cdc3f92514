"""`PageController`: everything a visitor can do on the page, as plain calls on the session registry, without a browser.

Each call takes a `SessionState`, and returns a new one if it changes. Everything else that the page shows is read from
the sessions' logs, so a restart of the server loses nothing. A refused call raises a `ServiceError` or one of the
simulator's errors; `message_of` turns it into a sentence.
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
from llmserve_server.ui.autopilot import Autopilot
from llmserve_server.ui.panels import Run
from llmserve_server.ui.session_state import SessionState
from llmserve_sim.errors import InvalidInputError, LLMServeError
from llmserve_sim.schema import EpisodeLog, GradeReport, ServeAction
from llmserve_sim.tasks import Task, list_tasks
from llmserve_sim.tasks.registry import catalogue_task

if TYPE_CHECKING:
    from llmserve_server.sessions.registry import Reply, SessionRegistry
    from llmserve_sim.policies import Policy

__all__ = ["HOLD", "REPEAT", "Graded", "PageController", "message_of"]

HOLD: Final = "hold"
"""The branch keeps the configuration that it started with."""
REPEAT: Final = "repeat"
"""The branch repeats the visitor's later actions."""

_MAX_STEPS: Final = 1000
_PATIENCE_S: Final = 2.0
"""How long to wait until a page has finished showing an autopilot; a closed page never does."""
_MAX_FINISHED_LOGS: Final = 64
"""Most logs of finished runs that are kept for redrawing; one takes about 200 KB."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Graded:
    """A run's name and style, and its grade."""

    name: str
    style: str
    report: GradeReport


def message_of(error: ServiceError | LLMServeError) -> str:
    """Return an error's message for the visitor."""
    if isinstance(error, ServiceError):
        return error.message
    return str(error)


class PageController:
    """The actions of the page, for all visitors. It keeps a cache of finished logs and the running autopilots.

    Args:
        registry: the sessions.
        agents: makes the agents that can drive, by name.
        replayable: whether an episode can be run again up to a window (not where steps are real requests).
        address: returns the address whose share of the places the current visitor takes.
    """

    def __init__(
        self,
        registry: SessionRegistry,
        agents: Mapping[str, Callable[[], Policy]],
        *,
        replayable: bool = True,
        address: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._registry = registry
        self._agents = agents
        self._replayable = replayable
        self._address = address
        self._finished_logs: OrderedDict[str, EpisodeLog] = OrderedDict()
        self._autopilots: dict[str, Autopilot] = {}
        """The running autopilots, by session."""
        self._lock = Lock()
        self.tasks: tuple[Task, ...] = list_tasks()
        self.agents: tuple[str, ...] = tuple(agents)
        self.usable_agents: tuple[str, ...] = tuple(filter(self._is_usable, agents))
        """The agents that can act on the first task: not one whose weights are missing."""

    def start(self, state: SessionState, task_id: str, seed: str | None) -> SessionState:
        """Start an episode and close the visitor's other sessions. An empty `seed` draws a training seed."""
        number = _seed(seed)
        catalogue_task(task_id)
        self._close(*state.sessions)  # their places count no more; a refused start leaves them in the store
        reply = self._begin(task_id, number)
        return SessionState(main=reply.session_id)

    def step(self, state: SessionState, action: ServeAction, windows: int) -> None:
        """Run `windows` windows of the visitor's episode under `action`, fewer if it ends."""
        if not 1 <= windows <= _MAX_STEPS:
            raise InvalidField(
                f"The number of windows must be 1 to {_MAX_STEPS}.", field="windows", bound=f"1..{_MAX_STEPS}"
            )
        session = self._main_session(state)
        self._refuse_ended(session)
        for _ in range(windows):
            if self._registry.step(session, action).observation.done:
                break

    def start_autopilot(self, state: SessionState, agent: str) -> Autopilot:
        """Let an agent step the visitor's episode from now on, in place of another; call `end_autopilot` afterwards."""
        session = self._main_session(state)
        self._refuse_ended(session)
        episode = self._registry.state(session)
        policy = self._policy(agent, episode.task_id, episode.seed)
        self.stop_autopilot(state)
        autopilot = Autopilot.take_over(self._registry, session, policy)
        with self._lock:
            self._autopilots[session] = autopilot
        return autopilot

    def end_autopilot(self, autopilot: Autopilot) -> None:
        """Forget an autopilot that its page has finished showing."""
        autopilot.page_done.set()
        with self._lock:
            self._autopilots = {session: other for session, other in self._autopilots.items() if other is not autopilot}

    def stop_autopilot(self, state: SessionState, *, silent: bool = False) -> bool:
        """Stop the autopilot of the visitor's episode; return whether there was one. Nothing is stepped afterwards.

        With `silent` its page shows nothing more of it; this call waits for that.
        """
        with self._lock:
            autopilot = self._autopilots.pop(state.main or "", None)
        if autopilot is not None:
            autopilot.stop(silent=silent)
            if silent:
                autopilot.page_done.wait(_PATIENCE_S)
        return autopilot is not None

    def compare(self, state: SessionState, agent: str) -> SessionState:
        """Run `agent` for a whole episode on the same traffic (same task and seed) as the visitor's.

        It shows what is still to come, so an episode that goes on from here has `foresight`.
        """
        session = self._main_session(state)
        episode = self._registry.state(session)
        policy = self._policy(agent, episode.task_id, episode.seed)
        if not episode.done:
            self._registry.foresee(session)
        reply = self._begin(episode.task_id, episode.seed)
        Autopilot(self._registry, reply.session_id, policy, reply.observation).advance(episode.episode_length)
        self._close(state.rival)
        return replace(state, rival=reply.session_id, rival_name=agent)

    def branch(self, state: SessionState, window: int, action: ServeAction, then: str) -> SessionState:
        """Repeat the visitor's episode up to `window`, run one window under `action`, continue as far as the original.

        `then` chooses the later actions: `HOLD`, `REPEAT` or an agent's name. The branch has `foresight`: the visitor has
        seen the windows that it runs.
        """
        if not self._replayable:
            raise NotForkable(
                "An episode of real requests cannot be run again up to a window: branch in simulator mode."
            )
        log = self._registry.log(self._main_session(state))
        reached = len(log.steps)
        if not 0 <= window < reached:
            bound = f"0..{reached - 1}" if reached else "none yet"
            raise InvalidField(
                f"A branch leaves at a window that your episode has passed ({bound}): step it first.",
                field="window",
                bound=bound,
            )
        policy = None if then in (HOLD, REPEAT) else self._policy(then, log.task_id, log.seed)
        session = self._begin(log.task_id, log.seed).session_id
        self._registry.foresee(session)
        later = (
            [step.action for step in log.steps[window + 1 :]] if then == REPEAT else [action] * (reached - window - 1)
        )
        planned = [*(step.action for step in log.steps[:window]), action, *([] if policy else later)]
        for chosen in planned:
            self._registry.step(session, chosen)
        if policy:
            Autopilot.take_over(self._registry, session, policy).advance(reached - window - 1)
        self._close(state.branch)
        name = f"branch at {window}" + {HOLD: ", held", REPEAT: ", then as before"}.get(then, f", then {then}")
        return replace(state, branch=session, branch_name=name, branch_window=window)

    def adopt(self, state: SessionState) -> SessionState:
        """Make the branch the visitor's episode."""
        if state.branch is None:
            raise EpisodeState("There is no branch yet: choose a window and branch there first.")
        self._close(state.main)
        with self._lock:
            self._finished_logs.pop(state.branch, None)
        return replace(state, main=state.branch, branch=None, branch_name="", branch_window=0)

    def grade(self, state: SessionState) -> list[Graded]:
        """Return the grades of all runs, the visitor's own first."""
        return [
            Graded(run.name, run.style, self._registry.grade(session_id=session))
            for session, run in zip(state.sessions, self.runs(state), strict=True)
        ]

    def task_and_action(self, state: SessionState) -> tuple[Task, ServeAction | None]:
        """Return the task of the visitor's episode, and the last action if there is one."""
        episode = self._registry.state(self._main_session(state))
        return catalogue_task(episode.task_id), episode.last_action

    def current_action(self, state: SessionState) -> ServeAction:
        """Return the last action; raises `EpisodeState` before the first step."""
        action = self.task_and_action(state)[1]
        if action is None:
            raise EpisodeState("Nothing is in force before the first step.")
        return action

    def length(self, state: SessionState) -> int:
        """Return the number of windows in the visitor's episode."""
        return self._registry.state(self._main_session(state)).episode_length

    def log(self, state: SessionState) -> str:
        """Return the log of the visitor's episode as JSON."""
        return self._registry.log(self._main_session(state)).model_dump_json()

    def runs(self, state: SessionState) -> list[Run]:
        """Return the runs to draw, the visitor's own first; none without an episode."""
        if state.main is None:
            return []
        runs = [Run("you", "main", self._registry.log(state.main))]
        if state.rival:
            runs.append(Run(state.rival_name, "rival", self._finished_log(state.rival)))
        if state.branch:
            runs.append(Run(state.branch_name, "branch", self._finished_log(state.branch), state.branch_window))
        return runs

    def without_lost_sessions(self, state: SessionState) -> SessionState:
        """Return `state` without sessions that cannot be restored (pruned, or made by an older simulator)."""
        if not self._is_known(state.main):
            return SessionState()
        if state.rival and not self._is_known(state.rival):
            state = replace(state, rival=None, rival_name="")
        if state.branch and not self._is_known(state.branch):
            state = replace(state, branch=None, branch_name="", branch_window=0)
        return state

    def _begin(self, task_id: str, seed: int | None) -> Reply:
        return self._registry.reset(task_id, seed, transport="page", address=self._address())

    def _finished_log(self, session: str) -> EpisodeLog:
        """Return the log of a session that is stepped no more, and free its slot in the registry."""
        with self._lock:
            if session in self._finished_logs:
                self._finished_logs.move_to_end(session)
                return self._finished_logs[session]
        log = self._registry.log(session)
        self._registry.close(session)
        with self._lock:
            self._finished_logs[session] = log
            while len(self._finished_logs) > _MAX_FINISHED_LOGS:
                self._finished_logs.popitem(last=False)
        return log

    def _is_known(self, session: str | None) -> bool:
        if session is None:
            return False
        try:
            self._registry.log(session)
        except ServiceError:
            return False
        return True

    def _main_session(self, state: SessionState) -> str:
        if state.main is None:
            raise EpisodeState("There is no episode yet: pick a task and start one.")
        return state.main

    def _refuse_ended(self, session: str) -> None:
        episode = self._registry.state(session)
        if episode.done:
            raise EpisodeState(
                f"The episode ended after {episode.step_count} windows: grade it, branch from a window, or start another.",
                code="episode_done",
            )

    def _policy(self, agent: str, task_id: str, seed: int) -> Policy:
        """Return an agent, reset for the task and seed; raises `AgentUnavailable` if it lacks its weights."""
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

    def _is_usable(self, agent: str) -> bool:
        try:
            self._policy(agent, self.tasks[0].id, self.tasks[0].seeds.test.start)
        except (ServiceError, LLMServeError):
            return False
        return True

    def _close(self, *sessions: str | None) -> None:
        for session in sessions:
            if session is not None:
                self._registry.close(session)


def _seed(text: str | None) -> int | None:
    text = (text or "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**63:
        raise InvalidField(
            "The seed must be a whole number from 0 to 2^63-1, or empty.", field="seed", bound="0..2^63-1"
        )
    return int(text)
