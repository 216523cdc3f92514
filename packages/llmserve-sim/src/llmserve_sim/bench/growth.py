"""How the cost of a window grows with its events, and that an episode's memory does not grow."""

from __future__ import annotations

import time
import tracemalloc
from statistics import median

from llmserve_sim.bench.case import Case, steady_case, task_case
from llmserve_sim.bench.report import Result
from llmserve_sim.schema import ServeAction
from llmserve_sim.tasks import load_task

__all__ = ["measure_growth"]

_SETTLED = 20
"""Windows after which a steady load has settled."""


def measure_growth(*, windows: int) -> list[Result]:
    """Ratios of the compiled kernel's cost per window when events, iterations or the episode's position change."""
    task = load_task("static_workload")
    base = task_case(task, 0, [ServeAction(batch_cap=256, kv_budget_fraction=0.9)])
    few = steady_case(base, windows=windows, window_s=5.0, rate_rps=4.0, prompt=256, output=64)
    long = steady_case(base, windows=windows, window_s=50.0, rate_rps=0.4, prompt=256, output=640)
    many = steady_case(base, windows=windows, window_s=5.0, rate_rps=16.0, prompt=256, output=64)
    costs: dict[str, list[float]] = {case.name: [] for case in (few, long, many)}
    late_over_early, iterations = [], {}
    _profile(few)  # compiles
    for _ in range(5):
        for case in (few, long, many):
            window_s, iterations[case.name] = _profile(case)
            costs[case.name].append(median(window_s[_SETTLED:]))
            if case is many:
                third = (len(window_s) - _SETTLED) // 3
                late_over_early.append(median(window_s[-third:]) / median(window_s[_SETTLED : _SETTLED + third]))
    cost = {name: min(values) for name, values in costs.items()}
    more = iterations[long.name] / iterations[few.name]
    return [
        Result(
            "cost of a window, iterations × several, events equal",
            cost[long.name] / cost[few.name],
            "x",
            at_most=2.0,
            note=f"{more:.1f} x the iterations",
        ),
        Result("cost of a window, events × 4", cost[many.name] / cost[few.name], "x", at_most=6.0),
        Result("cost of a window, last third of an episode / first", median(late_over_early), "x", at_most=1.2),
        Result("memory an episode takes on as it runs", _memory_growth(many), "KiB", at_most=16.0),
    ]


def _profile(case: Case) -> tuple[list[float], float]:
    """Seconds of each window, and iterations per window, on the compiled kernel."""
    engine = case.engine("numba")
    seconds, iterations = [], 0
    for plan in case.plans:
        start = time.perf_counter()
        stats = engine.step(plan)
        seconds.append(time.perf_counter() - start)
        iterations += stats.iterations
    return seconds, iterations / len(case.plans)


def _memory_growth(case: Case) -> float:
    """KiB that Python and numpy hold after the last window beyond what they held once the load had settled."""
    engine = case.engine("numba")
    tracemalloc.start()
    for plan in case.plans[:_SETTLED]:
        engine.step(plan)
    before = tracemalloc.get_traced_memory()[0]
    for plan in case.plans[_SETTLED:]:
        engine.step(plan)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return grown / 1024
