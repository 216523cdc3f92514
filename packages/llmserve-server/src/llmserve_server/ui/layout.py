"""What the tab's controls do. All decisions are the desk's; a handler reads the controls, asks the desk, and shows the answer.

A handler returns only the components that it changes. Refusals become a sentence in the card where the person acted.
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
from llmserve_server.ui.controls import PACES, Controls
from llmserve_server.ui.desk import Desk, sentence
from llmserve_server.ui.knobs import consequences, read_knobs
from llmserve_server.ui.panels import Run, draw_panels
from llmserve_server.ui.visit import Visit
from llmserve_sim.errors import LLMServeError
from llmserve_sim.schema import ACTION_FIELDS
from llmserve_sim.tasks.registry import catalogue_task

__all__ = ["build"]

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
"""Events: no overlay over what is read, no visitor waits for another, and no second way in beside the HTTP routes."""


def build(desk: Desk) -> gr.Blocks:
    """The tab, ready to be put beside OpenEnv's own."""
    blocks = gr.Blocks(title="LLMServeEnv", analytics_enabled=False)
    with blocks:
        _Events(desk, Controls(desk.tasks, desk.agents, desk.able)).wire(blocks)
    return blocks


class _Events:
    """The handlers, and which control calls which."""

    def __init__(self, desk: Desk, page: Controls) -> None:
        self._desk = desk
        self._page = page

    def wire(self, blocks: gr.Blocks) -> None:
        """Connect everything; `blocks` is the tab, whose loading brings a visitor back."""
        page = self._page
        who = [page.visit, page.kept]
        scene = [page.visit, page.kept, page.status, page.plots, page.board, page.since, page.adopt, page.price]
        driving = [page.go, page.stop, page.one, page.several, page.compare, page.fork, page.adopt]
        notices = [page.start_notice, page.knob_notice, page.step_notice, page.compare_notice, page.branch_notice]
        results = [*scene, page.report]

        def on_click(
            button: gr.Button, handler: Callable[..., Update], notice: gr.HTML, given: Any, changed: Any
        ) -> Any:
            return button.click(self._telling(notice, handler), [*who, *given], [*changed, notice], **_FREE)

        left = [page.step_notice, page.agent, page.pace]
        blocks.load(self._return, who, [*scene, page.about, page.task, *left], **_FREE)
        page.task.input(self._describe, [page.task], [page.about], **_FREE)
        wheel = [*driving, page.step_notice]
        page.go.click(self._drive, [*who, page.agent, page.pace], [*results, *wheel], **_FREE)
        page.stop.click(self._halt, who, [*who, *wheel], queue=False, **_FREE)
        # In two steps, so that the last picture of an agent at the wheel is not drawn over the new episode.
        cleared = gr.on([page.start.click, page.seed.submit], self._clear, who, [*who, *wheel], **_FREE)
        cleared.then(
            self._telling(page.start_notice, self._start),
            [*who, page.task, page.seed],
            [*results, *driving, *notices, page.grade_notice],
            **_FREE,
        )
        on_click(page.one, self._step_once, page.step_notice, page.knobs, results)
        on_click(page.several, self._step_several, page.step_notice, [page.count, *page.knobs], results)
        on_click(page.back, self._in_force, page.knob_notice, [], [*page.knobs, page.price])
        on_click(page.compare, self._compare, page.compare_notice, [page.rival], results)
        on_click(page.fork, self._branch, page.branch_notice, [page.since, page.then, *page.knobs], results)
        on_click(page.adopt, self._adopt, page.branch_notice, [], results)
        on_click(page.judge, self._grade, page.grade_notice, [], [page.report])
        saved = on_click(page.save, self._log, page.grade_notice, [], [page.text])
        saved.then(None, [page.text], js=_DOWNLOAD)
        gr.on(
            [knob.release if isinstance(knob, gr.Slider) else knob.input for knob in page.knobs],
            self._price,
            [*who, *page.knobs],
            [page.price],
            queue=False,
            preprocess=False,  # a number half typed is no error yet; the ids then come from the browser alone
            **_FREE,
        )

    def _telling(self, where: gr.HTML, handler: Callable[..., Update]) -> Callable[..., Update]:
        """The handler, with its refusals shown `where`; a visit is made of its first two arguments."""

        def told(visit: object, kept: object, *values: Any) -> Update:
            try:
                return {where: ""} | handler(_who(visit, kept), *values)
            except (ServiceError, LLMServeError) as error:
                return {where: cards.notice(sentence(error))}

        return told

    # -- handlers

    def _describe(self, task_id: str) -> Update:
        return {self._page.about: cards.task_card(catalogue_task(task_id))}

    def _clear(self, visit: object, kept: object) -> Update:
        """Let the agent go that drives what is about to be left."""
        who = _alone(_who(visit, kept))
        self._desk.let_go(who, quietly=True)
        return self._remember(who) | self._driving(who, on=False) | {self._page.step_notice: ""}

    def _start(self, visit: Visit, task_id: str, seed: str) -> Update:
        visit = self._desk.start(visit, task_id, seed)
        page = self._page
        told = (
            page.knob_notice,
            page.step_notice,
            page.compare_notice,
            page.branch_notice,
            page.grade_notice,
            page.report,
        )
        fresh = dict.fromkeys(told, "") | self._remember(visit) | self._scene(visit) | self._driving(visit, on=False)
        return fresh | {page.since: gr.update(value=0, maximum=1)}

    def _return(self, visit: object, kept: object) -> Update:
        """A visitor comes (back): the episode that the browser remembers goes on, if the store still has it."""
        known = _who(visit, kept)
        if known.main is None:
            return {self._page.price: ""}
        remembered = self._desk.surviving(known)
        if remembered.main is None:
            return self._remember(remembered)
        self._desk.let_go(remembered)  # the page that it drove for is gone, or is about to be a second one
        runs = self._desk.runs(remembered)
        task_id = runs[0].log.task_id
        about = {self._page.task: task_id, self._page.about: cards.task_card(catalogue_task(task_id))}
        told = self._left(remembered, len(runs[0].log.steps))
        return self._remember(_alone(remembered)) | self._scene(remembered, runs) | about | told

    def _left(self, visit: Visit, done: int) -> Update:
        """Tell a visitor whose page went away under an agent, and choose that agent for another start."""
        page = self._page
        if visit.driver not in self._desk.agents or visit.pace not in PACES:
            return {}
        text = cards.let_go(visit.driver, done, self._desk.length(visit))
        return {page.step_notice: text, page.agent: visit.driver, page.pace: visit.pace}

    def _step_once(self, visit: Visit, *knobs: Any) -> Update:
        return self._step(visit, 1, knobs)

    def _step_several(self, visit: Visit, count: float | None, *knobs: Any) -> Update:
        return self._step(visit, int(count or 0), knobs)

    def _step(self, visit: Visit, windows: int, knobs: tuple[Any, ...]) -> Update:
        self._desk.step(visit, read_knobs(knobs), windows)
        return self._scene(visit) | {self._page.report: ""}

    def _in_force(self, visit: Visit) -> Update:
        action = self._desk.in_force(visit)
        values = {knob: getattr(action, name) for knob, name in zip(self._page.knobs, ACTION_FIELDS, strict=True)}
        return values | {self._page.price: ""}

    def _price(self, visit: object, kept: object, *knobs: Any) -> Update:
        """What the change that the knobs stand for would cost; silent while there is no episode or no valid action."""
        try:
            task, before = self._desk.setting(_who(visit, kept))
            text = consequences(task, before, read_knobs(knobs))
        except (ServiceError, LLMServeError):
            text = ""
        return {self._page.price: cards.quiet(text)}

    async def _drive(self, visit: object, kept: object, agent: str, pace: str) -> AsyncIterator[Update]:
        """Step by step under an agent, a picture every few windows, until the end or until the agent is let go."""
        who = _alone(_who(visit, kept))
        driver = None
        try:
            windows, rest_s = PACES[pace]
            driver = await to_thread.run_sync(self._desk.drive, who, agent)
            driven = replace(who, driver=agent, pace=pace)
            yield self._remember(driven) | self._driving(who, on=True) | {self._page.report: ""}
            ended = False
            while not ended:
                began = time.monotonic()
                ended = await to_thread.run_sync(driver.advance, windows)
                scene = await to_thread.run_sync(self._scene, who)
                done, of = driver.observation.step_index, self._desk.length(who)
                if driver.quietly:
                    return
                yield scene | {self._page.step_notice: cards.driving(agent, done, of)}
                await sleep(max(rest_s - (time.monotonic() - began), 0.0))
            if driver.stopped:  # whoever did that has remembered it
                yield self._driving(who, on=False) | {self._page.step_notice: cards.quiet(_STOPPED)}
            else:
                yield self._remember(who) | self._driving(who, on=False)
        except (ServiceError, LLMServeError) as error:
            told = {self._page.step_notice: cards.notice(sentence(error))}
            yield self._remember(who) | self._driving(who, on=False) | told
        finally:
            if driver is not None:
                self._desk.leave(driver)

    def _halt(self, visit: object, kept: object) -> Update:
        """Let the agent go; the driving event then shows it, and this one does where there is none (the server restarted)."""
        who = _alone(_who(visit, kept))
        if self._desk.let_go(who):
            return self._remember(who)
        return self._remember(who) | self._driving(who, on=False) | {self._page.step_notice: cards.quiet(_STOPPED)}

    def _compare(self, visit: Visit, agent: str) -> Update:
        visit = self._desk.compare(visit, agent)
        return self._remember(visit) | self._scene(visit) | {self._page.report: ""}

    def _branch(self, visit: Visit, window: float, then: str, *knobs: Any) -> Update:
        visit = self._desk.branch(visit, int(window), read_knobs(knobs), then)
        runs = self._desk.runs(visit)
        text = cards.quiet(cards.difference(runs[0], runs[-1]))
        return (
            self._remember(visit) | self._scene(visit, runs) | {self._page.branch_notice: text, self._page.report: ""}
        )

    def _adopt(self, visit: Visit) -> Update:
        visit = self._desk.adopt(visit)
        return self._remember(visit) | self._scene(visit) | {self._page.report: ""}

    def _grade(self, visit: Visit) -> Update:
        return {self._page.report: cards.grades(self._desk.grade(visit))}

    def _log(self, visit: Visit) -> Update:
        return {self._page.text: self._desk.log(visit)}

    # -- what is shown

    def _remember(self, visit: Visit) -> Update:
        return {self._page.visit: visit.as_json(), self._page.kept: visit.as_json()}

    def _scene(self, visit: Visit, runs: list[Run] | None = None) -> Update:
        """Everything that shows the runs."""
        runs = self._desk.runs(visit) if runs is None else runs
        task = catalogue_task(runs[0].log.task_id)
        reached = len(runs[0].log.steps)
        return {
            self._page.status: cards.status(task, runs),
            self._page.plots: draw_panels(task, runs),
            self._page.board: cards.scoreboard(runs, task),
            self._page.since: gr.update(maximum=max(reached - 1, 1)),
            self._page.adopt: gr.update(interactive=visit.branch is not None),
            self._page.price: "",
        }

    def _driving(self, visit: Visit, *, on: bool) -> Update:
        """Who may press what while an agent drives: nothing but stop, and what only reads."""
        page = self._page
        idle = gr.update(interactive=not on)
        return dict.fromkeys((page.go, page.one, page.several, page.compare, page.fork), idle) | {
            page.stop: gr.update(interactive=on),
            page.adopt: gr.update(interactive=not on and visit.branch is not None),
        }


def _who(visit: object, kept: object) -> Visit:
    """The visitor's ids: the page's own, else (the server was restarted) those that the browser kept."""
    here = Visit.of(visit)
    return here if here.main else Visit.of(kept)


def _alone(visit: Visit) -> Visit:
    """The visit with nobody but the visitor at the wheel."""
    return replace(visit, driver="", pace="")
