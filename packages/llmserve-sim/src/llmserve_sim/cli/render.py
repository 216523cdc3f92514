"""The command's tables, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from llmserve_sim.cli.summary import summarise
from llmserve_sim.replay.summary import RequestSummary
from llmserve_sim.schema import EpisodeLog, GradeReport
from llmserve_sim.tasks import Task

__all__ = ["grade_table", "summary_table", "task_table"]


def task_table(tasks: Sequence[Task]) -> Table:
    """One row per task; every field is in `tasks --json`."""
    table = Table(title="Tasks", box=SIMPLE_HEAD)
    for name in ("id", "level", "rate", "tokens", "SLO", "SLO'"):
        table.add_column(name, justify="left" if name in {"id", "level"} else "right", no_wrap=True)
    for task in tasks:
        burst = task.traffic.burst
        table.add_row(
            task.id,
            task.difficulty + ("+" if task.extended else ""),
            f"{task.traffic.rate_rps:g}" + (f", {burst.rate_rps:g}" if burst else ""),
            f"{task.lengths.prompt.mean_tokens:.0f}/{task.lengths.output.mean_tokens:.0f}",
            *(f"{slo.ttft_s:g}/{slo.tpot_ms:g}" for slo in (task.slo.standard, task.slo.priority)),
        )
    episodes = sorted({f"{task.windows} windows of {task.window_s:g} s" for task in tasks})
    table.caption = (
        f"episodes: {', '.join(episodes)} · +: beyond the three that validators know · "
        "rate: requests/s, in bursts · tokens: mean prompt/output · "
        "SLO, SLO' (priority): TTFT s/TPOT ms · every field: --json"
    )
    return table


def summary_table(
    logs: Mapping[str, EpisodeLog],
    *,
    window_s: float,
    title: str,
    requests: Mapping[str, RequestSummary] | None = None,
    caption: str | None = None,
) -> Table:
    """One row per figure, one column per episode; with several, the better value of a row is marked.

    `requests` holds the summary of each episode's requests; without it, the figures are those of windows.
    """
    table = Table(title=Text(title, style="table.title"), box=SIMPLE_HEAD, caption=caption)
    # Where the terminal is narrow, words wrap and numbers stay whole.
    table.add_column("", overflow="fold")
    for name in logs:
        table.add_column(Text(name, overflow="fold"), justify="right", no_wrap=True)
    table.add_column("unit")
    known = requests or {}
    columns = [summarise(log, window_s=window_s, requests=known.get(name)) for name, log in logs.items()]
    for row in zip(*columns, strict=True):
        best = max(item.rank for item in row)
        differs = row[0].better != 0 and len({item.text for item in row}) > 1
        cells = [Text(i.text, style="bold green" if differs and i.rank == best else "") for i in row]
        table.add_row(row[0].label, *cells, row[0].unit)
    return table


def grade_table(report: GradeReport) -> Table:
    """A grade report: the verdict first, then what it rests on."""
    split = f" ({report.split} seed)" if report.split else ""
    table = Table(title=f"{report.task_id}, seed {report.seed}{split}", show_header=False, box=SIMPLE_HEAD)
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
        table.add_row(
            "references", f"random {r.random:.4f}, best static {r.best_static:.4f}, clairvoyant {r.clairvoyant:.4f}"
        )
        table.add_row("", f"made by {r.command}" + (" (provisional)" if r.provisional else ""))
    return table
