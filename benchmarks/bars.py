"""The claims of the agents' benchmark, as bars: each passes or fails by the numbers of one `EvaluationReport`.

Intervals are those of the report: bootstrap, paired by seed. The module runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from llmserve_agents.evaluation.report import AgentResult, EvaluationReport
from llmserve_agents.evaluation.statistics import Bootstrap, Interval, mean

__all__ = ["RIVALS", "Bar", "bars", "difference", "search_bars", "training_seeds"]

RIVALS: Final = ("random", "best-static", "heuristic", "tuned-heuristic")
"""The agents that a trained policy must beat."""
_LEAST_SCORE: Final = 0.80
_LEAST_BUSY: Final = 0.85
_MEDIAN_ONLY: Final = "static_workload"
"""On this task the claim is made for the median training seed."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One claim and whether the numbers support it."""

    claim: str
    passed: bool | None
    """None: not measured, because an agent of the claim did not take part."""
    found: str
    """The numbers."""

    def __str__(self) -> str:
        verdict = {True: "PASS", False: "FAIL", None: "----"}[self.passed]
        return f"{verdict}  {self.claim}: {self.found}"


def training_seeds(report: EvaluationReport) -> list[str]:
    """Return the labels of the PPO agents: one per training seed, or the shipped one alone."""
    labels = [entry.label for entry in report.agents]
    return [label for label in labels if label.startswith("ppo-seed-")] or [label for label in labels if label == "ppo"]


def difference(report: EvaluationReport, ours: str, theirs: str, task: str) -> Interval:
    """Return the mean paired difference of mean rewards per window."""
    x, y = np.array(report.rewards(ours, task)), np.array(report.rewards(theirs, task))
    bootstrap = Bootstrap([len(x)], resamples=report.resamples, confidence=report.confidence)
    return bootstrap.interval([x - y], mean)


def bars(report: EvaluationReport) -> list[Bar]:
    """Return every bar with its verdict."""
    labels = [entry.label for entry in report.agents]
    trained = training_seeds(report)
    found = [_all_verified(report)]
    for task in report.tasks:
        found += [_beats(report, trained, rival, task, known=rival in labels) for rival in RIVALS]
        found += [_scores(report, task, known="ppo" in labels), _ordered(report, labels, task)]
    return [*found, *_busy(report)]


def search_bars(report: EvaluationReport) -> list[Bar]:
    """Return the bars, with verdicts, of the evaluation that includes the planner and the clairvoyant search."""
    labels = [entry.label for entry in report.agents]
    bound = [_below_the_bound(report, labels, task) for task in report.tasks]
    return [_all_verified(report), *bound, *_busy(report)]


def _busy(report: EvaluationReport) -> list[Bar]:
    if report.timing is None:
        return []
    share = report.timing.cpu_share
    claim = f"processors at least {_LEAST_BUSY:.0%} busy"
    return [Bar(claim, share >= _LEAST_BUSY, f"{share:.0%}; workers {report.timing.occupied_share:.0%} occupied")]


def _all_verified(report: EvaluationReport) -> Bar:
    genuine = sum(row.verified for row in report.overall)
    episodes = sum(row.episodes for row in report.overall)
    return Bar("every episode verified", genuine == episodes, f"{genuine} of {episodes}")


def _beats(report: EvaluationReport, trained: list[str], rival: str, task: str, *, known: bool) -> Bar:
    median = task == _MEDIAN_ONLY
    claim = f"{task}: ppo − {rival} above 0 for {'the median' if median else 'every'} training seed"
    if not known or not trained:
        return Bar(claim, None, "not measured")
    each = {label: difference(report, label, rival, task) for label in trained}
    ordered = sorted(each.values(), key=lambda one: one.value)
    # Of an even number, the lower of the two in the middle.
    judged = [ordered[(len(ordered) - 1) // 2]] if median else ordered
    shown = ", ".join(f"{one.value:+.4f} [{one.low:+.4f}, {one.high:+.4f}]" for one in judged)
    return Bar(claim, all(one.low > 0.0 for one in judged), shown)


def _scores(report: EvaluationReport, task: str, *, known: bool) -> Bar:
    claim = f"{task}: score of ppo at least {_LEAST_SCORE:.2f}"
    score = report.result("ppo", task).score if known else None
    if score is None:
        return Bar(claim, None, "not measured")
    return Bar(claim, score.value >= _LEAST_SCORE, f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]")


def _ordered(report: EvaluationReport, labels: list[str], task: str) -> Bar:
    claim = f"{task}: random < heuristic < ppo, intervals apart"
    names = ("random", "heuristic", "ppo")
    if not set(names) <= set(labels):
        return Bar(claim, None, "not measured")
    rows = [report.result(name, task).reward for name in names]
    apart = all(below.high < above.low for below, above in pairwise(rows))
    return Bar(claim, apart, ", ".join(f"{row.value:.4f} [{row.low:.4f}, {row.high:.4f}]" for row in rows))


def _below_the_bound(report: EvaluationReport, labels: list[str], task: str) -> Bar:
    claim = f"{task}: nobody above the clairvoyant bound"
    if "clairvoyant" not in labels:
        return Bar(claim, None, "not measured")
    bound = report.result("clairvoyant", task)
    others = [report.result(label, task) for label in labels if label != "clairvoyant"]
    best: AgentResult = max(others, key=lambda row: row.reward.value)
    shown = f"{best.agent} {best.reward.value:.4f}, clairvoyant {bound.reward.value:.4f}"
    return Bar(claim, best.reward.value <= bound.reward.value, shown)
