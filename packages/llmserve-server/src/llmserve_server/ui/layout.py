"""`Layout`: the tab's cards and components. What they do is in `handlers.py`.

The knobs are made from `ACTION_FIELDS`, so their bounds, units and meanings are those that the server enforces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import gradio as gr

from llmserve_server.ui import cards
from llmserve_server.ui.controller import HOLD, REPEAT
from llmserve_server.ui.knobs import explain, slider_step
from llmserve_server.ui.panels import draw_panels
from llmserve_sim.schema import ACTION_FIELDS, ActionField
from llmserve_sim.tasks import Task

__all__ = ["PACES", "Layout"]

PACES: Final[Mapping[str, tuple[int, float]]] = {"watch": (1, 0.25), "brisk": (4, 0.25), "at once": (40, 0.0)}
"""Paces of the autopilot, by name: windows between two redraws, and the minimum time between them in seconds."""
_STORAGE: Final = "llmserve-visit"
"""Key and secret of the browser's storage. Visitors have episodes under this name: a new name would lose them."""


class Layout:
    """The components. Construct it inside a `gr.Blocks`.

    Args:
        tasks: the tasks that can be started; the first is selected.
        agents: the agents that can drive.
        usable_agents: those whose weights are there; the last is selected, and the one before it as the second agent.
    """

    def __init__(self, tasks: Sequence[Task], agents: Sequence[str], usable_agents: Sequence[str]) -> None:
        self._tasks = tasks
        self._agents = [*agents]
        self._first_agent, self._second_agent = usable_agents[-1], usable_agents[-2]
        self.state = gr.State({})
        self.stored = gr.BrowserState({}, storage_key=_STORAGE, secret=_STORAGE)
        gr.HTML(cards.header())
        with gr.Column(elem_classes="ls-page"), gr.Row(elem_classes="ls-main"):
            with gr.Column(elem_classes="ls-side"):
                self._build_start()
                self._build_knobs()
            with gr.Column(elem_classes="ls-view"):
                self._build_controls()
                self.plots = gr.HTML(draw_panels(tasks[0], []), elem_id="ls-plots")
                with gr.Row(elem_classes="ls-more"):
                    self._build_compare()
                    self._build_branch()
                    self._build_grade()

    def _build_start(self) -> None:
        with gr.Column(elem_classes="ls-card"):
            gr.HTML("<h2>Episode</h2><p>A task is traffic, a fleet and targets. The seed is the day.</p>")
            choices = [(f"{task.name} ({task.difficulty})", task.id) for task in self._tasks]
            self.task = gr.Dropdown(choices, value=self._tasks[0].id, label="Task", elem_id="ls-task", filterable=False)
            self.seed = gr.Textbox(
                label="Seed", placeholder="empty: one is drawn", max_lines=1, max_length=20, elem_id="ls-seed"
            )
            self.start = gr.Button("Start an episode", variant="primary", elem_id="ls-start")
            self.start_notice = gr.HTML()
            self.about = gr.HTML(cards.task_card(self._tasks[0]))

    def _build_knobs(self) -> None:
        with gr.Column(elem_classes="ls-card"):
            gr.HTML("<h2>Knobs</h2><p>The configuration of the next window.</p>")
            self.knobs = [_control(field) for field in ACTION_FIELDS.values()]
            self.change_cost = gr.HTML()
            self.back = gr.Button("Set the knobs to what is in force", size="sm", elem_id="ls-in-force")
            self.knob_notice = gr.HTML()

    def _build_controls(self) -> None:
        with gr.Column(elem_classes="ls-card ls-wheel"):
            self.status = gr.HTML(cards.status(self._tasks[0], []), elem_id="ls-status")
            with gr.Row(elem_classes="ls-controls"):
                self.one = gr.Button("Step", variant="primary", elem_id="ls-step", min_width=84)
                self.several = gr.Button("Step several", elem_id="ls-step-several", min_width=120)
                self.count = gr.Number(10, label="Windows", precision=0, elem_id="ls-count", min_width=76)
                self.agent = gr.Dropdown(
                    self._agents,
                    value=self._first_agent,
                    label="Agent",
                    elem_id="ls-agent",
                    filterable=False,
                    min_width=120,
                )
                self.pace = gr.Dropdown(
                    list(PACES), value="watch", label="Pace", elem_id="ls-pace", filterable=False, min_width=100
                )
                self.go = gr.Button("Start autopilot", variant="primary", elem_id="ls-go", min_width=132)
                self.stop = gr.Button("Stop", interactive=False, elem_id="ls-stop", min_width=72)
            self.step_notice = gr.HTML(elem_id="ls-step-notice")

    def _build_compare(self) -> None:
        with gr.Column(elem_classes="ls-card"):
            gr.HTML("<h2>Compare</h2><p>A second agent meets the same requests, a whole episode long.</p>")
            self.rival = gr.Dropdown(
                self._agents, value=self._second_agent, label="Second agent", elem_id="ls-rival", filterable=False
            )
            self.compare = gr.Button("Compare on the same traffic", elem_id="ls-compare")
            self.compare_notice = gr.HTML()
            self.scoreboard = gr.HTML(elem_id="ls-board")

    def _build_branch(self) -> None:
        with gr.Column(elem_classes="ls-card"):
            gr.HTML("<h2>What if I had…</h2><p>…set the knobs as they stand now, after some window?</p>")
            self.since = gr.Slider(
                0, 1, value=0, step=1, label="Branch after window", buttons=[], elem_id="ls-since", interactive=True
            )
            then = [("hold these knobs", HOLD), ("then do as I did", REPEAT)]
            then += [(f"then {agent} drives", agent) for agent in self._agents]
            self.then = gr.Dropdown(then, value=HOLD, label="Afterwards", elem_id="ls-then", filterable=False)
            with gr.Row(elem_classes="ls-buttons"):
                self.fork = gr.Button("Branch", elem_id="ls-fork")
                self.adopt = gr.Button("Go on in the branch", interactive=False, elem_id="ls-adopt")
            self.branch_notice = gr.HTML(elem_id="ls-branch")

    def _build_grade(self) -> None:
        with gr.Column(elem_classes="ls-card"):
            gr.HTML("<h2>Grade and log</h2><p>The grader replays the log and compares every observation.</p>")
            with gr.Row(elem_classes="ls-buttons"):
                self.judge = gr.Button("Grade", elem_id="ls-judge")
                self.save = gr.Button("Download the log", elem_id="ls-save")
            self.grade_notice = gr.HTML()
            self.report = gr.HTML(elem_id="ls-report")
            self.text = gr.Textbox(visible="hidden", label="log")


def _control(field: ActionField) -> gr.Slider | gr.Radio | gr.Checkbox:
    """Return the component of one knob."""
    common: dict[str, Any] = {
        "label": field.name,
        "info": explain(field),
        "elem_classes": "ls-knob",
        "elem_id": f"ls-{field.name}",
    }
    if field.kind == "bool":
        return gr.Checkbox(bool(field.default), **common)
    if field.kind == "enum":
        return gr.Radio(list(field.choices), value=str(field.default), **common)
    bounds: dict[str, Any] = {"minimum": field.low, "maximum": field.high, "value": field.default}
    return gr.Slider(**bounds, step=slider_step(field), buttons=[], **common)
