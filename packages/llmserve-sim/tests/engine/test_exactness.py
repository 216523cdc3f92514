"""The kernel computes what the reference computes, to the last picosecond, token and block.

500 random workloads are run through both; together they contain every kind of event (asserted below).
"""

from __future__ import annotations

import pytest
from engine_strategies import events_of, random_workload

from llmserve_sim.engine import KernelEngine, ReferenceEngine, RequestRecord, WindowStats

Runs = dict[int, list[tuple[WindowStats, list[RequestRecord]]]]

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


def seeds_of(batch: int) -> range:
    return range(batch * PER_BATCH, (batch + 1) * PER_BATCH)


@pytest.fixture(scope="module")
def reference_runs() -> Runs:
    """What the reference says of each seed, window by window."""
    runs = {}
    for seed in range(BATCHES * PER_BATCH):
        w = random_workload(seed)
        engine = ReferenceEngine(w.fleet, w.slo, w.traffic, record=True)
        runs[seed] = [(engine.step(plan), engine.records()) for plan in w.plans]
    return runs


@pytest.mark.parametrize("batch", range(BATCHES))
def test_kernel_and_reference_agree_on_every_window_and_every_request(
    batch: int, reference_runs: Runs, backends: list[str]
) -> None:
    for backend in backends:
        for seed in seeds_of(batch):
            w = random_workload(seed)
            kernel = KernelEngine(w.fleet, w.slo, w.traffic, record=True, backend=backend)
            for index, (plan, (stats, records)) in enumerate(zip(w.plans, reference_runs[seed], strict=True)):
                where = f"seed {seed}, window {index}, {backend}"
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
    for seed, run in reference_runs.items():
        seen |= events_of(random_workload(seed), [stats for stats, _ in run])
    assert seen >= EVERY_EVENT
    assert len(reference_runs) >= 500


def test_a_kernel_forked_in_mid_run_goes_on_as_the_reference_does(reference_runs: Runs) -> None:
    for seed in range(0, BATCHES * PER_BATCH, 10):
        w = random_workload(seed)
        kernel = KernelEngine(w.fleet, w.slo, w.traffic, record=True, backend="python")
        for plan, (stats, records) in zip(w.plans, reference_runs[seed], strict=True):
            kernel = kernel.fork()
            assert kernel.step(plan) == stats, f"seed {seed}"
            assert kernel.records() == records, f"seed {seed}"
