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
from llmserve_sim.cli.grade import grade
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
from llmserve_sim.cli.render import summary_table, task_table
from llmserve_sim.cli.run import Choice, knob_action, run_episode
from llmserve_sim.cli.summary import summary_json
from llmserve_sim.commandline.outputs import output_file, writing
from llmserve_sim.commandline.terminal import progress_bar, run_app, version_option
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.policies import StaticPolicy
from llmserve_sim.replay.files import require_table_file, write_requests
from llmserve_sim.replay.requests import RequestCollector
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
    model: ModelOption = None,
    png: Annotated[Path | None, typer.Option(help="Draw the episode's timeline into this PNG.")] = None,
    log: Annotated[Path | None, typer.Option(help="Write the episode's log into this JSON file.")] = None,
    requests: Annotated[
        Path | None,
        typer.Option(help="Write what became of each request into this file: .csv, or .parquet (extra files)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, and nothing else.")] = False,
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
    _check_outputs(png, log, requests)
    with as_options():
        world = Choice(task, seed, deployment, recording, model).world()
        read_aloud(world)
        agent, policy = knob_action(agent, knobs)
        env = ServingEnv(world.rules, deployment=world.deployment, latencies=True)
        start = env.start(seed, scenario=world.scenario)
    windows, collector = env.episode_length, RequestCollector()
    with progress_bar("windows") as advance:
        advance(_LOADING, 0, windows)
        run_episode(env, policy, start, lambda done: advance(env.task.id, done, windows), collector)
    episode, window_s = env.episode_log(), env.state().window_s
    table = world.table(collector, env)
    summary = world.summary(table, episode, env)
    if log is not None:
        with writing(log, "--log", make_folder=False):
            log.write_text(episode.model_dump_json(), encoding="utf-8")
    if requests is not None:
        with writing(requests, "--requests", make_folder=False):
            write_requests(table, requests, tenants=[tenant.id for tenant in world.rules.tenants])
    title = f"{world.title}, {agent}, {env.state().deployment}, seed {seed}"
    if as_json:
        print(json.dumps(summary_json(summary, episode, world.rules, agent=agent, deployment=env.deployment.name)))
    else:
        console = Console()
        summaries = {agent: summary}
        console.print(
            summary_table(
                {agent: episode}, window_s=window_s, title=title, requests=summaries, caption=world.caption(summary)
            )
        )
        for name, path in (("log", log), ("requests", requests)):
            if path is not None:
                print(f"{name}: {path}")
    if png is not None:
        from llmserve_sim.plots import draw_timeline

        with as_options():
            draw_timeline(episode, png, window_s=window_s, title=title)
        if not as_json:
            print(f"timeline: {png}")


app.command()(grade)


@app.command()
def fidelity(
    *,
    out: Annotated[Path | None, typer.Option(help="Folder for the pictures of the one-second series.")] = None,
    requests: Annotated[
        Path | None, typer.Option(help="CSV of a measured run to compare instead of the known ones.")
    ] = None,
    gpu: Annotated[str | None, typer.Option(help="GPU of that run.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Model of that run: a known name, or the path of its config.json.")
    ] = None,
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


def _check_outputs(png: Path | None, log: Path | None, requests: Path | None) -> None:
    """Refuse, before anything is simulated, output files that could not be written afterwards."""
    given = {"--png": png, "--log": log, "--requests": requests}
    taken: dict[Path, str] = {}
    for option, path in given.items():
        output_file(path, option, make_folder=False)
        if path is not None and (other := taken.setdefault(path.resolve(), option)) != option:
            raise InvalidInputError(option, f"must be another file than {other}", got=str(path))
    with as_options():
        if png is not None:
            from llmserve_sim.plots import require_picture

            require_picture(png)
        if requests is not None:
            require_table_file(requests)
