"""Summarizes the episodes of an evaluation: means, intervals and comparisons, in one `EvaluationReport`.

All intervals come from one bootstrap, whose draws are the same for every agent; see `statistics.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from llmserve_agents.__about__ import __version__
from llmserve_agents.evaluation.report import (
    AgentEntry,
    AgentResult,
    Comparison,
    EpisodeScore,
    Estimate,
    EvaluationReport,
    Overall,
    Timing,
)
from llmserve_agents.evaluation.statistics import Bootstrap, Interval, iqm, mean, win_rate
from llmserve_sim.__about__ import __version__ as simulator_version
from llmserve_sim.configuration import Configurator
from llmserve_sim.references import load_references
from llmserve_sim.tasks.registry import catalogue_task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["estimate", "summarize"]


def summarize(
    episodes: Sequence[EpisodeScore],
    *,
    agents: Sequence[AgentEntry],
    seeds: dict[str, list[int]],
    bootstrap: Bootstrap,
    skipped: dict[str, str],
    command: str,
    timing: Timing | None,
) -> EvaluationReport:
    """Return the report on `episodes`, ordered by task, agent and seed; `bootstrap` has one stratum per task."""
    tasks, labels = list(seeds), [entry.label for entry in agents]
    by_pair: dict[tuple[str, str], list[EpisodeScore]] = {}
    for episode in episodes:
        by_pair.setdefault((episode.agent, episode.task_id), []).append(episode)
    rows: list[AgentResult] = []
    for task in tasks:
        alone = Bootstrap([len(seeds[task])], resamples=bootstrap.resamples, confidence=bootstrap.confidence)
        first = by_pair[labels[0], task]
        rows += [_result(by_pair[label, task], None if label == labels[0] else first, alone) for label in labels]
    strata = {label: [by_pair[label, task] for task in tasks] for label in labels}
    found = {task: load_references(task, Configurator.build(catalogue_task(task), None).digest) for task in tasks}
    references = {task: known for task, known in found.items() if known is not None}
    return EvaluationReport(
        agents=list(agents),
        tasks=tasks,
        seeds=seeds,
        standings=rows,
        overall=[
            _overall(strata[label], None if label == labels[0] else strata[labels[0]], bootstrap) for label in labels
        ],
        episodes=list(episodes),
        verified=all(episode.verified is True for episode in episodes),
        skipped=skipped,
        references=references,
        confidence=bootstrap.confidence,
        resamples=bootstrap.resamples,
        versions={"llmserve-agents": __version__, "llmserve-sim": simulator_version},
        command=command,
        timing=timing,
    )


def _result(mine: Sequence[EpisodeScore], first: Sequence[EpisodeScore] | None, bootstrap: Bootstrap) -> AgentResult:
    rewards, scores = _rewards(mine), _scores(mine)
    return AgentResult(
        agent=mine[0].agent,
        task_id=mine[0].task_id,
        episodes=len(mine),
        verified=_verified(mine),
        reward=estimate(bootstrap.interval([rewards], mean)),
        reward_iqm=estimate(bootstrap.interval([rewards], iqm)),
        score=None if scores is None else estimate(bootstrap.interval([scores], mean)),
        score_iqm=None if scores is None else estimate(bootstrap.interval([scores], iqm)),
        components=_means([episode.components for episode in mine]),
        changes=_means([episode.changes for episode in mine]),
        versus_first=None if first is None else _comparison([mine], [first], bootstrap),
        clipped=_clipped(mine),
    )


def _overall(
    mine: Sequence[Sequence[EpisodeScore]], first: Sequence[Sequence[EpisodeScore]] | None, bootstrap: Bootstrap
) -> Overall:
    everything = [episode for stratum in mine for episode in stratum]
    scores = _strata_of_scores(mine)
    return Overall(
        agent=everything[0].agent,
        episodes=len(everything),
        verified=_verified(everything),
        reward=estimate(bootstrap.interval([_rewards(stratum) for stratum in mine], mean)),
        score=None if scores is None else estimate(bootstrap.interval(scores, mean)),
        score_iqm=None if scores is None else estimate(bootstrap.interval(scores, iqm)),
        versus_first=None if first is None else _comparison(mine, first, bootstrap),
        clipped=_clipped(everything),
    )


def _comparison(
    mine: Sequence[Sequence[EpisodeScore]], first: Sequence[Sequence[EpisodeScore]], bootstrap: Bootstrap
) -> Comparison:
    ours, theirs = [_rewards(stratum) for stratum in mine], [_rewards(stratum) for stratum in first]
    our_scores, their_scores = _strata_of_scores(mine), _strata_of_scores(first)
    scored = our_scores is not None and their_scores is not None
    return Comparison(
        reward=estimate(bootstrap.interval(_differences(ours, theirs), mean)),
        score=estimate(bootstrap.interval(_differences(our_scores or [], their_scores or []), mean))
        if scored
        else None,
        win_rate=win_rate(np.concatenate(ours), np.concatenate(theirs)),
        improvement=estimate(bootstrap.improvement(ours, theirs)),
    )


def _differences(ours: Sequence[Floats], theirs: Sequence[Floats]) -> list[Floats]:
    return [x - y for x, y in zip(ours, theirs, strict=True)]


def _rewards(episodes: Sequence[EpisodeScore]) -> Floats:
    return np.array([episode.mean_reward for episode in episodes])


def _scores(episodes: Sequence[EpisodeScore]) -> Floats | None:
    """Return the scores, or None if an episode has none: agents are compared on the same episodes only."""
    scores = [episode.score for episode in episodes if episode.score is not None]
    return np.array(scores) if len(scores) == len(episodes) else None


def _strata_of_scores(strata: Sequence[Sequence[EpisodeScore]]) -> list[Floats] | None:
    found = [scores for stratum in strata if (scores := _scores(stratum)) is not None]
    return found if len(found) == len(strata) else None


def _verified(episodes: Sequence[EpisodeScore]) -> int:
    return sum(episode.verified is True for episode in episodes)


def _clipped(episodes: Sequence[EpisodeScore]) -> int | None:
    known = [episode.clipped for episode in episodes if episode.clipped is not None]
    return sum(known) if known else None


def _means(rows: Sequence[dict[str, float]] | Sequence[dict[str, int]]) -> dict[str, float]:
    names = {name: None for row in rows for name in row}
    return {name: fmean(row.get(name, 0.0) for row in rows) for name in names}


def estimate(interval: Interval) -> Estimate:
    """Return an interval as it stands in a report."""
    return Estimate(value=interval.value, low=interval.low, high=interval.high)
