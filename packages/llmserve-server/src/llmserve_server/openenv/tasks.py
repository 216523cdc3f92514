"""The catalogue of tasks for callers: `GET /tasks`, and OpenEnv's Task API.

In the Task API a task is a (task, seed) pair of a split. All data come from the simulator's task files.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from llmserve_server.wire import TasksReply
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import json_schema
from llmserve_sim.tasks.description import describe
from llmserve_sim.tasks.model import SeedRange
from llmserve_sim.tasks.registry import list_tasks

__all__ = ["SPLITS", "num_tasks", "task_and_seed", "task_range", "task_spec", "tasks_reply"]

SPLITS: Final = ("train", "validation", "test")
"""The splits of the Task API, without the seeds behind the score's references: nobody may train or test on these."""
_MOST_LISTED: Final = 1000
"""Maximum number of tasks in one answer: the training split has a million seeds per task."""


@cache
def tasks_reply() -> TasksReply:
    """Return the catalogue and the action's schema."""
    return TasksReply.model_construct(
        tasks=[describe(task) for task in list_tasks()], action_schema=json_schema()["ServeAction"]
    )


def num_tasks(split: object) -> int:
    """Return the number of (task, seed) pairs in `split`."""
    return sum(len(seeds) for _, seeds in _ranges(split))


def task_and_seed(split: object, index: object) -> tuple[str, int]:
    """Return the task id and the seed at `index` of `split`, which lists all seeds of one task after another.

    Raises `InvalidInputError` for a split that does not exist and `IndexError` for an index beyond its end.
    """
    ranges = _ranges(split)
    if type(index) is not int or index < 0:
        raise IndexError(f"index: must be an integer in 0..{num_tasks(split) - 1}")
    for task_id, seeds in ranges:
        if index < len(seeds):
            return task_id, seeds.start + index
        index -= len(seeds)
    raise IndexError(f"index: must be an integer in 0..{num_tasks(split) - 1}")


def task_range(split: object, start: int | None = None, stop: int | None = None) -> list[dict[str, Any]]:
    """Return the specs of ``[start, stop)``, with the meaning of a Python slice; without bounds the first thousand.

    Raises `InvalidInputError` if given bounds span more than a thousand.
    """
    chosen = range(num_tasks(split))[slice(start, stop)]
    if len(chosen) > _MOST_LISTED:
        if start is not None or stop is not None:
            raise InvalidInputError("stop", f"must be at most {_MOST_LISTED} tasks after start, is {len(chosen)}")
        chosen = chosen[:_MOST_LISTED]
    return [task_spec(split, index) for index in chosen]


def task_spec(split: object, index: int) -> dict[str, Any]:
    """Return one spec: the arguments of `reset` that start the task."""
    task_id, seed = task_and_seed(split, index)
    return {"id": f"{task_id}-{seed}", "split": split, "index": index, "task_id": task_id, "seed": seed}


def _ranges(split: object) -> list[tuple[str, SeedRange]]:
    if split not in SPLITS:
        raise InvalidInputError("split", "must be one of " + ", ".join(SPLITS), got=split)
    return [(task.id, dict(task.seeds.items())[split]) for task in list_tasks()]
