"""The `llmserve-sim` command's door: it imports the command proper, or says which extra that needs.

Exit codes: 0 done; 1 the answer is no (a log that is not genuine, a bar that is not met); 2 the call was wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from llmserve_sim.errors import MissingExtraError

__all__ = ["main"]

_EXTRA = {"matplotlib", "rich", "typer"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (those of the process by default) and return its exit code."""
    try:
        from llmserve_sim.cli_app import run
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _EXTRA:
            raise
        print(f"llmserve-sim: {MissingExtraError('cli', 'the command')}", file=sys.stderr)
        return 2
    return run(sys.argv[1:] if arguments is None else arguments)
