"""What requests have in common: the hashes of their 16-token blocks, from which prefix caching finds KV again.

A hash stands for a block and everything before it, as in vLLM, so that two requests with the same hash at a place have
the same beginning up to there. Blocks without a hash here, such as generated tokens that no later request repeats,
belong to one request alone. It finds them again itself, when it has been preempted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from llmserve_sim.bounds import Between, Checked, Column, sealed
from llmserve_sim.engine.units import Ints
from llmserve_sim.errors import InvalidInputError

__all__ = ["HASH_MAX", "OWN_SHIFT", "Prefixes"]

HASH_MAX = (1 << 62) - 1
"""Largest hash."""
OWN_SHIFT = 20
"""The block at index i of request r that has no hash counts as −1 − (r << OWN_SHIFT | i): nobody else has it."""


@dataclass(frozen=True, eq=False)
class Prefixes(Checked):
    """The block hashes of an episode's requests, int64.

    Request r has the hashes `hashes[start[r] : start[r] + blocks[r]]`, from its first block on. Requests may share
    entries: a turn of a conversation is the same stretch as the turn before it, and longer.

    Raises:
        InvalidInputError: a stretch outside `hashes`, a hash out of range, or one that follows two different hashes.
    """

    hashes: Annotated[Ints, Column(Between(0, HASH_MAX))]
    """[N] 0 to HASH_MAX."""
    start: Annotated[Ints, Column(Between(0, 1 << 62))]
    """[requests] index of the first hash of each request."""
    blocks: Annotated[Ints, Column(Between(0, (1 << OWN_SHIFT) - 1, "blocks"))]
    """[requests] number of its hashes; 0 for a request that shares nothing. Blocks of its output may be among them."""

    def _relations(self) -> None:
        if len(self.start) != len(self.blocks):
            self._refuse("start", f"must have {len(self.blocks)} entries, as blocks has")
        if len(self) and int((self.start + self.blocks).max()) > len(self.hashes):
            self._refuse("start", f"must leave every request inside the {len(self.hashes)} hashes")
        self._require_chains()

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, index: slice | Ints) -> Prefixes:
        """Return the prefixes of the requests at `index`."""
        return Prefixes(self.hashes, self.start[index], self.blocks[index])

    def followed_by(self, requests: int) -> Prefixes:
        """Return the prefixes with more requests, which share nothing."""
        none = np.zeros(requests, dtype=np.int64)
        start, blocks = np.concatenate((self.start, none)), np.concatenate((self.blocks, none))
        return Prefixes(self.hashes, sealed(start), sealed(blocks))

    def of(self, request: int) -> Ints:
        """Return the hashes of a request."""
        first = int(self.start[request])
        return self.hashes[first : first + int(self.blocks[request])]

    def packed(self) -> Ints:
        """Return them as the kernel reads them: index of the first hash and number, per request, then all hashes."""
        requests = np.stack((self.start + 2 * len(self), self.blocks), axis=1)
        return np.concatenate((requests.ravel(), self.hashes)).astype(np.int64, copy=False)

    def repeats(self, other: Prefixes, requests: int) -> bool:
        """Return whether the first `requests` requests have the same hashes in both."""
        if not np.array_equal(self.blocks[:requests], other.blocks[:requests]):
            return False
        if self.hashes is other.hashes and np.array_equal(self.start[:requests], other.start[:requests]):
            return True
        return all(np.array_equal(self.of(r), other.of(r)) for r in range(requests))

    def _require_chains(self) -> None:
        """Raise an error if a hash has two predecessors: then it could not stand for one beginning."""
        some = self.blocks > 0
        first = np.unique(self.start[some])
        covered = np.zeros(len(self.hashes) + 1, dtype=np.int64)  # how many stretches have the entry behind their first
        np.add.at(covered, self.start[some] + 1, 1)
        np.add.at(covered, self.start[some] + self.blocks[some], -1)
        inner = np.flatnonzero(np.cumsum(covered)[: len(self.hashes)] > 0)
        block = np.concatenate([self.hashes[first], self.hashes[inner]])
        before = np.concatenate([np.full(len(first), -1, dtype=np.int64), self.hashes[inner - 1]])
        order = np.lexsort((before, block))
        block, before = block[order], before[order]
        broken = np.flatnonzero((block[1:] == block[:-1]) & (before[1:] != before[:-1]))
        if len(broken):
            raise InvalidInputError(
                "prefixes.hashes", "must be chained: a hash follows one hash only", got=int(block[broken[0]])
            )
