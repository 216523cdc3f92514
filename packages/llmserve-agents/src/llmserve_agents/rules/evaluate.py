"""Evaluates many sets of thresholds on many episodes, in one batch.

The module knows nothing about how thresholds are searched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from llmserve_agents.rules.heuristic import Rules
from llmserve_agents.rules.thresholds import Thresholds, stack_thresholds
from llmserve_agents.search import mean_rewards
from llmserve_sim.batch import ServingBatch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.env import Outcome
    from llmserve_sim.schema import ServeAction
    from llmserve_sim.tasks import Task

    Floats = NDArray[np.float64]

__all__ = ["evaluate_thresholds"]

_ROWS: Final = 256
"""Most episodes in one batch: enough to make the rules' arithmetic cheap compared with the simulation."""


def evaluate_thresholds(
    task: Task,
    candidates: Sequence[Thresholds],
    seeds: Sequence[int],
    *,
    progress: Callable[[int], object] | None = None,
) -> Floats:
    """Return float64[n, seeds]: mean reward per window of the rules under each of n candidates, on the same episodes.

    `progress` is called after every batch with the number of windows simulated in it.
    """
    values = np.empty((len(candidates), len(seeds)))
    for left in range(0, len(seeds), _ROWS):
        some = seeds[left : left + _ROWS]
        first = ServingBatch(task, len(some))
        first.start(some)
        each = max(1, _ROWS // len(some))
        reusable: ServingBatch | None = None
        for top in range(0, len(candidates), each):
            tried = candidates[top : top + each]
            batch = first.select(np.tile(np.arange(len(some)), len(tried)), into=reusable)
            rules = Rules(stack_thresholds([one for one in tried for _ in some]), batch.size)
            values[top : top + each, left : left + _ROWS] = _rule_rewards(batch, rules).reshape(len(tried), -1)
            reusable = batch
            if progress is not None:
                progress(batch.size * batch.episode_length)
    return values


def _rule_rewards(batch: ServingBatch, rules: Rules) -> Floats:
    """Return float64[size]: mean reward per window of each episode under the rules."""

    def act(_window: int, outcome: Outcome | None) -> list[ServeAction]:
        if outcome is not None:
            rules.update(outcome.measurement)
        return rules.actions()

    return mean_rewards(batch, act)
