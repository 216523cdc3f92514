"""Output files of a command: check them before anything runs, write them afterwards. Errors name the option."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from llmserve_sim.errors import InvalidInputError

__all__ = ["as_options", "output_file", "output_folder", "writing"]


@contextmanager
def as_options(names: Mapping[str, str], in_bounds: Mapping[str, str] | None = None) -> Iterator[None]:
    """Within it, an error about a field names the option that set the field. `names` maps fields to options.

    `in_bounds` maps words of the error's bound to what replaces them.
    """
    try:
        yield
    except InvalidInputError as error:
        bound = error.bound
        if in_bounds:
            words = "|".join(map(re.escape, in_bounds))
            bound = re.sub(rf"\b(?:{words})\b", lambda found: in_bounds[found[0]], bound)
        raise type(error)(names.get(error.field, error.field), bound, got=error.got) from error


def output_folder(path: Path, files: Sequence[str] = (), option: str = "--output") -> Path:
    """Return `path` if it is, or can become, a folder that can be written. It is not made yet.

    Raises `InvalidInputError` if not, or if it holds a folder under a name in `files`. Call it before anything runs.
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
        # A command that is refused or stopped later on leaves no empty folder.
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
    for name in files:
        if (path / name).is_dir():
            raise InvalidInputError(option, f"must hold no folder named {name}: a file is written there", got=str(path))
    return path


def output_file(path: Path | None, option: str = "--output", *, make_folder: bool = True) -> None:
    """Raise `InvalidInputError` if the file cannot be written; leaves no file behind. Call it before anything runs.

    The file's folder is made if it is missing; without `make_folder` a missing folder is refused.
    """
    if path is None:
        return
    if not make_folder and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise InvalidInputError(option, "must be a file in a folder that exists", got=str(path))
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
def writing(path: Path, option: str = "--output", *, make_folder: bool = True) -> Iterator[None]:
    """Within it, a file that cannot be written is an `InvalidInputError` of the option.

    `path` is the folder of the files, which is made first. Without `make_folder` it is the one file that is written.
    """
    try:
        if make_folder:
            path.mkdir(parents=True, exist_ok=True)
        with as_options({"png": option}):
            yield
    except OSError as error:
        name = path if error.filename is None else error.filename
        raise InvalidInputError(option, f"cannot be written ({error.strerror})", got=str(name)) from error
