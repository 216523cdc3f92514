"""Every knob acts on the requests themselves, in the direction physics says.

The fleet is two A100-80G serving Llama-3.1-8B, its tables written down from published figures so that these tests lean
on nothing but the engine. Assertions are on the mechanism (who waits, who is preempted, what an iteration costs), never
on a reward.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from random import Random
from statistics import mean

import numpy as np
import pytest

from llmserve_sim.engine import (
    FleetSpec,
    KernelEngine,
    RequestRecord,
    Slo,
    TierTables,
    Traffic,
    WindowPlan,
    WindowStats,
)
from llmserve_sim.engine.interface import DEPTHS, FP, PS_PER_S, TENANTS

MS = 10**9
US = 10**6
LAYERS = 32
GEMMS = ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))  # QKV, O, gate-up, down: n x k
FP16, INT8, INT4 = 0, 1, 2
A100_FLOPS, A100_BYTES = 312e12, 2.039e12
# (t0 us, compute efficiency, memory efficiency, q, FLOP factor, weight bytes): measured A100 GEMMs by weight format
FORMATS = ((6.9, 0.838, 0.810, 1.68, 1, 2.0), (12.8, 0.880, 0.974, 1.05, 2, 1.0), (19.9, 0.819, 1.071, 1.05, 1, 0.5))
POOL = 27_000  # blocks: 56 GB at 131,072 bytes a token


def tables(tier: int) -> TierTables:
    """Llama-3.1-8B on one A100 at one weight format, from the roofline with a p-norm of compute and memory time."""
    t0, ec, eb, q, factor, weight = FORMATS[tier]
    m = np.arange(2049.0)
    gemms = sum(
        t0 * 1e-6
        + (
            (2 * m * n * k / (ec * A100_FLOPS * factor)) ** q
            + ((n * k * weight + 2 * m * k + 2 * m * n) / (eb * A100_BYTES)) ** q
        )
        ** (1 / q)
        for n, k in GEMMS
    )
    gemm = LAYERS * (gemms + 9e-6) + 0.5e-3  # 9 us of small kernels a layer, 0.5 ms of CPU
    head = np.maximum(128256 * 4096 * 2 / (0.81 * A100_BYTES), 2 * m * 128256 * 4096 / (0.838 * A100_FLOPS))
    head[0] = 0
    token_ps = 131_072 / (0.71 * A100_BYTES) * PS_PER_S  # reading one token's KV
    sequence_ps = LAYERS * 4.0 * US * 8 / 108  # a sequence's CTAs over 108 SMs
    slope = int(token_ps / FP)
    return TierTables(
        budget=2048,
        gemm=np.rint(gemm * PS_PER_S).astype(np.int64),
        head=np.rint(head * PS_PER_S).astype(np.int64),
        cpu_seq=10 * US,
        dec_t0=LAYERS * 19 * US,
        dec_x=np.array([0, int(sequence_ps / slope)]),
        dec_h=np.array([int(sequence_ps), int(sequence_ps)]),
        dec_s=np.array([0, slope]),
        pf_t0=int(LAYERS * 12.8 * US),
        pf_tile=1,
        pf_off=575,
        pf_coef=int(1024 * LAYERS * 2 * 4096 / (0.574 * A100_FLOPS) * PS_PER_S),
        pf_crit=0,
        mix_seq=45 * US,
        mix_ctx=int(1024 * 1.2 * slope),
        mix_amp=int(1024 * 1.47 * slope),
        draft_step=1680 * US,
        spec_seq=60 * US,
    )


FLEET = FleetSpec(
    replicas=2,
    tiers=(tables(FP16), tables(INT8), tables(INT4)),
    swap_ps=(5 * PS_PER_S, 4 * PS_PER_S, 3 * PS_PER_S),
    split_ps=500 * MS,
    resize_ps=100 * MS,
    evict_ps=300 * MS,
    handover_ps=170 * MS,
    link_ps_per_token=6 * US,
    max_len=8192,
    max_unfinished=1024,
    patience_ps=0,
)
ALONE = replace(FLEET, replicas=1)
SLO = Slo(ttft_ps=(PS_PER_S, 2 * PS_PER_S), ttft_ps_per_prompt_token=250 * US, tpot_ps=(22 * MS, 30 * MS))


def rates(acceptance: float = 0.7) -> tuple[tuple[int, ...], ...]:
    """Tokens per step at each depth, if each draft token is accepted with one probability."""
    row = tuple(int(FP * sum(acceptance**j for j in range(depth + 1))) for depth in range(DEPTHS))
    return (row,) * TENANTS


PLAN = WindowPlan(
    end_ps=PS_PER_S,
    batch_cap=256,
    depth=0,
    tier=FP16,
    split=False,
    priority=False,
    pool_blocks=POOL,
    resized=False,
    tokens_per_step=rates(),
)


def requests(rows: Iterable[tuple[float, int, int, int]]) -> Traffic:
    """Traffic of (arrival s, prompt, output, class), one tenant."""
    columns = [np.array(column) for column in zip(*sorted(rows), strict=True)]
    arrival = np.rint(columns[0] * PS_PER_S).astype(np.int64)
    return Traffic(arrival, *(c.astype(np.int64) for c in columns[1:]), tenant=np.zeros(len(arrival), np.int64))


def chat(rate: float, seconds: float, prompt: int = 400, output: int = 200, priority_share: float = 0.0) -> Traffic:
    """Poisson arrivals of conversations; lengths spread by a half around their means."""
    rng, now, rows = Random(7), 0.0, []
    while (now := now + rng.expovariate(rate)) < seconds:
        kind = int(rng.random() >= priority_share)
        rows.append((now, int(prompt * rng.uniform(0.5, 1.5)), int(output * rng.uniform(0.5, 1.5)), kind))
    return requests(rows)


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
