"""The scheduling rules of vLLM's versions in the reference, by example and on random workloads; the kernel refuses them.

An iteration takes 100 ps and 1 ps for every token in it. `nox -s vllm` holds the same rules against vLLM itself.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from engine_strategies import Workload, only_observed, workloads
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmserve_sim.configuration import Configurator
from llmserve_sim.engine import KernelBatch, KernelEngine, ReferenceEngine, RequestRecord, Slo, TierTables, Traffic
from llmserve_sim.engine.interface import DEPTHS, FP, TENANTS, FleetSpec, SchedulerRules, WindowPlan, WindowStats
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.hardware import SCHEDULERS, get_deployment
from llmserve_sim.tasks import load_task

ZERO = np.zeros(1, np.int64)
TABLES = TierTables(
    budget=64,
    gemm=np.arange(65) + 100,
    head=np.zeros(65, np.int64),
    dec_x=ZERO,
    dec_h=ZERO,
    dec_s=ZERO,
    pf_tile=1,
    **dict.fromkeys(("cpu_seq", "dec_t0", "pf_t0", "pf_off", "pf_coef", "pf_crit"), 0),
    **dict.fromkeys(("mix_seq", "mix_ctx", "mix_amp", "draft_step", "spec_seq"), 0),
)
FLEET = FleetSpec(
    replicas=1,
    tiers=(TABLES, TABLES, TABLES),
    swap_ps=(0, 0, 0),
    **dict.fromkeys(("split_ps", "resize_ps", "evict_ps", "handover_ps", "link_ps_per_token", "patience_ps"), 0),
    max_len=160,
    max_unfinished=100,
)
SLO = Slo(ttft_ps=(200, 400), ttft_ps_per_prompt_token=1, tpot_ps=(101, 150))
PLAN = WindowPlan(
    end_ps=10**6,
    batch_cap=8,
    depth=0,
    tier=0,
    split=False,
    priority=False,
    pool_blocks=13,
    resized=False,
    tokens_per_step=((FP,) * DEPTHS,) * TENANTS,
)
every_time = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
SYNCHRONOUS = {version: replace(rules, asynchronous=False) for version, rules in SCHEDULERS.items()}
every_rules = st.builds(
    replace, st.sampled_from(list(SCHEDULERS.values())), asynchronous=st.booleans(), length_known=st.booleans()
)


def run(
    rules: SchedulerRules | None, requests: list[tuple[int, int, int, int]], *plans: WindowPlan
) -> tuple[list[WindowStats], dict[int, RequestRecord]]:
    """Run requests of (arrival, prompt, output, class) through plans."""
    columns = [np.array(column, np.int64) for column in zip(*requests, strict=True)]
    traffic = Traffic(*columns, tenant=np.zeros(len(requests), np.int64))
    engine = ReferenceEngine(replace(FLEET, rules=rules), SLO, traffic, record=True)
    stats, records = [], {}
    for plan in plans:
        stats.append(engine.step(plan))
        records |= {r.id: r for r in engine.records()}
    return stats, records


TWO_LONG = [(0, 130, 2, 1), (1, 90, 2, 1)]
"""9 blocks and 6, into a pool of 13."""


def test_0_12_admits_a_prompt_of_which_a_chunk_fits() -> None:
    _, records = run(SYNCHRONOUS["vllm-0.12"], TWO_LONG, PLAN)
    assert records[1].scheduled_ps == 328, "beside the last 2 of 130 tokens, before the first request ends"
    assert records[1].preemptions == 1


def test_0_19_admits_a_prompt_only_if_all_of_it_fits() -> None:
    _, records = run(SYNCHRONOUS["vllm-0.19"], TWO_LONG, PLAN)
    assert records[1].scheduled_ps == records[0].last_ps
    assert records[1].preemptions == 0


def test_the_blocks_of_a_prompt_are_taken_chunk_by_chunk() -> None:
    early, late = replace(PLAN, end_ps=100), replace(PLAN, end_ps=10**6)
    for rules, blocks in ((None, 9), (SYNCHRONOUS["vllm-0.19"], 4)):
        stats, _ = run(rules, [(0, 130, 2, 1)], early, late)
        assert stats[0].used_blocks == blocks


def test_a_drafter_of_depth_k_needs_slots_for_1_and_2k_more_tokens() -> None:
    """11 tokens of prompt and 1 + 2 * 3: 18, which is 2 blocks; the expected gain of one token needs 1."""
    first, rest = replace(PLAN, depth=3, end_ps=150), replace(PLAN, depth=3)
    for rules, blocks in ((None, 1), (SYNCHRONOUS["vllm-0.19"], 2)):
        stats, _ = run(rules, [(0, 11, 4, 1)], first, rest)
        assert stats[0].used_blocks == blocks


def test_0_24_needs_the_slots_looked_ahead_at_admission_already() -> None:
    first, rest = replace(PLAN, depth=3, end_ps=50), replace(PLAN, depth=3)
    for version, blocks in (("vllm-0.19", 1), ("vllm-0.24", 2)):
        stats, _ = run(SYNCHRONOUS[version], [(0, 15, 4, 1)], first, rest)
        assert stats[0].used_blocks == blocks


@pytest.mark.parametrize(("version", "tokens"), [("vllm-0.24", 1), ("vllm-0.32", 4)])
def test_from_0_32_on_a_last_token_alone_comes_with_drafts(version: str, tokens: int) -> None:
    """A prompt of one token is admitted beside a request that decodes with 3 drafts."""
    _, records = run(SYNCHRONOUS[version], [(0, 20, 10, 1), (1, 1, 2, 1)], replace(PLAN, depth=3))
    assert records[1].first_ps == 120 + 100 + 4 + tokens


@pytest.mark.parametrize(("version", "last_ps"), [("vllm-0.32", 164 + 157 + 101 + 102), ("vllm-0.33", 164 + 157 + 102)])
def test_a_request_that_preempts_itself_ends_the_step_until_0_33(version: str, last_ps: int) -> None:
    """3, 3 and 2 blocks fill the pool. In the third step the second request needs one more, and is itself the victim."""
    requests = [(0, 40, 5, 0), (0, 48, 3, 1), (10, 32, 2, 0)]
    _, records = run(SYNCHRONOUS[version], requests, replace(PLAN, priority=True, pool_blocks=8))
    assert records[1].preemptions == 1
    assert records[2].last_ps == last_ps, "the third request's second token"


def test_of_requests_that_arrived_together_the_first_admitted_is_preempted() -> None:
    requests = [(0, 31, 20, 1), (0, 31, 20, 1)]
    plan = replace(PLAN, priority=True, pool_blocks=5)
    _, records = run(SYNCHRONOUS["vllm-0.19"], requests, plan)
    assert (records[0].preemptions, records[1].preemptions) == (1, 0)
    _, records = run(None, requests, plan)
    assert (records[0].preemptions, records[1].preemptions) == (0, 1)


def test_an_arrival_waits_for_two_steps_to_end_where_a_step_is_scheduled_while_one_runs() -> None:
    """A prompt of 60 until 160, its second token until 261. The arrival at 10 is scheduled at 160 in both cases."""
    requests = [(0, 60, 3, 1), (10, 20, 1, 1)]
    for asynchronous, first_ps in ((False, 160 + 121), (True, 261 + 121)):
        _, records = run(replace(SCHEDULERS["vllm-0.19"], asynchronous=asynchronous), requests, PLAN)
        assert records[1].scheduled_ps == 160
        assert records[1].first_ps == first_ps


def test_an_asynchronous_scheduler_learns_of_an_end_one_step_late_unless_the_length_is_known() -> None:
    """The first request ends at 261, when the next step has been scheduled, with it if its length is unknown."""
    requests = [(0, 60, 2, 1), (200, 20, 1, 1)]
    for known, first_ps in ((True, 261 + 120), (False, 261 + 101 + 120)):
        _, records = run(replace(SCHEDULERS["vllm-0.19"], length_known=known), requests, PLAN)
        assert records[0].last_ps == 261
        assert records[1].first_ps == first_ps


def test_a_request_preempted_while_its_token_is_computed_gets_the_token() -> None:
    """Two prompts of 2 blocks until 162, the second tokens until 264; at 162 the third tokens need 6 blocks of 5."""
    requests = [(0, 31, 20, 1), (0, 31, 20, 1)]
    early, late = replace(PLAN, pool_blocks=5, end_ps=265), replace(PLAN, pool_blocks=5)
    stats, records = run(SCHEDULERS["vllm-0.19"], requests, early, late)
    assert (stats[0].preemptions, stats[0].queue_depth, stats[0].delivered_tokens) == (1, 1, 4)
    assert {r.status for r in records.values()} == {"finished"}


def test_what_a_step_in_flight_computes_for_an_evicted_request_is_lost() -> None:
    requests = [(0, 31, 20, 1), (0, 31, 20, 1)]
    before, shrunk = replace(PLAN, end_ps=200), replace(PLAN, end_ps=265, pool_blocks=3)
    stats, records = run(SCHEDULERS["vllm-0.19"], requests, before, shrunk, replace(PLAN, pool_blocks=12))
    assert (stats[1].forced_evictions, stats[1].delivered_tokens) == (1, 1)
    assert {r.status for r in records.values()} == {"finished"}


@every_time
@given(workload=workloads(), rules=every_rules)
def test_blocks_and_requests_are_conserved_under_every_rule(workload: Workload, rules: SchedulerRules) -> None:
    engine = ReferenceEngine(replace(workload.fleet, rules=rules), workload.slo, workload.traffic, record=True)
    ended = 0
    for plan in workload.plans:
        stats = engine.step(plan)
        ended += len(engine.records())
        for replica in engine.replicas:
            assert replica.kv.used == sum(r.blocks for r in replica.decoding + replica.prefilling)
            assert 0 <= replica.kv.used <= plan.pool_blocks
            assert not any(r.blocks for r in chain(*replica.resumed, *replica.fresh))
        assert ended == stats.total_finished + stats.total_abandoned + stats.total_rejected
    assert ended + sum(1 for _ in engine.unfinished()) == engine.arrived


@every_time
@given(workload=workloads(), rules=every_rules, windows=st.integers(2, 9))
def test_a_window_only_observes_under_every_rule(workload: Workload, rules: SchedulerRules, windows: int) -> None:
    workload = replace(workload, fleet=replace(workload.fleet, rules=rules))
    histories = []
    for count in (1, windows):
        observed = only_observed(workload, count)
        engine = ReferenceEngine(observed.fleet, observed.slo, observed.traffic, record=True)
        histories.append(sorted(r for plan in observed.plans if engine.step(plan) for r in engine.records()))
    assert histories[0] == histories[1]


def test_the_kernel_and_the_environment_refuse_rules_that_they_do_not_know() -> None:
    fleet = replace(FLEET, rules=SCHEDULERS["vllm-0.19"])
    empty = Traffic(*(np.zeros(0, np.int64) for _ in range(5)))
    with pytest.raises(InvalidInputError, match=r"fleet\.rules"):
        KernelEngine(fleet, SLO, empty, backend="python")
    with pytest.raises(InvalidInputError, match=r"fleet\.rules"):
        KernelBatch(fleet, SLO, 1, backend="python")
    task = load_task("static_workload")
    deployment = get_deployment(task.deployment)
    ruled = replace(deployment, engine=replace(deployment.engine, rules=SCHEDULERS["vllm-0.19"]))
    with pytest.raises(InvalidInputError, match=r"fleet\.rules"):
        Configurator(task, ruled)
