"""The benchmark's numbers as Markdown, and their place in the documentation: between two markers in a page.

Everything is made from committed reports, so a page can be checked against them without running anything.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
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
"""Why an agent that was asked to be left out is not there."""
SEARCHES: Final = 100
"""Test seeds per task that the agents which search play, unless told otherwise."""


def command(
    report: EvaluationReport,
    ablations: Iterable[AblationReport] = (),
    searches: EvaluationReport | None = None,
) -> str:
    """Return what makes every number here: the session, who was left out, and the agents whose knobs were ablated."""
    searched = 0 if searches is None else _seeds(searches)
    words = [word for name, reason in report.skipped.items() if reason == LEFT_OUT for word in ("--skip", name)]
    words += [] if searched == SEARCHES else ["--searches", str(searched)]
    for ablation in ablations:
        words += ["--ablate", ablation.agent]
        if list(ablation.tasks) != list(report.tasks):
            words += [word for task in ablation.tasks for word in ("--ablate-task", task)]
    return shlex.join([*COMMAND.split(), *(["--", *words] if words else [])])


def _seeds(report: EvaluationReport) -> int:
    """How many of each task were played."""
    return len(report.seeds[report.tasks[0]])


def readme_section(report: EvaluationReport, searches: EvaluationReport | None = None) -> str:
    """The README's part: mean scores by task, and what PPO earns more than each rival."""
    seeds = training_seeds(report)
    lines = [
        (
            f"Mean score over {_seeds(report)} test seeds per task with "
            f"{report.confidence:.0%} bootstrap intervals; 0 is the random policy, 0.5 the best fixed configuration, 1 the "
            f"clairvoyant search. Every episode is graded by replay. `{command(report, (), searches)}` makes these numbers and pictures anew, "
            f"`{COMMAND} -- --quick` checks them."
        ),
        "",
        *table(["agent", *(f"`{task}`" for task in report.tasks)], _score_rows(report)),
    ]
    if len(seeds) > 1:
        lines += ["", f"`ppo` is the shipped policy; the {len(seeds)} training seeds are in docs/agents.md."]
    differences = list(_difference_rows(report))
    if differences:
        lines += [
            "",
            "What PPO earns more per window, paired by seed"
            + (f", from the lowest to the highest of {len(seeds)} training seeds:" if len(seeds) > 1 else ":"),
            "",
            *table(["ppo − rival", *(f"`{task}`" for task in report.tasks)], differences),
        ]
    if searches is not None:
        lines += ["", *_searched(searches, report)]
    return "\n".join([*lines, "", "![Mean score per agent and task](docs/results/scores.png)"])


def _searched(searches: EvaluationReport, report: EvaluationReport) -> Iterator[str]:
    """The agents that search, beside others on the same seeds."""
    seeds = "the same seeds" if searches.seeds == report.seeds else f"the first {_seeds(searches)} of these seeds"
    yield (
        f"Beside agents that search, over {seeds}: `planner` simulates plans on forecasts of its own, "
        "`clairvoyant` on the true future."
    )
    yield ""
    yield from table(["agent", *(f"`{task}`" for task in searches.tasks)], _score_rows(searches))


def whole_section(
    report: EvaluationReport,
    ablations: Iterable[AblationReport] = (),
    searches: EvaluationReport | None = None,
) -> str:
    """The part of docs/agents.md: everything, task by task."""
    ablations = list(ablations)
    lines = [
        f"Made by `{command(report, ablations, searches)}`; the evaluation alone is",
        "",
        "```text",
        report.command,
        "```",
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
    """Return the page's text with `section` between its markers; raises `ValueError` for a page without them."""
    text = page.read_text(encoding="utf-8")
    begin, end = MARKERS
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{page.name} must hold {begin} and {end}, once each")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{section}\n{end}{rest.split(end)[1]}"


def table(header: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    """The lines of a Markdown table."""
    yield "| " + " | ".join(header) + " |"
    yield "| " + " | ".join(["---"] * len(header)) + " |"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _score_rows(report: EvaluationReport) -> Iterator[list[str]]:
    for entry in report.agents:
        if not entry.label.startswith("ppo-seed-"):
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
    yield f"What each knob is worth to `{report.agent}`, mean reward per window with {report.confidence:.0%} intervals:"
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
