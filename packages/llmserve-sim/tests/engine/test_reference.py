"""The scheduling rules by example, in numbers that can be checked by hand; both implementations must follow them.

An iteration takes 100 ps and 1 ps for every token in it, and nothing else costs time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from engine_strategies import Workload

from llmserve_sim.engine import Engine, FleetSpec, RequestRecord, Slo, TierTables, Traffic, WindowPlan, WindowStats
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
    swap_ps=(5000, 4000, 3000),
    split_ps=500,
    resize_ps=70,
    evict_ps=300,
    handover_ps=20,
    link_ps_per_token=1,
    max_len=160,
    max_unfinished=100,
    patience_ps=0,
)
SLO = Slo(ttft_ps=(200, 400), ttft_ps_per_prompt_token=1, tpot_ps=(101, 150))
PLAN = WindowPlan(
    end_ps=10**6,
    batch_cap=8,
    depth=0,
    tier=0,
    split=False,
    priority=False,
    pool_blocks=100,
    resized=False,
    tokens_per_step=((FP,) * DEPTHS,) * TENANTS,
)


def run(
    make_engine: MakeEngine,
    requests: list[tuple[int, ...]],
    *plans: WindowPlan,
    fleet: FleetSpec = FLEET,
) -> tuple[list[WindowStats], dict[int, RequestRecord]]:
    """Run requests of (arrival, prompt, output[, class[, tenant]]) through plans; a default class is standard."""
    rows = [(*row, *(1, 0)[len(row) - 3 :]) for row in requests]
    traffic = Traffic(*(np.array(column, np.int64) for column in zip(*rows, strict=True)))
    engine = make_engine(Workload(0, fleet, SLO, traffic, plans))
    stats, records = [], {}
    for plan in plans:
        stats.append(engine.step(plan))
        records |= {r.id: r for r in engine.records()}
    return stats, records


def times(record: RequestRecord) -> tuple[int, int, int]:
    return record.scheduled_ps, record.first_ps, record.last_ps


def test_a_prompt_is_one_iteration_and_every_further_token_another(make_engine: MakeEngine) -> None:
    _, records = run(make_engine, [(50, 40, 3)], PLAN)
    assert times(records[0]) == (50, 50 + 140, 50 + 140 + 2 * 101)


def test_a_prompt_longer_than_the_token_budget_is_prefilled_in_chunks(make_engine: MakeEngine) -> None:
    _, records = run(make_engine, [(0, 100, 2)], PLAN)
    assert times(records[0]) == (0, 164 + 136, 164 + 136 + 101)


def test_decoding_comes_before_prompts_which_get_the_rest_of_the_budget(make_engine: MakeEngine) -> None:
    """The second prompt meets one decoder: 63 tokens a step, so its 100 tokens take two steps, 63 and 37."""
    _, records = run(make_engine, [(0, 10, 9), (0, 100, 1)], PLAN)
    assert records[0].first_ps == 164  # 10 tokens of the first and 54 of the second
    assert records[1].first_ps == 164 + 100 + 1 + 46


def test_a_request_that_arrives_as_an_iteration_ends_joins_the_next_one(make_engine: MakeEngine) -> None:
    _, records = run(make_engine, [(0, 40, 1), (140, 20, 1), (141, 20, 1)], PLAN)
    assert times(records[1]) == (140, 260, 260)
    assert records[2].scheduled_ps == 260


def test_arrivals_go_to_the_least_loaded_replica_and_to_the_first_of_equals(make_engine: MakeEngine) -> None:
    fleet = replace(FLEET, replicas=3)
    _, records = run(make_engine, [(0, 5, 50), (1, 5, 50), (2, 5, 2), (300, 5, 2)], PLAN, fleet=fleet)
    assert [records[i].replica for i in range(4)] == [0, 1, 2, 2]


def test_no_more_requests_run_than_the_cap_allows(make_engine: MakeEngine) -> None:
    _, records = run(make_engine, [(0, 4, 3)] * 3, replace(PLAN, batch_cap=2))
    assert [records[i].scheduled_ps for i in range(3)] == [0, 0, records[0].last_ps]


def test_the_newest_request_is_preempted_when_blocks_run_out_and_is_recomputed(make_engine: MakeEngine) -> None:
    """Of 13 blocks, prompts of 100 and 96 tokens take 7 and 6; the second needs a seventh to decode, so it yields.

    It waits until the first is done; then its 96 + 1 tokens are computed again.
    """
    _, records = run(make_engine, [(0, 100, 3), (0, 96, 2)], replace(PLAN, pool_blocks=13))
    # 64 | 36 + 28 | 1 + 63 | 1 + 5 | then the second has its first token and there is nothing left to give it
    assert records[0].last_ps == 4 * 100 + 64 + 64 + 64 + 6
    assert records[1].first_ps == records[0].last_ps
    assert records[1].preemptions == 0
    _, records = run(make_engine, [(0, 100, 4), (0, 96, 2)], replace(PLAN, pool_blocks=13))
    assert records[1].preemptions == 1
    assert records[0].last_ps == 598 + 101
    assert records[1].last_ps == 699 + 164 + 133


def test_speculation_delivers_whole_tokens_at_the_expected_rate(make_engine: MakeEngine) -> None:
    """At 1.5 tokens a step, steps bring 1, 2, 1, 2: six tokens in four steps of two verified tokens each."""
    rates = ((FP, FP * 3 // 2, *(FP * 2,) * 7),) * TENANTS
    (stats,), records = run(make_engine, [(0, 10, 7)], replace(PLAN, depth=1, tokens_per_step=rates))
    assert records[0].last_ps == 110 + 4 * 102
    assert (stats.draft_fp, stats.accepted_fp) == (4 * FP, 4 * FP // 2)


def test_the_depth_shrinks_until_verification_fits_the_budget(make_engine: MakeEngine) -> None:
    """64 tokens over 10 sequences leave 6 each: depth 5, although 8 was asked for."""
    plan = replace(PLAN, depth=8, batch_cap=16, tokens_per_step=((FP,) * DEPTHS,) * TENANTS)
    (stats,), records = run(make_engine, [(0, 6, 2)] * 10, plan)
    assert records[0].first_ps == 160
    assert records[0].last_ps == 160 + 160
    assert stats.draft_fp == 10 * 5 * FP


def test_priority_requests_go_first_only_while_priority_routing_is_on(make_engine: MakeEngine) -> None:
    requests = [(0, 60, 1), (1, 60, 1), (2, 60, 1, 0)]
    for priority, order in ((False, [0, 1, 2]), (True, [0, 2, 1])):
        _, records = run(make_engine, requests, replace(PLAN, priority=priority, batch_cap=1))
        assert sorted(records, key=lambda i: records[i].first_ps) == order


def test_a_request_is_abandoned_at_the_very_end_of_its_patience(make_engine: MakeEngine) -> None:
    """The replica is free at 140: a request that gives up at 140 is gone, one that waits 1 ps longer is served."""
    for arrival, status in ((1, "abandoned"), (2, "finished")):
        fleet = replace(FLEET, patience_ps=139)
        _, records = run(make_engine, [(0, 40, 1), (arrival, 10, 1)], replace(PLAN, batch_cap=1), fleet=fleet)
        assert records[1].status == status
        assert records[1].last_ps == (140 if status == "abandoned" else 250)


def test_prompts_that_leave_no_room_and_arrivals_at_a_full_fleet_are_rejected(make_engine: MakeEngine) -> None:
    _, records = run(make_engine, [(0, 159, 9), (0, 160, 9)], PLAN)
    assert (records[0].status, records[1].status) == ("finished", "rejected")
    assert records[0].first_ps == records[0].last_ps  # cut to one token
    fleet = replace(FLEET, max_unfinished=2)
    _, records = run(make_engine, [(0, 10, 1), (0, 10, 1), (1, 10, 1), (120, 10, 1)], PLAN, fleet=fleet)
    assert [records[i].status for i in range(4)] == ["finished", "finished", "rejected", "finished"]


def test_a_hand_over_takes_the_link_in_turn_and_then_its_latency(make_engine: MakeEngine) -> None:
    """Two prompts of 30 and 20 tokens are done at 150 and cross the link one after the other, 1 ps a token."""
    fleet = replace(FLEET, replicas=2)
    (stats,), records = run(make_engine, [(0, 30, 2), (0, 20, 2)], replace(PLAN, split=True), fleet=fleet)
    assert stats.handovers == 2
    assert [records[i].replica for i in range(2)] == [1, 1]
    assert (records[0].first_ps, records[1].first_ps) == (200, 220)  # the first token comes from the decode replica
    assert records[0].last_ps == 150 + 30 + 20 + 101
    assert records[1].last_ps == records[0].last_ps + 101  # ready at 220, while the first decodes


def test_a_hand_over_waits_for_room_for_the_most_that_a_step_can_bring(make_engine: MakeEngine) -> None:
    """At 1.5 tokens a step, the second request (95 tokens, 6 blocks free) needs 7 blocks for 2 tokens and 6 for one.

    It is ready at 708 and waits, though some steps bring one token only, until the first ends after 20 steps of 102.
    """
    fleet = replace(FLEET, replicas=2)
    rates = ((FP, *(FP * 3 // 2,) * 8),) * TENANTS
    plan = replace(PLAN, split=True, depth=1, pool_blocks=13, tokens_per_step=rates)
    _, records = run(make_engine, [(0, 98, 30), (0, 95, 2)], plan, fleet=fleet)
    assert records[0].first_ps == 164 + 164 + 98 + 20
    assert records[1].first_ps == 164 + 164 + 164 + 101 + 95 + 20 == 708
    assert records[0].last_ps == 446 + 20 * 102
    assert records[1].last_ps == records[0].last_ps + 102


def test_a_hand_over_cut_off_after_its_patience_is_abandoned_and_leaves_nothing_to_the_next_request(
    make_engine: MakeEngine,
) -> None:
    """It is on its way from 140 to 1180; at 700 the split ends and it has waited longer than 500."""
    fleet = replace(FLEET, replicas=2, handover_ps=1000, patience_ps=500)
    split = replace(PLAN, split=True, end_ps=700)
    _, records = run(make_engine, [(0, 40, 5), (1500, 40, 2)], split, PLAN, fleet=fleet)
    assert (records[0].status, records[0].last_ps) == ("abandoned", 500)
    assert times(records[1]) == (1500, 1640, 1741)


def test_a_window_end_leaves_an_iteration_in_flight_and_new_knobs_wait_for_the_next(make_engine: MakeEngine) -> None:
    fast = replace(PLAN, depth=1, tokens_per_step=((FP, *(2 * FP,) * 8),) * TENANTS)
    _, records = run(make_engine, [(0, 40, 4)], replace(PLAN, end_ps=200), fast)
    # prefill until 140, one plain step until 241, then one step of two tokens
    assert records[0].last_ps == 241 + 102


def test_a_tier_swap_discards_the_iteration_in_flight_stalls_and_recomputes(make_engine: MakeEngine) -> None:
    stats, records = run(make_engine, [(0, 40, 4)], replace(PLAN, end_ps=200), replace(PLAN, tier=2))
    assert (stats[0].running, stats[1].preemptions) == (1, 1)
    assert records[0].last_ps == 200 + 3000 + 141 + 101 + 101


def test_a_later_shorter_stall_does_not_cut_a_swap_short(make_engine: MakeEngine) -> None:
    fleet = replace(FLEET, replicas=2)
    swap = replace(PLAN, tier=2, end_ps=300)
    _, records = run(
        make_engine,
        [(0, 40, 1), (210, 40, 1)],
        replace(PLAN, end_ps=200),
        swap,
        replace(swap, split=True, end_ps=9000),
        fleet=fleet,
    )
    assert records[1].scheduled_ps == 200 + 3000 + 500


def test_a_forced_eviction_stalls_its_replica_after_the_iteration_in_flight(make_engine: MakeEngine) -> None:
    """14 blocks are used when the pool shrinks to 13; the step in flight ends at 701 and the next starts 300 later."""
    squeezed = replace(PLAN, pool_blocks=13)
    stats, records = run(make_engine, [(0, 100, 5), (0, 97, 5)], replace(PLAN, end_ps=700), squeezed)
    assert (stats[0].used_blocks, stats[1].forced_evictions, stats[1].preemptions) == (14, 1, 0)
    assert (records[0].preemptions, records[1].preemptions) == (0, 1)
    assert records[0].last_ps == 701 + 300 + 101


def test_a_resize_stalls_every_replica_after_the_iteration_in_flight(make_engine: MakeEngine) -> None:
    first = replace(PLAN, end_ps=150)
    _, calm = run(make_engine, [(0, 10, 9)], first, PLAN)
    _, stalled = run(make_engine, [(0, 10, 9)], first, replace(PLAN, resized=True))
    assert stalled[0].last_ps == calm[0].last_ps + FLEET.resize_ps


def test_the_prefix_cache_holds_what_finished_requests_left_behind(make_engine: MakeEngine) -> None:
    """The first leaves 4 blocks. At a full hit rate with 4 blocks for half of it, the second skips half its prompt."""
    plan = replace(PLAN, hit_q10=1024, hit_half_blocks=4)
    (stats,), records = run(make_engine, [(0, 60, 1), (1000, 60, 1)], plan)
    assert records[0].first_ps == 160
    assert records[1].first_ps == 1000 + 130
    assert stats.cached_blocks == 8


def test_a_request_met_its_objectives_if_both_its_waits_were_short_enough(make_engine: MakeEngine) -> None:
    """First token within 200 ps and 1 ps a prompt token, then at most 101 ps a token; standard: 400 and 150."""
    (stats,), _ = run(make_engine, [(0, 40, 3, 0, 2)], PLAN)
    assert (stats.due, stats.met, stats.good_tokens) == ([1, 0], [1, 0], [0, 0, 3, 0])
    (stats,), _ = run(make_engine, [(0, 40, 3, 0), (0, 40, 3, 1)], PLAN)  # two decode at once: 102 ps a token
    assert (stats.due, stats.met) == ([1, 1], [0, 1])


def test_gaps_are_counted_per_delivery_and_first_tokens_once(make_engine: MakeEngine) -> None:
    (stats,), _ = run(make_engine, [(0, 40, 3), (0, 10, 5)], PLAN)
    assert stats.ttft_count == stats.first_tokens == sum(stats.ttft_hist) == 2
    assert stats.ttft_sum_ps == 2 * 150
    assert sum(stats.itl_hist) == (2 + 4) * FP
    assert stats.delivered_tokens == 8
    assert stats.iterations == 5
    assert stats.busy_ps == 150 + 2 * 102 + 2 * 101


@pytest.mark.parametrize("produced", [1, 2])
def test_a_preempted_request_keeps_the_tokens_it_has_streamed(make_engine: MakeEngine, produced: int) -> None:
    swap_at = 140 + 101 * produced - 50
    stats, records = run(make_engine, [(0, 40, 9)], replace(PLAN, end_ps=swap_at), replace(PLAN, tier=1))
    assert sum(s.delivered_tokens for s in stats) == 9
    assert sum(s.first_tokens for s in stats) == 1
    # the prompt and what was produced are computed again, which brings the next token
    assert records[0].last_ps == swap_at + 4000 + 100 + 40 + produced + 101 * (9 - produced - 1)
