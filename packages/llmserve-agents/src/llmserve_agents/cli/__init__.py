"""The entry point of the `llmserve` command: imports the command, or says which extra is missing.

Exit codes: 0 done; 1 the answer is no (an episode does not verify); 2 the call was wrong, the key is missing, the
endpoint or the server fails, or the output cannot be written; 130 stopped (Ctrl-C).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from llmserve_agents.errors import MissingExtraError
from llmserve_sim.commandline import run_command

__all__ = ["main"]

_SCRIPTS: Final = {
    "baseline": "python -m server.baseline_inference",
    "evaluate": "python evaluate.py",
    "train": "python train.py",
}
"""The documented scripts that run one command, by that command."""


def main(arguments: Sequence[str] | None = None, *, only: str | None = None) -> int:
    """Run `llmserve` with `arguments` (those of the process by default) and return its exit code.

    `only` is one of its commands: that command runs alone, under the name that the documented scripts have for it.
    """
    name = _SCRIPTS[only] if only else "llmserve"

    def command() -> int:
        from llmserve_agents.cli.app import run

        return run(sys.argv[1:] if arguments is None else arguments, name=name, only=only)

    return run_command(name, command, MissingExtraError("cli", "the command"))
