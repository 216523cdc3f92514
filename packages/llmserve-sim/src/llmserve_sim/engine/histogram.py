"""Log-linear histograms of durations. The middle of a bin differs from any sample in it by at most 1.6 %.

A duration is rounded down to units of 2^20 ps (about 1.05 us). The first 64 bins are one unit wide; after that every
octave has 32 bins. The last bin also counts everything longer (about 4,500 s).
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["BINS", "UNIT_BITS", "bin_edge_ps", "bin_middle_ps", "bin_of", "percentile_ps"]

UNIT_BITS = 20
LINEAR = 64
PER_OCTAVE = 32
BINS = 896


def bin_of(ps: int) -> int:
    """Return the bin of a duration (ps, not negative)."""
    v = ps >> UNIT_BITS
    if v < LINEAR:
        return v
    octave = v.bit_length() - 6
    return min(LINEAR + (octave - 1) * PER_OCTAVE + (v >> octave) - PER_OCTAVE, BINS - 1)


def bin_edge_ps(index: int) -> int:
    """Return the lower edge of a bin, ps."""
    if index < LINEAR:
        return index << UNIT_BITS
    octave, step = divmod(index - LINEAR, PER_OCTAVE)
    return ((PER_OCTAVE + step) << (octave + 1)) << UNIT_BITS


def bin_middle_ps(index: int) -> int:
    """Return the middle of a bin, ps; percentiles report it for every sample in the bin."""
    return (bin_edge_ps(index) + bin_edge_ps(index + 1)) // 2


def percentile_ps(hist: Sequence[int], q_percent: int) -> int | None:
    """Return the nearest-rank percentile of a weighted histogram, ps; None if it is empty."""
    total = sum(hist)
    if total == 0:
        return None
    rank = -(-total * q_percent // 100)
    seen = 0
    for index, weight in enumerate(hist):
        seen += weight
        if seen >= rank:
            return bin_middle_ps(index)
    raise AssertionError("unreachable: the ranks of a histogram sum to its total")
