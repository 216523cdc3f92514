"""Histograms in a row: the integer twin of `engine.histogram`, with a closed form for a whole leap's gaps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmserve_sim.engine.histogram import BINS, LINEAR, PER_OCTAVE, UNIT_BITS
from llmserve_sim.engine.interface import FP
from llmserve_sim.engine.layout import HIST_ITL

if TYPE_CHECKING:
    from llmserve_sim.engine.kernel import Row


def bin_of(ps: int) -> int:
    """`histogram.bin_of`, without bit_length, which numba does not know."""
    v = ps >> UNIT_BITS
    if v < LINEAR:
        return v
    w = v >> 6
    octave = 1
    if w >= 65536:
        w >>= 16
        octave += 16
    if w >= 256:
        w >>= 8
        octave += 8
    if w >= 16:
        w >>= 4
        octave += 4
    if w >= 4:
        w >>= 2
        octave += 2
    if w >= 2:
        octave += 1
    index = LINEAR + (octave - 1) * PER_OCTAVE + (v >> octave) - PER_OCTAVE
    return min(index, BINS - 1)


def edge_of(index: int) -> int:
    """`histogram.bin_edge_ps`."""
    if index < LINEAR:
        return index << UNIT_BITS
    octave = (index - LINEAR) // PER_OCTAVE
    step = (index - LINEAR) % PER_OCTAVE
    return ((PER_OCTAVE + step) << (octave + 1)) << UNIT_BITS


def hist_add(a: Row, h: int, index: int, weight: int) -> None:
    """Add `weight` to bin `index` of the histogram at `h`, whose first two entries are the range in use."""
    a[h] = min(a[h], index)
    a[h + 1] = max(a[h + 1], index)
    a[h + 2 + index] += weight


def hist_add_gaps(a: Row, first: int, rise: int, count: int, rate: int, weight: int) -> None:
    """Add the gaps `first + i·rise`, i < count, each spread over `rate` fixed-point tokens, to the ITL histogram."""
    low = bin_of(first * FP // rate)
    if count > 1 and rise > 0:
        high = bin_of((first + (count - 1) * rise) * FP // rate)
        done = 0
        while low < high:
            limit = (edge_of(low + 1) * rate + FP - 1) // FP  # gaps below this fall into this bin or a lower one
            upto = (limit - first + rise - 1) // rise
            if upto > done:
                hist_add(a, HIST_ITL, low, (upto - done) * weight)
                done = upto
            low += 1
        count -= done
    hist_add(a, HIST_ITL, low, count * weight)


def percentiles(a: Row, h: int, into: int) -> None:
    """Put `histogram.percentile_ps` of the histogram at `h` for 50 and 99 into `into` and the place after it; or −1."""
    total = 0
    for i in range(a[h] + h + 2, a[h + 1] + h + 3):
        total += a[i]
    a[into] = -1
    a[into + 1] = -1
    if total == 0:
        return
    percent = 50
    seen = 0
    i = a[h] - 1
    for k in range(2):
        rank = (total * percent + 99) // 100
        while seen < rank:
            i += 1
            seen += a[h + 2 + i]
        a[into + k] = (edge_of(i) + edge_of(i + 1)) // 2
        percent = 99
