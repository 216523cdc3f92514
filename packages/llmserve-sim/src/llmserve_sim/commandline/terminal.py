"""What commands share that needs Typer and Rich (extra ``cli``): run an app, ``--version``, a progress bar."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from llmserve_sim.commandline import STOPPED, WRONG, report
from llmserve_sim.errors import LLMServeError

__all__ = ["progress_bar", "run_app", "version_option"]

# Some versions of Typer carry a copy of click, so click's base of usage errors is reached through Typer.
_UsageError: Any = typer.BadParameter.__base__


def run_app(app: typer.Typer, arguments: Sequence[str], name: str) -> int:
    """Run `app` with `arguments` and return its exit code; report a wrong call or a failure in one line.

    `name` is what the command is called in messages. Raises `OSError` if the output cannot be written.
    """
    try:
        code = app(args=list(arguments), prog_name=name, standalone_mode=False)
    except LLMServeError as error:
        return report(name, str(error))
    except _UsageError as error:
        # Without arguments, some versions of Typer print the help and raise an error without a message.
        return report(name, error.format_message()) if error.format_message() else WRONG
    except SystemExit as error:
        # Click turns a closed pipe into an exit of its own, without a word.
        if isinstance(error.__context__, BrokenPipeError):
            raise error.__context__ from None
        raise
    except (typer.Abort, KeyboardInterrupt):
        code = STOPPED
    if code == STOPPED:  # other versions of Typer return this code on Ctrl-C
        return report(name, "stopped", STOPPED)
    return code if isinstance(code, int) else 0


def version_option(name: str, version: str) -> Any:
    """Return the option ``--version``, which prints the command's name and version and ends the command."""

    def show(asked: bool) -> None:
        if asked:
            print(f"{name} {version}")
            raise typer.Exit

    return typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=show)


@contextmanager
def progress_bar(unit: str) -> Iterator[Any]:
    """Give a function ``(description, done, total)`` that moves a bar on standard error, where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        bar = bars.add_task("starting", total=None)

        def advance(description: str, done: int, total: int) -> None:
            bars.update(bar, description=description, total=total, completed=done)

        yield advance
