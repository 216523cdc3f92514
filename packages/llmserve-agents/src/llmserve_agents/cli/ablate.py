"""The command `llmserve ablate`: measures the value of each knob to an agent; prints and writes the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from llmserve_agents.cli.evaluation_tables import ablation_tables
from llmserve_agents.evaluation.ablation import SEARCH_SEEDS
from llmserve_agents.evaluation.ablation import ablate as measure
from llmserve_agents.evaluation.roster import known_agents
from llmserve_agents.evaluation.runner import EPISODES
from llmserve_agents.executors import EXECUTORS, make_executor
from llmserve_sim.commandline.outputs import as_options, output_folder, writing
from llmserve_sim.commandline.terminal import progress_bar

__all__ = ["ablate"]

_OPTIONS: Final = {
    "agent": "--agent",
    "confidence": "--confidence",
    "episodes": "--episodes",
    "executor": "--executor",
    "resamples": "--resamples",
    "search_seeds": "--search-seeds",
    "task_id": "--task",
    "tasks": "--task",
    "workers": "--workers",
}


def ablate(
    *,
    agent: Annotated[
        str,
        typer.Option(
            help=f"The agent ({', '.join(known_agents())}), or a spec as for evaluate; ppo takes seconds, rules "
            "minutes, the planner and the clairvoyant search hours."
        ),
    ] = "ppo",
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="A built-in task, or all for the three that validators know (the default); repeat for several."
        ),
    ] = None,
    episodes: Annotated[
        int, typer.Option(help="Episodes that values are means over: the first of the task's test seeds.")
    ] = EPISODES,
    search_seeds: Annotated[
        int, typer.Option(help="Training seeds that the best constant of a knob is chosen on.")
    ] = SEARCH_SEEDS,
    executor: Annotated[str, typer.Option(help=f"Where episodes run: {', '.join(EXECUTORS)}.")] = "process",
    workers: Annotated[
        int | None, typer.Option(help="Jobs at a time; by default as many as there are processors.")
    ] = None,
    resamples: Annotated[int, typer.Option(help="Resamples of the bootstrap behind the intervals.")] = 10_000,
    confidence: Annotated[float, typer.Option(help="Confidence of the intervals.")] = 0.95,
    output: Annotated[Path | None, typer.Option(help="Write ablation.json and knobs.png into this folder.")] = None,
    pictures: Annotated[bool, typer.Option(help="Draw the picture into the folder of --output.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of a table.")] = False,
) -> int:
    """Measure the value of each knob: best constant against default, and free against best constant.

    Constants are chosen on training seeds, values measured on test seeds.
    """
    with as_options(_OPTIONS):
        folder = None if output is None else output_folder(output, ["ablation.json"])
        if folder is not None and pictures:
            from llmserve_agents.figures import require_matplotlib

            require_matplotlib("the picture (leave it out with --no-pictures)")
        place = make_executor("serial" if executor == "process" and workers == 1 else executor, workers)
        with progress_bar("jobs") as advance:
            report = measure(
                agent,
                task,
                episodes,
                search_seeds=search_seeds,
                executor=place,
                resamples=resamples,
                confidence=confidence,
                progress=advance,
            )
    if as_json:
        print(report.model_dump_json(indent=2))
    else:
        console = Console()
        for table in ablation_tables(report):
            console.print(table)
    if folder is not None:
        with writing(folder):
            (folder / "ablation.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
            if pictures:
                from llmserve_agents.evaluation.plots import draw_knob_values

                draw_knob_values(report, folder / "knobs.png")
    return 0
