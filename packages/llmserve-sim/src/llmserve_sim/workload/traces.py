"""Reads recorded request traces: arrival time, prompt length and output length of each request.

`formats/` knows the formats; docs/tasks.md lists them. A file is CSV (``,``, ``;`` or tab), JSON lines or parquet, plain
or packed (gzip, Zstandard), or comes through standard input (``-``). Other columns and keys are ignored; columns of CSV
may be quoted and in any case.

Time counts from the file's first request and must not decrease: such a file is usually broken, or two files in one.
`sort=True` accepts it and orders the rows. A row that cannot be read is an error that names the line and the column, or
is left out and counted with `skip_bad=True`. Requests that the recording says had failed are left out and counted.
Files are read as a stream, and only up to the end of the cut. With `prefixes=True` a trace says which prompts begin
alike (`hash_ids.py`). `replay.py` makes an episode of a trace.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from llmserve_sim.bounds import Between, Checked, Column
from llmserve_sim.engine.prefixes import Prefixes
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.workload.formats.benchmarks import VLLM
from llmserve_sim.workload.formats.detection import FORMATS, Naming, detect
from llmserve_sim.workload.formats.source import STANDARD_INPUT, TextLines, open_trace, parquet_columns, parquet_rows
from llmserve_sim.workload.hash_ids import HASH_IDS, prefixes_from
from llmserve_sim.workload.random import require_integer
from llmserve_sim.workload.rows import DELIMITERS, OrderError, Request, RowParser, TraceLimits, header_of, numbered

if TYPE_CHECKING:
    from llmserve_sim.workload.formats.style import Format, Row

    Rows = Iterator[tuple[int, str]] | Iterator[tuple[int, Row]]

Ints = NDArray[np.int64]

__all__ = ["Trace", "TraceLimits", "read_trace"]


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
    left_out: Annotated[int, Between(0, 1 << 62, "requests")] = field(default=0)
    """Requests inside the cut that the recording says had failed; they are left out."""
    skipped: Annotated[int, Between(0, 1 << 62, "rows")] = field(default=0)
    """Rows that could not be read and were skipped (`skip_bad`)."""
    format: str | None = field(default=None)
    """The file's format; None: it comes from no file."""
    prefixes: Prefixes | None = field(default=None)
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

    @property
    def account(self) -> str:
        """What was read, in one line: count, span, mean rate, and what was left out."""
        seconds = self.duration_s
        words = [f"{_count(len(self), 'request')} in {seconds:,.1f} s"]
        if len(self) > 1 and self.duration_ps > 1:
            words.append(f"{len(self) / seconds:,.3g} requests/s")
        if self.left_out:
            words.append(f"{_count(self.left_out, 'recorded failure')} left out")
        if self.skipped:
            words.append(f"{_count(self.skipped, 'bad row')} skipped")
        return f"{self.name} ({self.format}): {', '.join(words)}" if self.format else f"{self.name}: {', '.join(words)}"

    def scaled(self, rate_scale: float) -> Trace:
        """Return the same requests at `rate_scale` times the rate: time is divided by it. Range 0.001..1000."""
        _number("rate_scale", rate_scale, 1e-3, 1e3)
        return replace(
            self,
            arrival_ps=np.floor(self.arrival_ps / rate_scale).astype(np.int64),
            duration_ps=max(int(self.duration_ps / rate_scale), 1),
        )


def read_trace(
    path: str | Path,
    *,
    format: str = "auto",  # noqa: A002 - the word the command line uses
    start_s: float = 0.0,
    duration_s: float | None = None,
    limit: int | None = None,
    rate_scale: float = 1.0,
    sort: bool = False,
    skip_bad: bool = False,
    prefixes: bool = False,
    time_unit: str | None = None,
    time_column: str | None = None,
    prompt_column: str | None = None,
    output_column: str | None = None,
    limits: TraceLimits | None = None,
) -> Trace:
    """Read a trace file, cut it to `duration_s` from `start_s` and to `limit` requests, then scale its rate.

    Args:
        path: the file; ``-``: standard input.
        format: a name in `formats.detection.FORMATS`; "auto": what the columns say.
        start_s: where the cut begins; seconds of the recording, before scaling, like `duration_s`.
        duration_s: its length; None: to the file's end.
        limit: most requests; None: any number.
        rate_scale: see `Trace.scaled`.
        sort: the file's rows are not in order of arrival.
        skip_bad: leave out and count rows that cannot be read.
        prefixes: read the ``hash_ids`` of the prompts' blocks too; for Mooncake's and Bailian's traces.
        time_unit: unit of the times: "s", "ms", "us", "ns" or "date"; None: that of the format.
        time_column: the column of the times, in place of the format's.
        prompt_column: likewise.
        output_column: likewise.
        limits: what is accepted.

    Raises:
        InvalidInputError: with a field like ``trace.csv:line 17:input`` (or the argument's name) and a bound that says
            what is accepted.
        MissingExtraError: the file's kind needs the extra `files`.
    """
    limits = limits or TraceLimits()
    naming = Naming(format, time_column, prompt_column, output_column, time_unit)
    _number("start_s", start_s, 0.0, 1e9)
    _number("rate_scale", rate_scale, 1e-3, 1e3)
    if duration_s is not None:
        _number("duration_s", duration_s, 1e-3, 1e9)
    if limit is not None:
        require_integer("limit", limit, 1, limits.requests)
    path = Path(path)
    name = "standard input" if path == STANDARD_INPUT else path.name
    with open_trace(path, name) as file:
        parser, rows = _opened(file, name, naming, limits, sort=sort, hashes=prefixes)
        cut = _Cut(name, start_s, duration_s, limit, limits, sort=not parser.ordered)
        if prefixes and parser.style.hash_tokens == 0:
            named = ", ".join(style.name for style in FORMATS.values() if style.hash_tokens)
            raise InvalidInputError("prefixes", f"must be false for {parser.style.name}: only {named} have hashes")
        cut.read(parser, rows, skip_bad=skip_bad)
    trace = cut.trace(parser.style)
    return trace.scaled(rate_scale) if rate_scale != 1.0 else trace


def _opened(
    file: Any, name: str, naming: Naming, limits: TraceLimits, *, sort: bool, hashes: bool
) -> tuple[RowParser, Rows]:
    """Find the format of an open file; return its parser and its rows."""
    where = f"{name}:line 1"
    if not hasattr(file, "readline"):
        columns = parquet_columns(file)
        style = detect(name, columns, naming, shown=columns)
        parser = RowParser(name, style, limits, unit="row", ordered=not (sort or style.unordered), hashes=hashes)
        named = {column.lower(): column for mark in (style.columns, *style.marks) for column in mark}
        if style.unfold is not None:
            named |= {column: column for column in ("timestamp", "delay", "sub_requests", "error")}
        if hashes:
            named[HASH_IDS] = HASH_IDS
        wanted = {column: named[column.lower()] for column in columns if column.lower() in named}
        return parser, parquet_rows(file, wanted)
    lines = TextLines(file, name, limits)
    rows = iter(lines)
    number, first = next(rows, (1, ""))
    start = first.lstrip()
    if not start:
        raise InvalidInputError(where, "must be a header or a JSON object; the file begins empty")
    if start.startswith("["):
        raise InvalidInputError(where, "must be one JSON object a line, not a list: convert it with jq -c '.[]'")
    if start.startswith("{"):
        values = _json_object(first)
        if values is None:
            style, document = _document(lines.document(first), where, naming)
            return RowParser(name, style, limits, ordered=False), iter([(number, document)])
        style = detect(where, list(values), naming, shown=first.strip())
        if style.name == VLLM.name:
            rows = _only(rows, name)
        parser = RowParser(name, style, limits, ordered=not (sort or style.unordered), hashes=hashes)
        return parser, numbered(rows, (number, first))
    style, delimiter = _of_header(where, first, naming)
    header = header_of(first, delimiter)
    ordered = not (sort or style.unordered)
    return RowParser(name, style, limits, header=header, delimiter=delimiter, ordered=ordered, hashes=hashes), rows


def _of_header(where: str, first: str, naming: Naming) -> tuple[Format, str]:
    """Return the format that a header names, and what separates its columns."""
    refusal: InvalidInputError | None = None
    for delimiter in DELIMITERS:
        try:
            columns = header_of(first, delimiter)
            return detect(where, columns, naming, shown=first.strip()), delimiter
        except InvalidInputError as error:
            # The error to show is that of the delimiter which the line has.
            refusal = error if refusal is None or len(columns) > 1 else refusal
        except ValueError:
            refusal = refusal or InvalidInputError(where, "must be the header of a known format", got=first.strip())
    assert refusal is not None
    raise refusal


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _document(text: str, where: str, naming: Naming) -> tuple[Format, Row]:
    """Return the format and the object of a file that is one JSON object over several lines."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(where, f"must be one JSON object a line ({error})") from error
    style = detect(where, list(values), naming)
    if style.name != VLLM.name:
        raise InvalidInputError(where, "must be one JSON object a line: convert it with jq -c")
    return style, values


def _only(rows: Iterator[tuple[int, str]], name: str) -> Iterator[tuple[int, str]]:
    """Yield the rest of a file that may hold one result only."""
    for number, line in rows:
        if line.strip():
            raise InvalidInputError(f"{name}:line {number}", "must be the end: this file holds more than one run")
        yield number, line


class _Cut:
    """Collects the requests of one file that lie inside the cut."""

    def __init__(
        self, name: str, start_s: float, duration_s: float | None, limit: int | None, limits: TraceLimits, *, sort: bool
    ) -> None:
        self.name, self.limits, self.sort = name, limits, sort
        self.start_ns = round(start_s * 1e9)
        self.stop_ns = None if duration_s is None else self.start_ns + round(duration_s * 1e9)
        self.limit = limit
        self.kept = (array("q"), array("q"), array("q"))
        self.hash_ids: list[tuple[int, ...]] = []
        self.count = 0
        self.rows = 0
        self.skipped = 0
        self.earliest: int | None = None
        self.limited = False

    def read(self, parser: RowParser, rows: Rows, *, skip_bad: bool) -> None:
        """Take the rows of a file up to the end of the cut."""
        blank, blanks = 0, 0
        for number, row in rows:
            if isinstance(row, str) and not row.strip():
                blank, blanks = blank or number, blanks + 1
                continue
            if blank and not skip_bad:
                raise InvalidInputError(f"{self.name}:line {blank}", "must be a request; only the end may be blank")
            self.skipped, blanks = self.skipped + blanks, 0
            try:
                requests = parser.requests(number, row)
            except OrderError:
                raise
            except InvalidInputError:
                if not skip_bad:
                    raise
                self.skipped += 1
                continue
            for request in requests:
                if not self._take(request, hashed=parser.hashes):
                    return

    def _take(self, request: Request, *, hashed: bool) -> bool:
        """Take one request; return False once the cut is complete."""
        at = request.at_ns
        self.rows += 1
        if self.sort:
            if self.earliest is None or at < self.earliest:
                self.earliest = at
            # Times count from the earliest row, which may come yet: only what is too late already is known to be out.
            if self.stop_ns is not None and at - self.earliest >= self.stop_ns:
                return True
        else:
            if self.stop_ns is not None and at >= self.stop_ns:
                return False
            if at < self.start_ns:
                return True
        for values, value in zip(self.kept, request[:3], strict=True):
            values.append(value)
        if hashed:
            self.hash_ids.append(request.hash_ids)
        self.count += request.output > 0
        if len(self.kept[0]) > self.limits.requests:
            raise InvalidInputError(
                self.name, f"must hold at most {self.limits.requests} requests: cut it with duration_s or limit"
            )
        self.limited = self.limit is not None and not self.sort and self.count >= self.limit
        return not self.limited

    def trace(self, style: Format) -> Trace:
        """Return what was taken."""
        at, prompt, output = (np.array(values, dtype=np.int64) for values in self.kept)
        row = np.arange(len(at))
        if self.sort and self.earliest is not None:
            # A stable sort by time alone, and times count from the earliest row, not from the first line's.
            order = np.argsort(at, kind="stable")
            at, prompt, output, row = at[order] - self.earliest, prompt[order], output[order], row[order]
            inside = (at >= self.start_ns) & ((at < self.stop_ns) if self.stop_ns is not None else True)
            at, prompt, output, row = at[inside], prompt[inside], output[inside], row[inside]
            if self.limit is not None and (output > 0).sum() > self.limit:
                self.limited = True
                last = int(np.flatnonzero(output > 0)[self.limit - 1]) + 1
                at, prompt, output, row = at[:last], prompt[:last], output[:last], row[:last]
        served = output > 0
        failures = int((~served).sum())
        at, prompt, output, row = at[served] - self.start_ns, prompt[served], output[served], row[served]
        if not len(at):
            what = "a request inside the cut" if self.rows else "at least one request"
            raise InvalidInputError(self.name, f"must hold {what}{self._why(failures)}")
        whole = self.stop_ns is None or self.limited
        duration_ns = int(at[-1]) if whole or self.stop_ns is None else self.stop_ns - self.start_ns
        if duration_ns > self.limits.duration_s * 10**9:
            raise InvalidInputError(
                self.name, f"must span at most {self.limits.duration_s} s: cut it with start_s and duration_s"
            )
        hash_ids = [self.hash_ids[at] for at in row.tolist()] if self.hash_ids else []
        prefixes = prefixes_from(hash_ids, prompt, style.hash_tokens) if hash_ids else None
        return Trace(
            name=self.name,
            arrival_ps=at * 1000,
            prompt=prompt,
            output=output,
            duration_ps=duration_ns * 1000 + (1 if whole else 0),
            left_out=failures,
            skipped=self.skipped,
            format=style.name,
            prefixes=prefixes,
        )

    def _why(self, failures: int) -> str:
        if self.skipped:
            return f"; {self.skipped} rows were skipped"
        return f"; all {failures} are recorded failures" if failures else ""


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or not low <= value <= high:
        raise InvalidInputError(name, f"must be a number in {low:g}..{high:g}", got=value)
