"""The invariants of a serving engine, numbered; each holds for the reference and for the kernel on random workloads.

1 request conservation, 2 KV-block conservation, 3 clock monotonicity, 4 causality, 5 lifecycle order, 6 work
conservation, 7 no oracle knowledge, 8 determinism, 9 fork independence, 10 run/replay parity, 11 windows only observe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from random import Random

import numpy as np
from engine_strategies import Workload, only_observed, random_workload, with_traffic, workloads
from hypothesis import HealthCheck, given, settings

from llmserve_sim.engine import Engine, ReferenceEngine, RequestRecord, WindowStats
from llmserve_sim.engine.interface import BLOCK_TOKENS

MakeEngine = Callable[..., Engine]
Run = tuple[list[WindowStats], list[RequestRecord]]

every_time = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

LEVELS = {
    "queue_depth",
    "queue",
    "running",
    "prefilling",
    "used_blocks",
    "pool_blocks",
    "cached_blocks",
    "oldest_wait_ps",
    "total_arrived",
    "total_finished",
    "total_abandoned",
    "total_rejected",
}
PERCENTILES = {"ttft_p50_ps", "ttft_p99_ps", "itl_p50_ps", "itl_p99_ps"}
COUNTS = [f.name for f in fields(WindowStats) if f.name not in LEVELS | PERCENTILES]


def run(engine: Engine, workload: Workload) -> Run:
    """Step through all plans; every window's statistics, and all histories."""
    stats, records = [], []
    for plan in workload.plans:
        stats.append(engine.step(plan))
        records += engine.records()
    return stats, sorted(records)


def total(stats: list[WindowStats], name: str) -> object:
    """Sum of a count over windows, element by element where it is a list."""
    values = [getattr(s, name) for s in stats]
    if isinstance(values[0], list):
        return [sum(column) for column in zip(*values, strict=True)]
    return sum(values)


# -- 1 ---------------------------------------------------------------------------------------------------------------


@every_time
@given(workload=workloads())
def test_1_requests_are_conserved(make_engine: MakeEngine, workload: Workload) -> None:
    """After every window: arrived = queued + running + finished + abandoned + rejected, and every history ends once."""
    engine = make_engine(workload)
    ended: Counter[str] = Counter()
    ids: list[int] = []
    for plan in workload.plans:
        s = engine.step(plan)
        records = engine.records()
        ended.update(r.status for r in records)
        ids += [r.id for r in records]
        assert s.total_arrived == int(np.searchsorted(workload.traffic.arrival_ps, plan.end_ps, side="left"))
        assert s.total_arrived == s.queue_depth + s.running + s.total_finished + s.total_abandoned + s.total_rejected
        assert (s.total_finished, s.total_abandoned, s.total_rejected) == (
            ended["finished"],
            ended["abandoned"],
            ended["rejected"],
        )
        assert sum(s.queue) == s.queue_depth
        assert s.prefilling <= s.running
        assert sum(s.due) == s.finished + s.abandoned + s.rejected == len(records)
        assert all(met <= due for met, due in zip(s.met, s.due, strict=True))
        assert s.queue_depth + s.running <= workload.fleet.max_unfinished
    assert len(ids) == len(set(ids))


@every_time
@given(workload=workloads())
def test_1_tokens_are_conserved(make_engine: MakeEngine, workload: Workload) -> None:
    """When nothing is left unfinished, the tokens delivered are exactly the outputs of the finished requests."""
    last = workload.plans[-1]
    forever = replace(last, end_ps=10**17, resized=False)  # long after anything here can still run
    workload = replace(workload, plans=(*workload.plans, forever))
    stats, records = run(make_engine(workload), workload)
    traffic, fleet = workload.traffic, workload.fleet
    assert stats[-1].queue_depth == stats[-1].running == stats[-1].used_blocks == 0
    assert len(records) == len(traffic)
    finished = [r.id for r in records if r.status == "finished"]
    outputs = [min(int(traffic.output[i]), fleet.max_len - int(traffic.prompt[i])) for i in finished]
    assert total(stats, "delivered_tokens") == sum(outputs)
    assert total(stats, "first_tokens") == total(stats, "ttft_count") == len(finished)
    assert total(stats, "ttft_sum_ps") == sum(
        r.first_ps - int(traffic.arrival_ps[r.id]) for r in records if r.status == "finished"
    )
    assert total(stats, "offered_tokens") == int(traffic.output.sum())
    preempted = total(stats, "preemptions"), total(stats, "forced_evictions")
    assert sum(preempted) == sum(r.preemptions for r in records)


# -- 2 ---------------------------------------------------------------------------------------------------------------


@every_time
@given(workload=workloads())
def test_2_kv_blocks_are_conserved(make_engine: MakeEngine, workload: Workload) -> None:
    """Blocks in use never exceed the pool and belong to running requests; cached blocks are free ones."""
    engine, fleet = make_engine(workload), workload.fleet
    for plan in workload.plans:
        s = engine.step(plan)
        assert s.pool_blocks == plan.pool_blocks * fleet.replicas
        assert 0 <= s.used_blocks <= s.pool_blocks
        assert 0 <= s.cached_blocks <= s.pool_blocks - s.used_blocks
        assert (s.used_blocks > 0) == (s.running > 0)
        assert s.running <= s.used_blocks <= s.running * fleet.min_pool_blocks


@every_time
@given(workload=workloads())
def test_2_every_block_in_use_belongs_to_a_running_request(workload: Workload) -> None:
    """In the reference, at many moments: what is in use is what running requests hold, each enough for its tokens."""
    engine = ReferenceEngine(workload.fleet, workload.slo, workload.traffic)
    for plan in finely(workload).plans:
        engine.step(plan)
        for replica in engine.replicas:
            running = replica.decoding + replica.prefilling
            assert replica.kv.used == sum(r.blocks for r in running) <= replica.kv.pool
            assert 0 <= replica.kv.cached <= replica.kv.num_free
            assert all(r.blocks * BLOCK_TOKENS >= r.target for r in replica.prefilling)
            assert all(r.blocks * BLOCK_TOKENS >= r.stored for r in replica.decoding)
            waiting = [r for line in replica.resumed + replica.fresh for r in line]
            assert all(r.blocks == 0 for r in waiting)
            for line in replica.resumed + replica.fresh:
                assert [r.seq for r in line] == sorted(r.seq for r in line)


def finely(workload: Workload, pieces: int = 12) -> Workload:
    """The same configurations over time, each window cut in pieces: the change comes with the first piece."""
    plans, start = [], 0
    for plan in workload.plans:
        step = max(1, (plan.end_ps - start) // pieces)
        ends = [*range(start + step, plan.end_ps, step), plan.end_ps]
        plans += [replace(plan, end_ps=end, resized=plan.resized and i == 0) for i, end in enumerate(ends)]
        start = plan.end_ps
    return replace(workload, plans=tuple(plans))


# -- 3 ---------------------------------------------------------------------------------------------------------------


@every_time
@given(workload=workloads())
def test_3_the_clock_only_goes_forward(make_engine: MakeEngine, workload: Workload) -> None:
    """What a window reports happened in it, and no replica computes for longer than time has passed."""
    engine, start, busy = make_engine(workload), 0, 0
    patience = workload.fleet.patience_ps
    for plan in workload.plans:
        s = engine.step(plan)
        busy += s.busy_ps
        assert busy <= plan.end_ps * workload.fleet.replicas
        for r in engine.records():
            if r.status == "finished":
                assert start < r.last_ps <= plan.end_ps
            elif r.status == "rejected":
                assert start <= r.last_ps < plan.end_ps
            else:  # one that ran past its patience without a token leaves when it is interrupted
                assert r.last_ps <= plan.end_ps
                assert start < r.last_ps or r.scheduled_ps >= 0
        if s.queue_depth:
            assert s.oldest_wait_ps < (patience or plan.end_ps + 1) or s.preemptions + s.forced_evictions > 0
        start = plan.end_ps


# -- 4 ---------------------------------------------------------------------------------------------------------------


@every_time
@given(workload=workloads())
def test_4_nothing_reacts_before_its_cause(make_engine: MakeEngine, workload: Workload) -> None:
    """Without the second half of the requests and of the plans, everything before them is as it was."""
    keep = max(1, len(workload.traffic) // 2)
    cut = Workload(
        workload.seed,
        workload.fleet,
        workload.slo,
        workload.traffic[:keep],
        workload.plans[: max(1, len(workload.plans) // 2)],
    )
    missing = workload.traffic.arrival_ps[keep:]
    first_missing = int(missing[0]) if len(missing) else workload.plans[-1].end_ps
    whole, part = make_engine(workload), make_engine(cut)
    for plan in cut.plans:
        if plan.end_ps > first_missing:
            break
        assert whole.step(plan) == part.step(plan)
        assert whole.records() == part.records()


# -- 5 ---------------------------------------------------------------------------------------------------------------


@every_time
@given(workload=workloads())
def test_5_a_request_lives_in_order(make_engine: MakeEngine, workload: Workload) -> None:
    """Arrival ≤ scheduled < first token ≤ last token; a token takes time; who is abandoned or rejected got none."""
    _, records = run(make_engine(workload), workload)
    traffic, fleet = workload.traffic, workload.fleet
    for r in records:
        arrival, prompt = int(traffic.arrival_ps[r.id]), int(traffic.prompt[r.id])
        output = min(int(traffic.output[r.id]), fleet.max_len - prompt)
        if r.status == "finished":
            assert arrival <= r.scheduled_ps < r.first_ps <= r.last_ps
            assert (r.first_ps == r.last_ps) == (output == 1)
            assert 0 <= r.replica < fleet.replicas
        elif r.status == "abandoned":
            assert r.first_ps == -1
            assert r.last_ps == arrival + fleet.patience_ps
            assert r.scheduled_ps == -1 or arrival <= r.scheduled_ps < r.last_ps
            assert r.preemptions == 0 or r.scheduled_ps >= 0
            assert fleet.patience_ps > 0
        else:
            assert (r.scheduled_ps, r.first_ps, r.last_ps, r.preemptions, r.replica) == (-1, -1, arrival, 0, -1)
        if prompt + 1 > fleet.max_len:
            assert r.status == "rejected"


# -- 6 ---------------------------------------------------------------------------------------------------------------


@every_time
@given(workload=workloads())
def test_6_an_engine_with_work_works(make_engine: MakeEngine, workload: Workload) -> None:
    """Left alone, a colocated replica computes exactly while one of its requests is unfinished."""
    workload = only_observed(workload, 3)
    forever = 10**17
    plans = tuple(replace(plan, split=False) for plan in workload.plans)
    workload = replace(workload, plans=(*plans, replace(plans[-1], end_ps=forever)))
    stats, records = run(make_engine(workload), workload)
    busy = 0
    for replica in range(workload.fleet.replicas):
        spans = [(int(workload.traffic.arrival_ps[r.id]), r.last_ps) for r in records if r.replica == replica]
        busy += covered(spans)
    assert total(stats, "busy_ps") == busy


def covered(spans: list[tuple[int, int]]) -> int:
    """Length of the union of intervals."""
    length, reached = 0, 0
    for start, end in sorted(spans):
        length += max(0, end - max(start, reached))
        reached = max(reached, end)
    return length


# -- 7 ---------------------------------------------------------------------------------------------------------------


@every_time
@given(workload=workloads())
def test_7_the_scheduler_does_not_know_how_long_an_answer_will_be(make_engine: MakeEngine, workload: Workload) -> None:
    """Lengthen half of the outputs: until the first of those requests would have ended, nothing differs."""
    workload = finely(workload, 4)
    rng = Random(workload.seed)
    chosen = [i for i in range(len(workload.traffic)) if rng.random() < 0.5]
    output = workload.traffic.output.copy()
    output[chosen] += rng.randint(1, 50)
    longer = replace(workload, traffic=with_traffic(workload.traffic, output=output))
    engine, other = make_engine(workload), make_engine(longer)
    for plan in workload.plans:
        stats, changed = engine.step(plan), other.step(plan)
        records = engine.records()
        ended = min((r.last_ps for r in records if r.status == "finished" and r.id in chosen), default=None)
        if ended is not None:
            assert [r for r in other.records() if r.last_ps < ended] == [r for r in records if r.last_ps < ended]
            break
        assert replace(changed, offered_tokens=0, offered_tenant=[]) == replace(
            stats, offered_tokens=0, offered_tenant=[]
        )
        assert other.records() == records


# -- 8, 9, 10, 11 ----------------------------------------------------------------------------------------------------


@every_time
@given(workload=workloads())
def test_8_the_same_inputs_give_the_same_run(make_engine: MakeEngine, workload: Workload) -> None:
    """Two engines built from the same values, separately drawn, run alike."""
    again = random_workload(workload.seed)
    assert run(make_engine(workload), workload) == run(make_engine(again), again)


@every_time
@given(workload=workloads())
def test_9_a_fork_and_its_origin_do_not_touch_each_other(make_engine: MakeEngine, workload: Workload) -> None:
    """An origin runs as if it had never been forked, whatever its fork does; a fork given the same plans runs alike."""
    untouched, _ = run(make_engine(workload), workload)
    origin = make_engine(workload)
    for plan, expected in zip(workload.plans, untouched, strict=True):
        same, other = origin.fork(), origin.fork()
        other.step(
            replace(
                plan,
                tier=(plan.tier + 1) % 3,
                batch_cap=1 + plan.batch_cap // 2,
                priority=not plan.priority,
                pool_blocks=workload.fleet.min_pool_blocks,
            )
        )
        assert origin.step(plan) == expected
        assert same.step(plan) == expected
        assert same.records() == origin.records()


@every_time
@given(workload=workloads())
def test_10_replaying_the_plans_rebuilds_the_state(make_engine: MakeEngine, workload: Workload) -> None:
    """A new engine given the plans so far goes on exactly as the one that was kept."""
    middle = len(workload.plans) // 2
    kept, rebuilt = make_engine(workload), make_engine(workload, record=False)
    for plan in workload.plans[:middle]:
        kept.step(plan)
    kept = kept.fork()
    for plan in workload.plans[:middle]:
        rebuilt.step(plan)
    for plan in workload.plans[middle:]:
        assert replace(kept.step(plan), ttft_hist=[], itl_hist=[]) == rebuilt.step(plan)


@every_time
@given(workload=workloads())
def test_11_a_window_only_observes(make_engine: MakeEngine, workload: Workload) -> None:
    """Under an unchanged plan it makes no difference how time is cut into windows."""
    one, many = only_observed(workload, 1), only_observed(workload, 9, seed=workload.seed)
    (whole,), records = run(make_engine(one), one)
    pieces, same_records = run(make_engine(many), many)
    assert same_records == records
    for name in LEVELS:
        assert getattr(pieces[-1], name) == getattr(whole, name), name
    for name in COUNTS:
        assert total(pieces, name) == getattr(whole, name), name
