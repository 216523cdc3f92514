"""The commands of `llmserve-sim`: tasks, run, grade, fidelity, bench. Each says what it takes under --help.

This module turns arguments into calls and results into tables. A bad argument is one line on standard error that names
it and its bound, and exit code 2.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from llmserve_sim.__about__ import __version__
from llmserve_sim.cli.options import (
    CotenantOption,
    DrainOption,
    DurationOption,
    FormatOption,
    LimitOption,
    PrefixReuseOption,
    RateScaleOption,
    SortOption,
    StartOption,
    TraceOption,
    as_options,
    require_with_trace,
)
from llmserve_sim.cli.render import grade_table, summary_table, task_table
from llmserve_sim.cli.run import Choice, Recording, knob_action, run_episode
from llmserve_sim.commandline import NO
from llmserve_sim.commandline.outputs import output_file, writing
from llmserve_sim.commandline.terminal import progress_bar, run_app, version_option
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.policies import StaticPolicy
from llmserve_sim.schema import ACTION_FIELDS

__all__ = ["run"]

app = typer.Typer(
    name="llmserve-sim",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_LOADING = "loading the kernel (compiled once, at its first use: half a minute or more)"


def _knob(name: str) -> Any:
    field = ACTION_FIELDS[name]
    return typer.Option(
        help=f"{field.meaning} ({field.bounds}; {getattr(StaticPolicy().action, name)} unless given)",
        show_default=False,
        rich_help_panel="Configuration (with --agent static)",
    )


@app.callback()
def common(
    *,
    version: Annotated[bool, version_option("llmserve-sim", __version__)] = False,
) -> None:
    """Simulate an LLM serving fleet: run tasks and traces, grade episode logs, check fidelity and speed.

    Exit codes: 0 done, 1 the answer is no (a log is not genuine, a bar is not met), 2 the call was wrong or a file
    cannot be written, 130 stopped by Ctrl-C.
    """


def run(arguments: Sequence[str]) -> int:
    """Run the command with `arguments` and return its exit code; see `llmserve_sim.cli` for their meanings."""
    return run_app(app, arguments, "llmserve-sim")


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
    task: Annotated[str, typer.Argument(help="Id of a task, or path of a task file (.toml).")] = "azure_conversation",
    *,
    agent: Annotated[
        str | None,
        typer.Option(
            help="Who decides each window: static, threshold or random. By default static if a knob is given, "
            "else threshold."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Episode seed: with the task and the actions it determines everything.")
    ] = 0,
    deployment: Annotated[str | None, typer.Option(help="Preset to serve on, in place of the task's own.")] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the episode's timeline into this PNG.")] = None,
    log: Annotated[Path | None, typer.Option(help="Write the episode's log into this JSON file.")] = None,
    trace: TraceOption = None,
    trace_format: FormatOption = None,
    start_s: StartOption = None,
    duration_s: DurationOption = None,
    limit: LimitOption = None,
    rate_scale: RateScaleOption = None,
    sort: SortOption = False,
    drain_s: DrainOption = None,
    cotenant: CotenantOption = False,
    prefix_reuse: PrefixReuseOption = False,
    batch_cap: Annotated[int | None, _knob("batch_cap")] = None,
    kv_budget_fraction: Annotated[float | None, _knob("kv_budget_fraction")] = None,
    speculation_depth: Annotated[int | None, _knob("speculation_depth")] = None,
    quantization_tier: Annotated[str | None, _knob("quantization_tier")] = None,
    prefill_decode_split: Annotated[bool | None, _knob("prefill_decode_split")] = None,
    priority_routing: Annotated[bool | None, _knob("priority_routing")] = None,
) -> None:
    """Simulate an episode of a task, or a recorded trace, and say what came of it.

    Simple rules serve the default task well, but not the three tasks that validators know: those are there to learn. A
    task brings its co-tenant, which takes GPU memory and gives it back. A trace is served alone unless told otherwise.
    """
    knobs = {
        "batch_cap": batch_cap,
        "kv_budget_fraction": kv_budget_fraction,
        "speculation_depth": speculation_depth,
        "quantization_tier": quantization_tier,
        "prefill_decode_split": prefill_decode_split,
        "priority_routing": priority_routing,
    }
    recording = _recording(
        trace,
        format=trace_format,
        start_s=start_s,
        duration_s=duration_s,
        limit=limit,
        rate_scale=rate_scale,
        drain_s=drain_s,
        sort=sort,
        cotenant=cotenant,
        prefix_reuse=prefix_reuse,
    )
    _check_outputs(png, log)
    choice = Choice(task, seed, deployment, recording)
    with as_options():
        agent, policy = knob_action(agent, knobs)
        env = ServingEnv(choice.rules(), deployment=deployment)
        start = env.start(seed, scenario=choice.scenario())
    windows = env.episode_length
    with progress_bar("windows") as advance:
        advance(_LOADING, 0, windows)
        run_episode(env, policy, start, lambda done: advance(env.task.id, done, windows))
    episode, window_s = env.episode_log(), env.state().window_s
    if log is not None:
        with writing(log, "--log", make_folder=False):
            log.write_text(episode.model_dump_json(), encoding="utf-8")
    title = f"{choice.title()}, {agent}, {env.state().deployment}, seed {seed}"
    Console().print(summary_table({agent: episode}, window_s=window_s, title=title))
    if log is not None:
        print(f"log: {log}")
    if png is not None:
        from llmserve_sim.plots import draw_timeline

        with as_options():
            draw_timeline(episode, png, window_s=window_s, title=title)
        print(f"timeline: {png}")


@app.command()
def grade(
    log: Annotated[Path, typer.Argument(help="Episode log (JSON) to grade.")],
    *,
    task: Annotated[str | None, typer.Option(help="Task file that it ran on, if not one of the catalogue.")] = None,
    deployment: Annotated[str | None, typer.Option(help="Deployment that it ran on, if not the task's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    trace: TraceOption = None,
    trace_format: FormatOption = None,
    start_s: StartOption = None,
    duration_s: DurationOption = None,
    limit: LimitOption = None,
    rate_scale: RateScaleOption = None,
    sort: SortOption = False,
    drain_s: DrainOption = None,
    cotenant: CotenantOption = False,
    prefix_reuse: PrefixReuseOption = False,
) -> int:
    """Replay a log and grade it: exit code 0 if it is genuine, 1 if it is not.

    A log of a trace is graded with the options that it was run with.
    """
    from llmserve_sim.grader import grade as grade_log
    from llmserve_sim.schema import MAX_LOG_BYTES, parse_log
    from llmserve_sim.tasks import list_tasks

    recording = _recording(
        trace,
        format=trace_format,
        start_s=start_s,
        duration_s=duration_s,
        limit=limit,
        rate_scale=rate_scale,
        drain_s=drain_s,
        sort=sort,
        cotenant=cotenant,
        prefix_reuse=prefix_reuse,
    )
    try:
        with log.open("rb") as file:
            text = file.read(MAX_LOG_BYTES + 1)
    except OSError as error:
        raise InvalidInputError("log", f"must be a readable file ({error.strerror})", got=str(log)) from error
    episode = parse_log(text)
    choice = Choice(task or episode.task_id, episode.seed, deployment, recording)
    if task is None and recording is None and episode.task_id not in {known.id for known in list_tasks()}:
        raise InvalidInputError("--task", "must name the file of the task that the log is of", got=episode.task_id)
    if recording is None and episode.scenario_digest is not None:
        raise InvalidInputError("--trace", "must name the trace that the log is of, with the options of its run")
    with as_options():
        rules, scenario = choice.rules(), choice.scenario()
    with Console(stderr=True).status(f"replaying {len(episode.steps):,} windows"):
        report = grade_log(episode, task=rules, deployment=deployment, scenario=scenario)
    if as_json:
        print(report.model_dump_json(indent=2))
    else:
        Console().print(grade_table(report))
    return 0 if report.verified else NO


@app.command()
def fidelity(
    *,
    out: Annotated[Path | None, typer.Option(help="Folder for the pictures of the one-second series.")] = None,
    requests: Annotated[
        Path | None, typer.Option(help="CSV of a measured run to compare instead of the known ones.")
    ] = None,
    gpu: Annotated[str | None, typer.Option(help="GPU of that run.")] = None,
    model: Annotated[str | None, typer.Option(help="Model of that run.")] = None,
    engine: Annotated[str | None, typer.Option(help="Engine version of that run.")] = None,
    tp: Annotated[int | None, typer.Option(help="Its tensor parallelism.")] = None,
    max_num_seqs: Annotated[int | None, typer.Option(help="Its max_num_seqs.")] = None,
    max_num_batched_tokens: Annotated[int | None, typer.Option(help="Its max_num_batched_tokens.")] = None,
    kv_blocks: Annotated[int | None, typer.Option(help="Its 16-token KV blocks; by default what fits.")] = None,
) -> int:
    """Replay the measured runs and compare with what was measured (needs the recorded data, see $LLMSERVE_DATA).

    The options are those of `python -m llmserve_sim.fidelity`.
    """
    from llmserve_sim.fidelity.__main__ import main

    given = {
        "out": out,
        "requests": requests,
        "gpu": gpu,
        "model": model,
        "engine": engine,
        "tp": tp,
        "max-num-seqs": max_num_seqs,
        "max-num-batched-tokens": max_num_batched_tokens,
        "kv-blocks": kv_blocks,
    }
    return main([f"--{name}={value}" for name, value in given.items() if value is not None])


@app.command()
def bench(
    *,
    out: Annotated[Path | None, typer.Option(help="Folder for bench.json and bench.png.")] = None,
    quick: Annotated[bool, typer.Option(help="Shorter measurements: noisier ratios, no verdict.")] = False,
) -> int:
    """Measure the speed of the engines against one another on this machine: ratios of one run."""
    from llmserve_sim.bench import main

    return main(out=out, quick=quick)


def _recording(trace: Path | None, **options: Any) -> Recording | None:
    """Return the recording that the options ask for. Without a trace, refuses options that need one."""
    require_with_trace(trace, {f"--{name.replace('_', '-')}": value for name, value in options.items()})
    given = {name: value for name, value in options.items() if value is not None}
    return None if trace is None else Recording(trace, **given)


def _check_outputs(png: Path | None, log: Path | None) -> None:
    """Refuse, before anything is simulated, output files that could not be written afterwards."""
    output_file(png, "--png", make_folder=False)
    output_file(log, "--log", make_folder=False)
    if png is not None:
        from llmserve_sim.plots import require_picture

        with as_options():
            require_picture(png)
        if log is not None and png.resolve() == log.resolve():
            raise InvalidInputError("--log", "must be another file than --png", got=str(log))
