"""The catalogue: finds, reads and validates task files, built-in ones by id and users' own by path.

Built-in tasks are the TOML files beside this module. Nothing is cached across files that can change.
"""

from __future__ import annotations

import tomllib
from functools import cache, cached_property
from pathlib import Path

from pydantic import BaseModel, ValidationError

from llmserve_sim.errors import InvalidInputError, UnknownTaskError
from llmserve_sim.schema import translate
from llmserve_sim.tasks.model import Task

__all__ = ["MAX_TASK_BYTES", "catalogue_task", "list_tasks", "load_task", "parse_task"]

MAX_TASK_BYTES = 64 * 1024
"""Largest task file that is read; the built-in ones take about 4 KB."""

_ORDER = ("static_workload", "bursty_workload", "adversarial_multitenant")
_HERE = Path(__file__).parent


def list_tasks(*, extended: bool = True) -> tuple[Task, ...]:
    """Return the built-in tasks: the three that validators know, easiest first, then the extended ones by id."""
    return tuple(task for task in _builtin().values() if extended or not task.extended)


def load_task(task: object) -> Task:
    """Return a task by id or by the path of a TOML file (a `Path`, or text that ends in ``.toml``).

    A `Task` is validated again.     Raises `UnknownTaskError` for an unknown id and `InvalidInputError` naming the
    field and its bound for a bad file.
    """
    if isinstance(task, Task):
        return _checked(task)
    if isinstance(task, Path) or (isinstance(task, str) and task.endswith(".toml")):
        return _read(Path(task))
    known = _builtin()
    if not isinstance(task, str) or task not in known:
        raise UnknownTaskError("task_id", f"must be one of {', '.join(known)}, or the path of a .toml file", got=task)
    return known[task]


def catalogue_task(task_id: str) -> Task:
    """Return a built-in task by its id. For ids from outside, which must never name a path.

    Raises `UnknownTaskError` for an unknown id.
    """
    known = _builtin()
    if task_id not in known:
        raise UnknownTaskError("task_id", f"must be one of {', '.join(known)}", got=task_id)
    return known[task_id]


def parse_task(text: str, *, source: str = "task") -> Task:
    """Return the task that a TOML document describes; `source` names it in errors.

    Raises `InvalidInputError` whose field is ``source`` for text that is not TOML, else the field's dotted path.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInputError(source, f"must be a complete TOML document ({error})") from error
    try:
        return Task.model_validate(content)
    except ValidationError as error:
        raise translate(error, Task) from None


def _checked(task: Task) -> Task:
    """Validate a task again: `model_copy(update=...)` checks nothing, and keeps the digest of what it copied."""
    if any(task is known for known in _builtin().values()):
        return task
    try:
        return Task.model_validate(_plain(task))
    except ValidationError as error:
        raise translate(error, Task) from None


def _plain(value: object) -> object:
    """Return the content of a model, unknown keys included, and of the models in it."""
    if isinstance(value, BaseModel):
        derived = {name for name in dir(type(value)) if isinstance(getattr(type(value), name, None), cached_property)}
        return {name: _plain(item) for name, item in vars(value).items() if name not in derived}
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _read(path: Path) -> Task:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TASK_BYTES + 1)
    except OSError as error:
        raise InvalidInputError(str(path), f"must be a readable task file ({error.strerror})") from error
    if len(raw) > MAX_TASK_BYTES:
        raise InvalidInputError(str(path), f"must be a task file of at most {MAX_TASK_BYTES} bytes")
    try:
        text = raw.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raise InvalidInputError(str(path), f"must be UTF-8 text ({error.reason} at byte {error.start})") from error
    return parse_task(text, source=str(path))


@cache
def _builtin() -> dict[str, Task]:
    tasks = {path.stem: _read(path) for path in sorted(_HERE.glob("*.toml"))}
    for stem, task in tasks.items():
        if task.id != stem:
            raise InvalidInputError(f"{stem}.toml", "must hold the task of that id", got=task.id)
    ordered = [*_ORDER, *(stem for stem in tasks if stem not in _ORDER)]
    return {stem: tasks[stem] for stem in ordered}
