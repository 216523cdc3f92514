"""The references that a task's score is measured against: committed data, one JSON file per task.

Each file holds the mean reward per window of the random policy, the best fixed configuration and the clairvoyant search
over the task's reference seeds, with budget, version and command. llmserve-agents computes them.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from llmserve_sim.__about__ import __version__
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import ReferenceScores, translate

__all__ = ["load_references", "write_references"]


def load_references(task_id: str, task_digest: str) -> ReferenceScores | None:
    """Return the references of a task, or None if there are none for this task and simulator version.

    Raises `InvalidInputError` for a file that is damaged or whose references are not in order.
    """
    found = _read(task_id)
    if found is None or found.task_digest != task_digest or found.simulator_version != __version__:
        return None
    return found


def write_references(task_id: str, found: ReferenceScores) -> Path:
    """Write the references of a task beside this module, for the scripts that compute them; return the file's path."""
    path = Path(__file__).with_name(f"{task_id}.json")
    path.write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return path


@cache
def _read(task_id: str) -> ReferenceScores | None:
    name = f"{task_id}.json"
    # Look the name up in the listing: a task id must never act as a path.
    source = {item.name: item for item in files(__package__).iterdir()}.get(name)
    if source is None:
        return None
    try:
        found = ReferenceScores.model_validate_json(source.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise translate(error, ReferenceScores, prefix=name) from None
    if not found.random < found.best_static < found.clairvoyant:
        raise InvalidInputError(name, "must have random < best_static < clairvoyant")
    return found
