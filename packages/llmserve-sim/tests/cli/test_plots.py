"""Pictures are drawn from logs alone, and refuse what cannot be drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="needs the extra cli")

from llmserve_sim.cli.summary import summarise
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.plots import draw_comparison, draw_timeline
from llmserve_sim.policies import RandomPolicy
from llmserve_sim.schema import EpisodeLog

PNG = b"\x89PNG\r\n\x1a\n"


def _log(seed: int, windows: int = 6) -> EpisodeLog:
    env, policy = ServingEnv("bursty_workload"), RandomPolicy()
    observation = env.reset(seed)
    policy.reset("bursty_workload", seed)
    for _ in range(windows):
        observation = env.step(policy.act(observation))
    return env.episode_log()


def test_a_timeline_and_a_comparison_become_pngs(tmp_path: Path) -> None:
    draw_timeline(_log(1), tmp_path / "timeline.png", window_s=5.0)
    draw_comparison({"a": _log(1), "b": _log(2)}, tmp_path / "two.png", window_s=5.0, title="Two")
    assert (tmp_path / "timeline.png").read_bytes().startswith(PNG)
    assert (tmp_path / "two.png").read_bytes().startswith(PNG)


def test_a_log_without_steps_cannot_be_drawn_or_summarised(tmp_path: Path) -> None:
    empty = _log(1, windows=0)
    with pytest.raises(InvalidInputError, match=r"log\.steps"):
        draw_timeline(empty, tmp_path / "x.png", window_s=5.0)
    with pytest.raises(InvalidInputError, match=r"log\.steps"):
        summarise(empty, window_s=5.0)
    with pytest.raises(InvalidInputError, match="logs"):
        draw_comparison({}, tmp_path / "x.png", window_s=5.0, title="None")


def test_a_picture_of_an_unknown_kind_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="png"):
        draw_timeline(_log(1), tmp_path / "x.nothing", window_s=5.0)


def test_the_summary_adds_up_to_what_the_log_says() -> None:
    log = _log(3)
    rows = {row.label: row for row in summarise(log, window_s=5.0)}
    seen = [step.observation for step in log.steps]
    assert rows["reward per window"].value == pytest.approx(sum(o.reward for o in seen) / len(seen))
    assert rows["requests arrived"].value == pytest.approx(sum(o.request_arrival_rate for o in seen) * 5)
    terms = sum(row.value for label, row in rows.items() if label.startswith("  of it"))
    assert terms == pytest.approx(rows["reward per window"].value)
    due = sum(o.metadata["window"]["due_requests"] for o in seen)
    met = sum(o.slo_compliance_rate * o.metadata["window"]["due_requests"] for o in seen)
    assert rows["SLO compliance"].value == pytest.approx(100 * met / due if due else 100)


def test_the_summary_accounts_for_every_request_that_arrived() -> None:
    log = _log(3)
    rows = {row.label.strip(): row.value for row in summarise(log, window_s=5.0)}
    fates = [rows[name] for name in ("finished", "abandoned", "rejected", "unfinished")]
    assert sum(fates) == pytest.approx(rows["requests arrived"])
    assert rows["unfinished"] > 0


def test_a_log_without_extended_figures_still_says_what_was_left_over() -> None:
    log = _log(3)
    bare = [
        step.model_copy(update={"observation": step.observation.model_copy(update={"metadata": {}})})
        for step in log.steps
    ]
    rows = {row.label.strip(): row.value for row in summarise(log.model_copy(update={"steps": bare}), window_s=5.0)}
    last = log.steps[-1].observation
    assert rows["unfinished"] == last.queue_depth + last.active_requests
    assert "finished" not in rows
