"""The table and the summary lines of `llmserve baseline`, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from llmserve_agents.evaluation.baseline_report import BaselineReport

__all__ = ["episode_table", "summary_lines"]


def episode_table(report: BaselineReport) -> Table:
    """Return a table with a row per task and a column per agent: mean score and mean reward; last, the verdicts."""
    title = f"Baseline, {report.mode}, {report.base_url or report.runtime}" + (
        f", {report.model}" if report.model else ""
    )
    table = Table(title=Text(title, style="table.title"), box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("task", overflow="fold")
    for summary in report.agents:
        table.add_column(summary.agent, justify="right")
    for task in report.tasks:
        cells = [(summary.task_scores[task], summary.task_rewards[task]) for summary in report.agents]
        table.add_row(task, *(f"{_number(score)}\n({reward:.3f})" for score, reward in cells))
    means = [(summary.mean_score, summary.mean_reward) for summary in report.agents]
    table.add_row("mean", *(f"{_number(score)}\n({reward:.3f})" for score, reward in means), style="bold")
    table.add_row("verified", *(_verdict(report, summary.agent) for summary in report.agents))
    table.caption = (
        "mean score in 0..1 (mean reward per window) · 0 random, 0.5 best fixed configuration, 1 clairvoyant"
    )
    if report.provisional_references:
        table.caption += " · provisional references"
    return table


def summary_lines(report: BaselineReport) -> Iterator[str]:
    """Yield lines on a model's requests, tokens, cost and failures, and on episodes without a score or a verdict."""
    for summary in report.agents:
        usages = [episode.usage for episode in report.episodes if episode.usage and episode.agent == summary.agent]
        if usages:
            cost = (
                "unknown (no price, or no token counts)" if summary.cost_usd is None else f"{summary.cost_usd:.4f} USD"
            )
            yield (
                f"{summary.requests} requests, {summary.prompt_tokens} prompt and {summary.completion_tokens} "
                f"completion tokens, cost {cost}"
            )
            yield f"invalid actions: {summary.invalid_actions}, failed requests: {summary.failed_requests}"
            yield f"response format: {usages[-1].response_format}"
            yield from (f"the endpoint refused {given_up}" for given_up in usages[-1].concessions)
    for episode in report.episodes:
        if episode.reason:
            yield f"{episode.agent}, {episode.task_id}, seed {episode.seed}: {episode.reason}"


def _verdict(report: BaselineReport, agent: str) -> Text:
    verdicts = [episode.verified for episode in report.episodes if episode.agent == agent]
    if False in verdicts:
        return Text("NO", style="bold red")
    return Text("no replay" if None in verdicts else "yes")


def _number(score: float | None) -> str:
    return "none" if score is None else f"{score:.3f}"
