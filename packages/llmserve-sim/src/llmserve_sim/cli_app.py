"""The commands of `llmserve-sim`: tasks, run, grade, fidelity, bench. Each says what it takes under --help.

It turns arguments into calls and results into tables; what is simulated, graded or measured is decided elsewhere. A bad
argument is one line on standard error that names it and its bound, and exit code 2.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from llmserve_sim.__about__ import __version__
from llmserve_sim.cli_render import grade_table, summary_table, task_table
from llmserve_sim.cli_run import Choice, knob_action, run_episode
from llmserve_sim.errors import InvalidInputError, LLMServeError
from llmserve_sim.policies import StaticPolicy
from llmserve_sim.schema import ACTION_FIELDS

__all__ = ["run"]

app = typer.Typer(
    name="llmserve-sim",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_NO, _WRONG = 1, 2
# Typer carries its own copy of click in some versions, so click's base of wrong calls is reached through typer.
_UsageError: Any = typer.BadParameter.__base__


def _knob(name: str) -> Any:
    field = ACTION_FIELDS[name]
    return typer.Option(
        help=f"{field.meaning} ({field.bounds}; default {getattr(StaticPolicy().action, name)})",
        show_default=False,
        rich_help_panel="Configuration (with --agent static)",
    )


def _show_version(asked: bool) -> None:
    if asked:
        print(f"llmserve-sim {__version__}")
        raise typer.Exit


@app.callback()
def common(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Simulate an LLM serving fleet: run tasks and traces, grade episode logs, check fidelity and speed."""


def run(arguments: Sequence[str]) -> int:
    """Run the command with `arguments` and return its exit code: 0 done, 1 the answer is no, 2 the call was wrong."""
    try:
        code = app(args=list(arguments), prog_name="llmserve-sim", standalone_mode=False)
    except LLMServeError as error:
        return _wrong(str(error))
    except _UsageError as error:
        return _wrong(error.format_message())
    except (typer.Abort, KeyboardInterrupt):
        return _wrong("stopped")
    return code if isinstance(code, int) else 0


def _wrong(message: str) -> int:
    print(f"llmserve-sim: {' '.join(message.split())}", file=sys.stderr)
    return _WRONG


@app.command()
def tasks(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print every field of every task as JSON.")] = False,
) -> None:
    """List the tasks: traffic, service-level objectives, episode length, deployment."""
    from llmserve_sim.tasks import list_tasks

    found = list_tasks()
    if as_json:
        print(json.dumps([task.model_dump(mode="json") for task in found], indent=2))
    else:
        Console().print(task_table(found))


@app.command(name="run")
def run_command(
    task: Annotated[str, typer.Argument(help="Id of a task, or path of a task file (.toml).")] = "static_workload",
    *,
    agent: Annotated[str, typer.Option(help="Who decides each window: static, threshold or random.")] = "static",
    seed: Annotated[
        int, typer.Option(help="Episode seed: with the task and the actions it determines everything.")
    ] = 0,
    trace: Annotated[Path | None, typer.Option(help="Replay this trace file under the task's rules.")] = None,
    trace_format: Annotated[
        str, typer.Option("--format", help="Its format: auto, azure, mooncake, burstgpt or plain.")
    ] = "auto",
    duration_s: Annotated[float | None, typer.Option(help="Take this many seconds of it; by default all.")] = None,
    rate_scale: Annotated[float, typer.Option(help="Replay it this many times as fast.")] = 1.0,
    deployment: Annotated[str | None, typer.Option(help="Preset to serve on, in place of the task's own.")] = None,
    batch_cap: Annotated[int | None, _knob("batch_cap")] = None,
    kv_budget_fraction: Annotated[float | None, _knob("kv_budget_fraction")] = None,
    speculation_depth: Annotated[int | None, _knob("speculation_depth")] = None,
    quantization_tier: Annotated[str | None, _knob("quantization_tier")] = None,
    prefill_decode_split: Annotated[bool | None, _knob("prefill_decode_split")] = None,
    priority_routing: Annotated[bool | None, _knob("priority_routing")] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the episode's timeline into this PNG.")] = None,
    log: Annotated[Path | None, typer.Option(help="Write the episode's log into this JSON file.")] = None,
) -> None:
    """Simulate an episode of a task, or a recorded trace, and say what came of it."""
    knobs = {
        "batch_cap": batch_cap,
        "kv_budget_fraction": kv_budget_fraction,
        "speculation_depth": speculation_depth,
        "quantization_tier": quantization_tier,
        "prefill_decode_split": prefill_decode_split,
        "priority_routing": priority_routing,
    }
    choice = Choice(task, seed, trace, trace_format, duration_s, rate_scale, deployment)
    _writable(png, "--png")
    _writable(log, "--log")
    env, policy = choice.environment(), knob_action(agent, knobs)
    start = choice.start(env)
    with _progress() as progress:
        bar = progress.add_task(env.task.id, total=env.episode_length)
        run_episode(env, policy, start, lambda: progress.advance(bar))
    episode, window_s = env.episode_log(), env.state().window_s
    title = f"{choice.title(env)}, {agent}, {env.state().deployment}, seed {seed}"
    Console().print(summary_table({agent: episode}, window_s=window_s, title=title))
    if png is not None:
        from llmserve_sim.plots import draw_timeline

        draw_timeline(episode, png, window_s=window_s, title=title)
        print(f"timeline: {png}")
    if log is not None:
        log.write_text(episode.model_dump_json(), encoding="utf-8")
        print(f"log: {log}")


@app.command()
def grade(
    log: Annotated[Path, typer.Argument(help="Episode log (JSON) to grade.")],
    *,
    task: Annotated[str | None, typer.Option(help="Task file that it ran on, if not one of the catalogue.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Trace file that it replayed.")] = None,
    trace_format: Annotated[str, typer.Option("--format", help="The trace's format.")] = "auto",
    duration_s: Annotated[float | None, typer.Option(help="The seconds of it that were taken.")] = None,
    rate_scale: Annotated[float, typer.Option(help="The trace's rate scale.")] = 1.0,
    deployment: Annotated[str | None, typer.Option(help="Deployment that it ran on, if not the task's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> int:
    """Replay a log and grade it: exit code 0 if it is genuine, 1 if it is not."""
    from llmserve_sim.grader import grade as grade_log
    from llmserve_sim.schema import MAX_LOG_BYTES, parse_log

    try:
        with log.open("rb") as file:
            text = file.read(MAX_LOG_BYTES + 1)
    except OSError as error:
        raise InvalidInputError("log", f"must be a readable file ({error.strerror})", got=str(log)) from error
    episode = parse_log(text)
    choice = Choice(task or episode.task_id, episode.seed, trace, trace_format, duration_s, rate_scale, deployment)
    report = grade_log(episode, task=choice.task, deployment=deployment, scenario=choice.scenario())
    if as_json:
        print(report.model_dump_json(indent=2))
    else:
        Console().print(grade_table(report))
    return 0 if report.verified else _NO


@app.command()
def fidelity() -> int:
    """Replay the measured runs and compare with what was measured (needs the recorded data, see $LLMSERVE_DATA)."""
    from llmserve_sim.fidelity.__main__ import main

    return main()


@app.command()
def bench(
    *,
    out: Annotated[Path | None, typer.Option(help="Folder for bench.json and bench.png.")] = None,
    quick: Annotated[bool, typer.Option(help="Shorter measurements: noisier ratios, no verdict.")] = False,
) -> int:
    """Measure the speed of the engines against one another on this machine: ratios of one run."""
    from llmserve_sim.bench import main

    return main(out=out, quick=quick)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("windows"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _writable(path: Path | None, option: str) -> None:
    """Refuse, before anything is simulated, a path that cannot be written."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise InvalidInputError(option, "must be a file in a folder that exists", got=str(path))
