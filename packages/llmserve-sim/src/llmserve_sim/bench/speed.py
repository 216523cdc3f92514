"""How fast the kernel is: against the reference, plain and compiled, alone and in batches on two threads."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from llmserve_sim.bench.case import ENGINES, Case, task_case
from llmserve_sim.bench.report import Result
from llmserve_sim.engine.kernel.batch import KernelBatch
from llmserve_sim.engine.kernel.engine import pack_plan
from llmserve_sim.tasks import Task, list_tasks
from llmserve_sim.workload.scenario import generate

__all__ = ["measure_engines", "measure_threads"]

_REPEATS = {"reference": 1, "python": 1, "numba": 20}
"""Episodes per measurement, so that each takes long enough to be timed."""


def measure_engines(*, repeats: int) -> list[Result]:
    """Per task: CPU time of an episode, its arrivals generated anew, on each engine; ratios to the reference's.

    The bars are for the tasks that validators know; the extended ones are for information (if little happens in
    a window, the reference is fast, too).
    """
    results = []
    for task in list_tasks():
        case = task_case(task, seed=task.seeds.validation.start)
        times: dict[str, list[float]] = {kind: [] for kind in ENGINES}
        _episode(task, case, "numba")()  # compiles
        for _ in range(repeats):
            for kind in ENGINES:
                times[kind].append(_cpu_s(_episode(task, case, kind), _REPEATS[kind]))
        windows = len(case.plans)
        rate = windows / min(times["numba"])
        for kind, bar in (("numba", 300.0), ("python", 10.0)):
            ratios = [slow / fast for slow, fast in zip(times["reference"], times[kind], strict=True)]
            results.append(
                Result(
                    f"{kind} kernel / reference, {task.id}",
                    median(ratios),
                    "x",
                    at_least=None if task.extended else bar,
                    note=f"{rate:,.0f} windows/s on this core" if kind == "numba" else "",
                )
            )
    return results


def _episode(task: Task, case: Case, kind: str) -> Callable[[], None]:
    def run() -> None:
        engine = case.engine(kind, generate(task, task.seeds.validation.start).traffic)
        for plan in case.plans:
            engine.step(plan)

    return run


def _cpu_s(run: Callable[[], None], times: int) -> float:
    """CPU seconds of one call: other processes on a busy machine do not count."""
    gc.collect()
    start = time.process_time()
    for _ in range(times):
        run()
    return (time.process_time() - start) / times


def measure_threads(*, environments: int, repeats: int) -> list[Result]:
    """Wall time of a batch of episodes on one thread over that on two, the best of interleaved repeats."""
    task = next(iter(list_tasks()))
    cases = [task_case(task, seed) for seed in range(8)]
    plans = [
        np.stack([pack_plan(cases[i % len(cases)].plans[w]) for i in range(environments)])
        for w in range(task.windows // 2)
    ]
    best = {1: float("inf"), 2: float("inf")}
    for _ in range(repeats):
        for threads in (1, 2):
            batch = KernelBatch(cases[0].fleet, cases[0].slo, environments, backend="numba", threads=threads)
            for index in range(environments):
                batch.load(index, cases[index % len(cases)].traffic)
            batch.step(plans[0])
            start = time.perf_counter()
            for packed in plans[1:]:
                batch.step(packed)
            best[threads] = min(best[threads], time.perf_counter() - start)
            batch.close()
    rate = environments * (len(plans) - 1) / best[2]
    return [
        Result(
            f"{environments} environments, two threads / one",
            best[1] / best[2],
            "x",
            at_least=1.6,
            note=f"{rate:,.0f} windows/s on both cores",
        )
    ]
