"""The event-leaping scheduler: the reference's behaviour at a thousandth of its cost.

It must answer as `engine.reference` does, to the integer; `tests/engine/test_exactness.py` holds it to that. Three ideas:

- *Lock-step algebra.* All sequences of a tenant that decode on a replica gain the same tokens per iteration, so the
  replica keeps one clock per tenant, the sum of contexts relative to it, a histogram of block phases (KV demand of any
  number of iterations) and a heap of finish clocks. An iteration costs O(1), not O(batch).
- *Leaps.* Between events (a finish, an admission, a bend of the cost tables, exhausted blocks, a deadline at the head
  of the line) iteration times form an arithmetic series, so any number of iterations is one step. A leap stays in
  flight until it ends, or until an arrival or the window's end cuts it short.
- *One arena.* State is one flat int64 row (`layout.py`), so a fork is a copy.

The modules are plain Python over anything that indexes like an int64 array; `compiled.py` imports them a second
time and compiles them with numba. Hence no classes, no keyword arguments, integers only. Arguments that recur: `a` the
row, `tb` the cost tables, `tr` the traffic, `rec` the records, `r` a replica's offset, `s` a slot's.

Read from the outside in: `fleet.run_window`, `iterations.advance_replica` and `start`, then the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, overload


class Row(Protocol):
    """A one-dimensional int64 array, or a list (which plain Python indexes five times as fast)."""

    @overload
    def __getitem__(self, index: int, /) -> int: ...
    @overload
    def __getitem__(self, span: slice, /) -> Iterable[int]: ...

    def __setitem__(self, index: Any, value: Any, /) -> None:
        """Put an integer at an index, or as many as a slice holds there."""
        ...
