"""The commands of `llmserve` under one name.

A bad argument, a missing key or a failing endpoint is one line on standard error and exit code 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from llmserve_agents.__about__ import __version__
from llmserve_agents.cli.ablate import ablate
from llmserve_agents.cli.baseline import baseline
from llmserve_agents.cli.evaluate import evaluate
from llmserve_agents.cli.train import train
from llmserve_agents.cli.tune import tune_command
from llmserve_sim.commandline.terminal import run_app, version_option

__all__ = ["run"]

app = typer.Typer(name="llmserve", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def common(
    *,
    version: Annotated[bool, version_option("llmserve", __version__)] = False,
) -> None:
    """Run the reference agents of LLMServeEnv.

    Exit codes: 0 done, 1 the answer is no (an episode does not verify), 2 the call was wrong or could not be carried
    out, 130 stopped by Ctrl-C.
    """


def run(arguments: Sequence[str], *, name: str, only: str | None = None) -> int:
    """Run the command with `arguments` and return its exit code; see `llmserve_agents.cli` for their meanings.

    `name` is what the command is called in messages. With `only`, the app is that one command, and `arguments` do not
    name it.
    """
    return run_app(_ALONE[only] if only else app, arguments, name)


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
