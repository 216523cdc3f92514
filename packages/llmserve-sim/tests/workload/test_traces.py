"""Trace files of every format are read alike, and whatever is wrong with one is named by line and column."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmserve_sim.errors import InvalidInputError, MissingExtraError
from llmserve_sim.workload.traces import Trace, TraceLimits, read_trace

Write = Callable[..., Path]

PLAIN = "t_s,input,output\n0.5,100,10\n1.0,200,20\n3.25,300,30\n"
AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 23:59:59.5000000,100,10\n"
    "2023-11-17 00:00:00.0000000,200,20\n"
    "2023-11-17 00:00:02.2500000,300,30\n"
)
ZONED = AZURE.replace("0000,", "0000+00:00,")
BURSTGPT = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,100,10,110,Conversation log\n"
    "5.5,GPT-4,200,20,220,API log\n"
    "6,GPT-4,50,0,50,API log\n"
    "7.75,ChatGPT,300,30,330,Conversation log\n"
)
MOONCAKE = (
    '{"timestamp": 500, "input_length": 100, "output_length": 10, "hash_ids": [1, 2]}\n'
    '{"timestamp": 1000, "input_length": 200, "output_length": 20, "hash_ids": []}\n'
    '{"timestamp": 3250, "input_length": 300, "output_length": 30, "hash_ids": [3]}\n'
)
FORMATS = {"plain": PLAIN, "azure": AZURE, "burstgpt": BURSTGPT, "mooncake": MOONCAKE}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str | bytes, name: str = "trace.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def refused(path: Path, **options: object) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        read_trace(path, **options)  # type: ignore[arg-type]
    return caught.value


def same(trace: Trace) -> bool:
    return (
        trace.arrival_ps.tolist() == [0, 5 * 10**11, 275 * 10**10]
        and trace.prompt.tolist() == [100, 200, 300]
        and trace.output.tolist() == [10, 20, 30]
        and trace.duration_ps == 275 * 10**10 + 1
    )


@pytest.mark.parametrize("text", [*FORMATS.values(), ZONED])
def test_all_formats_are_recognised_and_mean_the_same(write: Write, text: str) -> None:
    trace = read_trace(write(text))
    assert same(trace)
    assert trace.left_out == (1 if text is BURSTGPT else 0)
    assert {a.dtype for a in (trace.arrival_ps, trace.prompt, trace.output)} == {np.dtype(np.int64)}


@pytest.mark.parametrize("wanted", FORMATS)
@pytest.mark.parametrize("given_", FORMATS)
def test_a_format_can_be_insisted_on(write: Write, wanted: str, given_: str) -> None:
    path = write(FORMATS[given_])
    if wanted == given_:
        assert same(read_trace(path, format=wanted))  # type: ignore[arg-type]
    else:
        error = refused(path, format=wanted)
        assert error.field == "trace.csv:line 1"
        assert f"must be of format {wanted}, looks like {given_}" in error.bound


@pytest.mark.parametrize(
    "text", [PLAIN.replace("\n", "\r\n"), PLAIN[:-1], "\ufeff" + PLAIN, PLAIN + "\n\n", PLAIN.replace(",", " , ")]
)
def test_line_ends_marks_and_spaces_do_not_matter(write: Write, text: str) -> None:
    assert same(read_trace(write(text)))


def test_columns_may_stand_in_any_order_beside_others(write: Write) -> None:
    assert same(read_trace(write("user,output,t_s,input\na,10,0.5,100\nb,20,1.0,200\nc,30,3.25,300\n")))


TOKENS = "must be an integer in 1..1048576"
SECONDS = "must be a number of seconds in 0..4000000000"


@pytest.mark.parametrize(
    ("row", "field", "bound"),
    [
        ("1.0,200", "", "must have 3 fields, has 2"),
        ("1.0,200,20,1", "", "must have 3 fields, has 4"),
        ("", "", "only the end may be blank"),
        ("1.0,,20", ":input", TOKENS),
        ("1.0,nan,20", ":input", TOKENS),
        ("1.0,inf,20", ":input", TOKENS),
        ("1.0,-5,20", ":input", TOKENS),
        ("1.0,0,20", ":input", TOKENS),
        ("1.0,12.5,20", ":input", TOKENS),
        ("1.0,1_0,20", ":input", TOKENS),
        ("1.0,٣,20", ":input", TOKENS),
        ("1.0,1048577,20", ":input", TOKENS),
        ("1.0," + "9" * 5000 + ",20", ":input", TOKENS),
        ("1.0,200,0", ":output", TOKENS),
        ("1.0,200,many", ":output", TOKENS),
        ("nan,200,20", ":t_s", SECONDS),
        ("inf,200,20", ":t_s", SECONDS),
        ("-inf,200,20", ":t_s", SECONDS),
        ("-1,200,20", ":t_s", SECONDS),
        ("1e300,200,20", ":t_s", SECONDS),
        ("1_0,200,20", ":t_s", SECONDS),
        ("soon,200,20", ":t_s", SECONDS),
        ("0.25,200,20", ":t_s", "must not be earlier than the line before"),
    ],
)
def test_a_bad_row_is_named_by_line_and_column(write: Write, row: str, field: str, bound: str) -> None:
    error = refused(write(PLAIN.replace("1.0,200,20", row)))
    assert error.field == f"trace.csv:line 3{field}"
    assert bound in error.bound
    assert len(str(error)) < 400


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (AZURE.replace("2023-11-17 00:00:00.0000000", "yesterday"), "line 3:TIMESTAMP"),
        (AZURE.replace("2023-11-17 00:00:00.0000000", "2023-13-17 00:00:00"), "line 3:TIMESTAMP"),
        (AZURE.replace("2023-11-17 00:00:00.0000000", "2023-11-17 00:00:00+00:00"), "line 3:TIMESTAMP"),
        (AZURE.replace("2023-11-17 00:00:00.0000000", "2023-11-16 00:00:00"), "line 3:TIMESTAMP"),
        (AZURE.replace("2023-11-17 00:00:02.2500000", "9023-11-17 00:00:00"), "line 4:TIMESTAMP"),
        (AZURE.replace(",200,", ",x,"), "line 3:ContextTokens"),
        (AZURE.replace(",20\n", ",0\n"), "line 3:GeneratedTokens"),
        (BURSTGPT.replace(",200,", ",-1,"), "line 3:Request tokens"),
        (BURSTGPT.replace("5.5,", "4.5,"), "line 3:Timestamp"),
        (BURSTGPT.replace(",20,", ",NaN,"), "line 3:Response tokens"),
        (MOONCAKE.replace("1000", "NaN"), "line 2:timestamp"),
        (MOONCAKE.replace("1000", "-Infinity"), "line 2:timestamp"),
        (MOONCAKE.replace("1000", "true"), "line 2:timestamp"),
        (MOONCAKE.replace("1000", "4e15"), "line 2:timestamp"),
        (MOONCAKE.replace("200", "200.5"), "line 2:input_length"),
        (MOONCAKE.replace("200", "true"), "line 2:input_length"),
        (MOONCAKE.replace("200", "null"), "line 2:input_length"),
        (MOONCAKE.replace(": 20,", ": 0,"), "line 2:output_length"),
        (MOONCAKE.replace('"output_length": 20, ', ""), "line 2:output_length"),
        (MOONCAKE[: MOONCAKE.index("200")], "line 2"),
        (MOONCAKE[:-40], "line 3"),
        (MOONCAKE + "[1, 2]\n", "line 4"),
        (MOONCAKE + "[" * 100_000 + "\n", "line 4"),
    ],
)
def test_bad_rows_of_other_formats_are_named_alike(write: Write, text: str, field: str) -> None:
    assert refused(write(text)).field == f"trace.csv:{field}"


@pytest.mark.parametrize(
    ("text", "field", "bound"),
    [
        ("", "trace.csv:line 1", "the file begins empty"),
        ("\n" + PLAIN, "trace.csv:line 1", "the file begins empty"),
        ("t_s,input,output\n", "trace.csv", "must hold at least one request"),
        ("time,in,out\n1,2,3\n", "trace.csv:line 1", "plain: t_s,input,output; azure: TIMESTAMP"),
        ("1.0,100,10\n", "trace.csv:line 1", "header of a known format"),
        ("t_s,input,output,input\n1,2,3,4\n", "trace.csv:line 1", "each column once"),
        (PLAIN.encode() + b"4.0,\xff\xfe,3\n", "trace.csv:line 5", "UTF-8"),
        (b"\x00" * 5000, "trace.csv:line 1", "header of a known format"),
        (PLAIN[:-9], "trace.csv:line 4", "must have 3 fields"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(write: Write, text: str | bytes, field: str, bound: str) -> None:
    error = refused(write(text))
    assert error.field == field
    assert bound in error.bound


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "readable file" in refused(tmp_path / "none.csv").bound
    assert "readable file" in refused(tmp_path).bound


def test_cuts_limits_and_scaling(write: Write) -> None:
    rows = "".join(f"{i},{i + 1},{2 * i + 1}\n" for i in range(100))
    path = write("t_s,input,output\n" + rows)
    cut = read_trace(path, start_s=10.0, duration_s=20.0)
    assert cut.prompt.tolist() == list(range(11, 31))
    assert cut.arrival_ps[0] == 0
    assert cut.duration_ps == 20 * 10**12
    first = read_trace(path, limit=5)
    assert len(first) == 5
    assert first.duration_ps == 4 * 10**12 + 1
    fast = read_trace(path, rate_scale=4.0)
    assert fast.arrival_ps.tolist() == [i * 10**12 // 4 for i in range(100)]
    assert fast.prompt.tolist() == read_trace(path).prompt.tolist()
    assert fast.scaled(0.25).arrival_ps.tolist() == read_trace(path).arrival_ps.tolist()
    assert refused(path, start_s=500.0).bound == "must hold a request inside the cut"


def test_an_unordered_file_is_sorted_when_asked(write: Write) -> None:
    lines = PLAIN.splitlines(keepends=True)
    path = write("".join([lines[0], lines[3], lines[1], lines[2]]))
    assert refused(path).field == "trace.csv:line 3:t_s"
    assert same(read_trace(path, sort=True))
    assert read_trace(path, sort=True, limit=2).prompt.tolist() == [100, 200]
    assert read_trace(path, sort=True, start_s=0.4, duration_s=1.0).prompt.tolist() == [200]


def test_a_file_ten_times_too_large_is_refused_and_can_be_cut(write: Write) -> None:
    path = write("t_s,input,output\n" + "".join(f"{i},10,10\n" for i in range(1000)))
    error = refused(path, limits=TraceLimits(requests=100))
    assert error.field == "trace.csv"
    assert "at most 100 requests: cut it" in error.bound
    assert len(read_trace(path, limits=TraceLimits(requests=100), duration_s=50.0)) == 50
    error = refused(path, limits=TraceLimits(file_bytes=1000))
    assert "at most 1000 bytes up to the cut" in error.bound
    assert len(read_trace(path, limits=TraceLimits(file_bytes=1000), limit=20)) == 20
    assert "at most 98 s" in refused(path, limits=TraceLimits(duration_s=98)).bound
    assert "at most 32 bytes long" in refused(write(PLAIN + "9" * 50), limits=TraceLimits(line_bytes=32)).bound


@pytest.mark.parametrize(
    "options",
    [
        {"format": "csv"},
        {"start_s": -1.0},
        {"start_s": float("nan")},
        {"duration_s": 0.0},
        {"duration_s": float("inf")},
        {"duration_s": "10"},
        {"limit": 0},
        {"limit": True},
        {"limit": 1.5},
        {"rate_scale": 0.0},
        {"rate_scale": float("nan")},
        {"rate_scale": 1e9},
    ],
)
def test_bad_options_are_refused_by_name(write: Write, options: dict[str, object]) -> None:
    assert refused(write(PLAIN), **options).field == next(iter(options))


@given(
    st.binary(max_size=300) | st.text(alphabet='0123456789.,-+eEnaif\n {}":[]t_sinputou', max_size=200).map(str.encode)
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_content_raises_anything_but_the_typed_error(tmp_path: Path, content: bytes) -> None:
    for head in (b"", b"t_s,input,output\n", b"TIMESTAMP,ContextTokens,GeneratedTokens\n", MOONCAKE.encode()):
        path = tmp_path / "fuzz.csv"
        path.write_bytes(head + content)
        try:
            trace = read_trace(path)
        except MissingExtraError:
            continue  # it begins like a packed file
        except InvalidInputError as error:
            named = error.field
        else:
            named = trace.name
            assert len(trace) >= 1
            assert (np.diff(trace.arrival_ps) >= 0).all()
        assert "fuzz.csv" in named


@pytest.mark.parametrize(
    "text",
    [
        '"t_s","input","output"\n"0","10","5"\n"1.5","20","6"\n',
        "T_S, Input ,OUTPUT\n0,10,5\n1.5,20,6\n",
        '\ufeff"T_s", "input",output\r\n0, "10",5\r\n1.5,20,"6"\r\n',
    ],
)
def test_quoted_fields_and_headers_of_any_case_are_understood(text: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    trace = read_trace(path)
    assert trace.arrival_ps.tolist() == [0, 1_500_000_000_000]
    assert trace.prompt.tolist() == [10, 20]
    assert trace.output.tolist() == [5, 6]


def test_an_open_quote_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('t_s,input,output\n0,10,5\n1,"20,6\n')
    with pytest.raises(InvalidInputError, match=r"t\.csv:line 3: must be one row of CSV"):
        read_trace(path)
    path.write_text('"t_s,input,output\n0,10,5\n')
    with pytest.raises(InvalidInputError, match=r"t\.csv:line 1: must be the header"):
        read_trace(path)
