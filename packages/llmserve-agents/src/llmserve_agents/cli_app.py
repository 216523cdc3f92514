"""The commands of `llmserve`, and `baseline` itself. It turns arguments into calls and results into tables.

A bad argument, a missing key or a failing endpoint is one line on standard error and exit code 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from llmserve_agents.__about__ import __version__
from llmserve_agents.baseline import LLMOptions, run_suite
from llmserve_agents.baseline import Progress as Position
from llmserve_agents.cli_ablate import ablate
from llmserve_agents.cli_evaluate import evaluate
from llmserve_agents.cli_options import as_options, writing
from llmserve_agents.cli_render import episode_table, summary_lines
from llmserve_agents.cli_train import train
from llmserve_agents.cli_tune import tune_command
from llmserve_agents.endpoint import Patience
from llmserve_agents.llm import DEFAULT_MODEL
from llmserve_agents.policy import AGENTS
from llmserve_agents.prices import PRICES, PRICES_AS_OF, PRICES_SOURCE, read_prices
from llmserve_agents.report import Mode, Runtime
from llmserve_sim.errors import InvalidInputError, LLMServeError

__all__ = ["run"]

app = typer.Typer(name="llmserve", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
_NO, _WRONG, _STOPPED = 1, 2, 130
# Typer carries its own copy of click in some versions, so click's base of wrong calls is reached through typer.
_UsageError: Any = typer.BadParameter.__base__
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


def _show_version(asked: bool) -> None:
    if asked:
        print(f"llmserve {__version__}")
        raise typer.Exit


@app.callback()
def common(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Run the reference agents of LLMServeEnv.

    Exit codes: 0 done, 1 the answer is no (an episode does not verify), 2 the call was wrong or could not be carried out,
    130 stopped by Ctrl-C.
    """


def run(arguments: Sequence[str], *, name: str, only: str | None = None) -> int:
    """Run the command with `arguments` and return its exit code; see `llmserve_agents.cli` for their meanings.

    `name` is what the command is called in messages. With `only`, one of the commands is all there is, and needs no naming.
    """
    try:
        code = (_ALONE[only] if only else app)(args=list(arguments), prog_name=name, standalone_mode=False)
    except LLMServeError as error:
        return _wrong(name, str(error))
    except _UsageError as error:
        return _wrong(name, error.format_message()) if error.format_message() else _WRONG  # without: it was the help
    except OSError as error:  # no space left, a terminal that is gone
        return _wrong(name, str(error))
    except (typer.Abort, KeyboardInterrupt):
        code = _STOPPED
    if code == _STOPPED:
        # Some versions of Typer raise here, others have already turned Ctrl-C into this code, without a word.
        _wrong(name, "stopped")
    return code if isinstance(code, int) else 0


def _wrong(name: str, message: str) -> int:
    print(f"{name}: {' '.join(message.split())}", file=sys.stderr)
    return _WRONG


@app.command()
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
        _check_output(output)
        options = LLMOptions(
            api_key=os.environ.get("OPENAI_API_KEY"),
            base_url=os.environ.get("OPENAI_BASE_URL") or None,
            history=history,
            max_completion_tokens=max_completion_tokens,
            patience=Patience(timeout_s=timeout_s, max_requests=max_requests),
            prices=PRICES if prices is None else read_prices(prices),
            priced_by=f"{PRICES_SOURCE}, as of {PRICES_AS_OF}" + ("" if prices is None else f", and {prices.name}"),
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
    if output is not None:  # after what was found is told
        with writing(output.parent):
            output.write_text(text, encoding="utf-8")
        if not as_json:
            print(f"report: {output}")
    return _NO if report.verified is False else 0


app.command()(evaluate)
app.command()(ablate)
app.command("tune")(tune_command)
app.command()(train)
_ALONE = {
    name: typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    for name in ("baseline", "evaluate", "train")
}
_ALONE["baseline"].command()(baseline)
_ALONE["evaluate"].command()(evaluate)
_ALONE["train"].command()(train)


def _check_output(path: Path | None) -> None:
    """Refuse, before anything is run, a report that could not be written; make its folder."""
    if path is None:
        return
    new = not os.path.lexists(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
    except OSError as error:
        raise InvalidInputError(
            "--output", f"must be a file that can be written ({error.strerror})", got=str(path)
        ) from error
    if new:
        with suppress(OSError):
            path.unlink()


@contextmanager
def _progress() -> Iterator[Any]:
    """A bar on standard error, where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("windows"))
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        bar = bars.add_task("starting", total=None)

        def advance(at: Position) -> None:
            bars.update(
                bar,
                description=f"{at.episode}/{at.episodes} {at.agent}, {at.task_id}, seed {at.seed}",
                total=at.windows * at.episodes,
                completed=at.windows * (at.episode - 1) + at.window,
            )

        yield advance
