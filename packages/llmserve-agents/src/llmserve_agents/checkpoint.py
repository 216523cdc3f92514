"""Weights on disk: `policy.safetensors` with a card, `card.json`, that says what they are for and how they were made.

Tensors are float32, read by safetensors: nothing is unpickled. A card that names another file, another action and observation
schema, other features, another task or another simulator is refused: weights never act on what they were not made for.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from safetensors import SafetensorError
from safetensors.numpy import load, save

from llmserve_agents.errors import MissingWeightsError, WeightsMismatchError
from llmserve_agents.features import features_hash
from llmserve_agents.network import MLPPolicy
from llmserve_sim.__about__ import __version__ as simulator_version
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import schema_hash
from llmserve_sim.tasks import list_tasks
from llmserve_sim.tasks.registry import catalogue_task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmserve_sim.tasks import Task

__all__ = [
    "CARD",
    "POLICY",
    "WEIGHTS_VARIABLE",
    "Checkpoint",
    "check_card",
    "find_weights",
    "identity",
    "read",
    "write",
]

POLICY: Final = "policy.safetensors"
CARD: Final = "card.json"
WEIGHTS_VARIABLE: Final = "LLMSERVE_WEIGHTS"
"""Environment variable that names the folder of all tasks' weights."""
_TYPES: Final = {"task_id": str, "seed": int, "steps": int, "command": str}
"""What readers count on in a card."""
_CALLED: Final = {str: "a text", int: "an integer"}
_HERE: Final = Path(__file__).resolve().parent
_PACKAGED: Final = (
    # An editable install runs from the repository, at whose root the weights are kept; a wheel brings them (hatch_build.py).
    _HERE.parents[3] / "weights" if (_HERE.parents[1] / "hatch_build.py").is_file() else _HERE / "weights"
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A policy that was read, with where it was read from and its card."""

    path: Path
    card: Mapping[str, Any]
    policy: MLPPolicy


def identity(task: Task) -> dict[str, str]:
    """Return what weights for a task are bound to, as their card says it."""
    return {
        "task_id": task.id,
        "task_digest": task.digest,
        "schema_hash": schema_hash(),
        "features_hash": features_hash(),
        "simulator_version": simulator_version,
    }


def find_weights(task_id: str, filename: str = POLICY, root: Path | None = None) -> Path:
    """Return the path of a task's file of weights.

    Looked for in `root` where one is given, else in ``$LLMSERVE_WEIGHTS`` where that is set, else in ``weights`` below the
    current folder, and, where it is not there, in what the package brought along. Raises `MissingWeightsError`.
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


def read(path: Path, *, strict: bool = True) -> Checkpoint:
    """Return the checkpoint of a file, its card beside it.

    `strict`: the task's digest and the simulator's version must agree as well. Raises `MissingWeightsError` where file or card
    are missing, `WeightsMismatchError` naming what differs, and `InvalidInputError` for a file that is damaged.
    """
    card_path = path.with_name(CARD)
    for needed in (path, card_path):
        if not needed.is_file():
            raise MissingWeightsError(f"there is no {needed}")
    card, content = _card_of(card_path), path.read_bytes()
    check_card(card, strict=strict, path=path)
    if card.get("policy_sha256") != hashlib.sha256(content).hexdigest():
        raise InvalidInputError(
            str(path), f"must be the file that its {CARD} describes (policy_sha256): it is damaged, or another policy's"
        )
    try:
        tensors = load(content)
    except (ValueError, KeyError, SafetensorError) as error:  # KeyError: a type of numbers that numpy has none for
        raise InvalidInputError(str(path), f"must be weights as safetensors ({error})") from error
    return Checkpoint(path, card, MLPPolicy.of(tensors, can_split=bool(card.get("can_split"))))


def _card_of(path: Path) -> dict[str, Any]:
    """Return what a card says."""
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInputError(str(path), f"must be a JSON object ({error})") from error
    if not isinstance(card, dict):
        raise InvalidInputError(str(path), "must be a JSON object")
    return card


def check_card(
    card: Mapping[str, Any], *, strict: bool = True, features: bool = True, path: Path | None = None
) -> None:
    """Raise `WeightsMismatchError` unless a card fits this installation (`strict`: the task and simulator as well).

    A task of one's own is known by its id alone: what stands in its file is the business of whoever plays it. `path` is
    where the weights are, for the message. Raises `InvalidInputError` for a card without an id, or with an entry of another
    type than its readers count on.
    """
    for name, kind in _TYPES.items():
        if (name == "task_id" or name in card) and type(card.get(name)) is not kind:
            raise InvalidInputError(f"card.{name}", f"must be {_CALLED[kind]}", got=card.get(name))
    expected = {"schema_hash": schema_hash()}
    if features:
        expected["features_hash"] = features_hash()
    if strict:
        expected["simulator_version"] = simulator_version
        builtin = {task.id: task.digest for task in list_tasks()}
        if card["task_id"] in builtin:
            expected["task_digest"] = builtin[card["task_id"]]
    for name, here in expected.items():
        if card.get(name) != here:
            raise WeightsMismatchError(name, card.get(name), here, path)


def write(folder: Path, tensors: Mapping[str, NDArray[np.float32]], card: Mapping[str, Any]) -> Path:
    """Write a policy and its card, to which the policy's digest is added, into `folder`; return the policy's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / POLICY
    content = save({name: tensors[name] for name in sorted(tensors)})
    path.write_bytes(content)
    described = {**card, "policy_sha256": hashlib.sha256(content).hexdigest()}
    (folder / CARD).write_text(json.dumps(described, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return path
