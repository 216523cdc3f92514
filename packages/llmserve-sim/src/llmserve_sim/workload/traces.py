"""Reads recorded request traces: arrival time, prompt length and output length of each request.

| format | file | columns or keys |
|---|---|---|
| `plain` | CSV | ``t_s,input,output`` (seconds, tokens) |
| `azure` | CSV, Azure LLM inference traces 2023/2024 | ``TIMESTAMP,ContextTokens,GeneratedTokens`` (date and time) |
| `burstgpt` | CSV, BurstGPT | ``Timestamp,Model,Request tokens,Response tokens,…`` (seconds) |
| `mooncake` | JSON lines, Mooncake | ``timestamp`` (ms), ``input_length``, ``output_length``, ``hash_ids`` |
| `bailian` | JSON lines, Qwen Bailian | ``chat_id``, ``timestamp`` (s), ``input_length``, ``output_length``, ``hash_ids`` |

With `prefixes=True` the ``hash_ids`` say which prompts begin alike: each id stands for a block of the prompt (512
tokens in Mooncake, 16 in Bailian) and all before it. They are read as blocks of 16 tokens. A partly filled last block
of a file has an id of its own, so the next turn of a conversation seems to share up to one such block less than it does.

Other columns and keys are ignored; columns may be quoted and in any case. Time counts from the
file's first request and must not decrease: such a file is usually broken, or two files in one. `sort=True` accepts it
and orders the rows. A row that cannot be parsed is an error that names the line; BurstGPT's failed requests (no
response tokens) are left out and counted. Files are read as a stream, and only up to the end of the cut. `replay.py`
makes an episode of a trace.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from llmserve_sim.bounds import Between, Checked, Column
from llmserve_sim.engine.interface import BLOCK_TOKENS
from llmserve_sim.engine.prefixes import Prefixes
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.workload.random import require_integer
from llmserve_sim.workload.rows import ROW_FORMATS, Row, RowFormat, RowParser, TraceLimits, header_of

if TYPE_CHECKING:
    from collections.abc import Iterator


Ints = NDArray[np.int64]

__all__ = ["Trace", "TraceFormat", "TraceLimits", "read_trace"]

TraceFormat = Literal["auto", "plain", "azure", "burstgpt", "mooncake", "bailian"]
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, eq=False)
class Trace(Checked):
    """Recorded (or fitted) requests in order of arrival; arrays of one length, int64."""

    name: str
    arrival_ps: Annotated[Ints, Column(Between(0, 1 << 62, "ps"), sorted=True)]
    """Picoseconds since the trace's start."""
    prompt: Annotated[Ints, Column(Between(1, 1 << 20, "tokens"))]
    """Prompt tokens, at least 1."""
    output: Annotated[Ints, Column(Between(1, 1 << 20, "tokens"))]
    """Output tokens, at least 1."""
    duration_ps: Annotated[int, Between(1, 1 << 62, "ps")]
    """Length of the trace: what was cut out of it, or one picosecond past the last arrival."""
    left_out: Annotated[int, Between(0, 1 << 62, "rows")] = field(default=0)
    """Rows that record a failed request (BurstGPT) and were left out."""
    prefixes: Prefixes | None = None
    """Block hashes of the prompts, if they were asked for."""

    def __len__(self) -> int:
        return len(self.arrival_ps)

    def _relations(self) -> None:
        for name in ("prompt", "output"):
            if len(getattr(self, name)) != len(self):
                self._refuse(name, f"must be as long as arrival_ps, which has {len(self)} entries")

    @property
    def duration_s(self) -> float:
        """Length of the trace, seconds."""
        return self.duration_ps / 1e12

    def scaled(self, rate_scale: float) -> Trace:
        """Return the same requests at `rate_scale` times the rate: time is divided by it. Range 0.001..1000."""
        _number("rate_scale", rate_scale, 1e-3, 1e3)
        return replace(
            self,
            arrival_ps=np.floor(self.arrival_ps / rate_scale).astype(np.int64),
            duration_ps=max(int(self.duration_ps / rate_scale), 1),
        )


def read_trace(  # noqa: PLR0913 - each is an option of the command line
    path: str | Path,
    *,
    format: TraceFormat = "auto",  # noqa: A002 - the word the command line uses
    start_s: float = 0.0,
    duration_s: float | None = None,
    limit: int | None = None,
    rate_scale: float = 1.0,
    sort: bool = False,
    prefixes: bool = False,
    limits: TraceLimits | None = None,
) -> Trace:
    """Read a trace file, cut it to `duration_s` from `start_s` and to `limit` requests, then scale its rate.

    Times are seconds of the recording, before scaling. `prefixes` reads the block hashes too. Raises `InvalidInputError` with a field like
    ``trace.csv:line 17:input`` (or the argument's name) and a bound that says what is accepted.
    """
    limits = limits or TraceLimits()
    if format not in get_args(TraceFormat):
        raise InvalidInputError("format", f"must be one of {', '.join(get_args(TraceFormat))}", got=format)
    _number("start_s", start_s, 0.0, 1e9)
    _number("rate_scale", rate_scale, 1e-3, 1e3)
    if duration_s is not None:
        _number("duration_s", duration_s, 1e-3, 1e9)
    if limit is not None:
        require_integer("limit", limit, 1, limits.requests)
    path = Path(path)
    try:
        with path.open("rb") as file:
            rows = _Cut(path.name, start_s, duration_s, limit, limits, sort=sort, hashes=prefixes)
            parser = rows.read(_lines(file, path.name, limits), format)
    except OSError as error:
        raise InvalidInputError(str(path), f"must be a readable file ({error.strerror})") from error
    return rows.trace(parser).scaled(rate_scale) if rate_scale != 1.0 else rows.trace(parser)


class _Cut:
    """Collects the requests of one file that lie inside the cut."""

    def __init__(
        self,
        name: str,
        start_s: float,
        duration_s: float | None,
        limit: int | None,
        limits: TraceLimits,
        *,
        sort: bool,
        hashes: bool,
    ) -> None:
        self.name, self.limits, self.sort, self.hashes = name, limits, sort, hashes
        self.start_ns = round(start_s * 1e9)
        self.stop_ns = None if duration_s is None else self.start_ns + round(duration_s * 1e9)
        self.limit = limit
        self.kept: list[Row] = []
        self.rows = 0
        self.limited = False

    def read(self, lines: Iterator[tuple[int, str]], wanted: TraceFormat) -> RowParser:
        number, first = next(lines, (1, ""))
        if not first.strip():
            raise InvalidInputError(f"{self.name}:line 1", "must be a header or a JSON object; the file begins empty")
        style = _detect(self.name, first, wanted)
        if self.hashes and style.hash_tokens == 0:
            named = [f.name for f in ROW_FORMATS if f.hash_tokens]
            raise InvalidInputError("prefixes", f"must be false for {style.name}: only {', '.join(named)} have hashes")
        parser = RowParser(self.name, style, first, self.limits, hashes=self.hashes)
        if style.json:
            self._take(parser, number, first)
        blank = 0
        for number, line in lines:
            if not line.strip():
                blank = blank or number
                continue
            if blank:
                raise InvalidInputError(f"{self.name}:line {blank}", "must be a request; only the end may be blank")
            if not self._take(parser, number, line):
                break
        return parser

    def _take(self, parser: RowParser, number: int, line: str) -> bool:
        """Take one row; return False once the cut is complete."""
        row = parser.row(number, line, ordered=not self.sort)
        if row is None:
            return True
        self.rows += 1
        if not self.sort:
            if self.stop_ns is not None and row.at_ns >= self.stop_ns:
                return False
            if row.at_ns < self.start_ns:
                return True
        self.kept.append(row)
        if len(self.kept) > self.limits.requests:
            raise InvalidInputError(
                self.name, f"must hold at most {self.limits.requests} requests: cut it with duration_s or limit"
            )
        self.limited = self.limit is not None and not self.sort and len(self.kept) >= self.limit
        return not self.limited

    def trace(self, parser: RowParser) -> Trace:
        kept = self.kept
        if self.sort:
            # A stable sort by time alone, and times count from the earliest row, not from the first line's.
            kept = sorted(kept, key=lambda row: row.at_ns)
            first = kept[0].at_ns if kept else 0
            kept = [r._replace(at_ns=r.at_ns - first) for r in kept]
            kept = [r for r in kept if r.at_ns >= self.start_ns and (self.stop_ns is None or r.at_ns < self.stop_ns)]
            self.limited = self.limit is not None and len(kept) > self.limit
            kept = kept[: self.limit]
        if not kept:
            what = "a request inside the cut" if self.rows else "at least one request"
            raise InvalidInputError(self.name, f"must hold {what}")
        array = np.array([row[:3] for row in kept], dtype=np.int64)
        at = array[:, 0] - self.start_ns
        whole = self.stop_ns is None or self.limited
        duration_ns = int(at[-1]) if whole or self.stop_ns is None else self.stop_ns - self.start_ns
        if duration_ns > self.limits.duration_s * 10**9:
            raise InvalidInputError(
                self.name, f"must span at most {self.limits.duration_s} s: cut it with start_s and duration_s"
            )
        return Trace(
            name=self.name,
            arrival_ps=at * 1000,
            prompt=array[:, 1].copy(),
            output=array[:, 2].copy(),
            duration_ps=duration_ns * 1000 + (1 if whole else 0),
            left_out=parser.left_out,
            prefixes=_prefixes(kept, parser.style) if self.hashes else None,
        )


def _prefixes(rows: list[Row], style: RowFormat) -> Prefixes:
    """Return the rows' hash ids as hashes of KV blocks, of which one id covers several."""
    each = style.hashes_per_id
    blocks = np.array([min(r.prompt // BLOCK_TOKENS, len(r.hash_ids) * each) for r in rows], dtype=np.int64)
    within = np.arange(each, dtype=np.int64)
    parts = [
        (np.array(r.hash_ids, dtype=np.int64)[:, None] * each + within).ravel()[:n]
        for r, n in zip(rows, blocks.tolist(), strict=True)
    ]
    return Prefixes(np.concatenate(parts), np.cumsum(blocks) - blocks, blocks)


def _detect(name: str, first: str, wanted: TraceFormat) -> RowFormat:
    try:
        header = set(header_of(first))
    except ValueError:
        header = set()
    try:
        keys = json.loads(first) if first.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        keys = {}
    if keys is None:
        found = next((f for f in ROW_FORMATS if not f.json and {c.lower() for c in f.columns} <= header), None)
    else:  # a line that is not JSON or lacks a key is named later, as any other is
        found = next((f for f in ROW_FORMATS if f.json and f.columns[0] in keys), ROW_FORMATS[-1])
    known = "; ".join(f"{f.name}: {','.join(f.columns)}" for f in ROW_FORMATS)
    if found is None:
        raise InvalidInputError(f"{name}:line 1", f"must be the header of a known format ({known})", got=first.strip())
    if wanted not in {"auto", found.name}:
        raise InvalidInputError(f"{name}:line 1", f"must be of format {wanted}, looks like {found.name} ({known})")
    return found


def _lines(file: BinaryIO, name: str, limits: TraceLimits) -> Iterator[tuple[int, str]]:
    number, size = 0, 0
    while raw := file.readline(limits.line_bytes + 1):
        number += 1
        size += len(raw)
        if len(raw) > limits.line_bytes:
            raise InvalidInputError(f"{name}:line {number}", f"must be at most {limits.line_bytes} bytes long")
        if size > limits.file_bytes:
            raise InvalidInputError(
                name, f"must be at most {limits.file_bytes} bytes up to the cut: shorten it with duration_s or limit"
            )
        try:
            text = raw.removeprefix(_BOM if number == 1 else b"").decode()
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"{name}:line {number}", f"must be UTF-8 text ({error.reason})") from error
        yield number, text


def _number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or not low <= value <= high:
        raise InvalidInputError(name, f"must be a number in {low:g}..{high:g}", got=value)
