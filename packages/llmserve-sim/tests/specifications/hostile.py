"""Random specifications, many of them wrong somewhere. Each is a pure function of a seed.

They start from ones that work. Then each field stays, moves, goes anywhere inside the bounds that it declares, to their
ends or past them, or becomes something else altogether. `attempt` takes a specification as far as it goes: through
memory model and tables to a short run of both engines, or through an environment to a short episode on both.

    python packages/llmserve-sim/tests/specifications/hostile.py 10000
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import numpy as np

from llmserve_sim.bounds import Between, Checked, Column, annotations_of
from llmserve_sim.configuration import EpisodeConditions
from llmserve_sim.engine import FleetSpec, KernelEngine, ReferenceEngine, Slo, Traffic, WindowPlan
from llmserve_sim.engine.interface import DEPTHS, FP, PS_PER_S, TENANTS
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.fidelity.replay import RecordedRun
from llmserve_sim.grid import GRID_SIZES, from_indices
from llmserve_sim.hardware import DEPLOYMENTS, ENGINES, GPUS, LLAMA_3_1_8B, Deployment
from llmserve_sim.memory import MemoryModel
from llmserve_sim.performance.quantization import TIERS, WEIGHT_FORMATS
from llmserve_sim.performance.roofline import Iteration, Roofline
from llmserve_sim.performance.tables import build_fleet
from llmserve_sim.policies import StaticPolicy, ThresholdPolicy
from llmserve_sim.tasks import load_task
from llmserve_sim.workload.conditions import draw as draw_conditions
from llmserve_sim.workload.fitted import FITTED
from llmserve_sim.workload.patterns import Recurrence
from llmserve_sim.workload.rows import TraceLimits
from llmserve_sim.workload.scenario import Scenario
from llmserve_sim.workload.tables import QuantileTable, grid
from llmserve_sim.workload.traces import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

JUNK: tuple[Any, ...] = (None, True, "A100", "", math.nan, math.inf, -math.inf, -1, 0, 10**30, 1e300, (), [], b"x", 1j)
MEASURED = tuple(Deployment(name, GPUS[name], LLAMA_3_1_8B, ENGINES["vllm-0.32"]) for name in ("L40S", "B200-SXM"))
BASES = (*DEPLOYMENTS.values(), *MEASURED)
FLEETS = tuple(build_fleet(base, max_len=4096, max_unfinished=64) for base in BASES)
REQUESTS = Traffic(*(np.array(column, np.int64) for column in zip(*[
    (0, 100, 20, 0, 0), (0, 300, 5, 1, 1), (10**9, 40, 60, 1, 0), (3 * 10**11, 900, 30, 0, 3),
], strict=True)))  # fmt: skip
SLO = Slo((PS_PER_S, 2 * PS_PER_S), 10**8, (10**10, 10**10))
PLAN = WindowPlan(
    end_ps=5 * PS_PER_S,
    batch_cap=64,
    depth=2,
    tier=0,
    split=False,
    priority=True,
    pool_blocks=4096,
    resized=False,
    tokens_per_step=((FP, *range(FP + 100, FP + 100 * DEPTHS, 100)),) * TENANTS,
)
WINDOWS = 3
"""Windows of an episode."""
CONDITIONS = draw_conditions(load_task("adversarial_multitenant"), 0, WINDOWS)
SCENARIO = Scenario(REQUESTS, 5 * PS_PER_S, *(getattr(CONDITIONS, name) for name in annotations_of(type(CONDITIONS))))
OTHERS = (*WEIGHT_FORMATS.values(), *FITTED.values(), TraceLimits(), StaticPolicy())
OTHERS = (*OTHERS, ThresholdPolicy(), Iteration(3, 700.0, ((100, 0), (20, 400)), 1, 2), SLO, PLAN, REQUESTS)
OTHERS = (*OTHERS, EpisodeConditions.of(SCENARIO), Recurrence((-3, 4, 11), 2))
OTHERS = (*OTHERS, QuantileTable.from_values([100.0 * p for p in grid()]), RecordedRun("run", BASES[0], 64, 4096))
OTHERS = (*OTHERS, Trace("trace", REQUESTS.arrival_ps, REQUESTS.prompt, REQUESTS.output, 5 * PS_PER_S))
LONGEST_OUTPUT = 10_000
"""Tokens; longer outputs are cut before a run, since every token costs the plain engine time."""


class Hostile:
    """Changes one field in `1 / rate`, however deep it lies."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.rate = self.rng.choice([0.01, 0.03, 0.1, 0.3])

    def change(self, base: Any) -> Any:
        """Return a dataclass like `base` with some fields changed; raises what its constructor raises."""
        hints = annotations_of(type(base))
        return type(base)(**{name: self.value(getattr(base, name), hint) for name, hint in hints.items()})

    def value(self, base: Any, hint: Any, mark: Any = None) -> Any:
        """Return a field's value, changed or not."""
        rng, parts = self.rng, get_args(hint)
        if get_origin(hint) is Annotated:
            return self.value(base, parts[0], parts[1])
        if isinstance(base, tuple) and base and parts:
            return tuple(self.value(entry, parts[0], mark) for entry in base)
        if isinstance(base, Checked):
            return rng.choice(JUNK) if rng.random() < self.rate / 10 else self.change(base)
        return base if rng.random() >= self.rate else self.other(base, mark)

    def other(self, base: Any, mark: Any) -> Any:
        """Return something else than `base`."""
        if self.rng.random() < 0.1:
            return self.rng.choice(JUNK)
        if isinstance(mark, Column):
            return self.column(base, mark)
        if isinstance(base, bool):
            return not base
        return self.number(base, mark, whole=isinstance(base, int)) if isinstance(mark, Between) else base

    def number(self, base: float, bound: Between, *, whole: bool) -> float:
        """Return a number near `base`, anywhere inside the bounds, at their ends or just past them."""
        rng, least, most = self.rng, bound.least, bound.most
        style = rng.random()
        if style < 0.5:
            drawn = base * 10.0 ** rng.uniform(-1, 1)
        elif style < 0.8:
            drawn = least + (most - least) * 10.0 ** rng.uniform(-12, 0)
        else:
            drawn = rng.choice([least, most, least, most, least - 1, most + 1, 2 * most])
        return int(drawn) if whole else float(drawn)

    def column(self, base: Any, column: Column) -> Any:
        """Return an array with one entry changed, cut short, of another type or of another shape."""
        changed, whole = base.copy(), column.dtype is np.int64
        if changed.size:
            entry = self.rng.randrange(changed.size)
            value = self.number(changed.flat[entry].item(), column.each, whole=whole)
            changed.flat[entry] = max(-(1 << 62), min(value, 1 << 62)) if whole else value
        other = changed.astype(np.float64 if whole else np.int64)
        return self.rng.choice([changed, changed, changed, changed, changed[:-1], other, changed[None]])


def describe_a_deployment(draw: Hostile) -> str:
    """Describe a deployment and serve a few requests with it."""
    deployment = draw.change(draw.rng.choice(BASES))
    max_len = draw.value(4096, Annotated[int, Between(2, 1 << 20)])
    MemoryModel(deployment, max_len)
    for tier in TIERS:
        time = Roofline(deployment, tier).iteration_s(Iteration(1, 100.0, ((10, 0),), 1, 2))
        if not 0.0 < time < math.inf:
            return f"took {time} s"
    return _run(draw, build_fleet(deployment, max_len=max_len, max_unfinished=64))


def describe_a_fleet(draw: Hostile) -> str:
    """Describe a fleet by integers and serve a few requests with it."""
    return _run(draw, draw.change(draw.rng.choice(FLEETS)))


def describe_an_episode(draw: Hostile) -> str:
    """Describe an episode, perhaps on a hostile deployment, and play it with random actions."""
    scenario = draw.change(SCENARIO)
    deployment = draw.change(BASES[0]) if draw.rng.random() < 0.2 else None
    if int(scenario.traffic.output.max(initial=0)) > LONGEST_OUTPUT:
        return "made"
    plain, kernel = (
        ServingEnv("bursty_workload", deployment=deployment, engine=kind) for kind in ("reference", "python")
    )
    if plain.start(0, scenario=scenario) != kernel.start(0, scenario=scenario):
        return "differed"
    for _ in range(scenario.windows):
        action = from_indices([draw.rng.randrange(size) for size in GRID_SIZES])
        if plain.advance(action) != kernel.advance(action):
            return "differed"
    return "ran"


def describe_the_rest(draw: Hostile) -> str:
    """Make one of the other dataclasses."""
    draw.change(draw.rng.choice(OTHERS))
    return "made"


def _run(draw: Hostile, fleet: FleetSpec) -> str:
    slo, traffic, plan = draw.change(SLO), draw.change(REQUESTS), draw.change(PLAN)
    if int(traffic.output.max(initial=0)) > LONGEST_OUTPUT or fleet.max_unfinished > 1 << 12:
        return "made"
    plain, kernel = ReferenceEngine(fleet, slo, traffic), KernelEngine(fleet, slo, traffic, backend="python")
    stats = kernel.step(plan)  # it checks the plan against the fleet
    return "ran" if stats == plain.step(plan) else "differed"


ATTEMPTS: tuple[Callable[[Hostile], str], ...] = (
    describe_a_deployment,
    describe_a_fleet,
    describe_an_episode,
    describe_the_rest,
)


def attempt(seed: int) -> str:
    """Take the specification of a seed as far as it goes: "refused", "made" or "ran"; anything else is an error."""
    kind = ATTEMPTS[seed % len(ATTEMPTS)]
    try:
        with np.errstate(all="ignore"):
            outcome = kind(Hostile(seed))
    except InvalidInputError as error:
        outcome = "refused" if error.field and error.bound else repr(error)
    return f"{kind.__name__}: {outcome}"


def main(arguments: Sequence[str]) -> None:
    """Try as many specifications as the first argument says."""
    counts = Counter(attempt(seed) for seed in range(int(arguments[0])))
    for outcome, count in sorted(counts.items()):
        sys.stdout.write(f"{count:6d}  {outcome}\n")
    if any(outcome.split(": ")[1] not in {"ran", "made", "refused"} for outcome in counts):
        sys.exit("an outcome that should not be")


if __name__ == "__main__":
    main(sys.argv[1:])
