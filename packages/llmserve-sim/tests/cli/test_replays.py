"""The command tells the truth about a replay: figures over requests, with the reasons of what was not served."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("typer", reason="needs the extra cli")

from llmserve_sim.cli import main
from llmserve_sim.tasks import load_task

STATIC = ["--batch-cap", "256"]


def write(path: Path, rows: list[tuple[float, int, int]]) -> Path:
    """Write a trace of (seconds, prompt, output)."""
    path.write_text("t_s,input,output\n" + "".join(f"{t},{p},{o}\n" for t, p, o in rows))
    return path


def summary(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """Run a replay and return its JSON summary."""
    capsys.readouterr()
    assert main(["run", "--json", *map(str, arguments)]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture
def minutes(tmp_path: Path) -> Path:
    """An hour of one request a minute."""
    return write(tmp_path / "minutes.csv", [(60.0 * i, 500, 200) for i in range(60)])


@pytest.mark.parametrize(("window_s", "drain_s"), [(1.0, 60.0), (5.0, 60.0), (5.0, 600.0), (60.0, 60.0)])
def test_idle_time_is_paid_for_whatever_the_windows(
    window_s: float, drain_s: float, minutes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml = Path(__file__).parents[2] / "src/llmserve_sim/tasks/azure_conversation.toml"
    task = tmp_path / "task.toml"
    task.write_text(toml.read_text(encoding="utf-8").replace("window_s = 5.0", f"window_s = {window_s}"))
    found = summary(capsys, task, "--trace", minutes, *STATIC, "--drain-s", drain_s)
    # 59 minutes to the last arrival and its 2.2 s, of two A100s at 1.99 dollars an hour.
    dollars = (59 * 60 + found["e2e_ms"]["p50"] / 1000) / 3600 * 2 * 1.99
    assert found["usd_per_million_output_tokens"] == pytest.approx(dollars / (60 * 200) * 1e6, rel=1e-6)
    assert found["usd_per_million_output_tokens"] == pytest.approx(326.6, rel=1e-3)
    assert found["output_tokens"] == 60 * 200


def test_percentiles_are_those_of_the_request_table_and_empty_windows_count_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Two quiet requests and then a pile: most windows are empty, and most requests wait.
    pile = [(0.0, 100, 10), (300.0, 100, 10), *((600.0, 4_000, 300) for _ in range(120))]
    table = tmp_path / "requests.csv"
    trace = write(tmp_path / "pile.csv", pile)
    found = summary(capsys, "--trace", trace, "--batch-cap", 8, "--drain-s", 1000, "--requests", table)
    with table.open(newline="") as file:
        ttft = [float(row["ttft_ms"]) for row in csv.DictReader(file)]
    assert len(ttft) == len(pile)
    for q in (50, 90, 95, 99):
        assert found["ttft_ms"][f"p{q}"] == pytest.approx(float(np.percentile(ttft, q)), rel=1e-12)
    assert found["ttft_ms"]["p50"] > 10_000


def test_a_trace_is_not_under_the_tasks_limits_unless_they_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of it waits longer than the task's patience, is longer than its context or finds its queue full."""
    task = load_task("azure_conversation")
    rows = [(0.0, 2_000, 100)] * 1_200 + [(1.0, 100, 16_000)]
    trace = write(tmp_path / "much.csv", rows)
    free = summary(capsys, "--trace", trace, *STATIC, "--drain-s", 2_000)
    assert free["requests"]["finished"] == free["requests"]["arrived"] == 1_201
    assert set(free["reasons"].values()) == {0}
    assert free["output_tokens"] == 1_200 * 100 + 16_000
    limits = [
        "--patience-s",
        task.patience_s,
        "--max-unfinished",
        task.max_unfinished,
        "--max-model-len",
        task.max_len_tokens,
    ]
    bound = summary(capsys, "--trace", trace, *STATIC, *limits)
    assert bound["reasons"]["max_unfinished"] == 1_200 - 1_024
    assert bound["reasons"]["max_model_len"] == 1
    assert bound["reasons"]["patience"] > 0
    assert bound["requests"]["rejected"] == 1_200 - 1_024 + 1
    assert bound["requests"]["abandoned"] == bound["reasons"]["patience"]
    assert bound["limits"] == {"patience_s": 10.0, "max_unfinished": 1024, "max_model_len": 8192}


def test_the_reasons_stand_in_rows_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = write(tmp_path / "t.csv", [(0.0, 100, 10), (0.0, 100, 10), (0.0, 100, 900)])
    assert main(["run", "--trace", str(trace), "--max-model-len", "512", "--max-unfinished", "1", *STATIC]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["rejected", "2", "requests"] in shown
    assert ["too", "long", "1", "requests"] in shown
    assert ["queue", "full", "1", "requests"] in shown


def test_a_log_is_graded_with_the_limits_that_it_was_run_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = write(tmp_path / "t.csv", [(0.1 * i, 3_000, 50) for i in range(80)])
    log = tmp_path / "log.json"
    limits = ["--trace", str(trace), "--patience-s", "1", "--max-unfinished", "20"]
    assert main(["run", *limits, *STATIC, "--log", str(log)]) == 0
    assert main(["grade", str(log), *limits]) == 0
    assert main(["grade", str(log), "--trace", str(trace)]) == 1
    assert "NOT GENUINE" in capsys.readouterr().out


def test_what_is_unfinished_is_counted_and_said_to_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = write(tmp_path / "t.csv", [(0.0, 100, 2_000)] * 4)
    found = summary(capsys, "--trace", trace, "--batch-cap", 1, "--drain-s", 5)
    assert found["requests"]["unfinished"] == found["reasons"]["episode_end"] == 4
    assert found["e2e_ms"]["p50"] is None
    assert found["duration_s"] == 10.0
    assert main(["run", "--trace", str(trace), "--batch-cap", "1", "--drain-s", "5"]) == 0
    assert "a longer --drain-s lets them finish" in " ".join(capsys.readouterr().out.split())


def test_a_tasks_requests_can_be_written_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "requests.csv"
    found = summary(capsys, "static_workload", *STATIC, "--requests", table)
    with table.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == found["requests"]["arrived"] > 0
    assert found["duration_s"] == found["simulated_s"] == 600.0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--requests", "x.xlsx"], "--requests: must end in one of .csv, .parquet"),
        (["--requests", "no/folder/x.csv"], "--requests: must be a file in a folder that exists"),
        (["--requests", "same.csv", "--log", "same.csv"], "--requests: must be another file than --log"),
    ],
)
def test_a_table_that_cannot_be_written_is_refused_before_anything_is_simulated(
    options: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", *options]) == 2
    assert named in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "bound"),
    [
        (["--patience-s", "-1"], "--patience-s: must be a number in 0..86400"),
        (["--max-unfinished", "0"], "--max-unfinished: must be an integer in 1..524288"),
        (["--max-model-len", "999999"], "--max-model-len: must be an integer in 32.."),
    ],
)
def test_a_limit_out_of_range_is_refused_by_the_options_name(
    option: list[str], bound: str, minutes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--trace", str(minutes), *option]) == 2
    assert bound in capsys.readouterr().err
    assert main(["run", *option]) == 2
    assert f"{option[0]}: needs --trace FILE" in capsys.readouterr().err


def test_every_read_says_what_it_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = write(tmp_path / "t.csv", [(0.0, 100, 10), (2.0, 100, 10), (4.0, 100, 10)])
    log = tmp_path / "log.json"
    told = "t.csv (plain): 2 requests in 2.0 s, 1 requests/s\n"
    assert main(["run", "--json", "--trace", str(trace), "--limit", "2", "--log", str(log), *STATIC]) == 0
    said = capsys.readouterr()
    assert told in said.err
    json.loads(said.out)
    assert main(["grade", str(log), "--trace", str(trace), "--limit", "2"]) == 0
    assert told in capsys.readouterr().err


def test_errors_about_a_trace_name_the_option_to_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.csv"
    path.write_text("timestamp,input_length,output_length\n0,100,10\n1,100,10\n")
    assert main(["run", "--trace", str(path)]) == 2
    assert "t.csv:line 1:timestamp: has no unit: add --time-unit, ms as in Mooncake" in capsys.readouterr().err
    assert main(["run", "--trace", str(path), "--time-unit", "minutes"]) == 2
    assert "--time-unit: must be one of s, ms, us, ns, date" in capsys.readouterr().err
    assert main(["run", "--skip-bad"]) == 2
    assert "--skip-bad: needs --trace FILE" in capsys.readouterr().err
    path.write_text("when,in,out\n0,100,10\nx,100,10\n1,100,10\n")
    named = ["--time-column", "when", "--prompt-column", "in", "--output-column", "out", "--time-unit", "s"]
    found = summary(capsys, "--trace", path, *named, "--skip-bad", *STATIC)
    assert found["requests"]["arrived"] == 2
