"""What a format of trace files is: the names of its columns, the unit of its times, and how a row becomes requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Final

__all__ = ["CLOCK", "FAILED", "UNITS", "Format", "Row", "RowError", "State", "Unfold", "number_in", "object_in"]

Row = dict[str, object]
State = dict[str, float]
"""What an unfolding remembers from row to row: one number per session."""
Unfold = Callable[[Row, State], Iterator[Row]]
"""Returns the requests in one row, each under the names of the format's time, prompt and output columns."""

UNITS: Final[Mapping[str, int]] = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1000, "ns": 1}
"""Nanoseconds in each unit of time."""
CLOCK: Final = "date"
"""The unit of dates with a time of day."""
FAILED: Final = "<failed>"
"""The key that marks a request as one that its recording says had failed."""


class RowError(Exception):
    """A row that cannot be read; whoever reads the file adds its name and line."""

    def __init__(self, column: str, bound: str, got: object = None) -> None:
        super().__init__(bound)
        self.column, self.bound, self.got = column, bound, got


@dataclass(frozen=True)
class Format:
    """A format. A file is of it if it holds all columns in one of `marks`."""

    name: str
    file: str
    """What files are of this format."""
    time: str
    prompt: str
    output: str
    unit: str
    """Unit of time: a key of `UNITS`, or `CLOCK`."""
    marks: tuple[tuple[str, ...], ...]
    """Empty: its columns do not tell it from others, so it must be named."""
    zero_tokens_are_failures: bool = False
    """A request without prompt or output tokens is a recorded failure."""
    unordered: bool = False
    """Rows need not be in order of arrival: reading sorts them."""
    unfold: Unfold | None = None
    """None: one row is one request."""
    whole: bool = False
    """Times are integers: a fraction says that the unit is another, unless the user has named it."""
    hash_tokens: int = 0
    """Prompt tokens that one of its ``hash_ids`` stands for, a multiple of 16; 0: it has none."""

    @property
    def columns(self) -> tuple[str, str, str]:
        """The columns that are read: time, prompt, output."""
        return self.time, self.prompt, self.output


def number_in(row: Row, key: str, unit: str) -> float:
    """Return a duration or a time from a row; raises `RowError`. Integers stay exact."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        raise RowError(key, f"must be a number of {unit} from 0", value)
    return value


def object_in(row: Row, key: str) -> Row:
    """Return a JSON object within a row; raises `RowError`."""
    value = row.get(key)
    if not isinstance(value, dict):
        raise RowError(key, "must be a JSON object", value)
    return value
