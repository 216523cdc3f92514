"""`Handlers`: the event handlers of the tab. The components are in `layout.py`, the actions in `controller.py`.

A handler reads the components, calls the controller and returns new values for the components that change. An error is
shown as a sentence in the card where the visitor acted.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import gradio as gr
from anyio import sleep, to_thread

from llmserve_server.errors import ServiceError
from llmserve_server.ui import cards
from llmserve_server.ui.controller import PageController, message_of
from llmserve_server.ui.knobs import change_cost, read_knobs
from llmserve_server.ui.layout import PACES, Layout
from llmserve_server.ui.panels import Run, draw_panels
from llmserve_server.ui.session_state import SessionState
from llmserve_sim.errors import LLMServeError
from llmserve_sim.schema import ACTION_FIELDS
from llmserve_sim.tasks.registry import catalogue_task

__all__ = ["Handlers"]

Update = dict[Any, Any]
"""New values of the components that change."""

_DOWNLOAD: Final = """(text) => {
  if (!text) return;
  const log = JSON.parse(text);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = `llmserve-${log.task_id}-${log.seed}-${log.steps.length}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}"""
_STOPPED: Final = "Stopped: the wheel is yours."
_FREE: Final[Mapping[str, Any]] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}
"""For every event: no loading overlay, no waiting for other visitors, and no API endpoint beside the HTTP routes."""


class Handlers:
    """The event handlers, and which component calls which handler."""

    def __init__(self, controller: PageController, layout: Layout) -> None:
        self._controller = controller
        self._layout = layout

    def connect(self, blocks: gr.Blocks) -> None:
        """Connect all events. `blocks` is the tab: loading it restores the visitor's episode."""
        layout = self._layout
        visitor = [layout.state, layout.stored]
        scene = [
            layout.state,
            layout.stored,
            layout.status,
            layout.plots,
            layout.scoreboard,
            layout.since,
            layout.adopt,
            layout.change_cost,
        ]
        driving = [layout.go, layout.stop, layout.one, layout.several, layout.compare, layout.fork, layout.adopt]
        notices = [
            layout.start_notice,
            layout.knob_notice,
            layout.step_notice,
            layout.compare_notice,
            layout.branch_notice,
        ]
        results = [*scene, layout.report]

        def on_click(
            button: gr.Button, handler: Callable[..., Update], notice: gr.HTML, given: Any, changed: Any
        ) -> Any:
            return button.click(self._with_notice(notice, handler), [*visitor, *given], [*changed, notice], **_FREE)

        left = [layout.step_notice, layout.agent, layout.pace]
        blocks.load(self._restore, visitor, [*scene, layout.about, layout.task, *left], **_FREE)
        layout.task.input(self._show_task, [layout.task], [layout.about], **_FREE)
        buttons = [*driving, layout.step_notice]
        layout.go.click(self._run_autopilot, [*visitor, layout.agent, layout.pace], [*results, *buttons], **_FREE)
        layout.stop.click(self._stop, visitor, [*visitor, *buttons], queue=False, **_FREE)
        # In two steps: otherwise the last update of a running autopilot could be drawn over the new episode.
        cleared = gr.on(
            [layout.start.click, layout.seed.submit], self._stop_before_start, visitor, [*visitor, *buttons], **_FREE
        )
        cleared.then(
            self._with_notice(layout.start_notice, self._start),
            [*visitor, layout.task, layout.seed],
            [*results, *driving, *notices, layout.grade_notice],
            **_FREE,
        )
        on_click(layout.one, self._step_once, layout.step_notice, layout.knobs, results)
        on_click(layout.several, self._step_several, layout.step_notice, [layout.count, *layout.knobs], results)
        on_click(layout.back, self._load_current_knobs, layout.knob_notice, [], [*layout.knobs, layout.change_cost])
        on_click(layout.compare, self._compare, layout.compare_notice, [layout.rival], results)
        on_click(layout.fork, self._branch, layout.branch_notice, [layout.since, layout.then, *layout.knobs], results)
        on_click(layout.adopt, self._adopt_branch, layout.branch_notice, [], results)
        on_click(layout.judge, self._grade, layout.grade_notice, [], [layout.report])
        saved = on_click(layout.save, self._log, layout.grade_notice, [], [layout.text])
        saved.then(None, [layout.text], js=_DOWNLOAD)
        gr.on(
            [knob.release if isinstance(knob, gr.Slider) else knob.input for knob in layout.knobs],
            self._show_change_cost,
            [*visitor, *layout.knobs],
            [layout.change_cost],
            queue=False,
            preprocess=False,  # a half-typed number is no error yet; the session ids then come from the browser only
            **_FREE,
        )

    def _with_notice(self, where: gr.HTML, handler: Callable[..., Update]) -> Callable[..., Update]:
        """Return `handler` with its errors shown in `where`; its first two arguments become one `SessionState`."""

        def told(state: object, stored: object, *values: Any) -> Update:
            try:
                return {where: ""} | handler(_session_state(state, stored), *values)
            except (ServiceError, LLMServeError) as error:
                return {where: cards.notice(message_of(error))}

        return told

    # -- handlers

    def _show_task(self, task_id: str) -> Update:
        return {self._layout.about: cards.task_card(catalogue_task(task_id))}

    def _stop_before_start(self, state: object, stored: object) -> Update:
        """Stop an autopilot of the episode that is about to be replaced."""
        visitor = _without_driver(_session_state(state, stored))
        self._controller.stop_autopilot(visitor, silent=True)
        return self._save_state(visitor) | self._set_buttons(visitor, driving=False) | {self._layout.step_notice: ""}

    def _start(self, state: SessionState, task_id: str, seed: str) -> Update:
        state = self._controller.start(state, task_id, seed)
        layout = self._layout
        told = (
            layout.knob_notice,
            layout.step_notice,
            layout.compare_notice,
            layout.branch_notice,
            layout.grade_notice,
            layout.report,
        )
        fresh = (
            dict.fromkeys(told, "")
            | self._save_state(state)
            | self._draw_runs(state)
            | self._set_buttons(state, driving=False)
        )
        return fresh | {layout.since: gr.update(value=0, maximum=1)}

    def _restore(self, state: object, stored: object) -> Update:
        """Continue the episode that the browser remembers, if the store still has it."""
        known = _session_state(state, stored)
        if known.main is None:
            return {self._layout.change_cost: ""}
        remembered = self._controller.without_lost_sessions(known)
        if remembered.main is None:
            return self._save_state(remembered)
        self._controller.stop_autopilot(remembered)  # the page that showed it is gone, or is now one of two
        runs = self._controller.runs(remembered)
        task_id = runs[0].log.task_id
        about = {self._layout.task: task_id, self._layout.about: cards.task_card(catalogue_task(task_id))}
        told = self._explain_stop(remembered, len(runs[0].log.steps))
        return self._save_state(_without_driver(remembered)) | self._draw_runs(remembered, runs) | about | told

    def _explain_stop(self, state: SessionState, done: int) -> Update:
        """Show where a reload stopped the autopilot, and select its agent and pace again."""
        layout = self._layout
        if state.driver not in self._controller.agents or state.pace not in PACES:
            return {}
        text = cards.autopilot_stopped(state.driver, done, self._controller.length(state))
        return {layout.step_notice: text, layout.agent: state.driver, layout.pace: state.pace}

    def _step_once(self, state: SessionState, *knobs: Any) -> Update:
        return self._step(state, 1, knobs)

    def _step_several(self, state: SessionState, count: float | None, *knobs: Any) -> Update:
        return self._step(state, int(count or 0), knobs)

    def _step(self, state: SessionState, windows: int, knobs: tuple[Any, ...]) -> Update:
        self._controller.step(state, read_knobs(knobs), windows)
        return self._draw_runs(state) | {self._layout.report: ""}

    def _load_current_knobs(self, state: SessionState) -> Update:
        action = self._controller.current_action(state)
        values = {knob: getattr(action, name) for knob, name in zip(self._layout.knobs, ACTION_FIELDS, strict=True)}
        return values | {self._layout.change_cost: ""}

    def _show_change_cost(self, state: object, stored: object, *knobs: Any) -> Update:
        """Show what the change in the knobs would cost; nothing without an episode or with an invalid value."""
        try:
            task, before = self._controller.task_and_action(_session_state(state, stored))
            text = change_cost(task, before, read_knobs(knobs))
        except (ServiceError, LLMServeError):
            text = ""
        return {self._layout.change_cost: cards.remark(text)}

    async def _run_autopilot(self, state: object, stored: object, agent: str, pace: str) -> AsyncIterator[Update]:
        """Let an agent step the episode and redraw every few windows, until it ends or the autopilot is stopped."""
        visitor = _without_driver(_session_state(state, stored))
        autopilot = None
        try:
            windows, rest_s = PACES[pace]
            autopilot = await to_thread.run_sync(self._controller.start_autopilot, visitor, agent)
            driven = replace(visitor, driver=agent, pace=pace)
            yield self._save_state(driven) | self._set_buttons(visitor, driving=True) | {self._layout.report: ""}
            ended = False
            while not ended:
                began = time.monotonic()
                ended = await to_thread.run_sync(autopilot.advance, windows)
                scene = await to_thread.run_sync(self._draw_runs, visitor)
                done, of = autopilot.observation.step_index, self._controller.length(visitor)
                if autopilot.silent:
                    return
                yield scene | {self._layout.step_notice: cards.autopilot_progress(agent, done, of)}
                await sleep(max(rest_s - (time.monotonic() - began), 0.0))
            if autopilot.stopped:  # the handler that stopped it has saved the state
                yield self._set_buttons(visitor, driving=False) | {self._layout.step_notice: cards.remark(_STOPPED)}
            else:
                yield self._save_state(visitor) | self._set_buttons(visitor, driving=False)
        except (ServiceError, LLMServeError) as error:
            told = {self._layout.step_notice: cards.notice(message_of(error))}
            yield self._save_state(visitor) | self._set_buttons(visitor, driving=False) | told
        finally:
            if autopilot is not None:
                self._controller.end_autopilot(autopilot)

    def _stop(self, state: object, stored: object) -> Update:
        """Stop the autopilot. Its own handler shows that; after a restart of the server, this one does."""
        visitor = _without_driver(_session_state(state, stored))
        if self._controller.stop_autopilot(visitor):
            return self._save_state(visitor)
        return (
            self._save_state(visitor)
            | self._set_buttons(visitor, driving=False)
            | {self._layout.step_notice: cards.remark(_STOPPED)}
        )

    def _compare(self, state: SessionState, agent: str) -> Update:
        state = self._controller.compare(state, agent)
        return self._save_state(state) | self._draw_runs(state) | {self._layout.report: ""}

    def _branch(self, state: SessionState, window: float, then: str, *knobs: Any) -> Update:
        state = self._controller.branch(state, int(window), read_knobs(knobs), then)
        runs = self._controller.runs(state)
        text = cards.remark(cards.branch_gain(runs[0], runs[-1]))
        return (
            self._save_state(state)
            | self._draw_runs(state, runs)
            | {self._layout.branch_notice: text, self._layout.report: ""}
        )

    def _adopt_branch(self, state: SessionState) -> Update:
        state = self._controller.adopt(state)
        return self._save_state(state) | self._draw_runs(state) | {self._layout.report: ""}

    def _grade(self, state: SessionState) -> Update:
        return {self._layout.report: cards.grades(self._controller.grade(state))}

    def _log(self, state: SessionState) -> Update:
        return {self._layout.text: self._controller.log(state)}

    # -- updates that several handlers share

    def _save_state(self, state: SessionState) -> Update:
        return {self._layout.state: state.to_json(), self._layout.stored: state.to_json()}

    def _draw_runs(self, state: SessionState, runs: list[Run] | None = None) -> Update:
        """Return new values for every component that shows the runs."""
        runs = self._controller.runs(state) if runs is None else runs
        task = catalogue_task(runs[0].log.task_id)
        reached = len(runs[0].log.steps)
        return {
            self._layout.status: cards.status(task, runs),
            self._layout.plots: draw_panels(task, runs),
            self._layout.scoreboard: cards.scoreboard(runs, task),
            self._layout.since: gr.update(maximum=max(reached - 1, 1)),
            self._layout.adopt: gr.update(interactive=state.branch is not None),
            self._layout.change_cost: "",
        }

    def _set_buttons(self, state: SessionState, *, driving: bool) -> Update:
        """While an agent drives, allow only Stop and the buttons that change nothing."""
        layout = self._layout
        idle = gr.update(interactive=not driving)
        return dict.fromkeys((layout.go, layout.one, layout.several, layout.compare, layout.fork), idle) | {
            layout.stop: gr.update(interactive=driving),
            layout.adopt: gr.update(interactive=not driving and state.branch is not None),
        }


def _session_state(state: object, stored: object) -> SessionState:
    """Return the page's own state; after a restart of the server it is empty, and the browser's copy is used."""
    here = SessionState.from_json(state)
    return here if here.main else SessionState.from_json(stored)


def _without_driver(state: SessionState) -> SessionState:
    """Return `state` without an autopilot."""
    return replace(state, driver="", pace="")
