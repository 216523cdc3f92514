"""Where trained weights and tuned thresholds are looked up, and whether their cards fit this installation.

Both lie in ``weights/<task>/``, at the root of the repository or inside the wheel. A card of another schema, another task or another
simulator is refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llmserve_agents.errors import MissingWeightsError, WeightsMismatchError
from llmserve_sim.__about__ import __version__ as simulator_version
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import schema_hash
from llmserve_sim.tasks import list_tasks
from llmserve_sim.tasks.registry import catalogue_task

if TYPE_CHECKING:
    from llmserve_sim.tasks import Task

__all__ = ["CARD", "POLICY", "WEIGHTS_VARIABLE", "check_card", "find_weights", "identity"]

POLICY: Final = "policy.safetensors"
CARD: Final = "card.json"
WEIGHTS_VARIABLE: Final = "LLMSERVE_WEIGHTS"
"""Environment variable that names the folder of all tasks' weights."""
_TYPES: Final = {"task_id": str, "seed": int, "steps": int, "command": str}
"""Entries of a card that its readers use, and their types."""
_TYPE_NAMES: Final = {str: "a text", int: "an integer"}
_HERE: Final = Path(__file__).resolve().parent
_PACKAGED: Final = (
    # An editable install uses the repository's weights; a wheel holds a copy of them (hatch_build.py).
    _HERE.parents[3] / "weights" if (_HERE.parents[1] / "hatch_build.py").is_file() else _HERE / "weights"
)


def identity(task: Task) -> dict[str, str]:
    """Return the entries of a card that tie weights or thresholds to their task, schema and simulator."""
    return {
        "task_id": task.id,
        "task_digest": task.digest,
        "schema_hash": schema_hash(),
        "simulator_version": simulator_version,
    }


def find_weights(task_id: str, filename: str = POLICY, root: Path | None = None) -> Path:
    """Return the path of a task's file of weights; raises `MissingWeightsError`.

    It is looked up in `root` if given, else in ``$LLMSERVE_WEIGHTS`` if set, else in ``weights`` of the current folder and then in
    the package's own weights.
    """
    name = catalogue_task(task_id).id  # a task's id is a name, and never a path
    given = os.environ.get(WEIGHTS_VARIABLE)
    if root is not None:
        folders = [root]
    elif given:
        folders = [Path(given)]
    else:
        folders = [Path("weights"), _PACKAGED]
    for folder in folders:
        path = folder / name / filename
        if path.is_file():
            return path
    maker, agent = ("train", "ppo") if filename == POLICY else ("tune", "tuned-heuristic")
    raise MissingWeightsError(
        f"there is no {filename} for {name} in {' or '.join(map(str, folders))}: make one (llmserve {maker} --task {name}) "
        f"and name its folder ({agent}:FOLDER), or name the folder of all weights in {WEIGHTS_VARIABLE}"
    )


def check_card(
    card: Mapping[str, Any], *, strict: bool = True, features_hash: str | None = None, path: Path | None = None
) -> None:
    """Raise `WeightsMismatchError` unless a card fits this installation; with `strict`, the task and the simulator must fit too.

    `features_hash` is the one of the weights' inputs, None for thresholds. `path` is named in the message. The digest of a task
    that is not built in is not checked. Raises `InvalidInputError` for a card without a task's id, or with an entry of a wrong type.
    """
    for name, kind in _TYPES.items():
        if (name == "task_id" or name in card) and type(card.get(name)) is not kind:
            raise InvalidInputError(f"card.{name}", f"must be {_TYPE_NAMES[kind]}", got=card.get(name))
    expected = {"schema_hash": schema_hash()}
    if features_hash is not None:
        expected["features_hash"] = features_hash
    if strict:
        expected["simulator_version"] = simulator_version
        builtin = {task.id: task.digest for task in list_tasks()}
        if card["task_id"] in builtin:
            expected["task_digest"] = builtin[card["task_id"]]
    for name, here in expected.items():
        if card.get(name) != here:
            raise WeightsMismatchError(name, card.get(name), here, path)
