"""KV blocks are found again by their hashes exactly as in vLLM's block pool, and never while they are not there."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from engine_lru import LruEngine
from engine_strategies import Workload, conversations, random_conversations, random_workload
from hypothesis import given, settings

from llmserve_sim.engine import ReferenceEngine
from llmserve_sim.engine.interface import BLOCK_TOKENS, Traffic
from llmserve_sim.engine.prefixes import HASH_MAX, Prefixes
from llmserve_sim.engine.reference.blocks import BlockHashes, HashedBlocks, Hit
from llmserve_sim.engine.reference.request import Request
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.hardware import SCHEDULERS

some = settings(max_examples=60, deadline=None, derandomize=True, database=None)

NO_PLAN = random_workload(0).plans[0]
PLAIN = replace(NO_PLAN, depth=0)
SPECULATIVE = replace(NO_PLAN, depth=3)


def prefixes(*chains: list[int]) -> Prefixes:
    """The prefixes of requests with these hashes."""
    lengths = np.array([len(chain) for chain in chains], np.int64)
    flat = np.array([h for chain in chains for h in chain], np.int64)
    return Prefixes(flat, np.cumsum(lengths) - lengths, lengths)


def request(index: int, prompt: int) -> Request:
    """A request that is to be prefilled."""
    r = Request(index, 0, prompt, 1, 0, 0)
    r.target = prompt
    return r


def pool_of(size: int, *chains: list[int], unhashed_first: bool = False) -> HashedBlocks:
    """A pool of `size` blocks for requests with these hashes."""
    pool = HashedBlocks(BlockHashes(prefixes(*chains)), unhashed_first=unhashed_first)
    pool.resize(size)
    return pool


def serve(pool: HashedBlocks, r: Request, plan: object = PLAIN) -> int:
    """Admit a request, compute its prompt, finish it; return the tokens found."""
    hit = pool.find(r, plan)  # type: ignore[arg-type]
    assert pool.shortage(r, r.target, hit) == 0
    pool.allocate(r, r.target, hit)
    pool.computed(r, r.target)
    pool.free(r, reusable=True)
    return hit.tokens


# -- the pool --------------------------------------------------------------------------------------------------------


def test_a_prompt_found_whole_is_computed_from_its_last_block_on() -> None:
    pool = pool_of(8, [1, 2, 3], [1, 2, 3], [1, 2, 3])
    assert serve(pool, request(0, 48)) == 0
    assert serve(pool, request(1, 48)) == 32
    assert serve(pool, request(2, 49)) == 48


def test_with_a_draft_model_one_block_more_is_computed() -> None:
    pool = pool_of(8, [1, 2, 3], [1, 2, 3])
    serve(pool, request(0, 48))
    assert pool.find(request(1, 49), SPECULATIVE).tokens == 32


def test_hashes_that_look_ahead_need_the_same_block_behind_and_give_up_none() -> None:
    pool = HashedBlocks(BlockHashes(prefixes([1, 2, 3], [1, 2, 4], [1, 2, 3])), lookahead=True)
    pool.resize(8)
    pool.set_depth(3)
    serve(pool, request(0, 48))  # the token behind its third block is not known
    assert pool.find(request(1, 49), SPECULATIVE).tokens == 16
    assert pool.find(request(2, 49), SPECULATIVE).tokens == 32


def test_hashes_look_ahead_only_while_a_drafter_is_in_use() -> None:
    pool = HashedBlocks(BlockHashes(prefixes([1, 2, 3], [1, 2, 4])), lookahead=True)
    pool.resize(8)
    pool.set_depth(0)
    serve(pool, request(0, 48))
    assert pool.find(request(1, 49), PLAIN).tokens == 32
    pool.set_depth(3)
    assert pool.find(request(1, 49), SPECULATIVE).tokens == 0


def test_a_partly_filled_block_is_never_found() -> None:
    pool = pool_of(8, [1, 2], [1, 2])
    serve(pool, request(0, 31))
    assert pool.find(request(1, 64), PLAIN).tokens == 16


def test_ends_of_prefixes_are_evicted_before_beginnings() -> None:
    pool = pool_of(4, [1, 2, 3, 4], [9], [1, 2, 3, 4])
    serve(pool, request(0, 64))
    serve(pool, request(1, 16))
    assert pool.find(request(2, 65), PLAIN).tokens == 48


def test_the_least_recently_freed_prefix_is_evicted_first_and_a_hit_counts_as_use() -> None:
    pool = pool_of(3, [1], [2], [1], [3, 4])
    serve(pool, request(0, 16))
    serve(pool, request(1, 16))
    serve(pool, request(2, 17))  # uses the block of the first again
    serve(pool, request(3, 32))
    assert set(pool.blocks_of_hash) == {1, 3, 4}


def test_a_block_in_use_is_shared_and_freed_with_its_last_user() -> None:
    pool = pool_of(6, [1, 2], [1, 2])
    first, second = request(0, 40), request(1, 40)
    for r in (first, second):
        pool.allocate(r, 40, pool.find(r, PLAIN))
        pool.computed(r, 40)
    assert first.table[:2] == second.table[:2]
    assert (pool.used, pool.num_free) == (4, 2)
    pool.free(first, reusable=True)
    assert (pool.used, pool.num_free) == (3, 3)
    pool.free(second, reusable=True)
    assert (pool.used, pool.num_free, pool.cached) == (0, 6, 2)


def test_a_cached_block_needs_a_free_block_only_if_nobody_uses_it() -> None:
    pool = pool_of(3, [1, 2], [1, 2])
    holder, guest = request(0, 32), request(1, 33)
    pool.allocate(holder, 32, Hit())
    pool.computed(holder, 32)
    assert pool.shortage(guest, 33, pool.find(guest, PLAIN)) == 0
    pool.free(holder, reusable=True)
    assert pool.shortage(guest, 33, pool.find(guest, PLAIN)) == 0
    assert pool.shortage(request(1, 49), 49, pool.find(guest, PLAIN)) == 1


def test_two_blocks_of_one_hash_are_kept_and_the_older_is_shared() -> None:
    pool = pool_of(6, [1, 2], [1, 2], [1, 2])
    first, second = request(0, 32), request(1, 32)
    for r in (first, second):
        pool.allocate(r, 32, pool.find(r, PLAIN))
        pool.computed(r, 32)
    assert second.table[0] == first.table[0]
    assert second.table[1] != first.table[1]  # found whole, so its last block was computed again
    assert pool.find(request(2, 33), PLAIN).blocks == tuple(first.table)


@pytest.mark.parametrize(("unhashed_first", "found"), [(False, 0), (True, 16)])
def test_unhashed_blocks_are_reused_first_only_where_the_engine_does_so(unhashed_first: bool, found: int) -> None:
    pool = pool_of(2, [1], [], [1], unhashed_first=unhashed_first)
    serve(pool, request(0, 31))  # one full block and one that is not; that one is freed first
    short = request(1, 1)
    pool.allocate(short, 1, Hit())
    pool.free(short, reusable=True)
    pool.allocate(short, 1, Hit())  # 0.19: the cached block has come to the front; 0.33: the same plain block again
    assert pool.find(request(2, 17), PLAIN).tokens == found


def test_a_smaller_pool_gives_up_the_blocks_that_would_be_evicted_next() -> None:
    pool = pool_of(6, [1, 2], [3, 4], [1, 2], [3, 4])
    serve(pool, request(0, 32))
    serve(pool, request(1, 32))
    pool.resize(2)
    assert (pool.find(request(2, 33), PLAIN).tokens, pool.find(request(3, 33), PLAIN).tokens) == (0, 32)
    pool.resize(6)
    assert pool.num_free == 6
    assert pool.find(request(3, 33), PLAIN).tokens == 32


def test_blocks_without_a_hash_are_found_by_their_own_request_only() -> None:
    pool = pool_of(8, [1], [1])
    serve(pool, request(0, 64))
    assert pool.find(request(0, 64), PLAIN).tokens == 48
    assert pool.find(request(1, 64), PLAIN).tokens == 16


# -- prefixes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "field"),
    [
        (([1], [0, 0], [1]), "prefixes.start"),
        (([-1], [0], [1]), "prefixes.hashes"),
        (([HASH_MAX + 1], [0], [1]), "prefixes.hashes"),
        (([1], [0], [-1]), "prefixes.blocks"),
        (([1], [0], [2]), "prefixes.start"),
        (([1], [-1], [1]), "prefixes.start"),
        (([1, 2, 3, 2], [0, 2], [2, 2]), "prefixes.hashes"),
        (([1, 2], [0, 1], [2, 1]), "prefixes.hashes"),
    ],
)
def test_prefixes_that_cannot_be_are_refused_by_field(arrays: tuple[list[int], ...], field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        Prefixes(*(np.array(array, np.int64) for array in arrays))
    assert caught.value.field == field


def test_a_fork_must_keep_the_prefixes_of_requests_that_have_arrived() -> None:
    w = random_conversations(3)
    engine = ReferenceEngine(w.fleet, w.slo, w.traffic)
    for plan in w.plans[:2]:
        engine.step(plan)
    assert w.traffic.prefixes is not None
    for broken in (None, Prefixes(w.traffic.prefixes.hashes, w.traffic.prefixes.start, w.traffic.prefixes.blocks * 0)):
        with pytest.raises(InvalidInputError) as caught:
            engine.fork(replace(w.traffic, prefixes=broken))
        assert caught.value.field == "traffic.prefixes"
    copied = Prefixes(w.traffic.prefixes.hashes.copy(), w.traffic.prefixes.start, w.traffic.prefixes.blocks)
    forked = engine.fork(replace(w.traffic, prefixes=copied))
    for plan in w.plans[2:]:
        assert forked.step(plan) == engine.step(plan)


# -- the engine ------------------------------------------------------------------------------------------------------


RULES = [
    None,
    *(replace(rules, asynchronous=late) for rules in dict.fromkeys(SCHEDULERS.values()) for late in (False, True)),
]
"""The simulator's first scheduler, and those of vLLM's versions, synchronous and asynchronous."""


@some
@given(workload=conversations())
def test_a_block_is_free_or_counted_by_exactly_those_who_hold_it(workload: Workload) -> None:
    fleet = replace(workload.fleet, rules=RULES[workload.seed % len(RULES)])
    engine = ReferenceEngine(fleet, workload.slo, workload.traffic)
    for plan in workload.plans:
        engine.step(plan)
        for replica in engine.replicas:
            kv = replica.kv
            assert isinstance(kv, HashedBlocks)
            running = replica.decoding + replica.prefilling
            assert Counter(b for r in running for b in r.table) == kv.references
            assert not kv.references.keys() & kv.free_list.keys()
            assert len(kv.references) + len(kv.free_list) == kv.pool == plan.pool_blocks
            assert all(len(set(r.table)) == len(r.table) == r.blocks for r in running)
            assert all(r.blocks * BLOCK_TOKENS >= r.stored for r in replica.decoding)
            waiting = [r for line in replica.resumed + replica.fresh for r in line]
            assert not any(r.table or r.hashed for r in waiting)
            assert {b: h for h, blocks in kv.blocks_of_hash.items() for b in blocks} == kv.hash_of
            assert kv.cached == sum(b in kv.hash_of for b in kv.free_list)
            for r in running:
                for i, b in enumerate(r.table[: r.hashed]):
                    own, behind = kv.hashes.of(r.id, i), kv.hashes.of(r.id, i + 1)
                    assert kv.hash_of[b] in ((own, (own, behind)) if kv.lookahead else (own,))
                assert all(kv.references[b] == 1 for b in r.table[r.hashed :])


@settings(some, max_examples=25)
@given(workload=conversations())
def test_what_is_free_and_in_which_order_equals_an_exact_lru_over_contents(workload: Workload) -> None:
    fleet = replace(workload.fleet, rules=RULES[workload.seed % len(RULES)])
    engine = LruEngine(fleet, workload.slo, workload.traffic[:120])
    for plan in workload.plans:
        engine.step(plan)


def test_conversations_find_prefixes_and_preempted_requests_their_own_blocks() -> None:
    found = recovered = 0
    for seed in range(40):
        w = random_conversations(seed)
        engine = ReferenceEngine(w.fleet, w.slo, w.traffic)
        stats = [engine.step(plan) for plan in w.plans]
        found += sum(s.prefix_tokens for s in stats) > 0
        recovered += sum(s.recovered_tokens for s in stats) > 0
    assert found >= 15
    assert recovered >= 3


def test_requests_that_share_nothing_still_find_their_own_blocks_after_a_preemption() -> None:
    recovered = 0
    for seed in range(60):
        w = random_workload(seed)
        none = Prefixes(np.zeros(0, np.int64), w.traffic.arrival_ps * 0, w.traffic.arrival_ps * 0)
        engine = ReferenceEngine(w.fleet, w.slo, replace(w.traffic, prefixes=none))
        stats = [engine.step(plan) for plan in w.plans]
        assert sum(s.prefix_tokens for s in stats) == 0, f"seed {seed}"
        recovered += sum(s.recovered_tokens for s in stats)
    assert recovered > 0


def test_a_change_of_tier_or_of_roles_empties_the_cache() -> None:
    changes = 0
    for seed in range(60):
        w = random_conversations(seed)
        engine = ReferenceEngine(w.fleet, w.slo, w.traffic)
        last = None
        for plan in w.plans:
            if last is not None and (plan.tier, plan.split) != (last.tier, last.split):
                engine._apply_plan(replace(plan, end_ps=engine.now))  # before anything runs again
                assert all(replica.kv.cached == replica.kv.used == 0 for replica in engine.replicas)
                changes += 1
            engine.step(plan)
            last = plan
    assert changes > 10


def test_without_prefixes_nothing_about_the_blocks_has_an_identity() -> None:
    w = random_workload(1)
    assert w.traffic.prefixes is None
    assert isinstance(w.traffic[:1], Traffic)
    assert not any(isinstance(r.kv, HashedBlocks) for r in ReferenceEngine(w.fleet, w.slo, w.traffic).replicas)
