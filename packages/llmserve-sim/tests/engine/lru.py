"""An exact LRU over the contents of KV blocks, the slow and obvious reference of the block pool."""

from __future__ import annotations

from heapq import heappop, heappush

from llmserve_sim.engine import ReferenceEngine
from llmserve_sim.engine.interface import BLOCK_TOKENS, WindowPlan
from llmserve_sim.engine.reference.blocks import BlockHashes, HashedBlocks, Hit
from llmserve_sim.engine.reference.request import Request

__all__ = ["LruEngine", "LruPool"]


class LruPool(HashedBlocks):
    """The pool, checked against an LRU that knows contents only: no block ids, no list of free blocks, no references.

    An entry is one block's content with the time at which it was last freed. Room is made by dropping the entry that
    was freed longest ago; entries in use have no time. What is found is checked whenever a request looks for it.
    """

    def __init__(self, hashes: BlockHashes, *, unhashed_first: bool = False, whole: bool = True) -> None:
        super().__init__(hashes, unhashed_first=unhashed_first)
        self.whole = whole
        """Whether all contents and their order are compared whenever a request is freed."""
        self.heap: list[tuple[int, int]] = []  # (time, entry); entries that have been used since have another time
        self.freed: dict[int, int] = {}  # time at which a free entry was freed
        self.content: dict[int, int | None] = {}  # of entries that are free or in use
        self.copies: dict[int, list[int]] = {}  # entries by content, in the order in which they got it
        self.users: dict[int, set[int]] = {}  # requests that use an entry
        self.own: dict[int, list[int]] = {}  # entries of a request, in order
        self.clock = 0
        self.entries = 0

    def find(self, request: Request, plan: WindowPlan) -> Hit:
        """Find a prefix in both."""
        hit = super().find(request, plan)
        found = 0
        while found < (request.target - 1) // BLOCK_TOKENS and self.copies.get(self.hashes.of(request.id, found)):
            found += 1
        assert hit.tokens == BLOCK_TOKENS * (max(found - 1, 0) if plan.depth > 0 else found)
        return hit

    def _new(self) -> int:
        self.entries += 1
        self.content[self.entries] = None
        return self.entries

    def _evict(self) -> None:
        time, entry = heappop(self.heap)
        while self.freed.get(entry) != time:
            time, entry = heappop(self.heap)
        del self.freed[entry]
        content = self.content.pop(entry)
        if content is not None:
            self.copies[content].remove(entry)

    def _release(self, entry: int, *, first: bool = False) -> None:
        self.clock += 1
        self.freed[entry] = -self.clock if first else self.clock
        heappush(self.heap, (self.freed[entry], entry))

    def resize(self, blocks: int) -> None:
        """Resize both."""
        before = self.used + len(self.free_list)
        super().resize(blocks)
        for _ in range(blocks - before):
            self._release(self._new())
        self._settle()

    def _settle(self) -> None:
        while len(self.content) > self.pool and self.freed:
            self._evict()

    def allocate(self, request: Request, tokens: int, hit: Hit | None = None) -> None:
        """Allocate in both."""
        mine = self.own.setdefault(request.id, [])
        if hit is not None and hit.blocks:
            assert not mine
            for index in range(len(hit.blocks)):
                entry = self.copies[self.hashes.of(request.id, index)][0]
                self.freed.pop(entry, None)
                self.users.setdefault(entry, set()).add(request.id)
                mine.append(entry)
        while len(mine) * BLOCK_TOKENS < tokens:
            self._evict()
            mine.append(self._new())
            self.users[mine[-1]] = {request.id}
        super().allocate(request, tokens, hit)

    def computed(self, request: Request, tokens: int) -> None:
        """Give blocks their content in both."""
        mine = self.own[request.id]
        for index in range(request.hashed, tokens // BLOCK_TOKENS):
            content = self.hashes.of(request.id, index)
            self.content[mine[index]] = content
            self.copies.setdefault(content, []).append(mine[index])
        super().computed(request, tokens)

    def free(self, request: Request, *, reusable: bool) -> None:
        """Free in both."""
        for entry in reversed(self.own.pop(request.id, [])):
            self.users[entry].remove(request.id)
            if not self.users[entry]:
                del self.users[entry]
                self._release(entry, first=self.unhashed_first and self.content[entry] is None)
        super().free(request, reusable=reusable)
        self._settle()
        assert len(self.freed) == len(self.free_list)
        if self.whole:
            order = [self.content[entry] for entry in sorted(self.freed, key=lambda entry: self.freed[entry])]
            assert order == [self.hash_of.get(block) for block in self.free_list]

    def forget(self) -> None:
        """Empty both."""
        super().forget()
        self.content = dict.fromkeys(self.content)
        self.copies = {}


class LruEngine(ReferenceEngine):
    """The reference with checked pools."""

    whole = True

    def _new_blocks(self) -> LruPool:
        assert self.hashes is not None
        unhashed_first = self.fleet.rules is not None and self.fleet.rules.unhashed_blocks_first
        return LruPool(self.hashes, unhashed_first=unhashed_first, whole=self.whole)
