"""The heuristic with thresholds tuned for a task, read from ``weights/<task>/heuristic.json``.

The file holds the thresholds and a card that says what they are for and how they were made. Thresholds of another task,
interface or simulator are refused. Without a file the policy raises an error; it never acts on other thresholds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Self

from llmserve_agents.errors import MissingWeightsError, WeightsMismatchError
from llmserve_agents.rules.heuristic import HeuristicPolicy
from llmserve_agents.rules.thresholds import Thresholds, validate_thresholds
from llmserve_agents.weights import check_card, find_weights
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import ServeAction, ServeObservation

__all__ = ["FILE", "TunedHeuristicPolicy", "read_thresholds", "write_thresholds"]

FILE: Final = "heuristic.json"


class TunedHeuristicPolicy:
    """Applies the heuristic's rules with the thresholds that were tuned for the task.

    Args:
        folder: the folder of ``heuristic.json``. None: the shipped file of the task (see `weights.find_weights`).
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._policy: HeuristicPolicy | None = None
        self._path: Path | None = None
        self._card: Mapping[str, Any] = {}

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Return the agent with the thresholds in `folder`."""
        return cls(folder)

    @property
    def weights_path(self) -> Path | None:
        """Path of the thresholds that the last reset loaded."""
        return self._path

    @property
    def card(self) -> Mapping[str, Any]:
        """Content of their card."""
        return self._card

    @property
    def thresholds(self) -> Thresholds | None:
        """The thresholds that the last reset loaded."""
        return None if self._policy is None else self._policy.thresholds

    def reset(self, task_id: str, seed: int) -> None:
        """Load the task's thresholds and drop the previous episode.

        Raises `MissingWeightsError`, `WeightsMismatchError`, or `InvalidInputError` for a damaged file.
        """
        path = find_weights(task_id, FILE) if self._folder is None else self._folder / FILE
        thresholds, card = read_thresholds(path)
        if card.get("task_id") != task_id:
            raise WeightsMismatchError("task_id", card.get("task_id"), task_id, path)
        self._policy, self._path, self._card = HeuristicPolicy(thresholds), path, card
        self._policy.reset(task_id, seed)

    def constrain(self, *, can_split: bool) -> None:
        """Switch the rule for the split off in this episode if the deployment cannot split."""
        if self._policy is not None:
            self._policy.constrain(can_split=can_split)

    def act(self, observation: ServeObservation) -> ServeAction:
        """Return the next window's configuration."""
        if self._policy is None:
            raise MissingWeightsError("no thresholds are loaded: reset the agent to a task first")
        return self._policy.act(observation)


def read_thresholds(path: Path) -> tuple[Thresholds, Mapping[str, Any]]:
    """Return the thresholds and the card of a file; raises the same errors as `TunedHeuristicPolicy.reset`."""
    if not path.is_file():
        raise MissingWeightsError(f"there is no {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInputError(str(path), f"must be JSON ({error})") from error
    numbers, card = (content.get(name) if isinstance(content, dict) else None for name in ("thresholds", "card"))
    if not isinstance(numbers, dict) or not isinstance(card, dict):
        raise InvalidInputError(str(path), "must be an object with thresholds and card")
    check_card(card, path=path)
    return validate_thresholds(numbers, source=str(path)), card


def write_thresholds(folder: Path, thresholds: Thresholds, card: Mapping[str, Any]) -> Path:
    """Write thresholds and their card to ``heuristic.json`` in a folder; return the file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    text = json.dumps({"thresholds": asdict(thresholds), "card": dict(card)}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
    return path
