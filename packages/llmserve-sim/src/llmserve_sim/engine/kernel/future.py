"""Read the progress of the requests in an arena row, and replace the row's future traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmserve_sim.engine.interface import Progress, Traffic
from llmserve_sim.engine.kernel.layout import (
    ENDS,
    G_CLOCK,
    G_COUNT,
    G_HEAP,
    GROUP_SIZE,
    H_ARRIVALS,
    H_MAX_LEN,
    H_NEXT,
    H_REPLICAS_END,
    R_ACTIVE,
    R_FRESH,
    R_GROUPS,
    R_GROUPS_END,
    R_HANDOVERS,
    R_RESUMED,
    REPLICA_SIZE,
    REPLICAS,
    S_BASE,
    S_ID,
    S_NEXT,
    S_OUTPUT,
    S_PRODUCED,
    S_PROMPT,
    S_TARGET,
    S_TENANT,
    SLOT_BITS,
    SLOT_MASK,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmserve_sim.engine.kernel import Row

__all__ = ["progress_of", "retarget"]


def progress_of(row: Row) -> Progress:
    """Return the progress of the requests that have arrived in an arena row."""
    arrived = int(row[H_NEXT])
    ended = np.ones(arrived, dtype=np.bool_)
    produced = np.zeros(arrived, dtype=np.int64)
    for slot, tokens in _unfinished(row):
        ended[row[slot + S_ID]] = False
        produced[row[slot + S_ID]] = tokens
    return Progress(ended, produced)


def retarget(row: Row, traffic: Traffic) -> None:
    """Replace the traffic of an arena row, between windows, by one that `check_future` has accepted."""
    longest = row[H_MAX_LEN]
    for slot, _ in _unfinished(row):
        row[slot + S_OUTPUT] = min(int(traffic.output[row[slot + S_ID]]), longest - row[slot + S_PROMPT])
    groups = (int(traffic.tenant.max(initial=0)) + 1) * GROUP_SIZE
    for replica in _replicas(row):
        row[replica + R_GROUPS_END] = max(row[replica + R_GROUPS_END], row[replica + R_GROUPS] + groups)
        for group in range(row[replica + R_GROUPS], row[replica + R_GROUPS_END], GROUP_SIZE):
            top, count = int(row[group + G_HEAP]) + 1, int(row[group + G_COUNT])
            slots = [int(row[at]) & SLOT_MASK for at in range(top, top + count)]
            clocks = [row[s + S_OUTPUT] + row[s + S_PROMPT] - row[s + S_BASE] for s in slots]
            entries = sorted(int(clock) << SLOT_BITS | slot for clock, slot in zip(clocks, slots, strict=True))
            for at, entry in enumerate(entries, top):  # a sorted array is a heap
                row[at] = entry
    row[H_ARRIVALS] = len(traffic)


def _replicas(row: Row) -> range:
    return range(REPLICAS, row[H_REPLICAS_END], REPLICA_SIZE)


def _unfinished(row: Row) -> Iterator[tuple[int, int]]:
    """Yield each slot in use, with the number of tokens that its output is known to exceed."""
    for replica in _replicas(row):
        for kind in range(2):
            ring = replica + R_ACTIVE + kind * ENDS
            slot = int(row[ring])
            while slot != ring:
                tokens = int(row[slot + S_PRODUCED])
                if row[slot + S_TARGET] == 0:
                    group = row[replica + R_GROUPS] + row[slot + S_TENANT] * GROUP_SIZE
                    tokens = int(row[slot + S_BASE] - row[slot + S_PROMPT] + (row[group + G_CLOCK] >> 8))
                yield slot, tokens
                slot = int(row[slot + S_NEXT])
            for queue in (replica + R_RESUMED + kind * ENDS, replica + R_FRESH + kind * ENDS):
                for slot in _chain(row, queue):
                    yield slot, int(row[slot + S_PRODUCED])
        for slot in _chain(row, replica + R_HANDOVERS):  # one more token travels with the KV, and it is not the last
            yield slot, int(row[slot + S_PRODUCED]) + 1


def _chain(row: Row, queue: int) -> Iterator[int]:
    slot = int(row[queue])
    while slot != 0:
        yield slot
        slot = int(row[slot + S_NEXT])
