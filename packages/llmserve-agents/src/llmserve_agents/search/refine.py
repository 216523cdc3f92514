"""Searches for the best fixed configuration between the points of the action grid, over the action's whole range.

The action grid has gaps of up to a factor of two in `batch_cap`, and a fixed configuration between its points may earn
more than all on it. A round of the search has three stages, all on common random numbers (every configuration plays the
same seeds): random configurations of the whole range, and the given starts, are screened on few seeds; from the best of
them, a pattern search with ever finer steps climbs on more; the best ends and all starts are compared on all seeds, and
the winner climbs on. Further rounds, from new random configurations, use what is left of the budget. The result is
deterministic, and never worse on these seeds than a start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from llmserve_agents.search.grid import evaluate_actions
from llmserve_sim.batch import ServingBatch
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import ACTION_FIELDS, QUANTIZATION_TIERS, ServeAction

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.tasks import Task

    Floats = NDArray[np.float64]

__all__ = ["RefineBudget", "Refined", "refine", "refine_static"]

Evaluate: TypeAlias = "Callable[[Sequence[ServeAction], Sequence[int]], Floats]"
"""Returns float64[actions, seeds]: what each fixed configuration earns on each seed."""
Log: TypeAlias = "Callable[[str], object]"

_CAP, _FRACTION, _DEPTH, _TIER = "batch_cap", "kv_budget_fraction", "speculation_depth", "quantization_tier"
_FLAGS: Final = ("prefill_decode_split", "priority_routing")
_LEVELS: Final = ((1.5, 0.1), (1.25, 0.05), (1.12, 0.025), (1.05, 0.01), (1.0, 0.004))
"""Steps of the pattern search, coarse to fine: a factor of the cap (one request at least), KV fraction added."""
_SCREENED: Final = 0.2
"""Share of the budget that the first stage takes."""
_LAST: Final = 0.4
"""Share of the budget that is kept for the last stage."""
_MIN_GAIN: Final = 1e-6
"""Smallest gain in reward per window for which the search moves."""


@dataclass(frozen=True, slots=True)
class RefineBudget:
    """How much is simulated."""

    episodes: int = 30_000
    """Most episodes, all stages together; the last batch may go beyond by its size."""
    restarts: int = 4
    """Configurations from which the second stage climbs."""
    seed: int = 0
    """Seed of the random configurations."""


@dataclass(frozen=True, slots=True)
class Refined:
    """The best fixed configuration found."""

    action: ServeAction
    value: float
    """Its mean reward per window over all seeds."""
    episodes: int
    """Episodes simulated."""


def refine_static(
    task: Task,
    seeds: Sequence[int],
    starts: Sequence[ServeAction],
    budget: RefineBudget | None = None,
    *,
    log: Log | None = None,
) -> Refined:
    """Return the best fixed configuration of a task found by `refine`."""
    can_split = ServingBatch(task, 1).can_split

    def told(line: str) -> None:
        if log is not None:
            log(f"{task.id}: {line}")

    return refine(partial(evaluate_actions, task), seeds, starts, budget, can_split=can_split, log=told)


def refine(
    evaluate: Evaluate,
    seeds: Sequence[int],
    starts: Sequence[ServeAction],
    budget: RefineBudget | None = None,
    *,
    can_split: bool = True,
    log: Log | None = None,
) -> Refined:
    """Return the best fixed configuration found on `seeds`; `log` receives lines of progress.

    Raises `InvalidInputError` without starts or seeds, and for a budget that does not pay for the starts alone.
    """
    budget = RefineBudget() if budget is None else budget
    if not starts or not seeds:
        raise InvalidInputError("seeds" if starts else "starts", "must be at least one")
    few, some = seeds[: max(4, len(seeds) // 8)], seeds[: max(8, len(seeds) // 4)]
    least = len(starts) * (len(few) + len(seeds))
    if budget.episodes < least or budget.restarts < 1:
        field, bound = ("restarts", 1) if budget.episodes >= least else ("episodes", least)
        raise InvalidInputError(field, f"must be at least {bound}", got=getattr(budget, field))
    search, rng = _Search(evaluate, can_split=can_split, log=log), np.random.default_rng(budget.seed)
    best, value = starts[0], -np.inf
    while True:
        begun, left = search.episodes, budget.episodes - search.episodes
        drawn = search.draw(int(_SCREENED * left) // len(few), rng)
        if begun and len(drawn) < budget.restarts:
            return Refined(best, value, search.episodes)
        screened = drawn if begun else [*starts, *drawn]
        values = search.values(screened, few)
        search.tell(f"best of {len(screened)} configurations on {len(few)} seeds", values.max())
        chosen = [screened[i] for i in (-values).argsort(kind="stable").tolist()]
        if not begun:
            chosen.insert(0, starts[int(values[: len(starts)].argmax())])
        ends = []
        for number, here in enumerate(list(dict.fromkeys(chosen))[: budget.restarts]):
            spare = begun + (1.0 - _LAST) * left - search.episodes
            ends.append(search.climb(here, some, search.episodes + int(spare / (budget.restarts - number))))
            search.tell(f"climb {number + 1} of {budget.restarts} on {len(some)} seeds", ends[-1][1])
        finalists = list(dict.fromkeys([best, *starts, *(end for end, _ in ends)]))
        best = finalists[int(search.values(finalists, seeds).argmax())]
        best, value = search.climb(best, seeds, budget.episodes)
        search.tell(f"best fixed configuration on {len(seeds)} seeds", value)


class _Search:
    """Evaluates configurations once each and counts episodes."""

    def __init__(self, evaluate: Evaluate, *, can_split: bool, log: Log | None) -> None:
        self.episodes = 0
        self._evaluate, self._can_split, self._log = evaluate, can_split, log
        self._known: dict[tuple[ServeAction, int], float] = {}

    def tell(self, what: str, value: float) -> None:
        if self._log is not None:
            self._log(f"{what}: {value:.4f}, {self.episodes} episodes so far")

    def values(self, actions: Sequence[ServeAction], seeds: Sequence[int]) -> Floats:
        """Return float64[actions]: means over `seeds`, which are the first of the search's seeds."""
        count = len(seeds)
        new = [action for action in dict.fromkeys(actions) if (action, count) not in self._known]
        if new:
            found = self._evaluate(new, seeds).mean(axis=1)
            self._known.update(zip(((action, count) for action in new), found.tolist(), strict=True))
            self.episodes += len(new) * count
        return np.array([self._known[action, count] for action in actions])

    def draw(self, count: int, rng: np.random.Generator) -> list[ServeAction]:
        """Return random configurations: the cap uniform in its logarithm, the others in their values."""
        low, high = (float(ACTION_FIELDS[_CAP].low or 1), float(ACTION_FIELDS[_CAP].high or 1))
        return [
            _made(
                {
                    _CAP: low * (high / low) ** rng.random(),
                    _FRACTION: rng.uniform(ACTION_FIELDS[_FRACTION].low or 0.0, ACTION_FIELDS[_FRACTION].high or 1.0),
                    _DEPTH: int(rng.integers(0, int(ACTION_FIELDS[_DEPTH].high or 0) + 1)),
                    _TIER: QUANTIZATION_TIERS[int(rng.integers(len(QUANTIZATION_TIERS)))],
                    _FLAGS[0]: bool(rng.integers(2)) and self._can_split,
                    _FLAGS[1]: bool(rng.integers(2)),
                }
            )
            for _ in range(count)
        ]

    def climb(self, here: ServeAction, seeds: Sequence[int], allowed: int) -> tuple[ServeAction, float]:
        """Move to the best neighbour with ever finer steps, until a whole pass gains nothing or `allowed` is spent."""
        at = float(self.values([here], seeds)[0])
        improved = True
        while improved:
            improved = False
            for factor, step in _LEVELS:
                while self.episodes < allowed:
                    options = self._neighbours(here, factor, step)
                    values = self.values(options, seeds)
                    best = int(values.argmax())
                    if values[best] <= at + _MIN_GAIN:
                        break
                    here, at, improved = options[best], float(values[best]), True
        return here, at

    def _neighbours(self, here: ServeAction, factor: float, step: float) -> list[ServeAction]:
        """Return `here` with one knob changed, or with the cap and one of KV fraction and depth."""
        cap, fraction, depth = here.batch_cap, here.kv_budget_fraction, here.speculation_depth
        caps = [max(cap + 1, cap * factor), min(cap - 1, cap / factor)]
        fractions, depths = [fraction + step, fraction - step], [depth + 1, depth - 1]
        changes: list[dict[str, Any]] = [{_CAP: c} for c in caps]
        changes += [{_FRACTION: f} for f in fractions] + [{_DEPTH: d} for d in depths]
        changes += [{_CAP: c, _FRACTION: f} for c in caps for f in fractions]
        changes += [{_CAP: c, _DEPTH: d} for c in caps for d in depths]
        changes += [{_TIER: tier} for tier in QUANTIZATION_TIERS]
        changes += [{flag: not getattr(here, flag)} for flag in _FLAGS if self._can_split or flag != _FLAGS[0]]
        options = dict.fromkeys(_made(here.model_dump() | change) for change in changes)
        return [option for option in options if option != here] or [here]


def _made(values: dict[str, Any]) -> ServeAction:
    """Return the action with these values, whole and within the bounds; the KV fraction has three decimals."""
    inside = dict(values)
    for name, digits in ((_CAP, None), (_FRACTION, 3), (_DEPTH, None)):
        bounds = ACTION_FIELDS[name]
        inside[name] = round(min(max(values[name], bounds.low or 0), bounds.high or 0), digits)
    return ServeAction.model_validate(inside)
