"""A damaged or unusual trace file is read for what it says, or refused by line and column with what to do."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.workload.traces import read_trace

Write = Callable[..., Path]

PLAIN = "t_s,input,output\n0.5,100,10\n1.0,200,20\n3.25,300,30\n"
BURSTGPT = "Timestamp,Model,Request tokens,Response tokens\n5,GPT-4,100,10\n6,GPT-4,200,20\n8,GPT-4,300,30\n"
THREE_KEYS = (
    '{"timestamp": 0, "input_length": 100, "output_length": 10}\n'
    '{"timestamp": 2000, "input_length": 200, "output_length": 20}\n'
)
MOONCAKE = THREE_KEYS.replace("}", ', "hash_ids": []}')
SERVEGEN = "request_id,timestamp,input_tokens,output_tokens\n0,0.0,100,10\n1,2.0,200,20\n"
SESSION = '{"session_id": "a", "timestamp": 0, "input_length": 10, "output_length": 1}\n'
RUN = {"input_lens": [100, 200], "output_lens": [10, 20], "start_times": [5.0, 7.0], "errors": ["", ""]}
CALLS = '{"session_id": "s", "arrival_time_ns": 5, "sub_requests": [%s]}\n'
RECORD = (
    '{"metadata": {"request_start_ns": 5}, "metrics": {"input_sequence_length": {"value": 1},'
    ' "output_sequence_length": {"value": 2}}, "error": null}\n'
)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str | bytes | dict[str, Any]) -> Path:
        path = tmp_path / "t"
        if isinstance(content, dict):
            content = json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("content", "field", "advice"),
    [
        # encodings
        (PLAIN.encode("utf-16"), "t:line 1", "iconv -f UTF-16 -t UTF-8"),
        (PLAIN.encode("utf-16-le"), "t:line 1", "iconv -f UTF-16 -t UTF-8"),
        (PLAIN.encode("utf-16-be"), "t:line 1", "iconv -f UTF-16 -t UTF-8"),
        (PLAIN.encode() + "é,1,1\n".encode("latin-1"), "t:line 5", "must be UTF-8 text"),
        (b"PK\x03\x04" + bytes(30), "t", "unpack it, or export it as CSV"),
        (b"BZh9" + bytes(30), "t", "bunzip2"),
        (b"\xfd7zXZ\x00" + bytes(30), "t", "unxz"),
        (
            gzip.compress(PLAIN.encode() + b"9,1,1\n" * 9000, mtime=0)[:-30],
            "t:line",
            "must be whole: the compressed file is damaged",
        ),
        (b"\x1f\x8bnothing", "t:line 1", "must be whole: the compressed file is damaged"),
        (
            gzip.compress(PLAIN.replace("200", "two").encode(), mtime=0),
            "t:line 3:input",
            "must be an integer in 1..1048576",
        ),
        # headers
        (PLAIN.removeprefix("t_s,input,output\n"), "t:line 1", "or name time_column, prompt_column"),
        ("a;b;c\n1;2;3\n", "t:line 1", "must be the header of a known format"),
        (PLAIN.replace("input,", ""), "t:line 1", "must be the header of a known format"),
        ("num_prefill_tokens,num_decode_tokens\n1,2\n", "t:line 1", "vidur: arrived_at"),
        # units
        (THREE_KEYS, "t:line 1:timestamp", "add time_unit, ms as in Mooncake, or s as in Bailian and GuideLLM"),
        (SERVEGEN, "t:line 1:timestamp", "add time_unit, s as in ServeGen"),
        (MOONCAKE.replace("2000", "2.5"), "t:line 2:timestamp", "name the unit with time_unit"),
        (PLAIN.replace("1.0,", "2024-05-10 00:00:01,"), "t:line 3:t_s", "this is a date: time_unit date"),
        (PLAIN.replace(",", ";").replace("1.0", "1,0"), "t:line 3:t_s", "with a decimal point"),
        (PLAIN.replace(",", ";").replace(";200", ";1,200"), "t:line 3:input", "must be an integer"),
        # JSON
        ("[" + THREE_KEYS.replace("}\n{", "},\n{").strip() + "]", "t:line 1", "jq -c '.[]'"),
        (json.dumps({"a": 1}, indent=1), "t:line 1", "must be the header of a known format"),
        (MOONCAKE.replace("{", "{\n"), "t:line 1", "must be one JSON object a line"),
        (MOONCAKE + '{"timestamp": 3000, "input_length"', "t:line 3", "must be one JSON object"),
        # sessions and calls
        (
            SESSION + '{"session_id": "b", "delay": 1, "input_length": 1, "output_length": 1}',
            "t:line 2:timestamp",
            "first",
        ),
        (
            SESSION + '{"session_id": "a", "input_length": 1, "output_length": 1}',
            "t:line 2:delay",
            "milliseconds from 0",
        ),
        (SESSION + SESSION.replace('"a"', "null"), "t:line 2:session_id", "must be text or an integer"),
        (SESSION + '{"session_id": "a", "delay": 1, "input_length": 1}', "t:line 2:output_length", "is required"),
        (CALLS % "", "t:line 1:sub_requests", "at least one call"),
        (CALLS % "5", "t:line 1:sub_requests", "JSON objects"),
        (CALLS % '{"input_toks": 1, "output_toks": 1}', "t:line 1:tool_duration_ns", "nanoseconds from 0"),
        (CALLS % '{"input_toks": 1, "tool_duration_ns": 0}', "t:line 1:output_toks", "is required"),
        # what benchmarks measured
        (
            {"input_lens": [1], "request_throughput": 1, "total_input_tokens": 1},
            "t:line 1:output_lens",
            "--save-result and --save-detailed",
        ),
        ({key: RUN[key] for key in ("input_lens", "output_lens")}, "t:line 1:start_times", "older versions"),
        (RUN | {"start_times": [1.0]}, "t:line 1:start_times", "must have 2 entries"),
        (RUN | {"input_lens": [1, "x"]}, "t:line 1:input_lens", "must be an integer"),
        (json.dumps(RUN) + "\n" + json.dumps(RUN), "t:line 2", "more than one run"),
        (RECORD.replace('"value": 2', '"value": null'), "t:line 1:output_sequence_length", "must be an integer"),
        (RECORD.replace('"metrics": {', '"metrics": 5, "m": {'), "t:line 1:metrics", "must be a JSON object"),
        (RECORD.replace('"request_start_ns": 5', ""), "t:line 1:request_start_ns", "nanoseconds from 0"),
        # whole files
        (
            BURSTGPT.replace("0\n", "\n").replace(",1\n", ",0\n").replace(",2\n", ",0\n").replace(",3\n", ",0\n"),
            "t",
            "all 3 are recorded failures",
        ),
    ],
)
def test_damage_is_named_with_what_to_do(
    content: str | bytes | dict[str, Any], field: str, advice: str, write: Write
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        read_trace(write(content))
    assert caught.value.field.startswith(field)
    assert advice in caught.value.bound


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (THREE_KEYS, {"time_unit": "ms"}),
        (THREE_KEYS, {"format": "mooncake"}),
        (THREE_KEYS.replace("2000", "2"), {"time_unit": "s"}),
        (THREE_KEYS.replace("2000", "2"), {"format": "guidellm"}),
        (THREE_KEYS.replace("2000", "2"), {"format": "bailian"}),
        (MOONCAKE.replace("2000", "2.0"), {"time_unit": "s"}),
        (MOONCAKE.replace("2000", "2.0"), {"format": "guidellm"}),
        (MOONCAKE.replace("200,", "200.0,").replace("2000", "2000.0"), {}),
        (SERVEGEN, {"format": "servegen"}),
        (SERVEGEN.replace("2.0", "2000"), {"time_unit": "ms"}),
        (SERVEGEN.replace(",200,", ",200.0,"), {"time_unit": "s"}),
        (
            "when,in,out\n2024-05-10T23:59:59Z,100,10\n2024-05-11T00:00:01Z,200,20\n",
            {"time_column": "when", "prompt_column": "in", "output_column": "out", "time_unit": "date"},
        ),
        (
            '{"ts": 1759813207532900363, "in": 100, "out": 10}\n{"ts": 1759813209532900363, "in": 200, "out": 20}\n',
            {"time_column": "ts", "prompt_column": "in", "output_column": "out", "time_unit": "ns"},
        ),
        (PLAIN.replace("1.0", "2.5"), {"limit": 2}),
        (
            PLAIN.replace("t_s", "at").replace("1.0", "2.5"),
            {"time_column": "AT", "prompt_column": "input", "output_column": "output", "time_unit": "s", "limit": 2},
        ),
        (
            PLAIN.replace("output", "made").replace("1.0", "2.5"),
            {
                "time_column": "t_s",
                "prompt_column": "input",
                "output_column": "made",
                "format": "plain",
                "time_unit": "s",
                "limit": 2,
            },
        ),
        ("t_s,cached,input,output\n0,9,100,10\n2,9,200,20\n", {"prompt_column": "input"}),
        (
            THREE_KEYS.replace("timestamp", "at"),
            {"time_column": "At", "prompt_column": "INPUT_length", "output_column": "output_Length", "time_unit": "ms"},
        ),
    ],
)
def test_what_the_columns_do_not_say_can_be_named(content: str, options: dict[str, Any], write: Write) -> None:
    trace = read_trace(write(content), **options)
    assert trace.arrival_ps.tolist() == [0, 2 * 10**12]
    assert trace.prompt.tolist() == [100, 200]
    assert trace.output.tolist() == [10, 20]


@pytest.mark.parametrize(
    ("content", "unit", "name"),
    [
        (THREE_KEYS, "ms", "mooncake"),
        (THREE_KEYS, "s", "guidellm"),
        (THREE_KEYS, "us", "columns"),
        (SERVEGEN, "s", "servegen"),
        (SERVEGEN, "ms", "columns"),
    ],
)
def test_the_unit_decides_between_formats_with_the_same_columns(
    content: str, unit: str, name: str, write: Write
) -> None:
    assert read_trace(write(content), time_unit=unit).format == name


@pytest.mark.parametrize(
    ("content", "options", "field", "advice"),
    [
        (PLAIN, {"time_unit": "minutes"}, "time_unit", "one of s, ms, us, ns, date"),
        (PLAIN, {"format": "bailian"}, "t:line 1", "looks like plain"),
        (MOONCAKE.replace("}", ', "chat_id": 1, "turn": 1}'), {"format": "mooncake"}, "t:line 1", "looks like bailian"),
        (PLAIN, {"time_column": "when"}, "time_column", "must be a column of t:line 1: t_s, input, output"),
        (PLAIN, {"time_column": "input"}, "time_unit", "is needed with time_column"),
        ("a,b,c\n1,2,3\n", {"time_column": "a", "time_unit": "s"}, "t:line 1", "must be the header"),
        (
            "session_id,delay,input_length,made\na,1,2,3\n",
            {"time_column": "delay", "time_unit": "ms"},
            "output_column",
            "must be a column of t:line 1: session_id, delay, input_length, made",
        ),
        (PLAIN, {"time_column": ""}, "time_column", "must be the name of a column"),
        (PLAIN, {"prompt_column": 1}, "prompt_column", "must be the name of a column"),
        (PLAIN, {"time_unit": ["s"]}, "time_unit", "one of s, ms, us, ns, date"),
    ],
)
def test_naming_what_is_not_there_is_refused(
    content: str, options: dict[str, Any], field: str, advice: str, write: Write
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        read_trace(write(content), **options)
    assert caught.value.field == field
    assert advice in caught.value.bound


def test_bad_rows_are_skipped_and_counted_when_asked(write: Write) -> None:
    rows = PLAIN.replace("1.0,200,20", "1.0,200\nnan,200,20\n\n1.0,,20\n1.0,200,20")
    trace = read_trace(write(rows), skip_bad=True)
    assert trace.prompt.tolist() == [100, 200, 300]
    assert trace.skipped == 4
    assert trace.account == "t (plain): 3 requests in 2.8 s, 1.09 requests/s, 4 bad rows skipped"
    assert read_trace(write(MOONCAKE + '{"broken\n' + "[]\n"), skip_bad=True).skipped == 2
    with pytest.raises(InvalidInputError, match="at least one request; 3 rows were skipped"):
        read_trace(write("t_s,input,output\nx\ny\nz\n"), skip_bad=True)


def test_time_does_not_count_from_a_row_that_is_skipped(write: Write) -> None:
    rows = PLAIN.replace("0.5,100,10", "0,x,10\n0.5,100,10")
    trace = read_trace(write(rows), skip_bad=True)
    assert trace.arrival_ps.tolist() == [0, 5 * 10**11, 275 * 10**10]
    assert trace.skipped == 1


def test_time_that_goes_back_is_never_skipped(write: Write) -> None:
    with pytest.raises(InvalidInputError, match="sort=True orders the file"):
        read_trace(write(PLAIN.replace("1.0,", "0.1,")), skip_bad=True)
