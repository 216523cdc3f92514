"""The command `llmserve evaluate`: evaluates agents, and prints, writes and draws the report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from llmserve_agents.cli.evaluation_tables import result_tables, summary_lines, timing_line
from llmserve_agents.evaluation.episodes import record_episode
from llmserve_agents.evaluation.report import EvaluationReport
from llmserve_agents.evaluation.roster import AgentSpec, agent_specs, known_agents
from llmserve_agents.evaluation.runner import EPISODES, Progress, run, runnable_agents
from llmserve_agents.executors import EXECUTORS, make_executor
from llmserve_sim.commandline.outputs import as_options, output_folder, writing
from llmserve_sim.commandline.terminal import progress_bar
from llmserve_sim.tasks import list_tasks
from llmserve_sim.tasks.registry import catalogue_task

__all__ = ["evaluate"]

_NO: Final = 1
_OPTIONS: Final = {
    "agent": "--agent",
    "agents": "--agent",
    "confidence": "--confidence",
    "episodes": "--episodes",
    "executor": "--executor",
    "resamples": "--resamples",
    "seed": "--seed",
    "seeds": "--seed",
    "task_id": "--task",
    "tasks": "--task",
    "workers": "--workers",
}
_AGENT_HELP: Final = (
    f"An agent ({', '.join(known_agents())}), static:JSON for any fixed action, ppo:FOLDER for weights other than the "
    "shipped ones ({task} in it stands for the task), or any of these after LABEL=; repeat for several, the first is "
    "what the others are compared with. By default all that can run here without a long search."
)


def evaluate(
    *,
    agent: Annotated[list[str] | None, typer.Option(help=_AGENT_HELP)] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="A built-in task, or all for the three that validators know (the default); repeat for several."
        ),
    ] = None,
    episodes: Annotated[
        int, typer.Option(help="Episodes for each agent and task: the first of the task's test seeds.")
    ] = EPISODES,
    seed: Annotated[
        list[int] | None, typer.Option(help="A seed for every task, in place of the test seeds; repeat for several.")
    ] = None,
    executor: Annotated[
        str,
        typer.Option(help=f"Where episodes run: {', '.join(EXECUTORS)}. ray is a cluster ($RAY_ADDRESS), else local."),
    ] = "process",
    workers: Annotated[
        int | None, typer.Option(help="Episodes at a time; by default as many as there are processors.")
    ] = None,
    resamples: Annotated[int, typer.Option(help="Resamples of the bootstrap behind the intervals.")] = 10_000,
    confidence: Annotated[float, typer.Option(help="Confidence of the intervals.")] = 0.95,
    output: Annotated[
        Path | None, typer.Option(help="Write report.json, timing.json and the pictures into this folder.")
    ] = None,
    pictures: Annotated[bool, typer.Option(help="Draw pictures into the folder of --output.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of tables.")] = False,
) -> int:
    """Evaluate agents on test seeds, grade every episode by replay, and report with intervals.

    Every run gives the same report, byte for byte, with any number of workers. The timing is kept apart from it.
    """
    with as_options(_OPTIONS):
        folder = None if output is None else output_folder(output, ["report.json", "timing.json"])
        if folder is not None and pictures:
            _require_pictures()
        place = make_executor("serial" if executor == "process" and workers == 1 else executor, workers)
        chosen, skipped = (agent, {}) if agent else runnable_agents(task)
        agents = agent_specs(chosen)
        with progress_bar("episodes") as advance:

            def move(at: Progress) -> None:
                advance(f"{at.agent}, {at.task_id}", at.done, at.episodes)

            report = run(
                agents,
                task,
                episodes,
                seeds=seed,
                executor=place,
                resamples=resamples,
                confidence=confidence,
                skipped=skipped,
                progress=move,
            )
    if as_json:
        print(report.stable().model_dump_json(indent=2))
    else:
        console = Console()
        for table in result_tables(report):
            console.print(table)
        for line in summary_lines(report):
            console.print(line)
    print(timing_line(report), file=sys.stderr)
    if folder is not None:  # printed first: a full disk must not lose the result
        with writing(folder):
            _write(report, folder, agents, pictures=pictures)
        if not as_json:
            print(f"report: {folder / 'report.json'}")
    return 0 if report.verified else _NO


def _require_pictures() -> None:
    from llmserve_agents.figures import require_matplotlib

    require_matplotlib("pictures (leave them out with --no-pictures)")


def _write(report: EvaluationReport, folder: Path, agents: Sequence[AgentSpec], *, pictures: bool) -> None:
    (folder / "report.json").write_text(report.stable().model_dump_json(indent=2) + "\n", encoding="utf-8")
    assert report.timing is not None
    (folder / "timing.json").write_text(report.timing.model_dump_json(indent=2) + "\n", encoding="utf-8")
    for name in ["scores.png", *(f"timeline-{task.id}.png" for task in list_tasks())]:
        (folder / name).unlink(missing_ok=True)  # of an earlier report
    if not pictures:
        return
    from llmserve_agents.evaluation.plots import draw_scores, draw_timeline

    draw_scores(report, folder / "scores.png")
    acting = [spec for spec in agents if not spec.searched]
    if not acting:
        return
    for task_id in report.tasks:
        seed = report.seeds[task_id][0]
        logs = {spec.label: record_episode(spec, task_id, seed) for spec in acting[:2]}
        draw_timeline(logs, folder / f"timeline-{task_id}.png", window_s=catalogue_task(task_id).window_s)
