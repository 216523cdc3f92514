"""What the commands share: errors that name the option, folders that can be written, a bar of progress."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from llmserve_sim.errors import InvalidInputError

__all__ = ["as_options", "output_folder", "progress_bar"]


@contextmanager
def as_options(names: Mapping[str, str]) -> Iterator[None]:
    """Within it, an error about an argument names the option that gave it; `names` maps the one to the other."""
    try:
        yield
    except InvalidInputError as error:
        raise type(error)(names.get(error.field, error.field), error.bound, got=error.got) from error


def output_folder(path: Path, option: str = "--output") -> Path:
    """Make a folder and return it; raises `InvalidInputError` before anything is run where it cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InvalidInputError(
            option, f"must be a folder that can be written ({error.strerror})", got=str(path)
        ) from error
    return path


@contextmanager
def progress_bar(unit: str) -> Iterator[Any]:
    """Give a function ``(description, done, total)`` that moves a bar on standard error, where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        bar = bars.add_task("starting", total=None)

        def advance(description: str, done: int, total: int) -> None:
            bars.update(bar, description=description, total=total, completed=done)

        yield advance
