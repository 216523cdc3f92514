"""From logs to charts: which numbers are drawn, and what a backend that measures less leaves out."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from llmserve_server.ui import cards
from llmserve_server.ui.controller import HOLD, PageController
from llmserve_server.ui.panels import Run, charts, draw_panels
from llmserve_server.ui.session_state import SessionState
from llmserve_sim.schema import ACTION_FIELDS, EpisodeLog, ServeAction
from llmserve_sim.tasks import list_tasks, load_task

TASK = load_task("bursty_workload")


@pytest.fixture
def runs(controller: PageController) -> list[Run]:
    """An own episode of six windows, a second agent's and a branch."""
    state = controller.start(SessionState(), TASK.id, "5")
    controller.step(state, ServeAction(batch_cap=64), 3)
    controller.step(state, ServeAction(batch_cap=8, quantization_tier="INT4", priority_routing=True), 3)
    return controller.runs(controller.branch(controller.compare(state, "static"), 2, ServeAction(), HOLD))


def bare(log: EpisodeLog) -> EpisodeLog:
    """The same log from a backend that knows nothing but the base fields."""
    steps = [
        step.model_copy(update={"observation": step.observation.model_copy(update={"metadata": {}})})
        for step in log.steps
    ]
    return log.model_copy(update={"steps": steps})


def test_every_line_has_a_value_for_every_window(runs: list[Run]) -> None:
    for chart in charts(TASK, runs):
        assert {len(line.values) for line in chart.lines} == {6}, chart.title


def test_the_drawn_terms_add_up_to_the_reward(runs: list[Run]) -> None:
    (chart,) = (chart for chart in charts(TASK, runs) if chart.title == "Reward and its terms")
    for i, step in enumerate(runs[0].log.steps):
        assert sum(line.values[i] or 0.0 for line in chart.lines) == pytest.approx(step.observation.reward)


def test_targets_are_the_tasks_own(runs: list[Run]) -> None:
    targets = {chart.title: [target.value for target in chart.targets] for chart in charts(TASK, runs)}
    assert targets["Time to first token"] == [TASK.slo.standard.ttft_s * 1000, TASK.slo.priority.ttft_s * 1000]
    assert targets["Inter-token latency"] == [TASK.slo.standard.tpot_ms, TASK.slo.priority.tpot_ms]


def test_a_branch_is_drawn_from_the_window_where_it_left(runs: list[Run]) -> None:
    (chart,) = (chart for chart in charts(TASK, runs) if chart.title == "Reward so far")
    branch = next(line for line in chart.overlays if line.style == "branch")
    assert branch.values[:2] == [None, None]
    assert None not in branch.values[2:]


def test_what_was_not_measured_is_a_gap_and_not_a_zero(runs: list[Run]) -> None:
    poor = Run("you", "main", bare(runs[0].log))
    lines = {(chart.title, line.name): line.values for chart in charts(TASK, [poor]) for line in chart.lines}
    assert set(lines["GPU memory", "co-tenant"]) == {None}
    assert set(lines["Reward and its terms", "slo"]) == {None}
    assert None not in lines["Load", "all"]
    draw_panels(TASK, [poor])


def test_all_of_it_is_well_formed_and_names_every_knob(runs: list[Run]) -> None:
    html = draw_panels(TASK, runs)
    ET.fromstring(f"<div>{html}</div>")  # noqa: S314 - this project's own text
    for name in ACTION_FIELDS:
        assert f"<span>{name}</span>" in html


@pytest.mark.parametrize("task", list_tasks(), ids=lambda task: task.id)
def test_every_task_has_empty_charts_and_a_card_before_anything_runs(task: object) -> None:
    html = draw_panels(task, []) + cards.task_card(task) + cards.status(task, [])  # type: ignore[arg-type]
    ET.fromstring(f"<div>{html}</div>")  # noqa: S314 - this project's own text


def test_a_picture_of_three_whole_runs_is_small(controller: PageController) -> None:
    state = controller.start(SessionState(), TASK.id, "5")
    controller.step(state, ServeAction(), 120)
    html = draw_panels(
        TASK, controller.runs(controller.branch(controller.compare(state, "static"), 0, ServeAction(batch_cap=9), HOLD))
    )
    assert len(html) < 150_000


def test_the_status_says_where_the_episode_stands(runs: list[Run]) -> None:
    html = cards.status(TASK, runs)
    assert "6<small> of 120</small>" in html
    assert "(train)" in html
    assert 'value="6"' in html


def test_the_scoreboard_compares_the_windows_that_all_runs_have(runs: list[Run]) -> None:
    html = cards.scoreboard(runs, TASK)
    assert "first 6 of 120" in html
    rewards = re.findall(r"<td>([+-]\d+\.\d\d)</td>", html)
    totals = [sum(step.observation.reward for step in run.log.steps[:6]) for run in runs]
    assert rewards == [f"{total:+.2f}" for total in totals]
    assert cards.scoreboard(runs[:1], TASK) == ""


def test_a_branch_is_judged_by_what_it_earned_more_or_less(runs: list[Run]) -> None:
    text = cards.branch_gain(runs[0], runs[2])
    assert re.fullmatch(
        r"Over the 4 windows since, the branch earned \d+\.\d\d (more|less) reward than you did\.", text
    )


def test_a_grade_shows_score_components_references_and_whether_it_was_verified(controller: PageController) -> None:
    state = controller.start(SessionState(), TASK.id, "5")
    controller.step(state, ServeAction(), 4)
    html = cards.grades(controller.grade(state))
    report = controller.grade(state)[0].report
    assert f"<b>{report.score:.3f}</b>" in html
    assert "verified: the replay agrees" in html
    assert "unfinished: 4 of 120 windows" in html
    for name in ("throughput", "quality", "clairvoyant", "best fixed"):
        assert name in html
    assert cards.grades([]) == ""


def test_refusals_are_announced_and_escaped() -> None:
    assert cards.notice("") == ""
    assert cards.notice("<script>") == '<p class="ls-notice" role="alert">&lt;script&gt;</p>'
