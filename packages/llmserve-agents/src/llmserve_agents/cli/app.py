"""The commands of `llmserve` under one name, and how their errors become one line and an exit code.

A bad argument, a missing key or a failing endpoint is one line on standard error and exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from llmserve_agents.__about__ import __version__
from llmserve_agents.cli.ablate import ablate
from llmserve_agents.cli.baseline import baseline
from llmserve_agents.cli.evaluate import evaluate
from llmserve_agents.cli.train import train
from llmserve_agents.cli.tune import tune_command
from llmserve_sim.errors import LLMServeError

__all__ = ["run"]

app = typer.Typer(name="llmserve", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
_WRONG, _STOPPED = 2, 130
# Typer carries its own copy of click in some versions, so click's base of wrong calls is reached through typer.
_UsageError: Any = typer.BadParameter.__base__


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


app.command()(baseline)
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
