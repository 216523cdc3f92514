"""Waits for a place on a full server. A flow without I/O, as in `_protocol.py`."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Final, TypeVar

from llmserve_client._exceptions import AtCapacityError
from llmserve_client._operations import Flow, Sleep

__all__ = ["with_place"]

_Result = TypeVar("_Result")
_WITHOUT_ADVICE_S: Final = 1.0
"""Wait before the next try if the server does not say how long."""
_LEAST_WAIT_S: Final = 0.1


def with_place(flow: Callable[[], Flow[_Result]], patience_s: float) -> Flow[_Result]:
    """Run a flow that needs a place; while the server has none, wait as long as it says, `patience_s` in all."""
    while True:
        try:
            return (yield from flow())
        except AtCapacityError as error:
            advice = error.retry_after_s
            seconds = _WITHOUT_ADVICE_S if advice is None or not isfinite(advice) else max(advice, _LEAST_WAIT_S)
            if seconds > patience_s:
                raise
        patience_s -= seconds
        yield Sleep(seconds)
