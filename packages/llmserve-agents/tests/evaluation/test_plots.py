"""Pictures: drawn from reports and logs, and refused where there is nothing to draw."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmserve_agents.evaluation.ablation_report import AblationReport, KnobValue
from llmserve_agents.evaluation.episodes import record_episode
from llmserve_agents.evaluation.plots import draw_knob_values, draw_scores, draw_timeline
from llmserve_agents.evaluation.report import Estimate
from llmserve_agents.evaluation.roster import parse_agent
from llmserve_agents.evaluation.runner import run
from llmserve_agents.executors import SerialExecutor
from llmserve_agents.learning.curves import Curve, draw_learning_curves
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import ACTION_FIELDS

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'llmserve-agents[plot]'")
TASK = "bursty_workload"


def is_png(path: Path) -> bool:
    """Whether a picture was written, and not an empty one."""
    content = path.read_bytes()
    return content.startswith(b"\x89PNG") and len(content) > 5000


def test_scores_are_drawn_for_every_task_and_rewards_where_there_are_none(tmp_path: Path) -> None:
    report = run(["static", "random"], [TASK, "azure_code"], 2, executor=SerialExecutor(), resamples=100)
    unscored = [
        row.model_copy(update={"score": None}) if row.task_id == "azure_code" else row for row in report.standings
    ]
    report = report.model_copy(update={"standings": unscored})
    draw_scores(report, tmp_path / "scores.png")
    assert is_png(tmp_path / "scores.png")


def test_the_timeline_shows_one_agent_or_two(tmp_path: Path) -> None:
    logs = {name: record_episode(parse_agent(name), TASK, 2_000_000) for name in ("heuristic", "random")}
    draw_timeline(logs, tmp_path / "two.png", window_s=5.0)
    draw_timeline({"heuristic": logs["heuristic"]}, tmp_path / "one.png", window_s=5.0, title="one")
    assert is_png(tmp_path / "two.png")
    assert is_png(tmp_path / "one.png")
    with pytest.raises(InvalidInputError, match="one or two"):
        draw_timeline(logs | {"third": logs["random"]}, tmp_path / "no.png", window_s=5.0)
    with pytest.raises(InvalidInputError, match="one task and seed"):
        draw_timeline(
            {"a": logs["random"], "b": record_episode(parse_agent("random"), TASK, 1)},
            tmp_path / "no.png",
            window_s=5.0,
        )
    assert not (tmp_path / "no.png").exists()


def test_learning_curves_have_a_line_per_seed_and_may_end_at_different_steps(tmp_path: Path) -> None:
    runs = [Curve("0", [1000, 2000, 3000], [0.1, 0.4, 0.5]), Curve("1", [1000, 2500], [0.2, 0.4])]
    draw_learning_curves({TASK: runs}, tmp_path / "curves.png", levels={TASK: {"best fixed": 0.45}})
    assert is_png(tmp_path / "curves.png")
    with pytest.raises(InvalidInputError, match="curves"):
        draw_learning_curves({TASK: []}, tmp_path / "no.png")


def test_knob_values_are_drawn(tmp_path: Path) -> None:
    some = Estimate(value=0.1, low=0.05, high=0.15)
    values = [
        KnobValue(task_id=TASK, knob=knob, default=0, best=1, candidates={"0": 0.0}, level=some, dynamic=some)
        for knob in ACTION_FIELDS
    ]
    report = AblationReport(
        agent="ppo",
        tasks=[TASK],
        seeds={TASK: [1]},
        search_seeds={TASK: [2]},
        free={TASK: some},
        values=values,
        confidence=0.95,
        resamples=100,
        versions={},
        command=None,
    )
    draw_knob_values(report, tmp_path / "knobs.png")
    assert is_png(tmp_path / "knobs.png")
    with pytest.raises(InvalidInputError, match="png"):
        draw_knob_values(report, tmp_path / "missing" / "knobs.png")
