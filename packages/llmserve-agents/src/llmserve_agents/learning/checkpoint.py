"""Weights on disk: `policy.safetensors`, and `card.json`, which says what they are for and how they were made.

Tensors are float32 and read by safetensors: nothing is unpickled. A card of another file, another schema, other features, another
task or another simulator is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.numpy import load, save

from llmserve_agents import weights
from llmserve_agents.errors import MissingWeightsError
from llmserve_agents.learning.features import features_hash
from llmserve_agents.learning.network import MLPPolicy
from llmserve_agents.weights import CARD, POLICY
from llmserve_sim.errors import InvalidInputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmserve_sim.tasks import Task

__all__ = ["Checkpoint", "identity", "read", "write"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A policy from a file, with the file's path and its card."""

    path: Path
    card: Mapping[str, Any]
    policy: MLPPolicy


def identity(task: Task) -> dict[str, str]:
    """Return the entries of a card that tie a policy to its task, schema, simulator and features."""
    return weights.identity(task) | {"features_hash": features_hash()}


def read(path: Path, *, strict: bool = True) -> Checkpoint:
    """Return the checkpoint of a file whose card lies beside it.

    With `strict`, the task's digest and the simulator's version must agree too. Raises `MissingWeightsError` if file or card are
    missing, `WeightsMismatchError` that names what differs, and `InvalidInputError` for a damaged file.
    """
    card_path = path.with_name(CARD)
    for needed in (path, card_path):
        if not needed.is_file():
            raise MissingWeightsError(f"there is no {needed}")
    card, content = _card_of(card_path), path.read_bytes()
    weights.check_card(card, strict=strict, features_hash=features_hash(), path=path)
    if card.get("policy_sha256") != hashlib.sha256(content).hexdigest():
        raise InvalidInputError(
            str(path), f"must be the file that its {CARD} describes (policy_sha256): it is damaged, or another policy's"
        )
    try:
        tensors = load(content)
    except (ValueError, KeyError, SafetensorError) as error:  # KeyError: a number type that numpy lacks
        raise InvalidInputError(str(path), f"must be weights as safetensors ({error})") from error
    return Checkpoint(path, card, MLPPolicy.from_tensors(tensors, can_split=bool(card.get("can_split"))))


def _card_of(path: Path) -> dict[str, Any]:
    """Return the content of a card."""
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInputError(str(path), f"must be a JSON object ({error})") from error
    if not isinstance(card, dict):
        raise InvalidInputError(str(path), "must be a JSON object")
    return card


def write(folder: Path, tensors: Mapping[str, NDArray[np.float32]], card: Mapping[str, Any]) -> Path:
    """Write a policy, and its card with the policy's digest added, into `folder`; return the policy's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / POLICY
    content = save({name: tensors[name] for name in sorted(tensors)})
    path.write_bytes(content)
    described = {**card, "policy_sha256": hashlib.sha256(content).hexdigest()}
    (folder / CARD).write_text(json.dumps(described, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return path
