"""The recording that a command's options ask for, and the line that says what was read of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from llmserve_sim.cli.options import require_with_trace
from llmserve_sim.cli.run import Recording, World

__all__ = ["read_aloud", "recording_of"]


def recording_of(trace: Path | None, **options: Any) -> Recording | None:
    """Return the recording that the options ask for. Without a trace, refuses options that need one."""
    require_with_trace(trace, {f"--{name.replace('_', '-')}": value for name, value in options.items()})
    given = {name: value for name, value in options.items() if value is not None}
    return None if trace is None else Recording(trace, **given)


def read_aloud(world: World) -> None:
    """Say on standard error what was read of the recording, if there is one."""
    if world.trace is not None:
        print(world.trace.account, file=sys.stderr)
