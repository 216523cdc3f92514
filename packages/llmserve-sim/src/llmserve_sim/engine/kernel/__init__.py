"""The fast scheduler: it leaps from event to event instead of simulating every iteration.

It must give the same integers as `engine.reference`; `tests/engine/test_exactness.py` compares them. `nox -s bench`
measures how fast it is. Three ideas make it fast:

- *Lock-step algebra.* All sequences of a tenant that decode on a replica gain the same tokens per iteration. So the
  replica keeps, per tenant: one clock (tokens gained), the number of sequences by the room used in their last block
  (it gives the KV blocks that any number of iterations needs), and a heap of finish clocks. It also keeps one sum of
  all contexts. An iteration costs O(1), not O(batch).
- *Leaps.* Between events, the times of the iterations form an arithmetic series, so any number of them is one step.
  Events are: a finish, an admission, a bend of the cost table, exhausted blocks, and a request at the head of the
  waiting queue that gives up. A leap is in flight until it ends, or until an arrival or the window's end cuts it.
- *One arena.* The state is one flat int64 row (`layout.py`), so a fork is a copy.

The modules are plain Python over anything that indexes like an int64 array. `compiled.py` imports them a second time
and compiles them with numba, which is why they have no classes, no keyword arguments and only integers. Arguments that
recur: `a` the row, `tb` the cost tables, `tr` the traffic, `rec` the records, `r` the offset of a replica, `s` the
offset of a slot, `c` a class (0 priority, 1 standard), `g` the offset of a group.

Where to find what, from the outside in:

- `fleet`: a window (`run_window`), the plan (`apply_plan`), arrivals (`arrive`), routing (`least_loaded`, `enqueue`).
- `iterations`: the scheduling step (`start`: admission, chunked prefill, preemption) and its end (`complete`).
- `requests`: KV blocks (`num_used_blocks`), `preempt`, `finish`, `abandon`. No block has an identity here, only the
  number held is kept (`R_BLOCKS`): `iterations.start` allocates the blocks of a prompt, `requests.join_decode` those of
  a decoding sequence. They are freed in `iterations.end_prefill`, `requests.leave_decode` and `requests.preempt`.
- `costs`: the time of an iteration. `histograms`, `linked`: percentiles, queues, rings and heaps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, overload


class Row(Protocol):
    """A one-dimensional int64 array, or a list of integers (plain Python indexes a list faster)."""

    @overload
    def __getitem__(self, index: int, /) -> int: ...
    @overload
    def __getitem__(self, span: slice, /) -> Iterable[int]: ...

    def __setitem__(self, index: Any, value: Any, /) -> None:
        """Write an integer at an index, or as many integers as a slice is long."""
        ...
