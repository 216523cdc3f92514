"""Tunes the heuristic's thresholds for one task by CMA-ES with margin.

Sources: Hansen & Ostermeier 2001; Hamano et al., GECCO 2022 (margin).

The budget is a number of simulated windows, as for the training of a policy. It pays for everything: the comparison of
starts, the generations, and the final choice. The search starts from the best of three sets of thresholds on training
episodes: rules that hold the best fixed configuration, rules that start from it, and the default rules. All three take
part in the final choice, so the result is never worse than them on validation seeds. All candidates of a generation
play the same training episodes (common random numbers); every generation plays new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from math import ceil
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from llmserve_agents.errors import MissingExtraError
from llmserve_agents.rules.evaluate import evaluate_thresholds
from llmserve_agents.rules.thresholds import THRESHOLD_BOUNDS, Thresholds, centered_thresholds, constant_thresholds
from llmserve_agents.search import best_static
from llmserve_sim.batch import ServingBatch
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.references import load_references

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.schema import ServeAction
    from llmserve_sim.tasks import Task

    Floats = NDArray[np.float64]

__all__ = ["TuneConfig", "TuneProgress", "TuneResult", "decode", "encode", "starting_action", "tune", "tuned_names"]

_SPLITS: Final = ("split_low", "split_high")
_STATIC_SEEDS: Final = 16
"""Training episodes on which the best fixed configuration is searched, for a task without references."""
_CHOICE_EPISODES: Final = 10
"""Fewest validation episodes for a final choice: five candidates, twice."""


@dataclass(frozen=True, slots=True)
class TuneConfig:
    """Hyper-parameters of the tuning."""

    steps: int = 3_000_000
    """Simulated windows in all. For a fair comparison: as many as a policy is trained on."""
    seed: int = 0
    """Seed of the candidates and the training episodes."""
    population: int = 16
    """Candidates in a generation."""
    sigma: float = 0.06
    """Initial standard deviation of every threshold, as a share of its range."""
    episodes: int = 4
    """Training episodes per candidate in the first generation."""
    growth: int = 4
    """Factor by which that number grows until the last generation, because late candidates differ by little."""
    finalists: int = 16
    """Most candidates in the final choice."""
    choice_share: float = 0.1
    """Share of the budget for the final choice."""

    def __post_init__(self) -> None:
        bounds = {
            "steps": (1, 10**10), "seed": (0, 2**32 - 1), "population": (4, 1024), "episodes": (1, 10_000),
            "growth": (1, 1024), "finalists": (4, 1024),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise InvalidInputError(name, f"must be an integer in {low}..{high}", got=value)
        for name in ("sigma", "choice_share"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise InvalidInputError(name, "must be between 0 and 1", got=getattr(self, name))


@dataclass(frozen=True, slots=True)
class TuneProgress:
    """The progress of a search."""

    done: int
    """Windows simulated so far."""
    steps: int
    """Windows in all."""
    value: float
    """Mean reward per window of the last generation's best half, on its training episodes; NaN before the first."""


@dataclass(frozen=True, slots=True)
class TuneResult:
    """The result of a search."""

    thresholds: Thresholds
    windows: int
    """Windows simulated, at most the budget."""
    generations: int
    started_at: ServeAction
    """The fixed configuration that the search started from."""
    validation: dict[str, float]
    """Mean reward per window on validation episodes: of the result ("tuned"), of the start and of the defaults."""
    validation_seeds: tuple[int, int]
    """First validation seed, and number of seeds."""


def tuned_names(*, can_split: bool = True) -> tuple[str, ...]:
    """Return the names of the tuned thresholds, in order; those of the split only if the fleet can be split."""
    return tuple(name for name, bound in THRESHOLD_BOUNDS.items() if bound.tuned and (can_split or name not in _SPLITS))


def encode(limits: Thresholds, names: Sequence[str]) -> Floats:
    """Return float64[n]: thresholds as shares (0..1) of their ranges."""
    row = []
    for name in names:
        bound, value = THRESHOLD_BOUNDS[name], float(getattr(limits, name))
        low, high = (np.log(bound.low), np.log(bound.high)) if bound.log else (bound.low, bound.high)
        row.append(((np.log(value) if bound.log else value) - low) / (high - low))
    return np.array(row, dtype=np.float64)


def decode(row: Floats, names: Sequence[str], rest: Thresholds) -> Thresholds:
    """Return the thresholds of a point of the search space; thresholds not in `names` are those of `rest`.

    Shares outside 0..1 are reflected into it, so that the ends of a range are as likely as its middle.
    """
    values: dict[str, Any] = {item.name: getattr(rest, item.name) for item in fields(Thresholds)}
    folded = 1.0 - np.abs(1.0 - np.mod(row, 2.0))
    for name, share in zip(names, folded.tolist(), strict=True):
        bound = THRESHOLD_BOUNDS[name]
        low, high = (np.log(bound.low), np.log(bound.high)) if bound.log else (bound.low, bound.high)
        value = low + share * (high - low)
        value = float(np.exp(value)) if bound.log else float(value)
        value = min(bound.high, max(bound.low, value))
        values[name] = round(value) if bound.whole else round(value, 6)
    return Thresholds(**values)


def starting_action(task: Task, *, log: Callable[[str], object] | None = None) -> ServeAction:
    """Return the best fixed configuration, to start from: the references', or, without any, that of a new search."""
    found = load_references(task.id, task.digest)
    if found is not None:
        return found.best_static_action
    first = task.seeds.train.start
    return best_static(task, range(first, first + _STATIC_SEEDS), log=log)[0]


def tune(
    task: Task,
    config: TuneConfig | None = None,
    *,
    start: ServeAction | None = None,
    progress: Callable[[TuneProgress], object] | None = None,
) -> TuneResult:
    """Tune the thresholds for `task`, starting from `start` (by default `starting_action(task)`).

    Deterministic. Raises `InvalidInputError` if the budget is too small for one generation and a choice, and
    `MissingExtraError` without the library cmaes.
    """
    config = TuneConfig() if config is None else config
    _cma_with_margin()  # before anything is simulated
    _check_budget(task, config)
    start = starting_action(task) if start is None else start
    return _Search(task, config, start, progress).run()


def _check_budget(task: Task, config: TuneConfig) -> None:
    """Raise `InvalidInputError` if the budget is too small for one generation and a choice."""
    first = (3 * config.growth + config.population) * config.episodes * task.windows
    choice = _CHOICE_EPISODES * task.windows
    reserved = int(config.steps * config.choice_share)
    if config.steps - reserved < first or reserved < choice:
        need = ceil(max(first / (1.0 - config.choice_share), choice / config.choice_share))
        raise InvalidInputError(
            "steps", f"must be at least {need} windows, for one generation and a choice", got=config.steps
        )


class _Search:
    def __init__(
        self, task: Task, config: TuneConfig, start: ServeAction, progress: Callable[[TuneProgress], object] | None
    ) -> None:
        self._task, self._config, self._start, self._progress = task, config, start, progress
        self._names = tuned_names(can_split=ServingBatch(task, 1).can_split)
        self._still, self._rules = constant_thresholds(start), centered_thresholds(start)
        self._rng = np.random.default_rng([config.seed, 7001])
        self._done = 0
        self._value = float("nan")
        self._search_steps = config.steps - int(config.steps * config.choice_share)
        self._race_episodes = config.episodes * config.growth

    def run(self) -> TuneResult:
        starts = [self._still, self._rules, Thresholds()]
        race = self._values(starts, self._training(self._race_episodes)).mean(axis=1)
        rest = starts[int(race.argmax())]
        optimizer = self._optimizer(encode(rest, self._names))
        late: list[Thresholds] = []
        generations = 0
        while (episodes := self._episodes()) > 0:
            points = [optimizer.ask() for _ in range(self._config.population)]
            many = [decode(at, self._names, rest) for at, _ in points]
            values = self._values(many, self._training(episodes)).mean(axis=1)
            optimizer.tell([(raw, -value) for (_, raw), value in zip(points, values.tolist(), strict=True)])
            self._value = float(np.sort(values)[len(values) // 2 :].mean())
            generations += 1
            late += [decode(optimizer.mean, self._names, rest), many[int(values.argmax())]]
        # The mean of a late distribution depends less on chance than its best candidate, so both are tried.
        pool = [self._still, self._rules, *late[3 - self._config.finalists :], Thresholds()]
        return self._choose(pool, generations)

    def _optimizer(self, mean: Floats) -> Any:
        bounds = [THRESHOLD_BOUNDS[name] for name in self._names]
        # Tiers and depths have few values, so they are discrete; caps have so many that rounding is enough.
        few = [bound.whole and not bound.log for bound in bounds]
        return _cma_with_margin()(
            mean=mean,
            sigma=self._config.sigma,
            bounds=np.array([(0.0, 1.0) if discrete else (-np.inf, np.inf) for discrete in few]),
            steps=np.array(
                [1.0 / (b.high - b.low) if discrete else 0.0 for b, discrete in zip(bounds, few, strict=True)]
            ),
            population_size=self._config.population,
            seed=self._config.seed,
        )

    def _episodes(self) -> int:
        """Return the episodes per candidate of the next generation; 0 if the budget is too small for it."""
        config, least = self._config, self._config.population * self._task.windows
        share = self._done / self._search_steps
        wanted = round(config.episodes * config.growth**share)
        return wanted if self._done + wanted * least <= self._search_steps else 0

    def _training(self, count: int) -> list[int]:
        train = self._task.seeds.train
        seeds: list[int] = self._rng.integers(train.start, train.stop, size=count).tolist()
        return seeds

    def _values(self, many: Sequence[Thresholds], seeds: Sequence[int]) -> Floats:
        return evaluate_thresholds(self._task, many, seeds, progress=self._count)

    def _count(self, windows: int) -> None:
        self._done += windows
        if self._progress is not None:
            self._progress(TuneProgress(self._done, self._config.steps, self._value))

    def _choose(self, pool: Sequence[Thresholds], generations: int) -> TuneResult:
        """Return the best finalist on validation episodes: first all on some episodes, then the best few on more."""
        validation = self._task.seeds.validation
        left = (self._config.steps - self._done) // self._task.windows
        surplus = max(0, len(pool) - left // 2)
        pool = [*pool[:2], *pool[2 + surplus :]]
        few = min(len(validation), left // (2 * len(pool)))
        first = self._values(pool, range(validation.start, validation.start + few)).mean(axis=1)
        order = np.argsort(-first, kind="stable")
        # The start and the defaults stay, so that the reported values of all three are on the same episodes.
        keep = list(dict.fromkeys([*order[:3].tolist(), 0, len(pool) - 1]))
        many = min(len(validation), (left - few * len(pool)) // len(keep))
        seeds = range(validation.start, validation.start + many)
        last = self._values([pool[i] for i in keep], seeds).mean(axis=1)
        by_index = dict(zip(keep, last.tolist(), strict=True))
        best = max(keep, key=lambda index: by_index[index])
        return TuneResult(
            thresholds=pool[best],
            windows=self._done,
            generations=generations,
            started_at=self._start,
            validation={"tuned": by_index[best], "start": by_index[0], "defaults": by_index[len(pool) - 1]},
            validation_seeds=(validation.start, many),
        )


def _cma_with_margin() -> Any:
    try:
        from cmaes import CMAwM
    except ModuleNotFoundError as error:
        raise MissingExtraError("tune", "tuning the heuristic") from error
    return CMAwM
