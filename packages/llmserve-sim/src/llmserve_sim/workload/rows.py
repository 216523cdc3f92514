"""One row of a trace file: how a line, or a row of a table, becomes requests of three integers.

Errors name file, line and column. `formats/` says what a format calls its columns and opens the files, `traces.py` keeps
the requests.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from typing import Annotated, Final, NamedTuple, NoReturn

from llmserve_sim.bounds import Between, Checked
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.workload.formats.style import CLOCK, FAILED, UNITS, Format, Row, RowError, State
from llmserve_sim.workload.hash_ids import HASH_IDS, hash_ids_of

__all__ = ["DELIMITERS", "OrderError", "Request", "RowParser", "TraceLimits", "fields_of", "header_of"]

DELIMITERS: Final = (",", ";", "\t")
_NS_PER_S = 1_000_000_000
_MAX_TIME_S = 4_000_000_000
_UNIT_WORDS: Final = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


@dataclass(frozen=True)
class TraceLimits(Checked):
    """How much of a trace is accepted; a larger one is an error that says how to cut it."""

    file_bytes: Annotated[int, Between(1, 1 << 50, "bytes")] = 1 << 50
    """Most bytes (unpacked) read up to the end of the cut; they are not kept, so by default files of any size are read."""
    line_bytes: Annotated[int, Between(1, 1 << 40, "bytes")] = 2**20
    """Longest line."""
    document_bytes: Annotated[int, Between(1, 1 << 40, "bytes")] = 64 * 2**20
    """Longest file that is one JSON object (vLLM's results): it is read whole."""
    requests: Annotated[int, Between(1, 1 << 30, "requests")] = 1_000_000
    """Most requests inside the cut; of a file that is sorted, most requests up to its end."""
    tokens: Annotated[int, Between(1, 1 << 20, "tokens")] = 1_048_576
    """Longest prompt, and longest output."""
    duration_s: Annotated[int, Between(1, 2_592_000, "s")] = 2_592_000
    """Longest cut: 30 days."""


class OrderError(InvalidInputError):
    """Time goes back: the file's fault rather than the row's, so such a row is never skipped."""


def fields_of(line: str, delimiter: str = ",") -> list[str]:
    """The fields of one line of CSV, without the spaces around them; raises ValueError for a quote that stays open."""
    if '"' not in line:
        return [cell.strip() for cell in line.split(delimiter)]
    try:
        rows = csv.reader([line.strip("\r\n ")], strict=True, skipinitialspace=True, delimiter=delimiter)
        return [cell.strip() for cell in next(rows)]
    except csv.Error as error:
        raise ValueError(str(error)) from error


def header_of(line: str, delimiter: str = ",") -> list[str]:
    """The columns that a header names, in lower case: files of one format differ in that."""
    return [column.lower() for column in fields_of(line, delimiter)]


class Request(NamedTuple):
    """One request of a file."""

    at_ns: int
    """Nanoseconds since the file's first request."""
    prompt: int
    """Tokens."""
    output: int
    """Tokens; 0: a recorded failure."""
    hash_ids: tuple[int, ...] = ()
    """Of the prompt's blocks, if they were asked for."""


class RowParser:
    """Turns the rows of one file into requests.

    Args:
        name: the file's, for errors.
        style: its format.
        limits: what is accepted.
        header: columns of a CSV file, in lower case; None: rows are JSON objects or rows of a table.
        delimiter: of a CSV file.
        unit: what numbers count: "line" or "row".
        ordered: time may not go back.
        hashes: the ``hash_ids`` are read too.
    """

    def __init__(
        self,
        name: str,
        style: Format,
        limits: TraceLimits,
        *,
        header: Sequence[str] | None = None,
        delimiter: str = ",",
        unit: str = "line",
        ordered: bool = True,
        hashes: bool = False,
    ) -> None:
        self.hashes = hashes
        self.name, self.style, self.limits, self.unit, self.ordered = name, style, limits, unit, ordered
        self._header, self._delimiter = header, delimiter
        if header is not None:
            if len(set(header)) < len(header):
                raise InvalidInputError(f"{name}:line 1", "must name each column once", got=delimiter.join(header))
            proper = {column.lower(): column for mark in style.marks for column in mark}
            proper |= {column.lower(): column for column in style.columns}
            self._columns = [proper.get(column, column) for column in header]
            self._places = tuple(header.index(column.lower()) for column in style.columns if column.lower() in header)
        self._state: State = {}
        self._origin: datetime | int | None = None
        self._last_ns = 0

    def requests(self, number: int, row: str | Row) -> Sequence[Request]:
        """Return the requests in this row; raises `InvalidInputError`."""
        origin = self._origin
        try:
            return self._requests(number, row)
        except InvalidInputError:
            self._origin = origin  # a row that may be skipped does not say when the file begins
            raise

    def _requests(self, number: int, row: str | Row) -> Sequence[Request]:
        style = self.style
        if self._header is not None and style.unfold is None and not self.hashes and isinstance(row, str):
            cells = self._cells(number, row)
            return (self._request(number, *(cells[at] for at in self._places)),)
        values = row if isinstance(row, dict) else self._mapping(number, row)
        try:
            flat = (values,) if style.unfold is None else tuple(style.unfold(values, self._state))
            return tuple(self._flat(number, request) for request in flat)
        except RowError as error:
            self._refuse(number, error.column, error.bound, error.got)

    def _flat(self, number: int, values: Mapping[str, object]) -> Request:
        style = self.style
        if values.get(FAILED):
            return Request(self._time(number, values.get(style.time)), 1, 0)
        for key in style.columns:
            if key not in values:
                self._refuse(number, key, "is required")
        request = self._request(number, *(values[key] for key in style.columns))
        if not self.hashes or request.output == 0:
            return request
        return request._replace(hash_ids=hash_ids_of(values.get(HASH_IDS), request.prompt, style.hash_tokens))

    def _request(self, number: int, time: object, prompt: object, output: object) -> Request:
        style = self.style
        at = self._time(number, time)
        least = 0 if style.zero_tokens_are_failures else 1
        prompt = self._tokens(number, style.prompt, prompt, least)
        output = self._tokens(number, style.output, output, least)
        request = Request(at, prompt, output if prompt else 0)
        if self.ordered:
            if at < self._last_ns:
                raise OrderError(
                    f"{self.name}:{self.unit} {number}:{style.time}",
                    f"must not be earlier than the {self.unit} before (sort=True orders the file)",
                )
            self._last_ns = at
        return request

    def _cells(self, number: int, line: str) -> list[str]:
        assert self._header is not None
        try:
            cells = fields_of(line, self._delimiter)
        except ValueError as error:
            raise InvalidInputError(
                f"{self.name}:line {number}", f"must be one row of CSV ({error})", got=line.strip()
            ) from error
        if len(cells) != len(self._header):
            raise InvalidInputError(
                f"{self.name}:line {number}",
                f"must have {len(self._header)} fields, has {len(cells)}",
                got=line.strip(),
            )
        return cells

    def _mapping(self, number: int, line: str) -> Row:
        if self._header is not None:
            cells = zip(self._columns, self._cells(number, line), strict=True)
            return {name: _value(cell) for name, cell in cells if cell}
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"{self.name}:line {number}", f"must be one JSON object ({error})") from error
        if not isinstance(values, dict):
            raise InvalidInputError(f"{self.name}:line {number}", "must be a JSON object", got=values)
        return values

    def _tokens(self, number: int, column: str, value: object, least: int) -> int:
        # ASCII digits only: int() would also take signs, underscores and other scripts' digits. 200.0 is pandas' 200.
        if isinstance(value, str):
            digits, point, zeros = value.partition(".")
            if digits.isascii() and digits.isdigit() and len(digits) <= 12 and (not point or not zeros.strip("0")):
                value = int(digits)
        elif isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= self.limits.tokens:
            self._refuse(number, column, f"must be an integer in {least}..{self.limits.tokens}", value)
        return value

    def _time(self, number: int, value: object) -> int:
        column, unit = self.style.time, self.style.unit
        if unit == CLOCK:
            return self._clock(number, column, str(value))
        ns = UNITS[unit]
        most = _MAX_TIME_S * _NS_PER_S // ns
        bound = f"must be a number of {_UNIT_WORDS[unit]} in 0..{most}"
        if isinstance(value, str):
            value = self._parsed(number, value, bound)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            self._refuse(number, column, bound, value)
        if self.style.whole and value != int(value):
            self._refuse(
                number,
                column,
                f"must be whole {_UNIT_WORDS[unit]}, as {self.style.name} has them; name the unit with time_unit "
                "(s as in Bailian and GuideLLM)",
                value,
            )
        absolute = round(value * ns)
        if self._origin is None:
            self._origin = absolute
        assert isinstance(self._origin, int)
        return absolute - self._origin

    def _parsed(self, number: int, text: str, bound: str) -> float:
        try:
            # An integer stays exact: nanoseconds since 1970 are more than a float holds.
            return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else float(text.replace("_", "?"))
        except ValueError:
            hint = ""
            if _is_date(text):
                hint = " (this is a date: time_unit date)"
            elif self._delimiter == ";" and _is_number(text.replace(",", ".")):
                hint = ", with a decimal point"
            self._refuse(number, self.style.time, bound + hint, text)

    def _clock(self, number: int, column: str, text: str) -> int:
        bound = "must be a date and time such as 2023-11-16 18:17:03.9799600"
        try:
            stamp = datetime.fromisoformat(text)
            if self._origin is None:
                self._origin = stamp
            assert isinstance(self._origin, datetime)
            since = stamp - self._origin
        except (ValueError, TypeError):  # TypeError: some stamps name a time zone and some do not
            self._refuse(number, column, bound, text)
        seconds = since.days * 86_400 + since.seconds
        if not isfinite(seconds) or abs(seconds) > _MAX_TIME_S:
            self._refuse(number, column, f"must be within {_MAX_TIME_S} s of the first", text)
        return seconds * _NS_PER_S + since.microseconds * 1000

    def _refuse(self, number: int, column: str, bound: str, got: object = None) -> NoReturn:
        raise InvalidInputError(f"{self.name}:{self.unit} {number}:{column}", bound, got=got)


def numbered(rows: Iterator[tuple[int, str]], first: tuple[int, str]) -> Iterator[tuple[int, str]]:
    """Yield a row that has been read already, then the rest."""
    yield first
    yield from rows


def _value(cell: str) -> object:
    """The number that a cell holds, or its text: an unfolding takes the values of JSON."""
    if cell.isascii() and cell.isdigit() and len(cell) < 20:
        return int(cell)
    return float(cell) if _is_number(cell) else cell


def _is_number(text: str) -> bool:
    try:
        return isfinite(float(text.replace("_", "?")))
    except ValueError:
        return False


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
