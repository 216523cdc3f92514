"""The KV blocks of a replica: counted, or with identities by which a prefix is found again.

`HashedBlocks` is vLLM's block pool (V1, `block_pool.py`): blocks with reference counts, a list of free blocks in order
of eviction, and a map from hashes to blocks. It is used where the traffic says what requests have in common.
`CountedBlocks` knows numbers only and estimates the hits of a prefix cache with a fitted curve.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from llmserve_sim.engine.interface import BLOCK_TOKENS
from llmserve_sim.engine.prefixes import OWN_SHIFT
from llmserve_sim.engine.reference.request import blocks_of

if TYPE_CHECKING:
    from llmserve_sim.engine.interface import WindowPlan
    from llmserve_sim.engine.prefixes import Prefixes
    from llmserve_sim.engine.reference.request import Request

Identity = int | tuple[int, int]
"""What a block is found by: its own identity, or with a lookahead that of the block behind it too."""

__all__ = ["BlockHashes", "CountedBlocks", "HashedBlocks", "Hit", "KVBlocks"]


@dataclass(frozen=True, slots=True)
class Hit:
    """What the prefix cache holds of a request."""

    tokens: int = 0
    blocks: tuple[int, ...] = ()
    """Where the blocks have identities: those to share."""


class KVBlocks(Protocol):
    """The KV blocks of one replica."""

    pool: int
    """Blocks in all."""

    @property
    def used(self) -> int:
        """Blocks that running requests hold; one that several share counts once."""
        ...

    @property
    def cached(self) -> int:
        """Free blocks that still hold a reusable prefix. Any allocation may take them."""
        ...

    def resize(self, blocks: int) -> None:
        """Set the size of the pool; it may leave too few free blocks, see `missing`."""
        ...

    @property
    def num_free(self) -> int:
        """Blocks that no running request holds."""
        ...

    @property
    def missing(self) -> int:
        """Blocks by which running requests exceed the pool."""
        ...

    def set_depth(self, depth: int) -> None:
        """Set the number of draft tokens, before the blocks are used under a plan."""
        ...

    def find(self, request: Request, plan: WindowPlan) -> Hit:
        """Return what the prefix cache holds of a request that is to be prefilled; its last token is always computed."""
        ...

    def share(self, request: Request) -> Hit:
        """Return the blocks here that a request handed over with its KV can share."""
        ...

    def shortage(self, request: Request, tokens: int, hit: Hit) -> int:
        """Return how many free blocks are missing for `tokens` tokens of `request`, `hit` included; 0 if it fits."""
        ...

    def allocate(self, request: Request, tokens: int, hit: Hit | None = None) -> None:
        """Give `request` blocks for `tokens` tokens; a request without blocks may begin with those of a hit."""
        ...

    def computed(self, request: Request, tokens: int) -> None:
        """Note that the KV of the first `tokens` tokens of `request` is computed by the end of this iteration."""
        ...

    def free(self, request: Request, *, reusable: bool) -> None:
        """Take all blocks from `request`; `reusable` says whether their KV is complete."""
        ...

    def forget(self) -> None:
        """Empty the prefix cache; no request may hold blocks."""
        ...


class CountedBlocks:
    """Blocks without identities. The share of a prompt that is cached follows a fitted curve, `WindowPlan.hit_q10`.

    The curve is an approximation: hit · P / (P + half) of a prompt, with P the free blocks that finished requests have
    left and nobody has taken since. Blocks of preempted requests count as lost.
    """

    def __init__(self) -> None:
        self.pool = 0
        self.used = 0
        self.cached = 0

    @property
    def num_free(self) -> int:
        """Blocks that no running request holds; negative while the pool has become too small."""
        return self.pool - self.used

    @property
    def missing(self) -> int:
        """Blocks by which running requests exceed the pool."""
        return max(-self.num_free, 0)

    def resize(self, blocks: int) -> None:
        """Set the size of the pool."""
        self.pool = blocks
        self.cached = min(self.cached, max(self.num_free, 0))

    def set_depth(self, depth: int) -> None:
        """Do nothing: the curve knows no drafter."""

    def find(self, request: Request, plan: WindowPlan) -> Hit:
        """Return the prompt tokens that the curve takes for cached."""
        if self.cached == 0:
            return Hit()
        hit = request.prompt * plan.hit_q10 * self.cached // (1024 * (self.cached + plan.hit_half_blocks))
        return Hit(min(request.target - 1, hit))

    def share(self, request: Request) -> Hit:
        """Return no blocks."""
        return Hit()

    def shortage(self, request: Request, tokens: int, hit: Hit) -> int:
        """Return how many free blocks are missing for `tokens` tokens of `request`."""
        return max(blocks_of(tokens) - request.blocks - self.num_free, 0)

    def allocate(self, request: Request, tokens: int, hit: Hit | None = None) -> None:
        """Give `request` blocks for `tokens` tokens; they are taken from the cached blocks last."""
        self.used += blocks_of(tokens) - request.blocks
        request.blocks = blocks_of(tokens)
        self.cached = min(self.cached, self.num_free)

    def computed(self, request: Request, tokens: int) -> None:
        """Do nothing: only freed blocks count as cached."""

    def free(self, request: Request, *, reusable: bool) -> None:
        """Take all blocks from `request`; reusable ones count as cached."""
        self.used -= request.blocks
        if reusable:
            self.cached += request.blocks
        request.blocks = 0

    def forget(self) -> None:
        """Empty the prefix cache."""
        self.cached = 0


class BlockHashes:
    """Identity of every block of every request: its hash, or a number of its own."""

    def __init__(self, prefixes: Prefixes) -> None:
        self._hashes: list[int] = prefixes.hashes.tolist()
        self._start: list[int] = prefixes.start.tolist()
        self._blocks: list[int] = prefixes.blocks.tolist()

    def of(self, request: int, index: int) -> int:
        """Return the identity of the block at `index` of a request."""
        if index < self._blocks[request]:
            return self._hashes[self._start[request] + index]
        return -1 - (request << OWN_SHIFT | index)


class HashedBlocks:
    """vLLM's block pool.

    A full block gets its hash when the iteration that completes it is scheduled, so requests admitted later in the
    same iteration share it already. Freed blocks keep their KV and go to the end of the free list, the last block of a
    request first, so that ends of prefixes are evicted before beginnings. New blocks are taken from its front. Blocks
    with equal hashes are not merged: the one that has had the hash longest is shared.

    The pool shrinks by taking blocks from the front of the free list and grows at its end, as if another request had
    held the difference.

    With a draft model (EAGLE) the KV of a block's last token depends on the token behind it. So the last block found
    is computed again, or with `lookahead` a block's hash covers that token too (0.33). Hashes tell blocks apart, not
    tokens: the token behind counts as the same if the whole block behind has the same hash. Blocks that got their
    hash with a drafter are not found without one, nor the other way round.
    """

    def __init__(self, hashes: BlockHashes, *, unhashed_first: bool = False, lookahead: bool = False) -> None:
        self.hashes = hashes
        self.unhashed_first = unhashed_first
        self.lookahead = lookahead
        self.ahead = 0
        """Tokens behind a block that its hash covers, 0 or 1."""
        self.pool = 0
        self.made = 0
        self.free_list: OrderedDict[int, None] = OrderedDict()
        """Free blocks, the next to be taken first."""
        self.references: dict[int, int] = {}
        """Number of running requests that hold each block in use."""
        self.hash_of: dict[int, Identity] = {}
        self.blocks_of_hash: dict[Identity, dict[int, None]] = {}
        """Blocks by hash, the oldest first."""

    @property
    def used(self) -> int:
        """Blocks that running requests hold; one that several share counts once."""
        return len(self.references)

    @property
    def cached(self) -> int:
        """Free blocks with a hash."""
        return len(self.hash_of) - sum(block in self.hash_of for block in self.references)

    @property
    def num_free(self) -> int:
        """Blocks that no running request holds."""
        return len(self.free_list)

    @property
    def missing(self) -> int:
        """Blocks by which running requests exceed the pool; then none is free."""
        return self.used + len(self.free_list) - self.pool

    def resize(self, blocks: int) -> None:
        """Set the size of the pool."""
        for _ in range(blocks - self.used - len(self.free_list)):
            self.free_list[self.made] = None
            self.made += 1
        self.pool = blocks
        self._fit()

    def _fit(self) -> None:
        """Give up free blocks until the pool has its size or none is free."""
        while self.free_list and self.used + len(self.free_list) > self.pool:
            self._take()

    def set_depth(self, depth: int) -> None:
        """Set whether blocks get their hashes with a drafter."""
        self.ahead = int(self.lookahead and depth > 0)

    def find(self, request: Request, plan: WindowPlan) -> Hit:
        """Return the longest run of cached blocks at the beginning, without the last token.

        With a draft model the last block found is computed again, unless hashes look ahead.
        """
        blocks = self._longest_run(request, request.target - 1)
        if plan.depth > 0 and not self.ahead:
            del blocks[-1:]
        return Hit(len(blocks) * BLOCK_TOKENS, tuple(blocks))

    def share(self, request: Request) -> Hit:
        """Return the longest run of cached blocks at the beginning."""
        blocks = self._longest_run(request, request.stored)
        return Hit(len(blocks) * BLOCK_TOKENS, tuple(blocks))

    def _longest_run(self, request: Request, tokens: int) -> list[int]:
        blocks = []
        for index in range(tokens // BLOCK_TOKENS):
            same = self.blocks_of_hash.get(self._identity(request, index))
            if same is None:
                break
            blocks.append(next(iter(same)))
        return blocks

    def shortage(self, request: Request, tokens: int, hit: Hit) -> int:
        """Return how many free blocks are missing; a shared block counts if it must leave the free list."""
        fresh = blocks_of(tokens) - request.blocks - len(hit.blocks)
        revived = sum(block not in self.references for block in hit.blocks)
        return max(fresh + revived - len(self.free_list), 0)

    def allocate(self, request: Request, tokens: int, hit: Hit | None = None) -> None:
        """Give `request` blocks for `tokens` tokens."""
        for block in hit.blocks if hit else ():
            self.free_list.pop(block, None)
            self.references[block] = self.references.get(block, 0) + 1
            request.table.append(block)
            request.hashed = len(request.table)
        while len(request.table) < blocks_of(tokens):
            block = self._take()
            self.references[block] = 1
            request.table.append(block)
        request.blocks = len(request.table)

    def _take(self) -> int:
        """Take the first free block and forget what it holds."""
        block, _ = self.free_list.popitem(last=False)
        if block in self.hash_of:
            identity = self.hash_of.pop(block)
            same = self.blocks_of_hash[identity]
            del same[block]
            if not same:
                del self.blocks_of_hash[identity]
        return block

    def computed(self, request: Request, tokens: int) -> None:
        """Give the full blocks among the first `tokens` tokens their hashes, if the tokens that these cover are known."""
        known = request.prompt + request.produced - self.ahead
        while request.hashed < min(tokens, known) // BLOCK_TOKENS:
            block, identity = request.table[request.hashed], self._identity(request, request.hashed)
            self.hash_of[block] = identity
            self.blocks_of_hash.setdefault(identity, {})[block] = None
            request.hashed += 1

    def _identity(self, request: Request, index: int) -> Identity:
        identity = self.hashes.of(request.id, index)
        return (identity, self.hashes.of(request.id, index + 1)) if self.ahead else identity

    def free(self, request: Request, *, reusable: bool) -> None:
        """Take all blocks from `request`, the last one first; those that nobody else holds join the free list."""
        for block in reversed(request.table):
            self.references[block] -= 1
            if self.references[block] == 0:
                del self.references[block]
                self.free_list[block] = None
                if self.unhashed_first and block not in self.hash_of:
                    self.free_list.move_to_end(block, last=False)
        request.table = []
        request.blocks = request.hashed = 0
        self._fit()

    def forget(self) -> None:
        """Empty the prefix cache; the free list keeps its order."""
        assert not self.references, "no running request may hold KV that is lost"
        self.hash_of.clear()
        self.blocks_of_hash.clear()
