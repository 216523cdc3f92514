"""The command `grade`: replay a log and say whether it is genuine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from llmserve_sim.cli.options import (
    CotenantOption,
    DrainOption,
    DurationOption,
    FormatOption,
    LimitOption,
    MaxModelLenOption,
    MaxUnfinishedOption,
    ModelOption,
    OutputColumnOption,
    PatienceOption,
    PrefixReuseOption,
    PromptColumnOption,
    RateScaleOption,
    SkipBadOption,
    SortOption,
    StartOption,
    TimeColumnOption,
    TimeUnitOption,
    TraceOption,
    as_options,
)
from llmserve_sim.cli.recording import read_aloud, recording_of
from llmserve_sim.cli.render import grade_table
from llmserve_sim.cli.run import Choice
from llmserve_sim.commandline import NO
from llmserve_sim.errors import InvalidInputError

__all__ = ["grade"]


def grade(
    log: Annotated[Path, typer.Argument(help="Episode log (JSON) to grade.")],
    *,
    task: Annotated[str | None, typer.Option(help="Task file that it ran on, if not one of the catalogue.")] = None,
    deployment: Annotated[str | None, typer.Option(help="Deployment that it ran on, if not the task's own.")] = None,
    model: ModelOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    trace: TraceOption = None,
    trace_format: FormatOption = None,
    start_s: StartOption = None,
    duration_s: DurationOption = None,
    limit: LimitOption = None,
    rate_scale: RateScaleOption = None,
    sort: SortOption = False,
    skip_bad: SkipBadOption = False,
    time_unit: TimeUnitOption = None,
    time_column: TimeColumnOption = None,
    prompt_column: PromptColumnOption = None,
    output_column: OutputColumnOption = None,
    drain_s: DrainOption = None,
    patience_s: PatienceOption = None,
    max_unfinished: MaxUnfinishedOption = None,
    max_model_len: MaxModelLenOption = None,
    cotenant: CotenantOption = False,
    prefix_reuse: PrefixReuseOption = False,
) -> int:
    """Replay a log and grade it: exit code 0 if it is genuine, 1 if it is not.

    A log of a trace is graded with the options that it was run with.
    """
    from llmserve_sim.grader import grade as grade_log
    from llmserve_sim.schema import MAX_LOG_BYTES, parse_log
    from llmserve_sim.tasks import list_tasks

    recording = recording_of(
        trace,
        format=trace_format,
        start_s=start_s,
        duration_s=duration_s,
        limit=limit,
        rate_scale=rate_scale,
        drain_s=drain_s,
        patience_s=patience_s,
        max_unfinished=max_unfinished,
        max_model_len=max_model_len,
        sort=sort,
        skip_bad=skip_bad,
        time_unit=time_unit,
        time_column=time_column,
        prompt_column=prompt_column,
        output_column=output_column,
        cotenant=cotenant,
        prefix_reuse=prefix_reuse,
    )
    try:
        with log.open("rb") as file:
            text = file.read(MAX_LOG_BYTES + 1)
    except OSError as error:
        raise InvalidInputError("log", f"must be a readable file ({error.strerror})", got=str(log)) from error
    episode = parse_log(text)
    if task is None and recording is None and episode.task_id not in {known.id for known in list_tasks()}:
        raise InvalidInputError("--task", "must name the file of the task that the log is of", got=episode.task_id)
    if recording is None and episode.scenario_digest is not None:
        raise InvalidInputError("--trace", "must name the trace that the log is of, with the options of its run")
    with as_options():
        world = Choice(task or episode.task_id, episode.seed, deployment, recording, model).world()
        read_aloud(world)
    with Console(stderr=True).status(f"replaying {len(episode.steps):,} windows"):
        report = grade_log(episode, task=world.rules, deployment=world.deployment, scenario=world.scenario)
    if as_json:
        print(report.model_dump_json(indent=2))
    else:
        Console().print(grade_table(report))
    return 0 if report.verified else NO
