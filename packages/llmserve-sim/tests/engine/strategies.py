"""Random fleets, traffic and plans that reach every corner of the scheduler; each is a pure function of a seed.

The costs are consistent but not realistic: from a few picoseconds an iteration, where rounding shows, to tens of
milliseconds. Times of the workload are drawn in units of the fleet's own typical iteration, so that every workload has
queues, idle gaps, stalls and window ends that cut iterations, whatever its scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import numpy as np
from hypothesis import strategies as st

from llmserve_sim.engine.interface import (
    DEPTHS,
    FP,
    TENANTS,
    FleetSpec,
    Slo,
    TierTables,
    Traffic,
    WindowPlan,
    WindowStats,
)
from llmserve_sim.engine.prefixes import Prefixes

__all__ = [
    "Workload",
    "conversations",
    "events_of",
    "only_observed",
    "random_conversations",
    "random_workload",
    "with_traffic",
    "workloads",
]


@dataclass(frozen=True)
class Workload:
    """All that an engine needs, and the plans to step it through."""

    seed: int
    fleet: FleetSpec
    slo: Slo
    traffic: Traffic
    plans: tuple[WindowPlan, ...]


def workloads() -> st.SearchStrategy[Workload]:
    """Random workloads; a failure names the seed that builds it again."""
    return st.integers(0, 2**32 - 1).map(random_workload)


def random_workload(seed: int) -> Workload:
    """The workload of a seed."""
    rng = Random(seed)
    scale = rng.choice([2, 1_000, 10**6, 10**9, 10**10])
    budget = rng.choice([16, 64, 256, 2048])
    max_len = rng.choice([24, 120, 600, 2500])
    fleet = _fleet(rng, scale, budget, max_len)
    iteration = int(fleet.tiers[0].gemm[min(32, budget)])
    traffic = _traffic(rng, fleet, iteration)
    plans = _plans(rng, fleet, traffic, iteration)
    slo = Slo(
        ttft_ps=(iteration * rng.randint(1, 60), iteration * rng.randint(1, 60)),
        ttft_ps_per_prompt_token=rng.randint(0, max(1, iteration // 50)),
        tpot_ps=(iteration * rng.randint(1, 5), iteration * rng.randint(1, 5)),
    )
    return Workload(seed, fleet, slo, traffic, plans)


def conversations() -> st.SearchStrategy[Workload]:
    """Random workloads whose requests share beginnings; a failure names the seed that builds it again."""
    return st.integers(0, 2**32 - 1).map(random_conversations)


def random_conversations(seed: int) -> Workload:
    """The workload of a seed, with sessions behind a few system prompts; some requests share nothing.

    Prompts and outputs keep their lengths: a turn has as much of its session's history as fits, and sometimes less.
    """
    w = random_workload(seed)
    rng = Random(seed + 1)
    traffic = w.traffic
    if rng.random() < 0.3:  # all prompts alike in length: whole prompts are found, down to the last block
        prompt = np.minimum(traffic.prompt, 16 * rng.randint(1, max(1, w.fleet.max_len // 16)))
        traffic = replace(traffic, prompt=prompt)
    full = ((traffic.prompt + traffic.output) // 16).tolist()
    longest = min(max(full), 4096)
    parts: list[np.ndarray] = []
    lengths: list[int] = []
    for system in range(rng.randint(1, 3)):  # all histories of one system prompt begin with the same hashes
        shared = rng.choice([0, rng.randint(0, longest), longest])
        for session in range(rng.choice([1, rng.randint(1, 3), rng.randint(1, 20)])):
            own = (system * 64 + session + 8) << 20
            parts.append(np.array([*(system << 20 | i for i in range(shared)), *(own | i for i in range(longest))]))
            lengths.append(len(parts[-1]))
    start = np.cumsum([0, *lengths[:-1]])
    lonely = rng.choice([0.0, 0.1, 0.5])
    chosen = [rng.randrange(len(parts)) for _ in full]
    blocks = []
    for most, session, prompt in zip(full, chosen, traffic.prompt.tolist(), strict=True):
        if rng.random() < lonely:
            blocks.append(0)
        else:
            blocks.append(min(lengths[session], rng.choice([most, most, prompt // 16, rng.randint(0, most)])))
    prefixes = Prefixes(
        np.concatenate(parts).astype(np.int64), start[chosen].astype(np.int64), np.array(blocks, np.int64)
    )
    plans = tuple(replace(plan, hit_q10=rng.choice([0, 1024])) for plan in w.plans)  # the curve has no say here
    return Workload(seed, w.fleet, w.slo, replace(traffic, prefixes=prefixes), plans)


def with_traffic(traffic: Traffic, **columns: np.ndarray) -> Traffic:
    """The same traffic with other columns."""
    return replace(traffic, **columns)


def only_observed(workload: Workload, windows: int, seed: int = 0) -> Workload:
    """The workload with its first plan throughout, observed at `windows` moments: nothing is ever reconfigured."""
    rng = Random(seed)
    end = workload.plans[-1].end_ps
    ends = sorted({end, *(rng.randint(1, end) for _ in range(windows - 1))})
    first = replace(workload.plans[0], resized=False)
    return replace(workload, plans=tuple(replace(first, end_ps=t) for t in ends))


def events_of(workload: Workload, windows: list[WindowStats]) -> set[str]:
    """Which kinds of events a run of the workload contained."""
    plans, seen = workload.plans, set()
    seen |= {name for name in ("preemptions", "forced_evictions", "abandoned", "rejected") if _total(windows, name)}
    seen |= {name for name in ("handovers", "finished", "accepted_fp") if _total(windows, name)}
    for last, plan, before in zip(plans, plans[1:], windows, strict=False):
        if before.running and before.queue_depth:
            seen |= {f"{knob} changed" for knob in _KNOBS if getattr(plan, knob) != getattr(last, knob)}
            seen |= {"resized"} if plan.resized else set()
    if any(plan.hit_q10 and stats.cached_blocks for plan, stats in zip(plans, windows, strict=True)):
        seen.add("prefix hit")
    if sum(1 for plan in plans if plan.depth for _ in set(plan.tokens_per_step)) > 1 and _total(windows, "accepted_fp"):
        seen.add("tenants of different acceptance")
    return seen


_KNOBS = ("batch_cap", "pool_blocks", "depth", "tier", "split", "priority")


def _total(windows: list[WindowStats], name: str) -> int:
    return sum(getattr(stats, name) for stats in windows)


def _fleet(rng: Random, scale: int, budget: int, max_len: int) -> FleetSpec:
    tiers = tuple(_tables(rng, scale, budget) for _ in range(3))
    typical = int(tiers[0].gemm[min(32, budget)])
    replicas = rng.choice([1, 1, 2, 2, 3, 4])

    def stall(most: int) -> int:
        return rng.choice([0, rng.randint(0, most * typical)])

    return FleetSpec(
        replicas=replicas,
        tiers=tiers,
        swap_ps=(stall(60), stall(60), stall(60)),
        split_ps=stall(20),
        resize_ps=stall(10),
        evict_ps=stall(10),
        handover_ps=stall(10),
        link_ps_per_token=rng.choice([0, rng.randint(0, max(1, typical // 20))]),
        max_len=max_len,
        max_unfinished=rng.choice([4, 30, 512 * replicas, 512 * replicas]),
        patience_ps=rng.choice([0, typical * rng.randint(5, 40), typical * rng.randint(40, 400)]),
    )


def _tables(rng: Random, scale: int, budget: int) -> TierTables:
    def cost(most: float) -> int:
        return rng.randint(0, max(1, int(scale * most)))

    per_token = [cost(rng.choice([0.1, 1.0])) if rng.random() < 0.7 else 0 for _ in range(budget + 1)]
    edges = sorted({0, *(rng.randint(1, 4000 * FP) for _ in range(rng.randint(0, 4)))})
    slopes = [rng.randint(0, max(1, scale // (100 * FP))) for _ in edges]
    heights = [cost(1)]
    for j in range(1, len(edges)):
        heights.append(heights[-1] + slopes[j - 1] * (edges[j] - edges[j - 1]))
    flops = rng.random() < 0.5
    return TierTables(
        budget=budget,
        gemm=np.cumsum(np.array(per_token, np.int64)) + scale * rng.randint(1, 30),
        head=np.array([0, *np.cumsum([cost(0.1) for _ in range(budget)])], np.int64),
        cpu_seq=cost(0.3),
        dec_t0=cost(2),
        dec_x=np.array(edges, np.int64),
        dec_h=np.array(heights, np.int64),
        dec_s=np.array(slopes, np.int64),
        pf_t0=cost(2),
        pf_tile=1 if flops else rng.choice([16, 64, 128]),
        pf_off=rng.randint(0, 900),
        pf_coef=cost(0.02),
        pf_crit=0 if flops else cost(1),
        mix_seq=cost(0.5),
        mix_ctx=cost(0.05),
        mix_amp=cost(0.05),
        draft_step=cost(1),
        spec_seq=cost(0.2),
    )


def _traffic(rng: Random, fleet: FleetSpec, iteration: int) -> Traffic:
    n = rng.choice([1, rng.randint(2, 20), rng.randint(20, 80), rng.randint(80, 400)])
    tokens = 60_000 if rng.random() < 0.04 else 6000  # most workloads are small, so that there can be many
    longest_output = max(2, min(rng.choice([4, 40, 200]), tokens // n + 4, fleet.max_len))
    longest_prompt = max(2, min(fleet.max_len, 60_000 // n + 16))
    gap = iteration * rng.choice([0.0, 0.05, 0.5, 2.0, 8.0])
    style = rng.choice(["steady", "bursty", "gaps"])
    tenants = rng.sample(range(TENANTS), rng.randint(1, TENANTS))
    priority_share = rng.choice([0.0, 0.2, 0.5, 1.0])
    rows, now = [], 0
    for _ in range(n):
        if style == "steady":
            now += rng.randint(0, int(2 * gap))
        elif style == "bursty":
            now += 0 if rng.random() < 0.9 else rng.randint(0, int(20 * gap))
        else:
            now += rng.randint(0, int(gap)) if rng.random() < 0.97 else iteration * rng.randint(0, 300)
        prompt = rng.choice([1, rng.randint(1, longest_prompt), rng.randint(1, 1 + longest_prompt // 8)])
        if rng.random() < 0.02:
            prompt = fleet.max_len + rng.randint(-2, 2)
        output = rng.choice([1, rng.randint(1, longest_output), rng.randint(1, longest_output)])
        if rng.random() < 0.02:
            output = fleet.max_len + 1
        rows.append((now, prompt, output, int(rng.random() >= priority_share), rng.choice(tenants)))
    columns = [np.array(column, np.int64) for column in zip(*rows, strict=True)]
    return Traffic(*columns)


def _plans(rng: Random, fleet: FleetSpec, traffic: Traffic, iteration: int) -> tuple[WindowPlan, ...]:
    restless = rng.choice([0.05, 0.3, 0.6])
    largest_cap = min(fleet.tiers[0].budget, rng.choice([2, 16, 64, 512]))
    roomy = rng.choice([0.5, 1, 4, 40])
    smallest = fleet.min_pool_blocks
    squeezed = rng.random() < 0.3  # a co-tenant takes memory and gives it back

    def drawn(old: WindowPlan, name: str, choices: list[object]) -> object:
        return rng.choice(choices) if rng.random() < restless else getattr(old, name)

    can_split = [False, True] if fleet.replicas > 1 else [False]
    depths = [0, 0, rng.randint(1, 8)]
    if fleet.replicas > 1 and rng.random() < 0.4:  # hand-overs, in speculative steps, into full pools
        can_split, depths, roomy = [True, True, True, False], [rng.randint(1, 8)], rng.choice([0, 0.3, 0.6])
    plan = WindowPlan(
        end_ps=0,
        batch_cap=rng.randint(1, largest_cap),
        depth=rng.choice(depths),
        tier=rng.randint(0, 2),
        split=rng.choice(can_split),
        priority=rng.random() < 0.5,
        pool_blocks=rng.randint(smallest, int(smallest * (1 + roomy))),
        resized=False,
        tokens_per_step=_rates(rng),
        hit_q10=rng.choice([0, 512, 1024]),
        hit_half_blocks=rng.randint(1, 4 * smallest),
    )
    plans: list[WindowPlan] = []
    span = int(traffic.arrival_ps[-1])
    window = rng.choice([iteration * rng.randint(5, 120), min(iteration * 300, 1 + span // rng.randint(2, 8))])
    for index in range(rng.randint(2, 10)):
        end = plan.end_ps + rng.choice([window, rng.randint(1, 2 * window)])
        if rng.random() < 0.2:  # an arrival at the very end of a window belongs to the next one
            later = traffic.arrival_ps[traffic.arrival_ps > plan.end_ps]
            end = int(later[rng.randrange(len(later))]) if len(later) else end
        if index == 0:
            plan = replace(plan, end_ps=end)
        else:
            pool = drawn(plan, "pool_blocks", [rng.randint(smallest, int(smallest * (1 + roomy))), smallest])
            if squeezed:
                pool = smallest if index % 2 else rng.randint(2, 6) * smallest
            plan = WindowPlan(
                end_ps=end,
                batch_cap=drawn(plan, "batch_cap", [rng.randint(1, largest_cap)]),
                depth=drawn(plan, "depth", [*depths, rng.randint(1, 8)]),
                tier=drawn(plan, "tier", [0, 1, 2]) if rng.random() < 0.5 else plan.tier,
                split=drawn(plan, "split", can_split) if rng.random() < 0.5 else plan.split,
                priority=drawn(plan, "priority", [False, True]),
                pool_blocks=pool,
                resized=rng.random() < 0.4 if pool != plan.pool_blocks else rng.random() < 0.05,
                tokens_per_step=drawn(plan, "tokens_per_step", [_rates(rng)]),
                hit_q10=drawn(plan, "hit_q10", [0, 512, 1024]),
                hit_half_blocks=plan.hit_half_blocks,
            )
        plans.append(plan)
    if rng.random() < 0.5:  # long enough for most to end
        end = max(plan.end_ps, int(traffic.arrival_ps[-1])) + 2000 * iteration
        plans.append(replace(plan, end_ps=end, resized=False))
    return tuple(plans)


def _rates(rng: Random) -> tuple[tuple[int, ...], ...]:
    rates = []
    for _ in range(TENANTS):
        acceptance, rate, row = rng.uniform(0.05, 0.95), 1.0, [FP]
        for depth in range(1, DEPTHS):
            rate += acceptance**depth
            row.append(int(rate * FP))
        rates.append(tuple(row))
    return tuple(rates)
