"""The agents' benchmark: bars judged by the numbers, tables placed between markers, a contradiction noticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.agents import disagreements, learning_curves, learning_levels, line_up, main
from benchmarks.bars import Bar, bars, difference, search_bars
from benchmarks.results import placed, readme_section, whole_section

from llmserve_agents.evaluation.report import AgentEntry, EpisodeScore, EvaluationReport
from llmserve_agents.evaluation.statistics import Bootstrap
from llmserve_agents.evaluation.summary import summarize
from llmserve_agents.policy import make_agent
from llmserve_agents.references import run_agent
from llmserve_sim.tasks.registry import catalogue_task

STATIC, BURSTY = "static_workload", "bursty_workload"
LEVELS = {
    "ppo": 0.70,
    "ppo-seed-0": 0.70,
    "ppo-seed-1": 0.69,
    "ppo-seed-2": 0.71,
    "tuned-heuristic": 0.66,
    "heuristic": 0.60,
    "best-static": 0.64,
    "random": 0.01,
    "clairvoyant": 0.75,
}


def made(levels: dict[str, float], *, episodes: int = 40, scores: float = 0.85) -> EvaluationReport:
    """A report in which agents earn their level, give or take the traffic and a little of their own."""
    found = [
        EpisodeScore(
            agent=label,
            task_id=task,
            seed=seed,
            split="test",
            steps=120,
            complete=True,
            verified=True,
            reason=None,
            score=scores,
            mean_reward=level + 0.01 * (seed % 5 - 2) + 0.0006 * ((seed * (place + 2)) % 11 - 5),
            components={},
            changes={},
        )
        for task in (STATIC, BURSTY)
        for place, (label, level) in enumerate(levels.items())
        for seed in range(episodes)
    ]
    return summarize(
        found,
        agents=[AgentEntry(label=label, spec=label) for label in levels],
        seeds={task: list(range(episodes)) for task in (STATIC, BURSTY)},
        bootstrap=Bootstrap([episodes, episodes], resamples=500),
        skipped={},
        command="made up",
        timing=None,
    )


def verdicts(report: EvaluationReport) -> dict[str, bool | None]:
    """By claim: whether it is met."""
    return {bar.claim: bar.passed for bar in bars(report)}


def test_all_bars_pass_where_the_numbers_are_good() -> None:
    found = verdicts(made(LEVELS))
    assert len(found) == 1 + 2 * 6
    assert set(found.values()) == {True}
    assert {bar.passed for bar in search_bars(made(LEVELS))} == {True}


def test_one_weak_training_seed_fails_where_every_seed_has_to_win_and_not_where_the_median_has() -> None:
    found = verdicts(made(LEVELS | {"ppo-seed-1": 0.65}))
    assert found[f"{BURSTY}: ppo − tuned-heuristic above 0 for every training seed"] is False
    assert found[f"{BURSTY}: ppo − best-static above 0 for every training seed"] is True
    assert found[f"{STATIC}: ppo − tuned-heuristic above 0 for the median training seed"] is True


def test_a_low_score_a_lost_order_and_an_agent_above_the_bound_fail() -> None:
    report = made(LEVELS | {"heuristic": 0.80}, scores=0.79)
    found = verdicts(report) | {bar.claim: bar.passed for bar in search_bars(report)}
    assert found[f"{STATIC}: score of ppo at least 0.80"] is False
    assert found[f"{STATIC}: random < heuristic < ppo, intervals apart"] is False
    assert found[f"{STATIC}: nobody above the clairvoyant bound"] is False


def test_what_nobody_took_part_in_is_not_measured_rather_than_passed() -> None:
    found = verdicts(made({"heuristic": 0.6, "random": 0.0}))
    assert set(found.values()) == {True, None}
    assert str(Bar("claim", None, "not measured")) == "----  claim: not measured"


def test_differences_are_paired_between_any_two() -> None:
    found = difference(made(LEVELS), "ppo", "heuristic", BURSTY)
    assert found.value == pytest.approx(0.10, abs=0.002)
    assert found.high - found.low < 0.004


def test_tables_are_placed_between_the_markers_and_nothing_else_changes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results:begin -->\nold\n<!-- results:end -->\nafter\n", encoding="utf-8")
    report = made(LEVELS)
    text = placed(page, readme_section(report))
    assert text.startswith("before\n<!-- results:begin -->\nMean score over 40 test seeds")
    assert text.endswith("\n<!-- results:end -->\nafter\n")
    assert "old" not in text
    assert "| `ppo` | 0.850 [0.850, 0.850] |" in text
    assert "ppo-seed-0" not in text
    page.write_text(text, encoding="utf-8")
    assert placed(page, readme_section(report)) == text
    assert "`ppo-seed-2`" in whole_section(report)
    page.write_text("no markers", encoding="utf-8")
    with pytest.raises(ValueError, match="results:begin"):
        placed(page, "section")


def test_agents_that_search_have_a_table_of_their_own_and_a_place_in_the_command() -> None:
    searches = made({"ppo": 0.70, "planner": 0.68, "clairvoyant": 0.75}, episodes=20)
    section = readme_section(made(LEVELS), searches)
    assert "the first 20 of these seeds" in section
    assert "| `planner` |" in section
    assert "`nox -s benchmark -- --searches 20`" in section
    everywhere = made({"ppo": 0.70, "planner": 0.68, "clairvoyant": 0.75}, episodes=100)
    section = readme_section(made(LEVELS, episodes=100), everywhere)
    assert "the same seeds" in section
    assert "--searches" not in section
    assert "`nox -s benchmark -- --searches 0`" in readme_section(made(LEVELS))
    assert "`planner`" in whole_section(made(LEVELS), [], searches)


def test_a_run_with_fewer_seeds_contradicts_only_what_is_far_off() -> None:
    few = {label: level for label, level in LEVELS.items() if label != "clairvoyant"}
    fewer = made(few, episodes=20)
    assert disagreements(fewer, made(few)) == []
    found = disagreements(fewer, made(few | {"ppo": 0.60}))
    assert len(found) == 2
    assert "ppo, static_workload: committed 0." in found[0]


def test_learning_curves_are_read_by_training_seed(tmp_path: Path) -> None:
    for seed, points in (("0", [[100, 0.1], [200, 0.4]]), ("1", [[100, 0.2]])):
        folder = tmp_path / BURSTY / "seeds" / seed
        folder.mkdir(parents=True)
        (folder / "learning.json").write_text(json.dumps({"points": points}), encoding="utf-8")
    found = learning_curves([BURSTY, STATIC], tmp_path)
    assert list(found) == [BURSTY]
    assert [(list(curve.steps), list(curve.values)) for curve in found[BURSTY]] == [
        ([100, 200], [0.1, 0.4]),
        ([100], [0.2]),
    ]


def test_agents_beside_a_learning_curve_play_the_seeds_of_the_curve(tmp_path: Path) -> None:
    for seed in ("0", "1"):
        folder = tmp_path / BURSTY / "seeds" / seed
        folder.mkdir(parents=True)
        (folder / "card.json").write_text(json.dumps({"validation_seeds": [1_000_000, 1_000_002]}), encoding="utf-8")
    played = run_agent(catalogue_task(BURSTY), [1_000_000, 1_000_001], make_agent("static")).values.mean()
    assert learning_levels(BURSTY, ["static"], tmp_path) == {"static": played}
    (folder / "card.json").write_text(json.dumps({"validation_seeds": [1_000_000, 1_000_008]}), encoding="utf-8")
    with pytest.raises(ValueError, match="the same validation seeds"):
        learning_levels(BURSTY, ["static"], tmp_path)


def test_everyone_who_can_run_takes_part_unless_left_out() -> None:
    agents, skipped = line_up([BURSTY], ["random"])
    assert "heuristic" in agents
    assert "random" not in agents
    assert "random" in skipped


def test_the_benchmark_writes_what_its_quick_form_then_finds_unchanged(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/results.md"):
        (tmp_path / name).write_text("<!-- results:begin -->\n<!-- results:end -->\n", encoding="utf-8")
    others = ["ppo", "tuned-heuristic", "best-static", "threshold"]
    places = ["--out", str(tmp_path / "results"), "--pages", str(tmp_path), "--executor", "serial"]
    skip = [*(word for name in others for word in ("--skip", name)), "--searches", "0"]
    assert main(["--episodes", "2", "--task", BURSTY, *skip, *places]) in {0, 1}  # its processors may be busy elsewhere
    assert {"benchmark.json", "scores.png", f"timeline-{BURSTY}.png"} <= {
        p.name for p in (tmp_path / "results").iterdir()
    }
    assert main(["--quick", *places]) == 0
    page = tmp_path / "docs" / "results.md"
    page.write_text(page.read_text(encoding="utf-8").replace("0.", "0.9", 1), encoding="utf-8")
    assert main(["--quick", *places]) == 1
