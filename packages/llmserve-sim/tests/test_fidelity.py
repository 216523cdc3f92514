"""The bars against measured runs, and how the comparison itself behaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.fidelity import RecordedRun, Row, check, data_dir, replay
from llmserve_sim.fidelity.__main__ import main
from llmserve_sim.fidelity.data import read_requests, read_series
from llmserve_sim.hardware import DEPLOYMENTS

REQUESTS = "arrival_s,input_toks,output_toks,first_token_s,last_token_s\n0.5,100,3,0.6,0.7\n0.0,200,1,0.1,0.1\n"


@pytest.fixture(scope="session")
def rows(shared_data: Path) -> list[Row]:
    """Every comparison, made once."""
    return check(shared_data)


def test_every_bound_holds(rows: list[Row]) -> None:
    """The acceptance bars of the fidelity session."""
    assert [row for row in rows if not row.passed] == []


def test_every_bar_is_there(rows: list[Row]) -> None:
    """Two recorded runs, three series, TensorRT-LLM, 45 and FP8 closed loops, served runs, six depths."""
    assert sum(row.bound is not None for row in rows) == 2 * 13 + 3 + 1 + 3 + (5 * 3 + 1) + 2 + 6


def test_the_starved_run_preempts_as_the_measured_one_queued(rows: list[Row]) -> None:
    """Waiting near 109 in the mean, KV full."""
    waiting = next(row for row in rows if row.figure == "waiting series")
    assert waiting.measured == pytest.approx(109, abs=1)
    assert waiting.predicted == pytest.approx(109, abs=5)


def test_a_replay_serves_every_request_in_causal_order() -> None:
    """First token after arrival, last after first."""
    run = RecordedRun("tiny", DEPLOYMENTS["a100-llama3.1-8b"], max_num_seqs=8)
    arrival = np.array([0.0, 0.1, 1.7])
    result = replay(run, arrival, np.array([300.0, 20.0, 1000.0]), np.array([5.0, 40.0, 1.0]))
    assert (result.first_s > arrival).all()
    assert (result.last_s >= result.first_s).all()
    assert result.preemptions == 0


def test_requests_are_read_in_order_of_arrival(tmp_path: Path) -> None:
    """Whatever the file's order."""
    path = tmp_path / "run.csv"
    path.write_text(REQUESTS)
    np.testing.assert_array_equal(read_requests(path).arrival_s, [0.0, 0.5])


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "data"),
        ("arrival_s,input_toks\n0,1\n", "data.output_toks"),
        (REQUESTS.replace("200", "two"), "data.input_toks"),
    ],
)
def test_a_malformed_file_is_refused_by_column(tmp_path: Path, text: str, field: str) -> None:
    """Missing, empty or not a number."""
    path = tmp_path / "run.csv"
    path.write_text(text)
    with pytest.raises(InvalidInputError) as caught:
        read_requests(path)
    assert caught.value.field == field


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """With its path."""
    with pytest.raises(InvalidInputError, match="a file of measurements") as caught:
        read_series(tmp_path / "none.csv")
    assert caught.value.got == str(tmp_path / "none.csv")


def test_a_named_folder_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rather than silently looking elsewhere."""
    monkeypatch.setenv("LLMSERVE_DATA", str(tmp_path / "absent"))
    with pytest.raises(InvalidInputError, match="LLMSERVE_DATA"):
        data_dir()
    assert main() == 2


def test_a_run_of_one_s_own_is_compared_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two requests that took nothing like the simulated times: bounds are broken, exit code 1."""
    path = tmp_path / "own.csv"
    path.write_text(REQUESTS)
    assert main(["--requests", str(path), "--gpu", "H100-SXM"]) == 1
    assert "TPOT mean" in capsys.readouterr().out
    assert main(["--requests", str(path), "--gpu", "H100-PCIe"]) == 2


def test_the_series_are_drawn(tmp_path: Path) -> None:
    """A PNG of measured and simulated."""
    pytest.importorskip("matplotlib", reason="the extra `cli` is not installed")
    from llmserve_sim.fidelity.data import SeriesLog
    from llmserve_sim.fidelity.plot import draw_series

    run = RecordedRun("tiny", DEPLOYMENTS["a100-llama3.1-8b"], max_num_seqs=8)
    result = replay(run, np.zeros(2), np.array([300.0, 20.0]), np.array([50.0, 40.0]))
    level = np.array([2.0])
    draw_series("tiny", SeriesLog(np.array([1.0]), level, level, level), result, tmp_path / "series.png")
    assert (tmp_path / "series.png").read_bytes().startswith(b"\x89PNG")
