"""The command `llmserve baseline`: runs a baseline suite, and prints and writes its report."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer
from rich.console import Console

from llmserve_agents.cli.baseline_tables import episode_table, summary_lines
from llmserve_agents.evaluation.baseline import LLMOptions, Progress, run_suite
from llmserve_agents.evaluation.baseline_report import Mode, Runtime
from llmserve_agents.llm.agent import DEFAULT_MODEL
from llmserve_agents.llm.endpoint import Patience
from llmserve_agents.llm.prices import PRICES, read_prices
from llmserve_agents.policy import AGENTS
from llmserve_sim.commandline.outputs import as_options, output_file, writing
from llmserve_sim.commandline.terminal import progress_bar

__all__ = ["baseline"]

_NO: Final = 1
_DEFAULTS = LLMOptions()
_MODEL_PANEL = "The model (with --mode openai)"
_OPTIONS = {
    "agent": "--agent",
    "agents": "--agent",
    "base_url": "--base-url",
    "history": "--history",
    "max_completion_tokens": "--max-completion-tokens",
    "max_requests": "--max-requests",
    "mode": "--mode",
    "model": "--model",
    "prices": "--prices",
    "runtime": "--runtime",
    "seed": "--seed",
    "seeds": "--seed",
    "task_id": "--task",
    "tasks": "--task",
    "timeout_s": "--timeout-s",
    "transcript": "--transcript",
}


def baseline(
    *,
    mode: Annotated[
        str,
        typer.Option(help="deterministic: agents that need no model. openai: a model decides (needs OPENAI_API_KEY)."),
    ] = "deterministic",
    runtime: Annotated[
        str, typer.Option(help="in-process: the simulator in this process. http: a running server (--base-url).")
    ] = "in-process",
    base_url: Annotated[
        str | None,
        typer.Option(help="The server, with --runtime http. $LLMSERVE_API_TOKEN is sent where it wants one."),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="A task; repeat for several. By default the three that validators know.")
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(
            help="A seed, for every task; repeat for several. By default the first of each task's test seeds."
        ),
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(
            help=f"An agent of mode deterministic ({', '.join(AGENTS)}); repeat for several. By default the heuristic, "
            "with the trained policy, fixed configurations and random for comparison."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the report into this JSON file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of tables.")] = False,
    model: Annotated[
        str,
        typer.Option(
            help="The model; $OPENAI_BASE_URL names an endpoint other than OpenAI's.", rich_help_panel=_MODEL_PANEL
        ),
    ] = DEFAULT_MODEL,
    transcript: Annotated[
        Path | None,
        typer.Option(help="Append every question and answer to this JSONL file.", rich_help_panel=_MODEL_PANEL),
    ] = None,
    history: Annotated[
        int, typer.Option(help="Windows that a prompt shows.", rich_help_panel=_MODEL_PANEL)
    ] = _DEFAULTS.history,
    max_completion_tokens: Annotated[
        int, typer.Option(help="Longest answer, tokens.", rich_help_panel=_MODEL_PANEL)
    ] = _DEFAULTS.max_completion_tokens,
    max_requests: Annotated[
        int | None, typer.Option(help="Most requests to send; no limit unless given.", rich_help_panel=_MODEL_PANEL)
    ] = None,
    timeout_s: Annotated[
        float, typer.Option(help="Longest wait for an answer, seconds.", rich_help_panel=_MODEL_PANEL)
    ] = _DEFAULTS.patience.timeout_s,
    prices: Annotated[
        Path | None,
        typer.Option(help="JSON file with prices by model, over the built-in ones.", rich_help_panel=_MODEL_PANEL),
    ] = None,
) -> int:
    """Run a baseline suite, grade it and report it.

    The deterministic suite needs no key and no network, and gives the same report from run to run.
    """
    with as_options(_OPTIONS):
        output_file(output)
        options = LLMOptions(
            api_key=os.environ.get("OPENAI_API_KEY"),
            base_url=os.environ.get("OPENAI_BASE_URL") or None,
            history=history,
            max_completion_tokens=max_completion_tokens,
            patience=Patience(timeout_s=timeout_s, max_requests=max_requests),
            prices=PRICES if prices is None else read_prices(prices),
            priced_by=_DEFAULTS.priced_by + ("" if prices is None else f", and {prices.name}"),
            transcript=transcript,
        )
        with _progress() as advance:
            report = run_suite(
                cast("Mode", mode),
                cast("Runtime", runtime),
                tasks=task,
                seeds=seed,
                agents=agent,
                model=model,
                base_url=base_url,
                token=os.environ.get("LLMSERVE_API_TOKEN") or None,
                llm=options,
                progress=advance,
            )
    text = report.model_dump_json(indent=2) + "\n"
    if as_json:
        print(text, end="")
    else:
        console = Console()
        console.print(episode_table(report))
        for line in summary_lines(report):
            console.print(line)
    if output is not None:  # printed first: a full disk must not lose the result
        with writing(output.parent):
            output.write_text(text, encoding="utf-8")
        if not as_json:
            print(f"report: {output}")
    return _NO if report.verified is False else 0


@contextmanager
def _progress() -> Iterator[Any]:
    """Show a progress bar, and yield the `progress` function that `run_suite` calls."""
    with progress_bar("windows") as advance:

        def move(at: Progress) -> None:
            advance(
                f"{at.episode}/{at.episodes} {at.agent}, {at.task_id}, seed {at.seed}",
                at.windows * (at.episode - 1) + at.window,
                at.windows * at.episodes,
            )

        yield move
