"""Files of benchmark tools: what they replay, and what they measured.

- GuideLLM, github.com/vllm-project/guidellm, ``docs/guides/trace_file_formats.md``: Mooncake's keys **in seconds**,
  and nothing that tells them apart, so this format must be named.
- AIPerf, github.com/ai-dynamo/aiperf, ``docs/benchmark-modes/trace-replay.md``: Mooncake's keys (ms) with
  ``session_id``; later turns may carry a ``delay`` (ms) after the turn before in place of a ``timestamp``. Turns are
  read as if service took no time: each arrives when the one before arrived, plus its delay. ``input_length`` is taken as
  the whole prompt.
- AIPerf's records, ``profile_export.jsonl``, ``docs/tutorials/working-with-profile-exports.md``: a record with an
  ``error`` is a failure.
- vLLM, ``vllm bench serve --save-result --save-detailed``, ``vllm/benchmarks/serve.py``: one JSON object of lists, one
  entry per request; ``start_times`` are seconds of a clock with no origin. A request with an error is a failure.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmserve_sim.workload.formats.style import FAILED, Format, Row, RowError, State, number_in, object_in

__all__ = ["AIPERF", "AIPERF_RECORDS", "GUIDELLM", "VLLM"]

_LENGTHS = ("timestamp", "input_length", "output_length")
_LENS = ("input_lens", "output_lens")


def _turns(row: Row, state: State) -> Iterator[Row]:
    session = row.get("session_id")
    if not isinstance(session, str | int):
        raise RowError("session_id", "must be text or an integer", session)
    key = str(session)
    if row.get("timestamp") is not None:
        at = number_in(row, "timestamp", "milliseconds")
    elif key in state:
        at = state[key] + number_in(row, "delay", "milliseconds")
    else:
        raise RowError("timestamp", "is required in the first turn of a session")
    yield row | {"timestamp": at}
    state[key] = at


def _record(row: Row, _: State) -> Iterator[Row]:
    at = number_in(object_in(row, "metadata"), "request_start_ns", "nanoseconds")
    if row.get("error") is not None:
        yield {"request_start_ns": at, FAILED: True}
        return
    metrics = object_in(row, "metrics")
    lengths = {key: object_in(metrics, key).get("value") for key in AIPERF_RECORDS.columns[1:]}
    yield {"request_start_ns": at, **lengths}


def _run(row: Row, _: State) -> Iterator[Row]:
    missing = [key for key in _LENS if not isinstance(row.get(key), list)]
    if missing:
        raise RowError(missing[0], "is required: run vllm bench serve with --save-result and --save-detailed")
    if not isinstance(row.get("start_times"), list):
        raise RowError("start_times", "is required: older versions of vLLM do not save them")
    lists: dict[str, list[object]] = {key: row[key] for key in (*_LENS, "start_times")}  # type: ignore[misc]
    count = len(lists["input_lens"])
    for key, values in lists.items():
        if len(values) != count:
            raise RowError(key, f"must have {count} entries like input_lens, has {len(values)}")
    errors = row.get("errors")
    failed = [bool(error) for error in errors] if isinstance(errors, list) and len(errors) == count else [False] * count
    for index in range(count):
        request: Row = {key: values[index] for key, values in lists.items()}
        if failed[index] or request["output_lens"] == 0:
            request[FAILED] = True
        yield request


GUIDELLM = Format("guidellm", "GuideLLM", *_LENGTHS, "s", ())
AIPERF = Format(
    "aiperf",
    "AIPerf sessions",
    *_LENGTHS,
    "ms",
    (("session_id", "timestamp", "input_length"), ("session_id", "delay", "input_length")),
    unordered=True,
    unfold=_turns,
)
AIPERF_RECORDS = Format(
    "aiperf-records",
    "AIPerf's `profile_export.jsonl`",
    "request_start_ns",
    "input_sequence_length",
    "output_sequence_length",
    "ns",
    (("metadata", "metrics"), ("metadata", "error")),
    unordered=True,
    unfold=_record,
)
VLLM = Format(
    "vllm",
    "`vllm bench serve --save-result --save-detailed`",
    "start_times",
    "input_lens",
    "output_lens",
    "s",
    (("input_lens", "output_lens"), ("total_input_tokens", "request_throughput")),
    unordered=True,
    unfold=_run,
)
