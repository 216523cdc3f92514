"""The kernel's block pool, in runs, is `engine.reference.blocks.HashedBlocks`, operation by operation."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve_sim.engine.interface import BLOCK_TOKENS
from llmserve_sim.engine.kernel import blocks as plain
from llmserve_sim.engine.kernel import compiled
from llmserve_sim.engine.kernel.layout import (
    B_INDEX,
    B_KEY,
    B_REQUEST,
    B_SAME,
    B_SIZE,
    B_USERS,
    BLANK,
    E_BUCKETS,
    E_CACHED,
    E_FREE,
    E_MASK,
    E_POOL,
    E_QUEUE,
    E_USED,
    ENDS,
    T_NAMED,
    T_REQUEST,
    TABLE_SIZE,
    pool_area,
    pool_buckets,
)
from llmserve_sim.engine.prefixes import Prefixes
from llmserve_sim.engine.reference.blocks import BlockHashes, HashedBlocks
from llmserve_sim.engine.reference.request import Request, blocks_of

some = settings(max_examples=200, deadline=None, derandomize=True, database=None)
NO_DRAFT: Any = SimpleNamespace(depth=0)
E = 1
"""Offset of the pool in the row; offset 0 means "no run"."""


class Pool:
    """A pool of the kernel, with as many block tables behind it as there are requests."""

    def __init__(self, kernel: Any, prefixes: Prefixes, most: int, *, unhashed_first: bool, native: bool) -> None:
        self.kernel = kernel
        self.tables = E + pool_area(most)
        row = np.zeros(self.tables + TABLE_SIZE * len(prefixes), np.int64)
        self.a: Any = row if native else row.tolist()
        self.tr: Any = prefixes.packed() if native else prefixes.packed().tolist()
        kernel.clear_pool(self.a, E, pool_buckets(most), int(unhashed_first))
        for r in range(len(prefixes)):
            self.a[self.table(r) + T_REQUEST] = r

    def table(self, r: int) -> int:
        """Offset of a request's table."""
        return self.tables + TABLE_SIZE * r

    def queue(self) -> list[int]:
        """Runs of free blocks, the next to be taken first."""
        return self._ring(E + E_QUEUE)

    def runs(self) -> list[int]:
        """Runs that have identities, those of one block in the order in which vLLM shares them."""
        a = self.a
        rings = range(a[E + E_BUCKETS], a[E + E_BUCKETS] + (a[E + E_MASK] + 1) * ENDS, ENDS)
        return [link - B_SAME for ring in rings for link in self._ring(ring)]

    def _ring(self, ring: int) -> list[int]:
        found, link = [], self.a[ring]
        while link != ring:
            assert self.a[self.a[link + 1]] == link
            found.append(int(link))
            link = self.a[link]
        return found

    def contents(self, b: int) -> list[int | None]:
        """Identities of the blocks of a run, from the first on."""
        a = self.a
        if a[b + B_KEY] == BLANK:
            return [None] * a[b + B_SIZE]
        held = [plain.identity(self.tr, a[b + B_REQUEST], a[b + B_INDEX] + i) for i in range(a[b + B_SIZE])]
        assert held[0] == a[b + B_KEY]
        return held


class Pair:
    """The same operations on both pools."""

    def __init__(self, rng: Random, kernel: Any, *, native: bool = False) -> None:
        self.rng = rng
        self.prefixes = random_prefixes(rng)
        self.most = rng.choice([4, 12, 40, 150])
        unhashed_first = rng.random() < 0.5
        self.reference = HashedBlocks(BlockHashes(self.prefixes), unhashed_first=unhashed_first)
        self.pool = Pool(kernel, self.prefixes, self.most, unhashed_first=unhashed_first, native=native)
        self.kernel = kernel
        # Prompts without an end: all tokens that are computed are known.
        self.waiting = [Request(r, 0, 1 << 30, 1, 0, 0) for r in range(len(self.prefixes))]
        self.running: list[Request] = []
        self.tokens: dict[int, int] = {}
        """Tokens of a running request whose KV is computed."""
        self.resize(self.most)

    # -- operations ----------------------------------------------------------------------------------------------------

    def resize(self, blocks: int) -> None:
        """Resize, and preempt until what runs fits."""
        self.reference.resize(blocks)
        self.kernel.resize_pool(self.pool.a, E, blocks)
        self.check()
        while self.reference.missing > 0:
            self.free(self.rng.choice(self.running))

    def admit(self, r: Request) -> None:
        """Admit a request whole, by a chunk, or not at all if it does not fit; sometimes without its last block found."""
        rng, a, tr, t = self.rng, self.pool.a, self.pool.tr, self.pool.table(r.id)
        r.target = self.tokens[r.id] + 1 if r.id in self.tokens else rng.randint(1, 16 * self.most)
        drop = int(rng.random() < 0.2)
        hit = self.reference.find(r, SimpleNamespace(depth=drop))  # type: ignore[arg-type]
        found, free, last = self.kernel.find_prefix(a, tr, E, r.id, (r.target - 1) // BLOCK_TOKENS)
        if drop and found:
            found, free = found - 1, free - last
        assert found == len(hit.blocks)
        short = self.reference.shortage(r, r.target, hit)
        assert short == max(blocks_of(r.target) - found + free - a[E + E_FREE], 0)
        if short:
            return
        now = rng.choice([r.target, rng.randint(hit.tokens + 1, r.target)])
        held = rng.choice([r.target, now])
        self.reference.allocate(r, held, hit)
        self.reference.computed(r, now)
        self.kernel.share_prefix(a, tr, E, t, found)
        self.kernel.take_blocks(a, E, blocks_of(held) - found)
        self.kernel.name_blocks(a, tr, E, t, now // BLOCK_TOKENS)
        self.waiting.remove(r)
        self.running.append(r)
        self.tokens[r.id] = now

    def grow(self, r: Request, tokens: int, spare: int = 0) -> None:
        """Compute more tokens of a request, with blocks for some that come later."""
        after = self.tokens[r.id] + tokens
        more = max(blocks_of(after + spare) - r.blocks, 0)
        if more > self.reference.num_free:
            return
        self.reference.allocate(r, max(after + spare, r.blocks * BLOCK_TOKENS))
        self.reference.computed(r, after)
        self.kernel.take_blocks(self.pool.a, E, more)
        self.kernel.name_blocks(self.pool.a, self.pool.tr, E, self.pool.table(r.id), after // BLOCK_TOKENS)
        self.tokens[r.id] = after

    def leap(self, steps: int) -> None:
        """All running requests decode: the reference a token at a time, the kernel all tokens at once."""
        a, tr = self.pool.a, self.pool.tr
        names = {r.id: (self.tokens[r.id] + steps) // BLOCK_TOKENS for r in self.running}
        needed = sum(max(blocks_of(self.tokens[r.id] + steps) - r.blocks, 0) for r in self.running)
        if needed > self.reference.num_free or self._contested(names):
            return
        for _ in range(steps):
            for r in self.running:
                self.tokens[r.id] += 1
                self.reference.allocate(r, max(self.tokens[r.id], r.blocks * BLOCK_TOKENS))
                self.reference.computed(r, self.tokens[r.id])
        self.kernel.take_blocks(a, E, needed)
        for r in self.rng.sample(self.running, len(self.running)):
            self.kernel.name_blocks(a, tr, E, self.pool.table(r.id), names[r.id])

    def _contested(self, names: dict[int, int]) -> bool:
        """Whether two of the running requests would name the same block; then the order decides which one is shared."""
        held = {r.id: r.hashed for r in self.running}
        pairs = ((r, o) for r in held for o in held if r < o)
        return any(
            (at := max(held[r], held[o])) < min(names[r], names[o])
            and plain.identity(self.pool.tr, r, at) == plain.identity(self.pool.tr, o, at)
            for r, o in pairs
        )

    def free(self, r: Request) -> None:
        """Preempt or finish a request: it may come again."""
        held = r.blocks
        self.reference.free(r, reusable=True)
        self.kernel.free_table(self.pool.a, self.pool.tr, E, self.pool.table(r.id), held)
        self.running.remove(r)
        self.waiting.append(r)
        if self.rng.random() < 0.5:
            del self.tokens[r.id]
        self.check()

    def forget(self) -> None:
        """Empty the cache."""
        while self.running:
            self.free(self.running[-1])
        self.reference.forget()
        self.kernel.forget_prefixes(self.pool.a, E)

    def anything(self) -> None:
        """One random operation."""
        rng = self.rng
        action = rng.choices(["admit", "grow", "leap", "free", "resize", "forget"], [30, 30, 12, 20, 3, 0.3])[0]
        if action == "admit" and self.waiting:
            self.admit(rng.choice(self.waiting))
        elif action == "resize":
            self.resize(rng.randint(0, self.most))
        elif action == "forget":
            self.forget()
        elif action == "leap":
            self.leap(rng.choice([1, rng.randint(1, 80)]))
        elif self.running and action == "grow":
            self.grow(rng.choice(self.running), rng.choice([1, 16, rng.randint(1, 100)]), rng.choice([0, 0, 7, 40]))
        elif self.running and action == "free":
            self.free(rng.choice(self.running))

    # -- comparison ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Both hold the same, and would give up the same in the same order."""
        a, kv, pool = self.pool.a, self.reference, self.pool
        assert (a[E + E_POOL], a[E + E_USED], a[E + E_FREE]) == (kv.pool, kv.used, kv.num_free)
        assert a[E + E_CACHED] == kv.cached
        order = [held for b in pool.queue() for held in reversed(pool.contents(b))]
        assert order == [kv.hash_of.get(block) for block in kv.free_list]
        users: dict[int, list[int]] = {}
        for b in pool.runs():
            held = pool.contents(b)
            for key in held:
                assert key is not None
                users.setdefault(key, []).append(a[b + B_USERS])
            if len(users[held[0]]) > 1:  # type: ignore[index]
                assert len(held) == 1
        assert users == {
            key: [kv.references.get(block, 0) for block in same] for key, same in kv.blocks_of_hash.items()
        }
        assert all(a[pool.table(r.id) + T_NAMED] == r.hashed for r in self.running)


def random_prefixes(rng: Random) -> Prefixes:
    """Chains that part from one another at random blocks; some requests have the same, some none."""
    chains: list[list[int]] = [[]]
    fresh = 0
    for _ in range(rng.randint(1, 12)):
        chain = rng.choice(chains)
        chain = chain[: rng.randint(0, len(chain))]
        for _ in range(rng.choice([0, 1, 3, 30])):
            fresh += 1
            chain = [*chain, fresh]
        chains.append(chain)
    flat = np.array([h for chain in chains for h in chain], np.int64)
    lengths = np.array([len(chain) for chain in chains])
    start = np.cumsum(lengths) - lengths
    chosen = [rng.randrange(len(chains)) for _ in range(rng.choice([2, 6, 20]))]
    cut = [rng.choice([int(lengths[c]), rng.randint(0, int(lengths[c]))]) for c in chosen]
    return Prefixes(flat, start[chosen].astype(np.int64), np.array(cut, np.int64))


@some
@given(seed=st.integers(0, 2**32 - 1))
def test_every_operation_leaves_the_pool_as_it_leaves_the_reference(seed: int) -> None:
    pair = Pair(Random(seed), plain)
    for _ in range(120):
        pair.anything()
        pair.check()


@settings(some, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_freed_request_leaves_as_few_runs_as_it_can(seed: int) -> None:
    rng = Random(seed)
    prefixes = Prefixes(np.arange(4000), np.zeros(8, np.int64), np.array([500 * r + 500 for r in range(8)]))
    pool = Pool(plain, prefixes, 5000, unhashed_first=False, native=False)
    plain.resize_pool(pool.a, E, 5000)
    for r in range(8):  # turns of one conversation, each of which goes on where the one before has ended
        t, blocks = pool.table(r), 500 * r + rng.randint(1, 500)
        found, _, _ = plain.find_prefix(pool.a, pool.tr, E, r, blocks)
        plain.share_prefix(pool.a, pool.tr, E, t, found)
        plain.take_blocks(pool.a, E, blocks - found)
        for named in sorted(rng.sample(range(found, blocks + 1), min(5, blocks + 1 - found))):
            plain.name_blocks(pool.a, pool.tr, E, t, named)
        plain.name_blocks(pool.a, pool.tr, E, t, blocks)
        plain.free_table(pool.a, pool.tr, E, t, blocks)
        assert len(pool.runs()) == 1


class Counting(list):  # type: ignore[type-arg]
    """A row that counts how often it is read."""

    reads = 0

    def __getitem__(self, index: Any) -> Any:
        self.reads += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("blocks", [40, 4000])
def test_a_lookup_costs_what_its_runs_cost_whatever_the_size_of_the_pool_and_the_prefix(blocks: int) -> None:
    reads = []
    for most in (5000, 200_000):
        others = most // 50 - 100
        hashes = np.arange(2 * blocks + 2 * others)
        start = np.array([0, 0, *(2 * blocks + 2 * i for i in range(others))])
        prefixes = Prefixes(hashes, start, np.array([blocks, 2 * blocks] + [2] * others))
        pool = Pool(plain, prefixes, most, unhashed_first=False, native=False)
        plain.resize_pool(pool.a, E, most)
        for r in (0, *range(2, 2 + others)):
            n = int(prefixes.blocks[r])
            plain.take_blocks(pool.a, E, n)
            plain.name_blocks(pool.a, pool.tr, E, pool.table(r), n)
            plain.free_table(pool.a, pool.tr, E, pool.table(r), n)
        pool.a = Counting(pool.a)
        assert plain.find_prefix(pool.a, pool.tr, E, 1, 2 * blocks) == (blocks, blocks, 1)
        reads.append(pool.a.reads)
    assert max(reads) < 40


def test_numba_does_the_same_as_plain_python() -> None:
    pytest.importorskip("numba", reason="the extra `fast` is not installed")
    fast = compiled.compiled_module("blocks")
    for seed in range(12):
        pair = Pair(Random(seed), fast, native=True)
        for _ in range(120):
            pair.anything()
            pair.check()
