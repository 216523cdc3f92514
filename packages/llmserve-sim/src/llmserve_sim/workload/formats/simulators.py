"""Traces of simulators: our own two, vidur's and LLMServingSim's.

- vidur, github.com/microsoft/vidur, ``data/processed_traces/splitwise_*.csv``: seconds, tokens. Its other traces hold
  lengths without times.
- LLMServingSim, github.com/casys-kaist/LLMServingSim, documentation of its JSONL format: nanoseconds, tokens. A line
  with ``sub_requests`` is a session: each call follows the end of the call before by ``tool_duration_ns``.
- ``results`` is what `llmserve-sim run --requests` writes (`llmserve_sim.replay.files`).

A session's later calls depend on when earlier ones end, which a trace does not say. They are read as if service took no
time: each arrives when the call before arrived, plus the time between them.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmserve_sim.workload.formats.style import Format, Row, RowError, State, number_in

__all__ = ["LLMSERVINGSIM", "PLAIN", "RESULTS", "VIDUR"]


def _calls(row: Row, _: State) -> Iterator[Row]:
    if "sub_requests" not in row:
        yield row
        return
    calls = row["sub_requests"]
    if not isinstance(calls, list) or not calls:
        raise RowError("sub_requests", "must be a list of at least one call", calls)
    at = number_in(row, "arrival_time_ns", "nanoseconds")
    for call in calls:
        if not isinstance(call, dict):
            raise RowError("sub_requests", "must be a list of JSON objects", call)
        yield call | {"arrival_time_ns": at}
        at += number_in(call, "tool_duration_ns", "nanoseconds")


PLAIN = Format("plain", "your own", "t_s", "input", "output", "s", (("t_s", "input", "output"),))
RESULTS = Format(
    "results",
    "what `llmserve-sim run` writes with `--requests`",
    "arrival_s",
    "prompt_tokens",
    "output_tokens",
    "s",
    (("arrival_s", "prompt_tokens", "output_tokens"),),
)
VIDUR = Format(
    "vidur",
    "vidur",
    "arrived_at",
    "num_prefill_tokens",
    "num_decode_tokens",
    "s",
    (("arrived_at", "num_prefill_tokens", "num_decode_tokens"),),
)
LLMSERVINGSIM = Format(
    "llmservingsim",
    "LLMServingSim",
    "arrival_time_ns",
    "input_toks",
    "output_toks",
    "ns",
    (("arrival_time_ns", "input_toks", "output_toks"), ("arrival_time_ns", "sub_requests")),
    unordered=True,
    unfold=_calls,
)
