"""`llmserve evaluate`, `python evaluate.py` and `llmserve ablate`: what they print, write and return."""

from __future__ import annotations

import errno
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmserve_agents import cli
from llmserve_agents.evaluation.ablation_report import AblationReport
from llmserve_agents.evaluation.report import EvaluationReport, Timing
from llmserve_sim.errors import InvalidInputError

ROOT = Path(__file__).resolve().parents[4]
HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None
needs_matplotlib = pytest.mark.skipif(not HAS_MATPLOTLIB, reason="matplotlib is not installed: the extra plot")
FAST = ["--task", "bursty_workload", "--episodes", "2", "--workers", "1", "--resamples", "200"]


def test_a_table_names_agents_intervals_and_verdicts(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "--agent", "heuristic", "--agent", "random", *FAST]) == 0
    shown, told = capsys.readouterr()
    for word in ("bursty_workload", "heuristic", "random", "IQM", "2/2", "wins", ".."):
        assert word in shown
    assert "4 episodes, run and replayed" in told
    assert "busy" in told


def test_both_names_give_the_same_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "--agent", "static", *FAST, "--json"]) == 0
    first = capsys.readouterr().out
    assert cli.main(["--agent", "static", *FAST, "--json"], only="evaluate") == 0
    assert capsys.readouterr().out == first
    assert EvaluationReport.model_validate_json(first).tasks == ["bursty_workload"]


def test_evaluate_py_is_the_command() -> None:
    command = [sys.executable, str(ROOT / "evaluate.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for option in ("--agent", "--task", "--episodes", "--executor", "--workers", "--output", "--json", "--confidence"):
        assert option in done.stdout


def test_without_agents_all_that_can_run_here_take_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "--task", "bursty_workload", "--episodes", "1", "--workers", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = {entry["label"] for entry in found["agents"]}
    assert {"heuristic", "threshold", "static", "random"} <= names
    assert not names & set(found["skipped"])


@needs_matplotlib
def test_the_report_and_the_pictures_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "folder"
    arguments = ["evaluate", "--agent", "heuristic", "--agent", 'cap=static:{"batch_cap": 64}', *FAST]
    assert cli.main([*arguments, "--output", str(folder)]) == 0
    first = (folder / "report.json").read_bytes()
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["report.json", "scores.png", "timeline-bursty_workload.png", "timing.json"]
    assert Timing.model_validate_json((folder / "timing.json").read_bytes()).workers == 1
    assert cli.main([*arguments, "--output", str(folder)]) == 0
    assert (folder / "report.json").read_bytes() == first
    assert "report.json" in capsys.readouterr().out


def test_pictures_can_be_left_out(tmp_path: Path) -> None:
    arguments = ["evaluate", "--agent", "static", *FAST, "--output", str(tmp_path), "--no-pictures"]
    assert cli.main(arguments) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "timing.json"]


@needs_matplotlib
def test_pictures_of_an_earlier_report_do_not_stay(tmp_path: Path) -> None:
    assert cli.main(["evaluate", "--agent", "static", *FAST, "--output", str(tmp_path)]) == 0
    (tmp_path / "mine.png").touch()
    other = ["--task", "static_workload", "--episodes", "1", "--workers", "1", "--resamples", "200"]
    assert cli.main(["evaluate", "--agent", "static", *other, "--output", str(tmp_path)]) == 0
    names = sorted(path.name for path in tmp_path.glob("*.png"))
    assert names == ["mine.png", "scores.png", "timeline-static_workload.png"]


@pytest.mark.parametrize("name", ["report.json", "scores.png"])
def test_what_was_found_is_shown_though_it_cannot_be_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        if name == "scores.png":
            raise InvalidInputError("png", "must be a writable path of a picture", got=name)
        raise OSError(errno.ENOSPC, "No space left on device", name)

    monkeypatch.setattr("llmserve_agents.cli.evaluate._write", full)
    wanted = ["evaluate", "--agent", "static", *FAST, "--output", str(tmp_path)]
    assert cli.main([*wanted, *([] if HAS_MATPLOTLIB else ["--no-pictures"])]) == 2
    shown, told = capsys.readouterr()
    assert "2/2" in shown
    assert "llmserve: --output: " in told
    assert name in told


def test_a_folder_where_the_report_should_be_is_refused_before_anything_is_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.json").mkdir()
    assert cli.main(["evaluate", "--agent", "static", *FAST, "--output", str(tmp_path), "--no-pictures"]) == 2
    shown, told = capsys.readouterr()
    assert shown == ""
    assert "--output: must hold no folder named report.json" in told


def test_a_table_of_80_columns_names_every_agent_and_cuts_no_figure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    long = 'ppo-runs-bursty_workload-seed0=static:{"batch_cap": 64}'
    assert cli.main(["evaluate", "--agent", long, "--agent", "tuned-heuristic", *FAST]) == 0
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert "tuned-heuristic" in shown
    assert "ppo-runs-bursty" in shown
    assert "− first" in shown


@pytest.mark.skipif(HAS_MATPLOTLIB, reason="matplotlib is installed")
def test_without_matplotlib_the_message_names_the_extra_and_the_way_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", "--agent", "static", *FAST, "--output", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "llmserve-agents[plot]" in said
    assert "--no-pictures" in said


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--agent", "nobody"], "--agent"),
        (["--agent", "static", "--agent", "static"], "--agent"),
        (["--agent", 'static:{"batch_cap": 0}'], "--agent: static: batch_cap"),
        (["--agent", "static", "--task", "nonsense"], "--task"),
        (["--agent", "static", "--episodes", "0"], "--episodes"),
        (["--agent", "static", "--episodes", "many"], "--episodes"),
        (["--agent", "static", "--executor", "threads"], "--executor"),
        (["--agent", "static", "--workers", "0"], "--workers"),
        (["--agent", "static", "--resamples", "1"], "--resamples"),
        (["--agent", "static", "--confidence", "95"], "--confidence"),
        (["--agent", "static", "--seed", "1", "--seed", "1"], "--seed"),
        (["--agent", "static", "--seed", "-1"], "--seed"),
        (["--agent", "static", "--output", "/dev/null/folder"], "--output"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_bad_input_is_one_line_that_names_the_option_and_code_2(
    arguments: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", *arguments]) == 2
    said = capsys.readouterr().err
    assert option in said
    assert said.count("\n") == 1


def test_ablate_shows_what_it_found_though_it_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "ablation.json")

    monkeypatch.setattr(Path, "write_text", full)
    few = [
        "--task",
        "bursty_workload",
        "--episodes",
        "1",
        "--search-seeds",
        "1",
        "--workers",
        "1",
        "--resamples",
        "100",
    ]
    assert cli.main(["ablate", "--agent", "static", *few, "--output", str(tmp_path), "--no-pictures"]) == 2
    shown, told = capsys.readouterr()
    assert "quantization_tier" in shown
    assert "llmserve: --output: cannot be written (No space left on device)" in told


def test_ablate_prints_a_table_and_writes_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--agent", "static", "--task", "bursty_workload", "--episodes", "1", "--search-seeds", "1"]
    wanted = [*arguments, "--workers", "1", "--resamples", "100", "--output", str(tmp_path)]
    assert cli.main(["ablate", *wanted, *([] if HAS_MATPLOTLIB else ["--no-pictures"])]) == 0
    shown = capsys.readouterr().out
    for word in ("quantization_tier", "best constant", "free"):
        assert word in shown
    report = AblationReport.model_validate_json((tmp_path / "ablation.json").read_bytes())
    assert report.agent == "static"
    assert (tmp_path / "knobs.png").exists() == HAS_MATPLOTLIB
