"""Histograms in a row, with the bins of `engine.histogram` and a closed form for all token gaps of a leap."""
# ruff: noqa: PLR1730 - plain Python compares faster than it calls min() and max()

from __future__ import annotations

from math import frexp
from typing import TYPE_CHECKING

from llmserve_sim.engine.histogram import BINS, LINEAR, PER_OCTAVE, UNIT_BITS
from llmserve_sim.engine.interface import FP
from llmserve_sim.engine.kernel.layout import G_BIN, G_HIGH, G_LOW, G_RATE, HIST_ITL

if TYPE_CHECKING:
    from llmserve_sim.engine.kernel import Row


def bin_of(ps: int) -> int:
    """Return what `histogram.bin_of` does. Numba has no `bit_length`; `frexp` counts bits exactly below 2^53."""
    units = ps >> UNIT_BITS
    if units < LINEAR:
        return units
    octave = frexp(units)[1] - 6
    index = octave * PER_OCTAVE + (units >> octave)
    return index if index < BINS else BINS - 1


def edge_of(index: int) -> int:
    """Return what `histogram.bin_edge_ps` does."""
    if index < LINEAR:
        return index << UNIT_BITS
    octave = (index - PER_OCTAVE) // PER_OCTAVE
    return (index - octave * PER_OCTAVE) << (octave + UNIT_BITS)


def hist_add(a: Row, h: int, index: int, weight: int) -> None:
    """Add `weight` to bin `index` of the histogram at `h`, whose first two entries are the range in use."""
    if index < a[h]:
        a[h] = index
    if index > a[h + 1]:
        a[h + 1] = index
    a[h + 2 + index] += weight


def add_gap(a: Row, rate: int, gap: int, weight: int) -> None:
    """Add a gap (ps), spread over the tokens of a step at `rate`, to the ITL histogram."""
    index = gap * FP // rate >> UNIT_BITS  # `bin_of` and `hist_add`, inlined: a call costs plain Python too much
    if index >= LINEAR:
        octave = frexp(index)[1] - 6
        index = octave * PER_OCTAVE + (index >> octave)
        if index >= BINS:
            index = BINS - 1
    if index < a[HIST_ITL]:
        a[HIST_ITL] = index
    if index > a[HIST_ITL + 1]:
        a[HIST_ITL + 1] = index
    a[HIST_ITL + 2 + index] += weight


def add_gaps(a: Row, g: int, first: int, rise: int, count: int, weight: int) -> None:
    """Add the gaps `first + i·rise`, i < count, each spread over the tokens of a step of group `g`, to the ITL bins.

    Stores the bin used last in the group, with the range of gaps that fall into it: the next gap is often among them.
    """
    last = first + (count - 1) * rise
    rate = a[g + G_RATE]
    index = first * FP // rate >> UNIT_BITS  # `bin_of` and `edge_of`, inlined
    shift = UNIT_BITS
    if index >= LINEAR:
        octave = frexp(index)[1] - 6
        shift += octave
        index >>= octave
        low = (index << shift) // FP * rate
        high = (index + 1 << shift) // FP * rate  # a gap this long, or longer, belongs to a higher bin
        index += octave * PER_OCTAVE
        if index >= BINS:
            index = BINS - 1
    else:
        low = (index << shift) // FP * rate
        high = (index + 1 << shift) // FP * rate
    while last >= high and index < BINS - 1:
        below = (high - first + rise - 1) // rise
        hist_add(a, HIST_ITL, index, below * weight)
        count -= below
        first += below * rise
        index += 1
        low = high
        high = edge_of(index + 1) // FP * rate
    if index < a[HIST_ITL]:
        a[HIST_ITL] = index
    if index > a[HIST_ITL + 1]:
        a[HIST_ITL + 1] = index
    a[HIST_ITL + 2 + index] += count * weight
    a[g + G_BIN] = HIST_ITL + 2 + index
    a[g + G_LOW] = low
    a[g + G_HIGH] = high


def percentiles(a: Row, h: int, into: int) -> None:
    """Write the 50th and 99th percentile (ps) of the histogram at `h` to `into` and `into + 1`; −1 if it is empty."""
    total = sum(a[h + 2 + a[h] : h + 3 + a[h + 1]])
    a[into] = -1
    a[into + 1] = -1
    if total == 0:
        return
    percent = 50
    seen = 0
    i = h + 1 + a[h]
    for k in range(2):
        rank = (total * percent + 99) // 100
        stride = sum(a[i + 1 : i + 1 + PER_OCTAVE])
        while seen + stride < rank:
            seen += stride
            i += PER_OCTAVE
            stride = sum(a[i + 1 : i + 1 + PER_OCTAVE])
        while seen < rank:
            i += 1
            seen += a[i]
        index = i - h - 2
        a[into + k] = (edge_of(index) + edge_of(index + 1)) // 2
        percent = 99
