"""One row of a trace file: what its formats call their columns, and how a line becomes integers.

Errors name file, line and column. `traces.py` opens the files and keeps the rows.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from typing import Annotated, NamedTuple, NoReturn

from llmserve_sim.bounds import Between, Checked
from llmserve_sim.engine.interface import BLOCK_TOKENS
from llmserve_sim.engine.prefixes import HASH_MAX
from llmserve_sim.errors import InvalidInputError

__all__ = ["ROW_FORMATS", "Row", "RowFormat", "RowParser", "TraceLimits", "fields_of", "header_of"]

_NS_PER_MS = 1_000_000
_NS_PER_S = 1_000_000_000
_MAX_TIME_S = 4_000_000_000


@dataclass(frozen=True)
class TraceLimits(Checked):
    """How much of a trace is accepted; a larger one is an error that says how to cut it."""

    file_bytes: Annotated[int, Between(1, 1 << 50, "bytes")] = 256 * 2**20
    """Most bytes read up to the end of the cut."""
    line_bytes: Annotated[int, Between(1, 1 << 40, "bytes")] = 2**20
    """Longest line."""
    requests: Annotated[int, Between(1, 1 << 30, "requests")] = 1_000_000
    """Most requests inside the cut."""
    tokens: Annotated[int, Between(1, 1 << 20, "tokens")] = 1_048_576
    """Longest prompt, and longest output."""
    duration_s: Annotated[int, Between(1, 2_592_000, "s")] = 2_592_000
    """Longest cut: 30 days."""


@dataclass(frozen=True)
class RowFormat(Checked):
    """A format by the names of its time, prompt and output columns; `columns` identify it."""

    name: str
    time: str
    prompt: str
    output: str
    columns: tuple[str, ...]
    zero_output_is_failure: bool = False
    json: bool = False
    """JSON lines with keys, not CSV with columns."""
    time_ns: Annotated[int, Between(1, _NS_PER_S, "ns")] = _NS_PER_S
    """Unit of a time that is a number."""
    hash_tokens: Annotated[int, Between(0, 1 << 20, "tokens")] = 0
    """Prompt tokens that one of its `hash_ids` stands for; 0: it has none."""

    @property
    def hashes_per_id(self) -> int:
        """KV blocks that one of its `hash_ids` stands for."""
        return self.hash_tokens // BLOCK_TOKENS


class Row(NamedTuple):
    """One request of a file."""

    at_ns: int
    """Since the file's first request."""
    prompt: int
    output: int
    hash_ids: tuple[int, ...] = ()


_JSON_KEYS = ("timestamp", "input_length", "output_length")
_MOONCAKE = RowFormat("mooncake", *_JSON_KEYS, _JSON_KEYS, json=True, time_ns=_NS_PER_MS, hash_tokens=512)
_BAILIAN = RowFormat("bailian", *_JSON_KEYS, ("chat_id", *_JSON_KEYS), json=True, hash_tokens=16)
_AZURE = RowFormat(
    "azure", "TIMESTAMP", "ContextTokens", "GeneratedTokens", ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
)
_BURSTGPT_COLUMNS = ("Timestamp", "Model", "Request tokens", "Response tokens")
ROW_FORMATS = (
    RowFormat("plain", "t_s", "input", "output", ("t_s", "input", "output")),
    _AZURE,
    RowFormat(
        "burstgpt",
        "Timestamp",
        "Request tokens",
        "Response tokens",
        _BURSTGPT_COLUMNS,
        zero_output_is_failure=True,
    ),
    _BAILIAN,
    _MOONCAKE,
)


def fields_of(line: str) -> list[str]:
    """The fields of one line of CSV, without the spaces around them; raises ValueError for a quote that stays open."""
    if '"' not in line:
        return [cell.strip() for cell in line.split(",")]
    try:
        return [cell.strip() for cell in next(csv.reader([line.strip()], strict=True, skipinitialspace=True))]
    except csv.Error as error:
        raise ValueError(str(error)) from error


def header_of(line: str) -> list[str]:
    """The columns that a header names, in lower case: files of one format differ in that."""
    return [column.lower() for column in fields_of(line)]


class RowParser:
    """Turns lines of one file into rows, with their hashes if `hashes`."""

    def __init__(self, name: str, style: RowFormat, header: str, limits: TraceLimits, *, hashes: bool = False) -> None:
        self.name, self.style, self.limits, self.hashes = name, style, limits, hashes
        self.columns = [] if style.json else header_of(header)
        if len(set(self.columns)) < len(self.columns):
            raise InvalidInputError(f"{name}:line 1", "must name each column once", got=header.strip())
        known = {column.lower(): column for column in style.columns}
        self.columns = [known.get(column, column) for column in self.columns]
        self.left_out = 0
        self._origin: datetime | int | None = None
        self._last_ns = 0

    def row(self, number: int, line: str, *, ordered: bool = True) -> Row | None:
        """Return the request on this line, or None for a recorded failure; with `ordered`, time may not go back."""
        style = self.style
        values = self._json(number, line) if style.json else self._csv(number, line)
        at = self._time(number, values[style.time])
        prompt = self._tokens(number, style.prompt, values[style.prompt])
        output = self._tokens(
            number, style.output, values[style.output], least=0 if style.zero_output_is_failure else 1
        )
        if ordered:
            if at < self._last_ns:
                self._refuse(number, style.time, "must not be earlier than the line before (sort=True orders the file)")
            self._last_ns = at
        if output == 0:
            self.left_out += 1
            return None
        return Row(at, prompt, output, self._hash_ids(number, prompt, values) if self.hashes else ())

    def _hash_ids(self, number: int, prompt: int, values: dict[str, object]) -> tuple[int, ...]:
        """Return the ids of the prompt's blocks; the last block may be partly filled and may be left out."""
        ids, each = values.get("hash_ids"), self.style.hash_tokens
        full = prompt // each
        if not isinstance(ids, list) or not full <= len(ids) <= full + (prompt % each > 0):
            self._refuse(number, "hash_ids", f"must be a list with an integer for every {each} prompt tokens", ids)
        most = HASH_MAX // self.style.hashes_per_id
        for value in ids:
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < most:
                self._refuse(number, "hash_ids", f"must hold integers in 0..{most - 1}", value)
        return tuple(ids)

    def _csv(self, number: int, line: str) -> dict[str, object]:
        try:
            cells = fields_of(line)
        except ValueError as error:
            raise InvalidInputError(
                f"{self.name}:line {number}", f"must be one row of CSV ({error})", got=line.strip()
            ) from error
        if len(cells) != len(self.columns):
            raise InvalidInputError(
                f"{self.name}:line {number}",
                f"must have {len(self.columns)} fields, has {len(cells)}",
                got=line.strip(),
            )
        return dict(zip(self.columns, cells, strict=True))

    def _json(self, number: int, line: str) -> dict[str, object]:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"{self.name}:line {number}", f"must be one JSON object ({error})") from error
        if not isinstance(values, dict):
            raise InvalidInputError(f"{self.name}:line {number}", "must be a JSON object", got=values)
        for key in self.style.columns:
            if key not in values:
                self._refuse(number, key, "is required")
        return values

    def _tokens(self, number: int, column: str, value: object, *, least: int = 1) -> int:
        # ASCII digits only: int() would also take signs, underscores and other scripts' digits.
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 12:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= self.limits.tokens:
            self._refuse(number, column, f"must be an integer in {least}..{self.limits.tokens}", value)
        return value

    def _time(self, number: int, value: object) -> int:
        column = self.style.time
        if self.style is _AZURE:
            return self._clock(number, column, str(value))
        ns = self.style.time_ns
        unit = "milliseconds" if ns == _NS_PER_MS else "seconds"
        most = _MAX_TIME_S * _NS_PER_S // ns
        bound = f"must be a number of {unit} in 0..{most}"
        if isinstance(value, str):
            try:
                value = float(value.replace("_", "?"))
            except ValueError:
                self._refuse(number, column, bound, value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            self._refuse(number, column, bound, value)
        absolute = round(value * ns)
        if self._origin is None:
            self._origin = absolute
        assert isinstance(self._origin, int)
        return absolute - self._origin

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
        raise InvalidInputError(f"{self.name}:line {number}:{column}", bound, got=got)
