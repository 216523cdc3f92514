"""The tables and lines of `llmserve evaluate` and `llmserve ablate`, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from llmserve_agents.evaluation.ablation_report import AblationReport
from llmserve_agents.evaluation.report import AgentResult, Comparison, Estimate, EvaluationReport, Overall

__all__ = ["ablation_tables", "result_tables", "summary_lines", "timing_line"]


def result_tables(report: EvaluationReport) -> Iterator[Table]:
    """Yield one table per task, and one over all tasks if there are several."""
    for task in report.tasks:
        rows = [row for row in report.standings if row.task_id == task]
        yield _table(report, f"{task}, {_episodes(rows[0].episodes)}", rows)
    if len(report.tasks) > 1:
        yield _table(report, f"all tasks, {_episodes(report.overall[0].episodes)}", report.overall)


def summary_lines(report: EvaluationReport) -> Iterator[str]:
    """Yield lines on loaded weights, agents that were left out, and episodes that did not replay."""
    for entry in report.agents:
        for task, used in entry.weights.items():
            known = [f"training seed {used.seed}" if used.seed is not None else "", _steps(used.steps)]
            yield f"{entry.label}, {task}: {used.path} ({', '.join(filter(None, known)) or 'no card'})"
    for name, reason in report.skipped.items():
        yield f"left out: {name}: {reason}"
    for episode in report.episodes:
        if episode.reason:
            yield f"{episode.agent}, {episode.task_id}, seed {episode.seed}: {episode.reason}"


def ablation_tables(report: AblationReport) -> Iterator[Table]:
    """Yield one table per task: the value of each knob as a constant, and as a choice."""
    for task in report.tasks:
        title = f"{task}, {report.agent}, {_episodes(len(report.seeds[task]))}"
        table = Table(title=Text(title, style="table.title"), box=SIMPLE_HEAD)
        table.add_column("knob", overflow="fold")
        for column in ("best constant", "best − default", "free − best"):
            table.add_column(column, justify="right")
        for row in report.values:
            if row.task_id == task:
                table.add_row(
                    row.knob, str(row.best), _interval(row.level, signed=True), _interval(row.dynamic, signed=True)
                )
        free = report.free[task]
        table.caption = (
            f"mean reward per window, {report.confidence:.0%} intervals, paired by seed; "
            f"the agent as it is: {free.value:.3f}"
        )
        yield table


def timing_line(report: EvaluationReport) -> str:
    """Return a line on the time of the evaluation and the use of the processors."""
    timing = report.timing
    assert timing is not None
    return (
        f"{_episodes(len(report.episodes))}, run and replayed, in {timing.wall_s:.1f} s by {timing.workers} workers "
        f"({timing.executor}); processors {timing.cpu_share:.0%} busy, workers {timing.occupied_share:.0%} occupied"
    )


def _table(report: EvaluationReport, title: str, rows: list[AgentResult] | list[Overall]) -> Table:
    first = report.agents[0].label
    table = Table(title=Text(title, style="table.title"), box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("agent", overflow="fold", min_width=15)
    widths = {"reward": 6, "score": 12, "IQM": 5, "reward\n− first": 14, "wins": 4, "verified": 8}
    for column, width in widths.items():  # so that in 80 columns names are folded and no number is cut
        table.add_column(column, justify="right", no_wrap=True, min_width=width)
    for row in rows:
        table.add_row(
            row.agent,
            f"{row.reward.value:.3f}",
            _interval(row.score),
            "none" if row.score_iqm is None else f"{row.score_iqm.value:.3f}",
            *_versus(row.versus_first),
            Text(
                f"{row.verified}/{row.episodes}",
                style="" if row.verified == row.episodes else "bold red",
            ),
        )
    table.caption = (
        "score 0 random, 0.5 best fixed configuration, 1 clairvoyant; "
        f"{report.confidence:.0%} intervals, paired by seed"
    )
    if len(report.agents) > 1:
        table.caption += f"; first: {first}"
    if clipped := ", ".join(f"{row.agent} {row.clipped}/{row.episodes}" for row in rows if row.clipped):
        table.caption += f"; scores clipped: {clipped}"
    if report.provisional_references:
        table.caption += "; provisional references"
    return table


def _versus(found: Comparison | None) -> tuple[str, str]:
    return ("", "") if found is None else (_interval(found.reward, signed=True), f"{found.win_rate:.0%}")


def _interval(found: Estimate | None, *, signed: bool = False) -> str:
    if found is None:
        return "none"
    form = "+.3f" if signed else ".3f"
    return f"{found.value:{form}}\n{found.low:{form}}..{found.high:{form}}"


def _episodes(count: int) -> str:
    return f"{count} episode" if count == 1 else f"{count} episodes"


def _steps(steps: int | None) -> str:
    return "" if steps is None else f"{steps:,} training windows"
