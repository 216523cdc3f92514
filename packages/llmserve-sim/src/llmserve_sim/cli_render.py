"""The command's tables, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from llmserve_sim.cli_summary import summarise
from llmserve_sim.schema import EpisodeLog, GradeReport
from llmserve_sim.tasks import Task

__all__ = ["grade_table", "summary_table", "task_table"]


def task_table(tasks: Sequence[Task]) -> Table:
    """One row per task."""
    table = Table(title="Tasks")
    for name in ("id", "difficulty", "requests/s", "prompt / output", "SLO standard", "SLO priority", "episode", "on"):
        table.add_column(name, overflow="fold")
    for task in tasks:
        burst = task.traffic.burst
        targets = [f"TTFT {s.ttft_s:g} s\nTPOT {s.tpot_ms:g} ms" for s in (task.slo.standard, task.slo.priority)]
        table.add_row(
            task.id,
            task.difficulty + (" (extended)" if task.extended else ""),
            f"{task.traffic.rate_rps:g}" + (f"\nbursts {burst.rate_rps:g}" if burst else ""),
            f"{task.lengths.prompt.mean_tokens:g} / {task.lengths.output.mean_tokens:g}",
            *targets,
            f"{task.windows} × {task.window_s:g} s",
            task.deployment,
        )
    return table


def summary_table(logs: Mapping[str, EpisodeLog], *, window_s: float, title: str) -> Table:
    """One row per figure, one column per episode; with several, the better value of a row is marked."""
    table = Table(title=title)
    table.add_column("")
    for name in logs:
        table.add_column(name, justify="right")
    table.add_column("unit")
    for row in zip(*(summarise(log, window_s=window_s) for log in logs.values()), strict=True):
        best = max(item.better * item.value for item in row)
        differs = row[0].better != 0 and len({item.text for item in row}) > 1
        cells = [Text(i.text, style="bold green" if differs and i.better * i.value == best else "") for i in row]
        table.add_row(row[0].label, *cells, row[0].unit)
    return table


def grade_table(report: GradeReport) -> Table:
    """A grade report: the verdict first, then what it rests on."""
    table = Table(title=f"{report.task_id}, seed {report.seed}", show_header=False)
    table.add_column("")
    table.add_column("", overflow="fold")
    verdict = {True: "genuine: every observation replays", False: "NOT GENUINE", None: "cannot be replayed"}
    table.add_row("verdict", Text(verdict[report.verified], style="bold green" if report.verified else "bold red"))
    if report.reason:
        table.add_row("reason", report.reason)
    table.add_row("score", "none" if report.score is None else f"{report.score:.4f}")
    table.add_row("windows", f"{report.steps} of {report.episode_length}" + ("" if report.complete else ", incomplete"))
    table.add_row("reward per window", f"{report.mean_reward:.4f}")
    for name, value in report.components.items():
        table.add_row(f"  {name} (0..1)", f"{value:.4f}")
    if report.references is not None:
        r = report.references
        table.add_row("references", f"random {r.random:.4f}, best static {r.best_static:.4f}, clairvoyant {r.clairvoyant:.4f}")
        table.add_row("", f"made by {r.command}" + (" (provisional)" if r.provisional else ""))
    return table
