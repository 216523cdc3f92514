"""Every knob acts on the requests themselves, in the direction physics says.

Assertions are on the mechanism (who waits, who is preempted, what an iteration costs), never on a reward.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from statistics import mean

import pytest
from engine_realistic import ALONE, FLEET, FP16, INT4, INT8, MS, PLAN, POOL, SLO, chat, rates, requests

from llmserve_sim.engine import (
    FleetSpec,
    KernelEngine,
    ReferenceEngine,
    RequestRecord,
    Traffic,
    WindowPlan,
    WindowStats,
)
from llmserve_sim.engine.interface import PS_PER_S
from llmserve_sim.errors import InvalidInputError


@dataclass
class Run:
    """What came of a run."""

    windows: list[WindowStats]
    records: list[RequestRecord]
    traffic: Traffic

    def total(self, name: str) -> int:
        """A count, over all windows."""
        return sum(getattr(s, name) for s in self.windows)

    def ttft_ms(self, kind: int | None = None) -> float:
        """Mean time to the first token of the requests that finished, of one class if asked."""
        return mean(
            (r.first_ps - int(self.traffic.arrival_ps[r.id])) / MS
            for r in self.records
            if r.first_ps >= 0 and kind in {None, int(self.traffic.priority[r.id])}
        )

    def tpot_ms(self) -> float:
        """Mean time per output token after the first."""
        return mean(
            (r.last_ps - r.first_ps) / MS / (int(self.traffic.output[r.id]) - 1)
            for r in self.records
            if r.status == "finished" and self.traffic.output[r.id] > 1
        )


def simulate(traffic: Traffic, plans: Iterable[WindowPlan], fleet: FleetSpec = FLEET) -> Run:
    """Run the plans."""
    engine = KernelEngine(fleet, SLO, traffic, record=True, backend="python")
    run = Run([], [], traffic)
    for plan in plans:
        run.windows.append(engine.step(plan))
        run.records += engine.records()
    return run


def steady(seconds: int, **knobs: object) -> list[WindowPlan]:
    """One configuration, in windows of a second."""
    return [replace(PLAN, end_ps=(i + 1) * PS_PER_S, **knobs) for i in range(seconds)]


def then(plans: list[WindowPlan], milliseconds: int, **knobs: object) -> list[WindowPlan]:
    """One more window with other knobs."""
    return [*plans, replace(plans[-1], end_ps=plans[-1].end_ps + milliseconds * MS, resized=False, **knobs)]


# -- batch_cap -------------------------------------------------------------------------------------------------------


def test_a_larger_cap_raises_throughput_and_itl_under_load() -> None:
    few, many = (simulate(chat(40, 20), steady(20, batch_cap=cap)) for cap in (8, 64))
    assert many.total("delivered_tokens") > 2 * few.total("delivered_tokens")
    assert many.tpot_ms() > 1.2 * few.tpot_ms()
    assert many.ttft_ms() < few.ttft_ms()
    assert max(s.running for s in few.windows) == 2 * 8
    assert 16 < max(s.running for s in many.windows) <= 2 * 64


def test_what_runs_above_a_lowered_cap_finishes_and_nothing_is_admitted_until_it_has() -> None:
    plans = steady(5, batch_cap=64)
    for _ in range(200):
        plans = then(plans, 25, batch_cap=8)
    run = simulate(chat(40, 15), plans)
    running = [s.running for s in run.windows[4:]]
    assert running[0] > 100
    assert all(after <= max(before, 16) for before, after in pairwise(running))
    assert running[-1] == 16
    assert run.total("preemptions") == 0


# -- KV budget -------------------------------------------------------------------------------------------------------


def test_a_lower_kv_budget_preempts_the_newest() -> None:
    plans = then(steady(5), 1, pool_blocks=1_500)
    plans[-1] = replace(plans[-1], resized=True)
    run = simulate(chat(30, 5), then(plans, 60_000, pool_blocks=1_500), fleet=ALONE)
    assert run.windows[5].preemptions > 0
    assert run.windows[5].forced_evictions == 0
    assert run.windows[5].used_blocks <= 1_500 < run.windows[4].used_blocks
    running = [r for r in run.records if r.scheduled_ps < 5 * PS_PER_S < r.last_ps]
    preempted = [r.id for r in running if r.preemptions]
    assert preempted
    assert min(preempted) > max(r.id for r in running if not r.preemptions)


def test_a_kv_budget_too_small_for_the_load_preempts_again_and_again_and_costs_throughput() -> None:
    small, large = (simulate(chat(40, 20), steady(20, pool_blocks=blocks)) for blocks in (1_000, POOL))
    assert large.total("preemptions") == 0
    assert small.total("preemptions") > 50
    assert small.total("delivered_tokens") < 0.9 * large.total("delivered_tokens")


def test_a_resized_pool_stalls_every_replica() -> None:
    plans = steady(5)
    resized = [*plans, replace(then(plans, 100, pool_blocks=POOL - 1)[-1], resized=True)]
    granted = then(plans, 100, pool_blocks=POOL - 1)
    assert simulate(chat(30, 6), resized).windows[-1].iterations <= 2  # those in flight
    assert simulate(chat(30, 6), granted).windows[-1].iterations > 4


def test_a_co_tenant_that_takes_used_blocks_evicts_by_force_and_stalls() -> None:
    run = simulate(chat(40, 8), then(then(steady(5), 300, pool_blocks=1_000), 300, pool_blocks=1_000))
    squeezed, later = run.windows[-2:]
    assert squeezed.forced_evictions > 0
    assert squeezed.preemptions == 0
    assert squeezed.iterations <= 2  # those in flight
    assert later.iterations > 4


# -- quantization_tier -----------------------------------------------------------------------------------------------


def test_int4_is_the_fastest_at_batch_one_and_slower_than_fp16_above_four_hundred_tokens() -> None:
    gemm = [t.gemm for t in FLEET.tiers]
    assert gemm[INT4][1] < gemm[INT8][1] < gemm[FP16][1]
    assert all(gemm[INT4][m] > gemm[FP16][m] > gemm[INT8][m] for m in (450, 1024, 2048))
    alone = requests([(0.0, 2000, 300, 1)])
    fp16, int8, int4 = (simulate(alone, steady(10, tier=tier), fleet=ALONE) for tier in (FP16, INT8, INT4))
    assert int4.tpot_ms() < int8.tpot_ms() < fp16.tpot_ms()
    assert int8.ttft_ms() < fp16.ttft_ms() < int4.ttft_ms()  # a prompt of 2,000 tokens is one large iteration


def test_a_tier_swap_stalls_the_fleet_and_recomputes_what_ran() -> None:
    before = steady(5, hit_q10=512, hit_half_blocks=1000)
    run = simulate(chat(30, 30), then(then(before, 2990, tier=INT4), 20_000, tier=INT4))
    last, stalled, after = run.windows[-3:]
    assert last.running > 0 < last.cached_blocks
    assert stalled.preemptions == last.running
    assert stalled.iterations == stalled.delivered_tokens == stalled.running == stalled.used_blocks == 0
    assert stalled.cached_blocks == 0
    assert stalled.queue_depth == last.running + last.queue_depth + stalled.arrivals
    assert after.delivered_tokens > 0


# -- speculation_depth -----------------------------------------------------------------------------------------------


def test_speculation_helps_one_request_and_hurts_a_full_batch() -> None:
    alone = requests([(0.0, 200, 400, 1)])
    crowd = requests([(0.0, 200, 400, 1)] * 256)
    plain, deep = (simulate(alone, steady(30, depth=depth), fleet=ALONE) for depth in (0, 4))
    assert deep.tpot_ms() < plain.tpot_ms() / 1.4
    plain, deep = (simulate(crowd, steady(120, depth=depth), fleet=ALONE) for depth in (0, 4))
    assert deep.tpot_ms() > 1.1 * plain.tpot_ms()


def test_better_drafts_are_accepted_more_often() -> None:
    alone = requests([(0.0, 200, 400, 1)])
    poor, good = (simulate(alone, steady(30, depth=4, tokens_per_step=rates(a)), fleet=ALONE) for a in (0.3, 0.8))
    assert good.tpot_ms() < 0.7 * poor.tpot_ms()
    shares = [run.total("accepted_fp") / run.total("draft_fp") for run in (poor, good)]
    assert shares == pytest.approx([sum(a**j for j in range(1, 5)) / 4 for a in (0.3, 0.8)], abs=0.01)


def test_verification_takes_the_token_budget_from_prompts() -> None:
    """With 256 requests at depth 7, decoding fills the budget of 2,048 tokens: nobody new is scheduled."""
    crowd = [(0.0, 16, 2000, 1)] * 256
    run = simulate(requests([*crowd, (4.0, 100, 10, 1)]), steady(6, depth=7, batch_cap=512), fleet=ALONE)
    assert run.windows[-1].running == 256
    assert run.windows[-1].queue_depth == 1
    run = simulate(requests([*crowd, (4.0, 100, 10, 1)]), steady(6, depth=3, batch_cap=512), fleet=ALONE)
    assert run.windows[-1].queue_depth == 0


def test_a_thousand_sequences_decode_in_one_batch_as_the_reference_has_them() -> None:
    """The server of vLLM takes 1,024 on large GPUs; one more waits, and one more in the plan is refused."""
    crowd = requests([(0.0, 16, 2000, 1)] * 1025)
    plans = [replace(plan, pool_blocks=20_000) for plan in steady(2, batch_cap=1024)]
    fleet = replace(ALONE, max_unfinished=2048)
    run = simulate(crowd, plans, fleet=fleet)
    assert (run.windows[-1].running, run.windows[-1].queue_depth) == (1024, 1)
    reference = ReferenceEngine(fleet, SLO, crowd, record=True)
    for plan, window in zip(plans, run.windows, strict=True):
        assert reference.step(plan) == window
    with pytest.raises(InvalidInputError, match=r"batch_cap: must be an integer in 1\.\.1,024"):
        steady(1, batch_cap=1025)


# -- prefill_decode_split --------------------------------------------------------------------------------------------


def test_a_split_lowers_itl_under_long_prompts_and_lengthens_ttft() -> None:
    talk = chat(3, 30, prompt=100, output=300)
    long = [(0.37 * i, 6000, 20, 1) for i in range(1, 80)]
    columns = [getattr(talk, f.name) for f in fields(talk)]
    mixed = requests([*zip(columns[0] / PS_PER_S, *columns[1:4], strict=True), *long])
    together, apart = (simulate(mixed, steady(40, split=split)) for split in (False, True))

    def p99_ms(run: Run) -> float:
        return mean(s.itl_p99_ps for s in run.windows[5:30]) / MS

    def tpot_of_chats_ms(run: Run) -> float:
        chats = [r for r in run.records if r.status == "finished" and mixed.output[r.id] > 20]
        return mean((r.last_ps - r.first_ps) / (int(mixed.output[r.id]) - 1) for r in chats) / MS

    assert p99_ms(apart) < 0.5 * p99_ms(together)
    assert tpot_of_chats_ms(apart) < 0.8 * tpot_of_chats_ms(together)
    assert apart.ttft_ms() > 1.2 * together.ttft_ms()
    assert apart.total("handovers") > 0 == together.total("handovers")


def test_a_change_of_roles_stalls_and_recomputes() -> None:
    run = simulate(chat(30, 8), then(then(steady(5), 499, split=True), 2000, split=True))
    last, stalled, after = run.windows[-3:]
    assert stalled.preemptions == last.running > 0
    assert stalled.iterations == 0 < after.iterations
    assert after.handovers > 0


# -- priority_routing ------------------------------------------------------------------------------------------------


def test_priority_shortens_the_ttft_of_priority_requests_at_the_others_expense() -> None:
    load = chat(45, 30, priority_share=0.2)
    off, on = (simulate(load, steady(60, batch_cap=24, priority=priority)) for priority in (False, True))
    assert on.ttft_ms(0) < 0.2 * off.ttft_ms(0)
    assert on.ttft_ms(1) > off.ttft_ms(1)


def test_with_priority_standard_requests_are_preempted_first_and_without_it_the_newest() -> None:
    load = requests([(0.01 * i, 400, 400, i % 2) for i in range(32)])

    def victims(priority: bool) -> list[int]:
        plans = steady(4, priority=priority)
        run = simulate(load, then(then(plans, 1, pool_blocks=800), 60_000, pool_blocks=POOL), fleet=ALONE)
        assert run.windows[3].running == 32
        evicted = [r.id for r in run.records if r.preemptions]
        assert 4 < len(evicted) == run.windows[4].forced_evictions < 16
        return evicted

    assert all(load.priority[i] == 1 for i in victims(priority=True))
    newest = victims(priority=False)
    assert newest == list(range(32 - len(newest), 32))


# -- prefix cache ----------------------------------------------------------------------------------------------------


def test_cached_prefixes_in_spare_blocks_spare_prefill() -> None:
    load = chat(20, 20, prompt=1500, output=60)
    cold, warm = (simulate(load, steady(30, hit_q10=hit, hit_half_blocks=500)) for hit in (0, 512))
    assert warm.ttft_ms() < 0.9 * cold.ttft_ms()
    assert warm.total("busy_ps") < cold.total("busy_ps")


def test_a_larger_pool_keeps_more_prefixes() -> None:
    one_by_one = requests([(0.5 * i, 1500, 10, 1) for i in range(40)])
    small, large = (
        simulate(one_by_one, steady(30, pool_blocks=blocks, hit_q10=512, hit_half_blocks=1000), fleet=ALONE)
        for blocks in (600, POOL)
    )
    assert max(s.cached_blocks for s in small.windows) <= 600 < large.windows[-1].cached_blocks
    assert large.ttft_ms() < 0.9 * small.ttft_ms()


# -- patience and admission ------------------------------------------------------------------------------------------


def test_requests_that_wait_too_long_leave_and_a_full_fleet_refuses() -> None:
    overload = chat(60, 20)
    impatient = simulate(overload, steady(20, batch_cap=8), fleet=replace(FLEET, patience_ps=2 * PS_PER_S))
    assert impatient.total("abandoned") > 100
    assert max(s.oldest_wait_ps for s in impatient.windows) <= 2 * PS_PER_S
    full = simulate(overload, steady(20, batch_cap=8), fleet=replace(FLEET, max_unfinished=50))
    assert full.total("rejected") > 100
    assert max(s.queue_depth + s.running for s in full.windows) <= 50
