"""`Toolbox`: an episode behind the eight tools. Every call gives a text for the model and the same as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llmserve_agents.tools import tables
from llmserve_agents.tools.definitions import (
    AdvanceArguments,
    ForecastArguments,
    HistoryArguments,
    NoArguments,
    ResetArguments,
    Tool,
    checked,
    definitions,
    named,
)
from llmserve_agents.tools.episode import ToolEpisode
from llmserve_sim.errors import EpisodeStateError, InvalidInputError
from llmserve_sim.schema import ACTION_FIELDS, ServeAction, ServeObservation, ServeState, parse_action

__all__ = ["Answer", "Toolbox", "refused"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tool answers."""

    text: str
    """For the model."""
    data: dict[str, Any] = field(default_factory=dict)
    """The same as plain JSON values."""
    failed: bool = False
    """Whether the call was refused; nothing has changed then, but for windows that the text names."""


class Toolbox:
    """Plays an episode through tools. Between calls it keeps the next configuration and what was not told yet.

    Somebody else may step or reset the same episode between two calls. Use one call at a time.
    """

    def __init__(self, episode: ToolEpisode) -> None:
        self.episode = episode
        self._episode_id: str | None = None
        self._next: ServeAction | None = None
        """The configuration that was set and has not run yet."""
        self._told: ServeObservation | None = None
        """The last window that an answer showed."""
        self.note = ""
        """A sentence to put before the text of the next answer."""
        self._untold: list[ServeObservation] = []
        """Windows that ran in a call that then failed."""

    def tools(self) -> list[Tool]:
        """Return the tools that this episode offers."""
        return definitions(can_forecast=self.episode.can_forecast)

    def call(self, name: object, arguments: object = None) -> Answer:
        """Call a tool. Raises the episode's errors, and `InvalidInputError` naming the argument and its bound."""
        tool = named(name, can_forecast=self.episode.can_forecast)
        given = {} if arguments is None else arguments
        if not isinstance(given, Mapping):
            raise InvalidInputError("arguments", "must be an object", got=given)
        answer: Answer = getattr(self, f"_{tool.name}")(given)
        if self.note:
            answer, self.note = replace(answer, text=f"{self.note}\n{answer.text}"), ""
        return answer

    def _tasks(self, arguments: Mapping[str, Any]) -> Answer:
        checked(NoArguments, arguments)
        tasks = self.episode.tasks()
        return Answer(tables.task_table(tasks), {"tasks": tasks})

    def _reset(self, arguments: Mapping[str, Any]) -> Answer:
        given = checked(ResetArguments, arguments)
        first = self.episode.reset(given.task_id, given.seed)
        state = self._synchronized()
        task = next((task for task in self.episode.tasks() if task["id"] == state.task_id), {})
        start = f"The episode has begun, seed {state.seed}. {self._standing(state)}"
        text = f"{tables.briefing(task, state, first)}\n{start}\n{tables.window_table([first])}"
        return Answer(text, self._data(state, [first]) | {"seed": state.seed, "task": dict(task)})

    def _observe(self, arguments: Mapping[str, Any]) -> Answer:
        checked(NoArguments, arguments)
        state = self._synchronized()
        shown = self._untold or [self.episode.observation()]
        text = f"{self._standing(state)}\n{tables.window_table(shown)}"
        self._tell(shown)
        return Answer(text, self._data(state, shown))

    def _set_knobs(self, arguments: Mapping[str, Any]) -> Answer:
        if not arguments:
            raise InvalidInputError("arguments", "must name at least one of " + ", ".join(ACTION_FIELDS))
        state = self._synchronized()
        _refuse_after_the_end(state)
        before = self._configuration(state)
        self._next = parse_action(before.model_dump() | dict(arguments))
        changed = {
            name: (old, new)
            for (name, old), new in zip(before.model_dump().items(), self._next.model_dump().values(), strict=True)
            if old != new
        }
        told = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in changed.items()) or "nothing changes"
        text = f"Set: {told}.\n{self._standing(state)}"
        return Answer(text, {"next_configuration": self._next.model_dump(), "changed": sorted(changed)})

    def _advance(self, arguments: Mapping[str, Any]) -> Answer:
        windows = checked(AdvanceArguments, arguments).windows
        state = self._synchronized()
        _refuse_after_the_end(state)
        action, before = self._configuration(state), self._told
        self._next = action
        index, wanted = state.step_count, min(windows, state.episode_length - state.step_count)
        for number in range(wanted):
            try:
                seen = self.episode.step(action, index + number)
            except Exception as error:
                if number:
                    note = f"{number} of {wanted} windows have run, and the next call shows them; then"
                    error.add_note(note)
                raise
            self._untold.append(seen)
        shown = self._untold
        state = self._synchronized()
        lines = [f"Ran {len(shown)} windows under {tables.knobs(action)}."]
        if before is not None:
            lines.append(tables.changes(before, shown[-1]))
        mean = sum(window.reward for window in shown) / len(shown)
        lines += [f"Mean reward {mean:.4f}. {self._standing(state)}", tables.window_table(shown)]
        self._tell(shown)
        return Answer("\n".join(lines), self._data(state, shown))

    def _forecast(self, arguments: Mapping[str, Any]) -> Answer:
        given = checked(ForecastArguments, arguments)
        state = self._synchronized()
        _refuse_after_the_end(state)
        if len(given.plan) > given.windows:
            raise InvalidInputError("plan", f"must hold at most `windows` ({given.windows}) configurations")
        action = self._configuration(state)
        plan = []
        for place, part in enumerate(given.plan):
            try:
                action = parse_action(action.model_dump() | part)
            except InvalidInputError as error:
                raise InvalidInputError(f"plan.{place}.{error.field}", error.bound, got=error.got) from None
            plan.append(action)
        plan += [action] * (given.windows - len(plan))
        found = self.episode.forecast(plan)
        data = {
            "futures": found.futures,
            "reward_per_window": list(found.reward_per_window),
            "windows": [
                {"step_index": found.first_window + place, "configuration": chosen.model_dump()}
                | {name: {"mean": one.mean, "deviation": one.deviation} for name, one in spreads.items()}
                for place, (spreads, chosen) in enumerate(zip(found.windows, found.actions, strict=True))
            ],
        }
        return Answer(f"{tables.forecast_table(found)}\n{self._standing(state)}", data)

    def _history(self, arguments: Mapping[str, Any]) -> Answer:
        windows = checked(HistoryArguments, arguments).windows
        log = self.episode.log()
        state = self._synchronized()
        steps = log.steps[-windows:]
        text = self._standing(state)
        if steps:
            seen, chosen = [step.observation for step in steps], [step.action for step in steps]
            text += "\n" + tables.window_table(seen, chosen)
        data = [tables.measured(step.observation) | {"configuration": step.action.model_dump()} for step in steps]
        return Answer(text, self._where(state) | {"windows": data})

    def _grade(self, arguments: Mapping[str, Any]) -> Answer:
        checked(NoArguments, arguments)
        report = self.episode.grade()
        return Answer(tables.grade_text(report), report.model_dump(mode="json"))

    def _synchronized(self) -> ServeState:
        """Return the state, and forget what belongs to an episode that somebody has ended."""
        state = self.episode.state()
        if state.episode_id != self._episode_id:
            self._episode_id, self._next, self._told, self._untold = state.episode_id, None, None, []
        return state

    def _configuration(self, state: ServeState) -> ServeAction:
        """Return the configuration of the next window."""
        return self._next or state.last_action or ServeAction()

    def _tell(self, shown: list[ServeObservation]) -> None:
        self._told, self._untold = shown[-1], []

    def _standing(self, state: ServeState) -> str:
        if state.done:
            return f"All {state.episode_length} windows have run: the episode is over. Total reward {state.total_reward:.4f}."
        left = state.episode_length - state.step_count
        return (
            f"{state.step_count} of {state.episode_length} windows have run, {left} are left. Next configuration: "
            f"{tables.knobs(self._configuration(state))}."
        )

    def _where(self, state: ServeState) -> dict[str, Any]:
        return {
            "task_id": state.task_id,
            "windows_run": state.step_count,
            "windows_left": state.episode_length - state.step_count,
            "done": state.done,
            "total_reward": state.total_reward,
            "next_configuration": None if state.done else self._configuration(state).model_dump(),
        }

    def _data(self, state: ServeState, shown: list[ServeObservation]) -> dict[str, Any]:
        return self._where(state) | {"windows": [tables.measured(window) for window in shown]}


def refused(error: Exception) -> Answer:
    """Return a refused call's answer: what is wrong, and as data the field and what would have been accepted."""
    notes = getattr(error, "__notes__", ())
    text = " ".join([*notes, str(error)])
    problem = {
        "code": str(getattr(error, "code", "invalid_field" if isinstance(error, InvalidInputError) else "refused")),
        "message": text,
        "field": getattr(error, "field", None),
        "bound": getattr(error, "bound", None),
    }
    retry_after_s = getattr(error, "retry_after_s", None)
    waiting = {} if retry_after_s is None else {"retry_after_s": retry_after_s}
    return Answer(text, {"error": problem | waiting}, failed=True)


def _refuse_after_the_end(state: ServeState) -> None:
    if state.done:
        raise EpisodeStateError(f"the episode ended after {state.step_count} windows: reset first, or grade it")
