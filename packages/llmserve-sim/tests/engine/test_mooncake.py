"""On a recorded trace, the prompt tokens that the prefix cache saves are those of an exact LRU over blocks."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine_lru import LruEngine
from engine_realistic import ALONE, PLAN, POOL, SLO

from llmserve_sim.engine import ReferenceEngine
from llmserve_sim.engine.interface import BLOCK_TOKENS, Traffic
from llmserve_sim.workload.traces import Trace, read_trace

FLEET = replace(ALONE, max_len=140_000, max_unfinished=10_000)
SHARES = pytest.mark.parametrize("one_in", [16, 4, 1])
FOREVER = 1 << 61


@pytest.fixture(scope="module")
def trace(shared_data: Path) -> Trace:
    """Twenty minutes of Mooncake's conversations."""
    return read_trace(shared_data / "mooncake_conversation_first20min.jsonl", prefixes=True)


def sessions(trace: Trace, one_in: int) -> Traffic:
    """Every `one_in`-th session; all conversations have the first 512 tokens in common, a session also the next."""
    assert trace.prefixes is not None
    none = np.zeros(len(trace), np.int64)
    traffic = Traffic(trace.arrival_ps, trace.prompt, trace.output, none, none, trace.prefixes)
    prefixes = trace.prefixes
    first = [int(prefixes.of(r)[32]) if prefixes.blocks[r] > 32 else -r - 1 for r in range(len(trace))]
    order = {session: number for number, session in enumerate(dict.fromkeys(first))}
    return traffic[np.flatnonzero([order[session] % one_in == 0 for session in first])]


def saved_by_lru(traffic: Traffic, pool: int) -> int:
    """Prompt tokens saved if requests come one after the other and the pool is an LRU of blocks by content.

    The block with the last token is computed anew where the whole prompt is there. It is then there twice, as in vLLM,
    and the older one is found.
    """
    assert traffic.prefixes is not None
    saved = 0
    cache: OrderedDict[tuple[int, int], None] = OrderedDict(((-1, n), None) for n in range(pool))  # next to go first
    copies: dict[int, list[tuple[int, int]]] = {}
    for r in range(len(traffic)):
        prompt, output = int(traffic.prompt[r]), int(traffic.output[r])
        chain = [*traffic.prefixes.of(r).tolist()]
        chain += [-(r << 20) - i - 2 for i in range(len(chain), (prompt + output - 1) // BLOCK_TOKENS)]
        held: list[tuple[int, int]] = []
        for content in chain[: (prompt - 1) // BLOCK_TOKENS]:
            if not copies.get(content):
                break
            held.append(copies[content][0])
        saved += len(held) * BLOCK_TOKENS
        for entry in held:
            del cache[entry]
        for index in range(len(held), -(-(prompt + output - 1) // BLOCK_TOKENS)):
            gone, _ = cache.popitem(last=False)
            if gone[0] != -1:
                copies[gone[0]].remove(gone)
            full = index < len(chain)
            held.append((chain[index], r) if full else (-1, r))
            if full:
                copies.setdefault(chain[index], []).append(held[-1])
        for entry in reversed(held):
            cache[entry] = None
    return saved


@SHARES
def test_one_request_at_a_time_the_tokens_saved_are_those_of_an_lru_over_blocks(trace: Trace, one_in: int) -> None:
    traffic = sessions(trace, one_in)
    traffic = replace(traffic, output=np.minimum(traffic.output, 4))  # an iteration each, so the test is short
    engine = ReferenceEngine(FLEET, SLO, traffic)
    stats = engine.step(replace(PLAN, end_ps=FOREVER, batch_cap=1))
    assert stats.finished == len(traffic)
    assert stats.prefix_tokens == saved_by_lru(traffic, POOL) > 0.03 * traffic.prompt.sum()


class Unordered(LruEngine):
    """Whole pools are too large to compare at every turn; what is found is compared for every request."""

    whole = False


@SHARES
def test_under_load_every_request_finds_what_an_exact_lru_over_blocks_holds(trace: Trace, one_in: int) -> None:
    traffic = sessions(trace, one_in)
    engine = Unordered(FLEET, SLO, traffic)
    stats = engine.step(replace(PLAN, end_ps=trace.duration_ps // 4))
    assert stats.prefix_tokens > 32 * BLOCK_TOKENS * stats.finished / 2  # the beginning that all have in common
