"""The entry point of the `llmserve-sim` command. It imports the command itself late, or says which extra that needs.

Exit codes: 0 done; 1 the answer is no (a log that is not genuine, a bar that is not met); 2 the call was wrong, or the
output cannot be written; 130 stopped (Ctrl-C).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from llmserve_sim.commandline import run_command
from llmserve_sim.errors import MissingExtraError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (those of the process by default) and return its exit code."""

    def command() -> int:
        from llmserve_sim.cli.app import run

        return run(sys.argv[1:] if arguments is None else arguments)

    return run_command("llmserve-sim", command, MissingExtraError("cli", "the command"))
