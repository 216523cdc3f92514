"""The `llmserve-sim` command's door: it imports the command proper, or says which extra that needs.

Exit codes: 0 done; 1 the answer is no (a log that is not genuine, a bar that is not met); 2 the call was wrong, or what
was asked for could not be written; 130 stopped (Ctrl-C).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from llmserve_sim.errors import MissingExtraError

__all__ = ["main"]

_EXTRA = {"matplotlib", "rich", "typer"}
_WRONG, _STOPPED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (those of the process by default) and return its exit code."""
    # A terminal that lacks a character gets a question mark for it, not a traceback.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("llmserve-sim: stopped", file=sys.stderr)
        return _STOPPED
    except OSError as error:
        _let_go_of_output()
        print(f"llmserve-sim: the output cannot be written ({error.strerror})", file=sys.stderr)
        return _WRONG
    return code


def _run(arguments: Sequence[str]) -> int:
    try:
        from llmserve_sim.cli_app import run
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _EXTRA:
            raise
        print(f"llmserve-sim: {MissingExtraError('cli', 'the command')}", file=sys.stderr)
        return _WRONG
    return run(arguments)


def _let_go_of_output() -> None:
    """Send what is still buffered nowhere: the interpreter would fail on it once more on its way out."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
