"""The kernel computes what the reference computes, to the last picosecond, token and block.

500 random workloads are run through both; together they contain every kind of event (asserted below).
"""

from __future__ import annotations

import pickle
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from engine_realistic import PLAN, POOL, SLO, chat, rates
from engine_strategies import Workload, events_of, random_workload

from llmserve_sim.engine import KernelEngine, ReferenceEngine, RequestRecord, WindowStats
from llmserve_sim.engine.interface import PS_PER_S, TENANTS
from llmserve_sim.hardware import DEPLOYMENTS
from llmserve_sim.performance.tables import build_fleet

Runs = list[tuple[Workload, list[tuple[WindowStats, list[RequestRecord]]]]]

BATCHES = 20
PER_BATCH = 28

EVERY_EVENT = {
    "abandoned",
    "accepted_fp",
    "batch_cap changed",
    "depth changed",
    "finished",
    "forced_evictions",
    "handovers",
    "pool_blocks changed",
    "preemptions",
    "prefix hit",
    "priority changed",
    "rejected",
    "resized",
    "split changed",
    "tenants of different acceptance",
    "tier changed",
}
"""Every kind of event at least one workload must contain ("changed": while requests ran and waited)."""


@pytest.fixture(scope="module")
def reference_runs() -> Runs:
    """What the reference says of each workload, window by window."""
    runs = []
    for seed in range(BATCHES * PER_BATCH):
        w = random_workload(seed)
        engine = ReferenceEngine(w.fleet, w.slo, w.traffic, record=True)
        runs.append((w, [(engine.step(plan), engine.records()) for plan in w.plans]))
    return runs


@pytest.mark.parametrize("batch", range(BATCHES))
def test_kernel_and_reference_agree_on_every_window_and_every_request(
    batch: int, reference_runs: Runs, backends: list[str]
) -> None:
    for w, expected in reference_runs[batch * PER_BATCH : (batch + 1) * PER_BATCH]:
        for backend in backends:
            kernel = KernelEngine(w.fleet, w.slo, w.traffic, record=True, backend=backend)
            for index, (plan, (stats, records)) in enumerate(zip(w.plans, expected, strict=True)):
                where = f"seed {w.seed}, window {index}, {backend}"
                assert kernel.step(plan) == stats, where
                assert kernel.records() == records, where


def test_recording_changes_no_statistic() -> None:
    for seed in range(20):
        w = random_workload(seed)
        silent = KernelEngine(w.fleet, w.slo, w.traffic, backend="python")
        plain = ReferenceEngine(w.fleet, w.slo, w.traffic)
        for plan in w.plans:
            assert silent.step(plan) == plain.step(plan), f"seed {seed}"
        assert silent.records() == plain.records() == []


def test_the_workloads_together_contain_every_kind_of_event(reference_runs: Runs) -> None:
    seen: set[str] = set()
    for workload, run in reference_runs:
        seen |= events_of(workload, [stats for stats, _ in run])
    assert seen >= EVERY_EVENT
    assert len(reference_runs) >= 500


def test_the_prefix_cache_really_spares_work_in_many_workloads(reference_runs: Runs) -> None:
    """Cached blocks and a hit rate are no proof of a hit: without the rate, the run must differ."""
    differ = 0
    for w, expected in reference_runs[::10]:
        cold = ReferenceEngine(w.fleet, w.slo, w.traffic, record=True)
        differ += [(cold.step(replace(plan, hit_q10=0)), cold.records()) for plan in w.plans] != expected
    assert differ >= 10


def test_a_kernel_forked_in_mid_run_goes_on_as_the_reference_does(reference_runs: Runs) -> None:
    for w, expected in reference_runs[::10]:
        kernel = KernelEngine(w.fleet, w.slo, w.traffic, record=True, backend="python")
        for plan, (stats, records) in zip(w.plans, expected, strict=True):
            kernel = kernel.fork()
            assert kernel.step(plan) == stats, f"seed {w.seed}"
            assert kernel.records() == records, f"seed {w.seed}"


@pytest.mark.parametrize("seed", range(6))
def test_kernel_and_reference_agree_on_a_real_deployment_under_changing_configurations(
    seed: int, backends: list[str]
) -> None:
    """Batches of a hundred and more, long leaps in calm windows, every knob drawn anew every few seconds."""
    rng = Random(seed)
    traffic = chat(rate=rng.choice([3, 20, 40]), seconds=22, output=rng.choice([60, 300]), priority_share=0.2)
    tenants = np.array([rng.randrange(TENANTS) for _ in range(len(traffic))])
    traffic = replace(traffic, tenant=tenants)
    name = rng.choice(sorted(DEPLOYMENTS))
    fleet = build_fleet(DEPLOYMENTS[name], max_len=8192, max_unfinished=400, patience_s=10)
    fleet = replace(fleet, swap_ps=(PS_PER_S, PS_PER_S, PS_PER_S))
    engines = [ReferenceEngine(fleet, SLO, traffic, record=True)]
    engines += [KernelEngine(fleet, SLO, traffic, record=True, backend=backend) for backend in backends]
    plan = PLAN
    for window in range(12):
        if window in {3, 4, 7, 9}:
            pool = rng.choice([1_000, 4_000, POOL])
            plan = replace(
                plan,
                batch_cap=rng.choice([16, 64, 256]),
                depth=rng.choice([0, 2, 5]),
                tier=rng.randrange(3),
                split=fleet.replicas > 1 and rng.random() < 0.3,
                priority=rng.random() < 0.5,
                resized=pool != plan.pool_blocks and rng.random() < 0.5,
                pool_blocks=pool,
                tokens_per_step=tuple(rates(rng.uniform(0.3, 0.9))[0] for _ in range(TENANTS)),
                hit_q10=rng.choice([0, 400]),
                hit_half_blocks=3_000,
            )
        plan = replace(plan, end_ps=(window + 1) * 2 * PS_PER_S, resized=plan.resized and window in {3, 4, 7, 9})
        expected, *answers = [(engine.step(plan), engine.records()) for engine in engines]
        assert all(answer == expected for answer in answers), f"seed {seed}, {name}, window {window}"


def test_a_pickled_kernel_goes_on_as_the_reference_does(reference_runs: Runs, backends: list[str]) -> None:
    w, expected = reference_runs[4]
    for backend in backends:
        kernel = KernelEngine(w.fleet, w.slo, w.traffic, record=True, backend=backend)
        for plan, (stats, records) in zip(w.plans, expected, strict=True):
            kernel = pickle.loads(pickle.dumps(kernel))  # noqa: S301 - our own bytes
            assert kernel.step(plan) == stats
            assert kernel.records() == records
