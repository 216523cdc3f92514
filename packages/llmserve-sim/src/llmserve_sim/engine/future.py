"""Check the traffic that a fork is given in place of the true future.

A planner that does not know the future forks an engine onto a forecast. Requests that have arrived must stay the same.
Only the tokens that they have yet to produce may differ: the scheduler never reads an output length in advance, so it
only changes when the request will finish.
"""

from __future__ import annotations

import numpy as np

from llmserve_sim.engine.interface import Progress, Traffic
from llmserve_sim.errors import InvalidInputError

__all__ = ["check_future"]


def check_future(past: Traffic, future: Traffic, progress: Progress, now_ps: int) -> None:
    """Raise an error if `future` contradicts what has been observed by `now_ps`.

    Raises:
        InvalidInputError: it names the column of the traffic and what that column must agree with.
    """
    arrived = len(progress.ended)
    for name in ("arrival_ps", "prompt", "priority", "tenant"):
        if not np.array_equal(getattr(future, name)[:arrived], getattr(past, name)[:arrived]):
            raise InvalidInputError(
                f"traffic.{name}", f"must be as it was for the {arrived} requests that have arrived"
            )
    was, becomes = past.prefixes, future.prefixes
    if was is not becomes and (was is None or becomes is None or not becomes.repeats(was, arrived)):
        raise InvalidInputError("traffic.prefixes", f"must be as they were for the {arrived} that have arrived")
    if np.any(future.output[:arrived][~progress.ended] <= progress.produced[~progress.ended]):
        raise InvalidInputError("traffic.output", "must exceed what an unfinished request has produced")
    if len(future) > arrived and int(future.arrival_ps[arrived]) < now_ps:
        raise InvalidInputError("traffic.arrival_ps", f"must not be before {now_ps} for requests that are to come")
