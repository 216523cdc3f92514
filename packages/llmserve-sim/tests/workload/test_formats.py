"""The same traffic in every format and encoding that people have gives the same requests."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llmserve_sim.errors import InvalidInputError, MissingExtraError
from llmserve_sim.workload.formats.detection import FORMATS
from llmserve_sim.workload.traces import Trace, TraceLimits, read_trace

Requests = list[tuple[int, int, int]]
"""(milliseconds, prompt, output) in order of arrival."""

REQUESTS: Requests = [(0, 100, 10), (500, 200, 20), (1250, 1, 1), (1250, 4096, 512), (3_599_875, 300, 30)]
_EPOCH = datetime(2024, 5, 10, 23, 59, 59, tzinfo=UTC)


def table(*columns: str, row: Callable[[int, int, int], tuple[Any, ...]]) -> Callable[[Requests], str]:
    """Return a writer of CSV."""
    return lambda requests: "".join(
        ",".join(map(str, cells)) + "\n" for cells in (columns, *(row(*request) for request in requests))
    )


def lines(row: Callable[[int, int, int], dict[str, Any]]) -> Callable[[Requests], str]:
    """Return a writer of JSON lines."""
    return lambda requests: "".join(json.dumps(row(*request)) + "\n" for request in requests)


def seconds(ms: int) -> float:
    """Milliseconds as seconds."""
    return ms / 1000


def keys(ms: float, prompt: int, output: int, **others: Any) -> dict[str, Any]:
    """The keys that Mooncake, Bailian, GuideLLM and AIPerf share."""
    return {"timestamp": ms, "input_length": prompt, "output_length": output} | others


def vllm(requests: Requests) -> str:
    """A result of `vllm bench serve`, its requests in another order than they started."""
    rows = requests[::-1]
    return json.dumps(
        {
            "backend": "vllm",
            "total_input_tokens": sum(p for _, p, _ in rows),
            "request_throughput": 1.5,
            "input_lens": [p for _, p, _ in rows],
            "output_lens": [o for _, _, o in rows],
            "start_times": [81_234.5 + seconds(t) for t, _, _ in rows],
            "itls": [[0.01] * 3 for _ in rows],
            "errors": ["" for _ in rows],
        }
    )


def aiperf_records(requests: Requests) -> str:
    """AIPerf's records, in order of their ends."""
    return lines(
        lambda t, p, o: {
            "metadata": {"session_num": 0, "request_start_ns": 1_759_813_207_532_900_363 + t * 1_000_000},
            "metrics": {
                "input_sequence_length": {"value": p, "unit": "tokens"},
                "output_sequence_length": {"value": o, "unit": "tokens"},
            },
            "error": None,
        }
    )(requests[::-1])


WRITERS: dict[str, Callable[[Requests], str]] = {
    "plain": table("t_s", "input", "output", row=lambda t, p, o: (seconds(t), p, o)),
    "azure": table(
        "TIMESTAMP",
        "ContextTokens",
        "GeneratedTokens",
        row=lambda t, p, o: (f"{_EPOCH.replace(tzinfo=None) + timedelta(milliseconds=t):%Y-%m-%d %H:%M:%S.%f}0", p, o),
    ),
    "azure 2024": table(
        "TIMESTAMP", "ContextTokens", "GeneratedTokens", row=lambda t, p, o: (_EPOCH + timedelta(milliseconds=t), p, o)
    ),
    "azure 2025": table(
        "TIMESTAMP",
        "NumImages",
        "ContextTokens",
        "GeneratedTokens",
        row=lambda t, p, o: (_EPOCH + timedelta(milliseconds=t), 1, p, o),
    ),
    "burstgpt": table(
        "Timestamp",
        "Model",
        "Request tokens",
        "Response tokens",
        "Total tokens",
        "Log Type",
        row=lambda t, p, o: (seconds(t), "GPT-4", p, o, p + o, "API log"),
    ),
    "mooncake": lines(lambda t, p, o: keys(t, p, o, hash_ids=[1, 2])),
    "bailian": lines(
        lambda t, p, o: keys(seconds(t), p, o, chat_id=1, parent_chat_id=-1, type="text", turn=1, hash_ids=[3])
    ),
    "guidellm": lines(lambda t, p, o: keys(seconds(t), p, o)),
    "servegen": table(
        "request_id", "timestamp", "input_tokens", "output_tokens", row=lambda t, p, o: (t, seconds(t), p, o)
    ),
    "vidur": table("arrived_at", "num_prefill_tokens", "num_decode_tokens", row=lambda t, p, o: (seconds(t), p, o)),
    "llmservingsim": lines(
        lambda t, p, o: {"input_toks": p, "output_toks": o, "arrival_time_ns": t * 1_000_000, "input_tok_ids": [1]}
    ),
    "vllm": vllm,
    "aiperf": lines(lambda t, p, o: keys(t, p, o, session_id=f"{t}/{p}")),
    "aiperf-records": aiperf_records,
    "results": table(
        "id",
        "arrival_s",
        "prompt_tokens",
        "output_tokens",
        "outcome",
        row=lambda t, p, o: (t, seconds(t), p, o, "finished"),
    ),
}
"""By format (the first word), and version of it."""

NAMED = {"guidellm", "servegen"}
"""Formats that must be named: their columns do not tell them from others."""


def zstd(text: bytes) -> bytes:
    """Pack as a Zstandard stream."""
    pa = pytest.importorskip("pyarrow", reason="needs the extra files")
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(text)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def as_is(text: str) -> bytes:
    """UTF-8."""
    return text.encode()


ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "as it is": as_is,
    "gz": lambda text: gzip.compress(text.encode(), mtime=0),
    "zst": lambda text: zstd(text.encode()),
    "two gz in one": lambda text: (
        gzip.compress(text[:40].encode(), mtime=0) + gzip.compress(text[40:].encode(), mtime=0)
    ),
    "Windows": lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
    "no last line end": lambda text: text.removesuffix("\n").encode(),
}


def same(trace: Trace) -> bool:
    """Whether a trace holds the requests, to the tenth of a millisecond: some formats count seconds in floats."""
    ticks = [round(at / 1e8) for at in trace.arrival_ps.tolist()]
    found = zip(ticks, trace.prompt.tolist(), trace.output.tolist(), strict=True)
    return ticks == sorted(ticks) and sorted(found) == sorted((t * 10, p, o) for t, p, o in REQUESTS)


def named(kind: str) -> str:
    """The format to ask for."""
    style = kind.split(maxsplit=1)[0]
    return style if style in NAMED else "auto"


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", WRITERS)
def test_the_same_requests_come_from_each_format_in_each_encoding(kind: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "traffic"
    path.write_bytes(ENCODINGS[encoding](WRITERS[kind](REQUESTS)))
    trace = read_trace(path, format=named(kind))
    assert same(trace)
    assert trace.format == kind.split(maxsplit=1)[0]
    assert (trace.left_out, trace.skipped) == (0, 0)
    assert read_trace(path, format=trace.format).arrival_ps.tolist() == trace.arrival_ps.tolist()


def test_every_format_is_tried() -> None:
    assert {kind.split()[0] for kind in WRITERS} == set(FORMATS)


TABLES = [kind for kind in WRITERS if not WRITERS[kind](REQUESTS).startswith("{")]


@pytest.mark.parametrize("delimiter", [";", "\t", ","])
@pytest.mark.parametrize("kind", TABLES)
def test_tables_may_be_separated_by_semicolons_or_tabs_and_quoted(kind: str, delimiter: str, tmp_path: Path) -> None:
    path = tmp_path / "traffic.csv"
    with path.open("w", newline="") as file:
        rows = csv.reader(io.StringIO(WRITERS[kind](REQUESTS)))
        csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(rows)
    assert same(read_trace(path, format=named(kind)))


@pytest.mark.parametrize("kind", ["mooncake", "bailian", "guidellm", "aiperf", "llmservingsim"])
def test_json_lines_may_have_become_a_table(kind: str, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in WRITERS[kind](REQUESTS).splitlines()]
    path = tmp_path / "traffic.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert same(read_trace(path, format=named(kind)))


@pytest.mark.parametrize("kind", WRITERS)
def test_parquet_gives_the_same_requests(kind: str, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra files")
    import pyarrow.parquet as pq

    text = WRITERS[kind](REQUESTS)
    rows: list[dict[str, Any]]
    if text.startswith("{"):
        rows = [json.loads(line) for line in text.splitlines()]
    else:
        rows = [
            {
                name: value if name in {"TIMESTAMP", "Model", "Log Type", "outcome"} else float(value)
                for name, value in row.items()
            }
            for row in csv.DictReader(io.StringIO(text))
        ]
        if "TIMESTAMP" in rows[0]:
            rows = [row | {"TIMESTAMP": datetime.fromisoformat(row["TIMESTAMP"])} for row in rows]
    path = tmp_path / "traffic.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    assert same(read_trace(path, format=named(kind)))
    if not text.startswith("{"):
        columns = [name.upper() for name in pq.read_schema(path).names]
        pq.write_table(pq.read_table(path).rename_columns(columns), path)
        assert same(read_trace(path, format=named(kind)))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InvalidInputError, match="must be a whole parquet file"):
        read_trace(path)


@pytest.mark.parametrize("encoding", ["as it is", "gz", "zst"])
def test_a_file_may_come_through_standard_input(encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from llmserve_sim.workload.traces import read_trace; print(read_trace('-').account)"],
        input=ENCODINGS[encoding](WRITERS["azure"](REQUESTS)),
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode() == "standard input (azure): 5 requests in 3,599.9 s, 0.00139 requests/s\n"


def test_a_packed_file_needs_an_extra_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "traffic"
    for start in (b"PAR1", b"\x28\xb5\x2f\xfd"):
        path.write_bytes(start + bytes(100))
        if start != b"PAR1" and sys.version_info >= (3, 14):
            continue
        with pytest.raises(MissingExtraError, match=r"llmserve-sim\[files\]"):
            read_trace(path)


def test_one_json_object_may_be_long_and_over_several_lines(tmp_path: Path) -> None:
    run = json.loads(vllm(REQUESTS)) | {"generated_texts": ["größer " * 2000] * 5}
    path = tmp_path / "run.json"
    for text in (json.dumps(run, ensure_ascii=False), json.dumps(run, indent=2)):
        path.write_text(text, encoding="utf-8")
        for line_bytes in (*range(300, 312), 2**20):
            assert same(read_trace(path, limits=TraceLimits(line_bytes=line_bytes)))
    with pytest.raises(InvalidInputError, match="at most 1000 bytes long, as one JSON object"):
        read_trace(path, limits=TraceLimits(document_bytes=1000))


def test_sessions_follow_their_own_delays(tmp_path: Path) -> None:
    path = tmp_path / "sessions.jsonl"
    path.write_text(
        '{"session_id": "a", "timestamp": 1000, "input_length": 10, "output_length": 1}\n'
        '{"session_id": "a", "delay": 5000, "input_length": 20, "output_length": 2}\n'
        '{"session_id": "b", "timestamp": 2500, "input_length": 30, "output_length": 3}\n'
        '{"session_id": "a", "delay": 0.5, "input_length": 40, "output_length": 4}\n'
    )
    trace = read_trace(path)
    assert trace.format == "aiperf"
    assert trace.arrival_ps.tolist() == [0, 15 * 10**11, 5 * 10**12, 5_000_500_000_000]
    assert trace.prompt.tolist() == [10, 30, 20, 40]
    path.write_text('{"session_id": "a", "delay": 5000, "input_length": 20, "output_length": 2}\n')
    with pytest.raises(InvalidInputError, match=r"jsonl:line 1:timestamp: is required in the first turn of a session"):
        read_trace(path)


def test_calls_within_a_session_follow_one_another(tmp_path: Path) -> None:
    path = tmp_path / "agents.jsonl"
    path.write_text(
        '{"session_id": "s", "arrival_time_ns": 5, "sub_requests": ['
        '{"input_toks": 10, "output_toks": 1, "tool_duration_ns": 2000},'
        '{"input_toks": 20, "output_toks": 2, "tool_duration_ns": 0}]}\n'
        '{"input_toks": 30, "output_toks": 3, "arrival_time_ns": 1005}\n'
    )
    trace = read_trace(path)
    assert trace.arrival_ps.tolist() == [0, 1_000_000, 2_000_000]
    assert trace.prompt.tolist() == [10, 30, 20]


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("burstgpt", lambda text: text.replace(",20,", ",0,")),
        ("burstgpt", lambda text: text.replace(",200,20,", ",0,0,")),
        ("burstgpt", lambda text: text.replace(",200,20,", ",0,20,")),
        ("vllm", lambda text: text.replace('"errors": ["", "", "", ""', '"errors": ["", "", "", "Bad Gateway"')),
        ("vllm", lambda text: text.replace('"output_lens": [30, 512, 1, 20', '"output_lens": [30, 512, 1, 0')),
        (
            "aiperf-records",
            lambda text: text.replace('"error": null', '"error": {"code": 499}', 4).replace(
                '"error": {"code": 499}', '"error": null', 3
            ),
        ),
    ],
)
def test_recorded_failures_are_left_out_and_counted(kind: str, damage: Callable[[str], str], tmp_path: Path) -> None:
    path = tmp_path / "traffic"
    path.write_text(damage(WRITERS[kind](REQUESTS)))
    trace = read_trace(path)
    assert (len(trace), trace.left_out) == (4, 1)
    assert 200 not in trace.prompt.tolist()
    assert trace.account.endswith("1 recorded failure left out")
    late = read_trace(path, start_s=1.0)
    assert (len(late), late.left_out) == (3, 0)
