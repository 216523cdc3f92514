"""Renders the benchmark's reports as Markdown and puts the result between two markers in a page.

Everything comes from committed reports, so a page can be checked against them without playing an episode.
"""

from __future__ import annotations

import shlex
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Final

from benchmarks.bars import RIVALS, difference, training_seeds

from llmserve_agents.evaluation.ablation_report import AblationReport
from llmserve_agents.evaluation.report import Estimate, EvaluationReport
from llmserve_agents.evaluation.statistics import Interval

__all__ = ["LEFT_OUT", "MARKERS", "command", "placed", "readme_section", "table", "whole_section"]

MARKERS: Final = ("<!-- results:begin -->", "<!-- results:end -->")
COMMAND: Final = "nox -s benchmark"
LEFT_OUT: Final = "left out by --skip"
"""The reason given in a report for an agent that `--skip` left out."""
_SEARCHERS: Final = "`planner` simulates plans on its own forecasts, `clairvoyant` on the true future."
SEARCHES: Final = 100
"""Default number of test seeds per task for the agents that search."""


def command(
    report: EvaluationReport,
    ablations: Iterable[AblationReport] = (),
    searches: EvaluationReport | None = None,
) -> str:
    """Return the command that makes every number: the session, the agents left out, the agents ablated."""
    searched = 0 if searches is None else _seeds(searches)
    words = [word for name, reason in report.skipped.items() if reason == LEFT_OUT for word in ("--skip", name)]
    words += [] if searched == SEARCHES else ["--searches", str(searched)]
    for ablation in ablations:
        words += ["--ablate", ablation.agent]
        if list(ablation.tasks) != list(report.tasks):
            words += [word for task in ablation.tasks for word in ("--ablate-task", task)]
    return shlex.join([*COMMAND.split(), *(["--", *words] if words else [])])


def _seeds(report: EvaluationReport) -> int:
    """Return the number of test seeds per task."""
    return len(report.seeds[report.tasks[0]])


def readme_section(report: EvaluationReport, searches: EvaluationReport | None = None) -> str:
    """Return the README's section: one table of mean scores by task, of every agent."""
    rows = list(_score_rows(report))
    lines = [
        f"Mean score over {_seeds(report)} test seeds per task with {report.confidence:.0%} bootstrap intervals.",
        "0 is the random policy, 0.5 the best fixed configuration, 1 the clairvoyant search.",
        "Every episode is graded by replay. `ppo` is the shipped policy.",
    ]
    if searches is not None:
        known = {entry.label for entry in report.agents}
        rows += _score_rows(searches, leave_out=known)
        lines += [f"{_SEARCHERS} Both play {_which_seeds(searches, report)}."]
    lines += [f"`{command(report, (), searches)}` recomputes these numbers, `{COMMAND} -- --quick` checks them."]
    return "\n".join([" ".join(lines), "", *table(["agent", *(f"`{task}`" for task in report.tasks)], rows)])


def _which_seeds(searches: EvaluationReport, report: EvaluationReport) -> str:
    return "the same seeds" if searches.seeds == report.seeds else f"the first {_seeds(searches)} of these seeds"


def _differences(report: EvaluationReport) -> Iterator[str]:
    """Yield the table of what PPO earns more than each rival."""
    rows, seeds = list(_difference_rows(report)), training_seeds(report)
    if rows:
        spread = f", from the lowest to the highest of {len(seeds)} training seeds" if len(seeds) > 1 else ""
        yield from ("", f"What PPO earns more per window, paired by seed{spread}:", "")
        yield from table(["ppo − rival", *(f"`{task}`" for task in report.tasks)], rows)


def _searched(searches: EvaluationReport, report: EvaluationReport) -> Iterator[str]:
    """Yield the table of the agents that search, beside others on the same seeds."""
    yield from (f"Agents that search, and others, on {_which_seeds(searches, report)}. {_SEARCHERS}", "")
    yield from table(["agent", *(f"`{task}`" for task in searches.tasks)], _score_rows(searches))


def whole_section(
    report: EvaluationReport,
    ablations: Iterable[AblationReport] = (),
    searches: EvaluationReport | None = None,
) -> str:
    """Return the section of docs/results.md: every table, task by task."""
    ablations = list(ablations)
    lines = [
        f"Made by `{command(report, ablations, searches)}`; the evaluation alone is",
        "",
        "```text",
        report.command,
        "```",
        "",
        "![Mean score per agent and task](results/scores.png)",
        *_differences(report),
        "",
    ]
    lines += list(_standings(report))
    lines += list(_weights(report))
    if searches is not None:
        lines += ["", *_searched(searches, report), "", "In full, by", "", "```text", searches.command, "```", ""]
        lines += list(_standings(searches))
    for ablation in ablations:
        lines += ["", *_knobs(ablation)]
    return "\n".join(lines).rstrip()


def _standings(report: EvaluationReport) -> Iterator[str]:
    first = report.agents[0].label
    for task in report.tasks:
        rows = [row for row in report.standings if row.task_id == task]
        header = ["agent", "mean reward", "score", "IQM of scores", f"reward − {first}", f"beats {first}", "verified"]
        cells = []
        for row in rows:
            versus = row.versus_first
            cells.append(
                [
                    f"`{row.agent}`",
                    _shown(row.reward, 4),
                    _shown(row.score, 3),
                    _shown(row.score_iqm, 3),
                    "" if versus is None else _shown(versus.reward, 4, signed=True),
                    "" if versus is None else f"{versus.win_rate:.0%}",
                    f"{row.verified} of {row.episodes}",
                ]
            )
        yield from (f"**`{task}`**, {rows[0].episodes} test seeds", "", *table(header, cells), "")


def placed(page: Path, section: str) -> str:
    """Return the page's text with `section` between its markers; raises `ValueError` if the page has no markers."""
    text = page.read_text(encoding="utf-8")
    begin, end = MARKERS
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{page.name} must hold {begin} and {end}, once each")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{section}\n{end}{rest.split(end)[1]}"


def table(header: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield "| " + " | ".join(header) + " |"
    yield "| " + " | ".join(["---"] * len(header)) + " |"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _score_rows(report: EvaluationReport, leave_out: Container[str] = ()) -> Iterator[list[str]]:
    for entry in report.agents:
        if not entry.label.startswith("ppo-seed-") and entry.label not in leave_out:
            yield [f"`{entry.label}`", *(_shown(report.result(entry.label, task).score, 3) for task in report.tasks)]


def _difference_rows(report: EvaluationReport) -> Iterator[list[str]]:
    labels, seeds = {entry.label for entry in report.agents}, training_seeds(report)
    for rival in RIVALS:
        if rival in labels and seeds:
            cells = []
            for task in report.tasks:
                each = sorted((difference(report, seed, rival, task) for seed in seeds), key=lambda one: one.value)
                ends = each if len(each) == 1 else [each[0], each[-1]]
                cells.append(" to ".join(_shown(one, 3, signed=True) for one in ends))
            yield [f"`{rival}`", *cells]


def _weights(report: EvaluationReport) -> Iterator[str]:
    rows = [
        [
            f"`{entry.label}`",
            f"`{task}`",
            f"`{used.path}`",
            "" if used.seed is None else str(used.seed),
            "" if used.steps is None else f"{used.steps:,}",
        ]
        for entry in report.agents
        for task, used in entry.weights.items()
    ]
    if rows:
        yield from table(["agent", "task", "weights", "training seed", "training windows"], rows)


def _knobs(report: AblationReport) -> Iterator[str]:
    yield f"The value of each knob to `{report.agent}`: mean reward per window with {report.confidence:.0%} intervals."
    yield ""
    rows = []
    for knob in dict.fromkeys(row.knob for row in report.values):
        cells = [f"`{knob}`"]
        for task in report.tasks:
            row = report.value(task, knob)
            cells += [str(row.best), _shown(row.level, 3, signed=True), _shown(row.dynamic, 3, signed=True)]
        rows.append(cells)
    header = ["knob"]
    for task in report.tasks:
        header += [f"`{task}`: best constant", "best − default", "free − best"]
    yield from table(header, rows)


def _shown(found: Estimate | Interval | None, digits: int, *, signed: bool = False) -> str:
    if found is None:
        return "none"
    form = f"{'+' if signed else ''}.{digits}f"
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"
