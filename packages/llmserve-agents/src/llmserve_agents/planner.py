"""Model-predictive control: simulates plans on forecasts, every window, and takes the best plan's first step.

A forecast is `ServingEnv.fork(forecast=seed)`: the future redrawn from the task's distributions, given what has been
seen. The planner uses seeds of its own, so its actions depend neither on the true future nor on the episode's seed. All
plans of a window run in one batch, on the same forecasts (common random numbers). The planner needs the environment
itself, so it runs only in the environment's process.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from llmserve_agents.clairvoyant import nearest_indices
from llmserve_agents.rules.heuristic import Rules, measurement_of
from llmserve_agents.rules.thresholds import Thresholds
from llmserve_agents.search import rollout
from llmserve_sim.batch import ServingBatch
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.grid import ACTION_GRID, GRID_SIZES, from_indices
from llmserve_sim.references import load_references
from llmserve_sim.schema import ServeAction, ServeObservation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

__all__ = ["PlannerBudget", "PlannerPolicy"]

_CAP, _KV, _DEPTH, _TIER, _SPLIT, _PRIORITY = range(len(ACTION_GRID))
_START: Final = ServeAction(
    batch_cap=64, kv_budget_fraction=0.4, quantization_tier="INT8", speculation_depth=2, priority_routing=True
)
"""The first plan for a task without references."""


@dataclass(frozen=True, slots=True)
class PlannerBudget:
    """How much the planner simulates."""

    forecasts: int = 4
    """Forecasts that every plan is simulated on."""
    horizon: int = 8
    """Windows of a plan: the after-effects of a configuration (queue, cache, swaps) show within about this time."""
    strides: tuple[int, ...] = (1, 2)
    """Steps on the grid by which cap, KV budget and depth are moved, up and down."""
    delays: tuple[int, ...] = (0, 1, 2, 3)
    """Windows after which a tier or the split may change: to prepare for a burst pays, to be too early costs."""
    waiting_cost: float = 0.5
    """Charge for the requests that wait at a plan's end, in reward per number of requests that arrive in a window.

    A waiting request misses its target, or delays another one: about as bad as not serving it. Without the charge, a
    plan of eight windows lets a backlog grow that no later plan can work off.
    """
    seed: int = 0
    """Seed of the forecasts."""

    def __post_init__(self) -> None:
        for name, low in (("forecasts", 1), ("horizon", 1), ("seed", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise InvalidInputError(name, f"must be an integer of at least {low}", got=value)
        for name, low in (("strides", 1), ("delays", 0)):
            if not all(type(value) is int and value >= low for value in getattr(self, name)):
                raise InvalidInputError(name, f"must be integers of at least {low}", got=getattr(self, name))
        if not 0.0 <= self.waiting_cost <= 10.0:
            raise InvalidInputError("waiting_cost", "must be in 0..10", got=self.waiting_cost)


class PlannerPolicy:
    """Keeps a plan of the next windows, and improves it on forecasts every window.

    It compares the present plan, plans that hold one configuration (the present one, the best fixed one, the choice of
    the heuristic's rules), and every change of one knob of the plan: by a few steps on the grid from now on, or, for
    tier and split, from up to three windows later on. Then it tries the changes that gain anything together.
    """

    def __init__(self, budget: PlannerBudget | None = None) -> None:
        self.budget = PlannerBudget() if budget is None else budget
        self._env: ServingEnv | None = None
        self._plan: Ints | None = None
        self._fixed: Ints | None = None
        self._last: ServeAction | None = None
        self._rules = Rules(Thresholds())
        self._reusable: dict[int, ServingBatch] = {}

    def reset(self, task_id: str, seed: int) -> None:
        """Drop the previous episode and its environment."""
        self._env = self._plan = self._fixed = self._last = None
        self._rules = Rules(Thresholds())

    def attach(self, env: ServingEnv) -> None:
        """Plan on forecasts of `env`, whose episode has just been reset."""
        self._env = env
        found = load_references(env.task.id, env.task.digest)
        self._fixed = None if found is None else nearest_indices([found.best_static_action])[0]
        first = nearest_indices([_START])[0] if self._fixed is None else self._fixed
        if not env.can_split:
            first[_SPLIT] = 0
        self._plan = np.tile(first, (self.budget.horizon, 1))

    def act(self, observation: ServeObservation) -> ServeAction:
        """Return the next window's configuration.

        Raises `InvalidInputError` without an environment, and for an observation that is not its last.
        """
        if self._env is None or self._plan is None:
            raise InvalidInputError("env", "must be attached after the reset: the planner simulates ahead")
        window = observation.step_index
        if window != self._env.state().step_count:
            raise InvalidInputError("observation", "must be the last one of the attached environment", got=window)
        forecasts = self._forecasts(self._env, window)
        plan = self._plan
        plans = np.concatenate(
            [plan[None], self._constant_plans(observation, plan), _moves(plan, self.budget, self._env.can_split)]
        )
        values = self._values(forecasts, plans)
        together = _combined(plans, values)
        if len(together):
            plans = np.concatenate([plans, together])
            values = np.concatenate([values, self._values(forecasts, together)])
        plan = plans[values.argmax()]  # of equal values argmax takes the first, which is the present plan
        self._last = from_indices(plan[0].tolist())
        self._plan = np.concatenate([plan[1:], plan[-1:]])
        return self._last

    def _forecasts(self, env: ServingEnv, window: int) -> ServingBatch:
        seeds = [_forecast_seed(self.budget.seed, window, i) for i in range(self.budget.forecasts)]
        return ServingBatch.gather([env.fork(forecast=seed) for seed in seeds])

    def _constant_plans(self, observation: ServeObservation, plan: Ints) -> Ints:
        """Return int64[n, horizon, 6]: plans that hold one configuration each."""
        held = [] if self._fixed is None else [self._fixed]
        if self._last is not None:
            self._rules.hold(self._last)
            self._rules.update(measurement_of(observation))
            held += list(nearest_indices([self._last, *self._rules.actions()]))
        shape = (len(held), *plan.shape)
        return np.array([np.tile(one, (len(plan), 1)) for one in held], dtype=np.int64).reshape(shape)

    def _values(self, forecasts: ServingBatch, plans: Ints) -> Floats:
        """Return float64[n]: mean reward per window of n plans over the forecasts, less the waiting cost."""
        rows = np.tile(np.arange(forecasts.size), len(plans))
        batch = self._reusable[len(rows)] = forecasts.select(rows, into=self._reusable.get(len(rows)))
        actions = np.repeat(plans, forecasts.size, axis=0)
        windows = min(actions.shape[1], batch.episode_length - batch.window)
        total, arrived = np.zeros(len(rows)), np.zeros(len(rows))
        for outcome in rollout(batch, lambda window, _: actions[:, window], windows=windows):
            total += outcome.reward
            arrived += outcome.measurement.request_arrival_rate
        if not outcome.done:
            # The waiting requests are counted at one instant, so they are compared with the mean arrivals per window.
            per_window = np.maximum(arrived / windows, 0.1) * batch.task.window_s
            total -= self.budget.waiting_cost * outcome.measurement.queue_depth / per_window
        values: Floats = (total / windows).reshape(len(plans), forecasts.size).mean(axis=1)
        return values


def _forecast_seed(seed: int, window: int, number: int) -> int:
    """Return a seed that no episode has: with an episode's own seed, a forecast would draw the true future."""
    digest = hashlib.sha256(f"planner {seed} {window} {number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _moves(plan: Ints, budget: PlannerBudget, can_split: bool) -> Ints:
    """Return int64[n, horizon, 6]: the plan with one knob at another value, from some window to the end."""
    found = []

    def change(knob: int, value: int, delay: int = 0) -> None:
        if delay < len(plan) and 0 <= value < GRID_SIZES[knob] and value != plan[delay, knob]:
            changed = plan.copy()
            changed[delay:, knob] = value
            found.append(changed)

    for knob in (_CAP, _KV, _DEPTH):
        for stride in budget.strides:
            change(knob, int(plan[0, knob]) + stride)
            change(knob, int(plan[0, knob]) - stride)
    if plan[0, _DEPTH] > max(budget.strides, default=0):
        change(_DEPTH, 0)
    change(_PRIORITY, 1 - int(plan[0, _PRIORITY]))
    for delay in budget.delays:
        for tier in range(GRID_SIZES[_TIER]):
            change(_TIER, tier, delay)
        if can_split:
            change(_SPLIT, 1 - int(plan[min(delay, len(plan) - 1), _SPLIT]), delay)
    return np.array(found, dtype=np.int64).reshape(-1, *plan.shape)


def _combined(plans: Ints, values: Floats) -> Ints:
    """Return int64[n, horizon, 6]: the first plan with the best changes of two and more knobs together.

    A knob's best change is taken only if it gains over the first plan.
    """
    base = plans[0]
    differs = (plans != base).any(axis=1)  # [n, knob]
    single = differs.sum(axis=1) == 1
    best: list[tuple[float, int, int]] = []
    for knob in range(plans.shape[2]):
        rows = np.flatnonzero(single & differs[:, knob] & (values > values[0]))
        if len(rows):
            row = int(rows[values[rows].argmax()])
            best.append((-float(values[row]), knob, row))
    best.sort()
    found = []
    joined = base.copy()
    for count, (_, knob, row) in enumerate(best, 1):
        joined = joined.copy()
        joined[:, knob] = plans[row, :, knob]
        if count > 1:
            found.append(joined)
    return np.array(found, dtype=np.int64).reshape(-1, *base.shape)
