"""An engine can be forked onto another future: kernel and reference agree there too, and the past stays the same."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from engine_strategies import Workload, random_workload

from llmserve_sim.engine import KernelEngine, ReferenceEngine, Traffic
from llmserve_sim.engine.interface import Engine, Progress
from llmserve_sim.engine.kernel.engine import Backend
from llmserve_sim.errors import InvalidInputError

SEEDS = range(60)


def _redrawn(w: Workload, progress: Progress, now_ps: int, seed: int) -> Traffic:
    """The traffic with outputs that are not known yet, and everything that is to come, drawn anew."""
    rng = Random(seed)
    arrived = len(progress.ended)
    coming = rng.randint(0, 2 * (len(w.traffic) - arrived) + 3)
    end = w.plans[-1].end_ps
    past = w.traffic
    output = [
        int(past.output[i]) if ended else int(produced) + rng.randint(1, 40)
        for i, (ended, produced) in enumerate(zip(progress.ended, progress.produced, strict=True))
    ]
    arrivals = sorted(rng.randint(now_ps, end) for _ in range(coming))

    def column(kept: np.ndarray, drawn: list[int]) -> np.ndarray:
        return np.concatenate((kept[:arrived], np.array(drawn, dtype=np.int64)))

    return Traffic(
        arrival_ps=column(past.arrival_ps, arrivals),
        prompt=column(past.prompt, [rng.randint(1, w.fleet.max_len) for _ in arrivals]),
        output=np.array(output + [rng.randint(1, 60) for _ in arrivals], dtype=np.int64),
        priority=column(past.priority, [rng.randint(0, 1) for _ in arrivals]),
        tenant=column(past.tenant, [rng.randint(0, 3) for _ in arrivals]),
    )


@pytest.mark.parametrize("start", range(0, len(SEEDS), 10))
def test_kernel_and_reference_agree_on_another_future(start: int, backends: list[Backend]) -> None:
    """Whatever the moment: requests waiting, prefilling, decoding, preempted and on their way between replicas."""
    for seed in SEEDS[start : start + 10]:
        w = random_workload(seed)
        cut = 1 + seed % max(1, len(w.plans) - 1)
        reference = ReferenceEngine(w.fleet, w.slo, w.traffic, record=True)
        kernels = [KernelEngine(w.fleet, w.slo, w.traffic, record=True, backend=name) for name in backends]
        for plan in w.plans[:cut]:
            everyone: list[Engine] = [reference, *kernels]
            for engine in everyone:
                engine.step(plan)
                engine.records()
        progress = reference.progress()
        other = _redrawn(w, progress, w.plans[cut - 1].end_ps, seed)
        expected = _rest(reference.fork(other), w, cut)
        for kernel in kernels:
            known = kernel.progress()
            assert np.array_equal(known.ended, progress.ended), f"seed {seed}"
            assert np.array_equal(known.produced, progress.produced), f"seed {seed}"
            before = kernel.state_bytes()
            assert _rest(kernel.fork(other), w, cut) == expected, f"seed {seed}, {kernel.backend}"
            assert kernel.state_bytes() == before


def test_the_same_traffic_is_the_same_future() -> None:
    for seed in range(20):
        w = random_workload(seed)
        engine = KernelEngine(w.fleet, w.slo, w.traffic, record=True, backend="python")
        engine.step(w.plans[0])
        assert _rest(engine.fork(w.traffic), w, 1) == _rest(engine.fork(), w, 1)


@pytest.mark.parametrize("kind", [KernelEngine, ReferenceEngine])
def test_a_future_that_contradicts_the_past_is_refused_by_name(kind: type[KernelEngine | ReferenceEngine]) -> None:
    w = next(w for w in map(random_workload, range(100)) if _unfinished(w).any())
    engine = kind(w.fleet, w.slo, w.traffic)
    engine.step(w.plans[0])
    progress = engine.progress()
    waiting = int(np.flatnonzero(~progress.ended)[0])
    for name in ("arrival_ps", "prompt", "tenant"):
        changed = getattr(w.traffic, name).copy()
        changed[0] = changed[0] - 1 if name == "arrival_ps" and changed[0] else (changed[0] + 1) % 3 + 1
        if name == "arrival_ps":
            changed[0] = min(changed[0], w.traffic.arrival_ps[0] + 1)
        with pytest.raises(InvalidInputError, match=rf"^traffic\.{name}"):
            engine.fork(replace(w.traffic, **{name: np.sort(changed) if name == "arrival_ps" else changed}))
    short = w.traffic.output.copy()
    short[waiting] = max(1, int(progress.produced[waiting]))
    if progress.produced[waiting] > 0:
        with pytest.raises(InvalidInputError, match=r"^traffic\.output"):
            engine.fork(replace(w.traffic, output=short))


def _unfinished(w: Workload) -> np.ndarray:
    engine = ReferenceEngine(w.fleet, w.slo, w.traffic)
    engine.step(w.plans[0])
    progress = engine.progress()
    return ~progress.ended & (progress.produced > 0)


def _rest(engine: Engine, w: Workload, cut: int) -> list[object]:
    return [(engine.step(plan), engine.records()) for plan in w.plans[cut:]]
