"""What the commands share: errors that name the option, folders that can be written, a bar of progress."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from llmserve_sim.errors import InvalidInputError

__all__ = ["as_options", "output_file", "output_folder", "progress_bar", "writing"]


@contextmanager
def as_options(names: Mapping[str, str]) -> Iterator[None]:
    """Within it, an error about an argument names the option that gave it; `names` maps the one to the other."""
    try:
        yield
    except InvalidInputError as error:
        raise type(error)(names.get(error.field, error.field), error.bound, got=error.got) from error


def output_folder(path: Path, files: Sequence[str] = (), option: str = "--output") -> Path:
    """Return a folder that can be made and written, with no folder where its files will be; it is not made yet.

    Raises `InvalidInputError`, before anything is run. A command that is refused or stopped later on leaves no empty folder.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InvalidInputError(
            option, f"must be a folder that can be written ({error.strerror})", got=str(path)
        ) from error
    finally:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
    for name in files:
        if (path / name).is_dir():
            raise InvalidInputError(option, f"must hold no folder named {name}: a file is written there", got=str(path))
    return path


def output_file(path: Path | None, option: str = "--output") -> None:
    """Make the folder of a file, and raise `InvalidInputError` where the file could not be written; leaves no file behind."""
    if path is None:
        return
    new = not os.path.lexists(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
    except OSError as error:
        raise InvalidInputError(
            option, f"must be a file that can be written ({error.strerror})", got=str(path)
        ) from error
    if new:
        with suppress(OSError):
            path.unlink()


@contextmanager
def writing(folder: Path, option: str = "--output") -> Iterator[None]:
    """Make the folder and, within it, tell a file that cannot be written as an error of the option."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with as_options({"png": option}):
            yield
    except OSError as error:
        name = folder if error.filename is None else error.filename
        raise InvalidInputError(option, f"cannot be written ({error.strerror})", got=str(name)) from error


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
