"""Asynchronous scheduling: an iteration is scheduled when the one before it begins.

By example in numbers that can be checked by hand (an iteration takes 100 ps and 1 ps for every token in it), and both
implementations against each other on random workloads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from engine_strategies import Workload, only_observed, random_workload

from llmserve_sim.engine import (
    Engine,
    FleetSpec,
    KernelEngine,
    ReferenceEngine,
    RequestRecord,
    Slo,
    TierTables,
    Traffic,
    WindowPlan,
)
from llmserve_sim.engine.interface import DEPTHS, FP, TENANTS

MakeEngine = Callable[..., Engine]

TABLES = TierTables(
    budget=64,
    gemm=np.arange(65) + 100,
    head=np.zeros(65, np.int64),
    cpu_seq=0,
    dec_t0=0,
    dec_x=np.zeros(1, np.int64),
    dec_h=np.zeros(1, np.int64),
    dec_s=np.zeros(1, np.int64),
    pf_t0=0,
    pf_tile=1,
    pf_off=0,
    pf_coef=0,
    pf_crit=0,
    mix_seq=0,
    mix_ctx=0,
    mix_amp=0,
    draft_step=0,
    spec_seq=0,
)
FLEET = FleetSpec(
    replicas=1,
    tiers=(TABLES, TABLES, TABLES),
    swap_ps=(0, 0, 0),
    split_ps=0,
    resize_ps=0,
    evict_ps=0,
    handover_ps=0,
    link_ps_per_token=0,
    max_len=160,
    max_unfinished=100,
    patience_ps=0,
    async_scheduling=True,
)
PLAN = WindowPlan(
    end_ps=10**6,
    batch_cap=8,
    depth=0,
    tier=0,
    split=False,
    priority=False,
    pool_blocks=64,
    resized=False,
    tokens_per_step=((FP,) * DEPTHS,) * TENANTS,
)
BATCHES = 10
PER_BATCH = 25


def serve(make_engine: MakeEngine, *requests: tuple[int, int, int, int], **knobs: int | bool) -> list[RequestRecord]:
    """The histories of requests (arrival, prompt, output, class), all of tenant 0."""
    columns = zip(*((*request, 0) for request in requests), strict=True)
    traffic = Traffic(*(np.array(column, np.int64) for column in columns))
    plan = replace(PLAN, **knobs)
    engine = make_engine(Workload(0, FLEET, Slo((1, 1), 0, (1, 1)), traffic, (plan,)))
    engine.step(plan)
    return engine.records()


def asynchronous(seed: int) -> Workload:
    """A random workload on a fleet that schedules asynchronously."""
    workload = random_workload(seed)
    return replace(workload, fleet=replace(workload.fleet, async_scheduling=True))


def test_an_arrival_waits_for_the_iteration_that_is_scheduled_already(make_engine: MakeEngine) -> None:
    first, second = serve(make_engine, (0, 10, 9, 1), (150, 10, 2, 1))
    assert first.first_ps == 110
    assert second.scheduled_ps == 312, "110-211 ran when it came, and 211-312 was scheduled at 110"
    assert second.first_ps == 312 + 100 + 1 + 10


def test_an_arrival_at_the_very_start_of_an_iteration_joins_the_next(make_engine: MakeEngine) -> None:
    _, second = serve(make_engine, (0, 10, 9, 1), (110, 10, 2, 1))
    assert second.scheduled_ps == 211


def test_an_idle_engine_starts_an_arrival_at_once(make_engine: MakeEngine) -> None:
    _, second = serve(make_engine, (0, 10, 2, 1), (5000, 10, 2, 1))
    assert second.scheduled_ps == 5000


def test_an_arrival_during_the_last_iteration_starts_at_its_end(make_engine: MakeEngine) -> None:
    """Nothing was scheduled behind it, so the scheduler waits for its end and looks again."""
    _, second = serve(make_engine, (0, 10, 2, 1), (150, 10, 2, 1))
    assert second.scheduled_ps == 211


def test_the_place_of_a_finished_request_is_free_one_iteration_later(make_engine: MakeEngine) -> None:
    requests = ((0, 10, 2, 1), (0, 10, 9, 1), (0, 10, 9, 1))
    ended, _, waiting = serve(make_engine, *requests, batch_cap=2)
    assert ended.last_ps == 222
    assert waiting.scheduled_ps == 222 + 101


def test_the_blocks_of_a_finished_request_are_free_one_iteration_later(make_engine: MakeEngine) -> None:
    """The first two hold 5 and 7 of 13 blocks, and the third needs 5."""
    requests = ((0, 70, 2, 1), (0, 97, 9, 1), (10, 75, 2, 1))
    ended, _, waiting = serve(make_engine, *requests, pool_blocks=13)
    assert waiting.scheduled_ps == ended.last_ps + 101


def test_priority_counts_only_among_requests_that_are_known(make_engine: MakeEngine) -> None:
    """The standard request came before 211-312 began, the priority one while it ran; there is place for one."""
    _, standard, priority = serve(
        make_engine, (0, 10, 9, 1), (180, 10, 2, 1), (250, 10, 2, 0), batch_cap=2, priority=True
    )
    assert standard.scheduled_ps == 312
    assert priority.scheduled_ps > standard.last_ps


@pytest.mark.parametrize("batch", range(BATCHES))
def test_kernel_and_reference_agree(batch: int, backends: list[str]) -> None:
    for seed in range(batch * PER_BATCH, (batch + 1) * PER_BATCH):
        w = asynchronous(seed)
        engines = [ReferenceEngine(w.fleet, w.slo, w.traffic, record=True)]
        engines += [KernelEngine(w.fleet, w.slo, w.traffic, record=True, backend=backend) for backend in backends]
        for index, plan in enumerate(w.plans):
            expected, *answers = [(engine.step(plan), engine.records()) for engine in engines]
            assert all(answer == expected for answer in answers), f"seed {seed}, window {index}"
            engines = [engine.fork() for engine in engines]


def test_a_window_only_observes(make_engine: MakeEngine) -> None:
    for seed in range(40):
        histories = []
        for windows in (1, 7):
            w = only_observed(asynchronous(seed), windows)
            engine, records = make_engine(w), []
            for plan in w.plans:
                engine.step(plan)
                records += engine.records()
            histories.append(sorted(records))
        assert histories[0] == histories[1], f"seed {seed}"


def test_many_random_workloads_differ_from_synchronous_ones() -> None:
    differ = 0
    for seed in range(40):
        runs = []
        for workload in (asynchronous(seed), random_workload(seed)):
            engine = ReferenceEngine(workload.fleet, workload.slo, workload.traffic, record=True)
            runs.append([(engine.step(plan), engine.records()) for plan in workload.plans])
        differ += runs[0] != runs[1]
    assert differ >= 15
