"""What `llmserve-sim` and `llmserve` share: exit codes, and one line for each error.

This module needs the standard library only. `outputs` checks output files, `terminal` needs the extra ``cli``.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from typing import Final

__all__ = ["NO", "STOPPED", "WRONG", "report", "run_command"]

NO: Final = 1
"""Exit code: the command ran, and its answer is no."""
WRONG: Final = 2
"""Exit code: the call was wrong, or the command could not be carried out."""
STOPPED: Final = 130
"""Exit code: stopped by Ctrl-C."""

_EXTRA = frozenset({"matplotlib", "rich", "typer"})
# A full disk, a closed pipe, a terminal that is gone; EINVAL is what Windows says of a closed pipe.
_UNWRITABLE = frozenset({errno.ENOSPC, errno.EPIPE, errno.EIO, errno.EBADF, errno.EINVAL})


def run_command(name: str, command: Callable[[], int], missing_extra: ImportError) -> int:
    """Call `command` and return its exit code; report what stops it in one line on standard error.

    `command` may import modules of the extra ``cli``. If one of them is not installed, the line is `missing_extra`.
    """
    # A terminal that lacks a character gets a question mark for it, not a traceback.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = command()
        sys.stdout.flush()
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _EXTRA:
            raise
        return report(name, str(missing_extra))
    except KeyboardInterrupt:
        return report(name, "stopped", STOPPED)
    except OSError as error:
        _discard_unwritable_output()
        if error.filename is None and error.errno in _UNWRITABLE:
            return report(name, f"the output cannot be written ({error.strerror})")
        return report(name, str(error))
    return code


def report(name: str, message: str, code: int = WRONG) -> int:
    """Print ``name: message`` as one line on standard error and return `code`."""
    with suppress(OSError):  # standard error may be closed as well
        print(f"{name}: {' '.join(message.split())}", file=sys.stderr)
    return code


def _discard_unwritable_output() -> None:
    """Drop what standard output cannot write: the interpreter would fail on it once more as it exits."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
