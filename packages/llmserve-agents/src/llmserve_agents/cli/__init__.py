"""The `llmserve` command's door: it imports the command proper, or says which extra that needs.

Exit codes: 0 done; 1 the answer is no (an episode does not verify); 2 the call was wrong, the key is missing, the endpoint
or the server fails, or what was asked for cannot be written; 130 stopped (Ctrl-C).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Final

from llmserve_agents.errors import MissingExtraError

__all__ = ["main"]

_EXTRA = {"rich", "typer"}
_WRONG, _STOPPED = 2, 130
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
    # A terminal that lacks a character gets a question mark for it, not a traceback.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        from llmserve_agents.cli.app import run

        return run(sys.argv[1:] if arguments is None else arguments, name=name, only=only)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _EXTRA:
            raise
        print(f"{name}: {MissingExtraError('cli', 'the command')}", file=sys.stderr)
        return _WRONG
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        return _STOPPED
