"""The `llmserve` command's door: it imports the command proper, or says which extra that needs.

Exit codes: 0 done; 1 the answer is no (an episode does not verify); 2 the call was wrong, the key is missing, the endpoint
or the server fails, or what was asked for cannot be written; 130 stopped (Ctrl-C).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import TextIOWrapper

from llmserve_agents.errors import MissingExtraError

__all__ = ["baseline", "evaluate", "main", "train"]

_EXTRA = {"rich", "typer"}
_WRONG, _STOPPED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `llmserve` with `arguments` (those of the process by default) and return its exit code."""
    return _main(arguments, "llmserve", None)


def baseline(arguments: Sequence[str] | None = None) -> int:
    """Run ``llmserve baseline`` under the name that the documented commands have for it."""
    return _main(arguments, "python -m server.baseline_inference", "baseline")


def evaluate(arguments: Sequence[str] | None = None) -> int:
    """Run ``llmserve evaluate`` under the name that the documented commands have for it."""
    return _main(arguments, "python evaluate.py", "evaluate")


def train(arguments: Sequence[str] | None = None) -> int:
    """Run ``llmserve train`` under the name that the documented commands have for it."""
    return _main(arguments, "python train.py", "train")


def _main(arguments: Sequence[str] | None, name: str, only: str | None) -> int:
    # A terminal that lacks a character gets a question mark for it, not a traceback.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        from llmserve_agents.cli_app import run

        return run(sys.argv[1:] if arguments is None else arguments, name=name, only=only)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _EXTRA:
            raise
        print(f"{name}: {MissingExtraError('cli', 'the command')}", file=sys.stderr)
        return _WRONG
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        return _STOPPED
