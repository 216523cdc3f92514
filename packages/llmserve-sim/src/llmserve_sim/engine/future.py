"""A fork onto another future: what it must agree with.

A planner without foresight forks an engine onto a forecast. Requests that have arrived stay as they are. Only outputs that
nobody has seen yet may differ: the scheduler never reads them, so they change nothing but when those requests will finish.
"""

from __future__ import annotations

import numpy as np

from llmserve_sim.engine.interface import Progress, Traffic
from llmserve_sim.errors import InvalidInputError

__all__ = ["check_future"]


def check_future(past: Traffic, future: Traffic, progress: Progress, now_ps: int) -> None:
    """Refuse a future that contradicts what has been seen.

    Raises:
        InvalidInputError: names the column of the traffic and what it must agree with.
    """
    arrived = len(progress.ended)
    for name in ("arrival_ps", "prompt", "priority", "tenant"):
        if not np.array_equal(getattr(future, name)[:arrived], getattr(past, name)[:arrived]):
            raise InvalidInputError(
                f"traffic.{name}", f"must be as it was for the {arrived} requests that have arrived"
            )
    if np.any(future.output[:arrived][~progress.ended] <= progress.produced[~progress.ended]):
        raise InvalidInputError("traffic.output", "must exceed what an unfinished request has produced")
    if len(future) > arrived and int(future.arrival_ps[arrived]) < now_ps:
        raise InvalidInputError("traffic.arrival_ps", f"must not be before {now_ps} for requests that are to come")
