"""The command does what it says, refuses bad input in one line that names the field, and knows its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="needs the extra cli")
pytest.importorskip("matplotlib", reason="needs the extra cli")

from llmserve_sim import __version__
from llmserve_sim.cli import main
from llmserve_sim.schema import EpisodeLog

PNG = b"\x89PNG\r\n\x1a\n"
SHORT = """t_s,input,output
0.0,100,20
0.5,400,30
7.0,200,10
11.0,50,5
"""


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(SHORT)
    return path


@pytest.fixture
def log(trace: Path, tmp_path: Path) -> Path:
    path = tmp_path / "episode.json"
    assert main(["run", "--trace", str(trace), "--log", str(path)]) == 0
    return path


def test_tasks_lists_every_task_as_a_table_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    ids = [task["id"] for task in listed]
    assert ids[:3] == ["static_workload", "bursty_workload", "adversarial_multitenant"]
    assert main(["tasks"]) == 0
    shown = "".join(capsys.readouterr().out.split())
    assert "bursty" in shown


def test_run_simulates_an_episode_and_shows_draws_and_logs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    png, log = tmp_path / "timeline.png", tmp_path / "log.json"
    code = main(["run", "static_workload", "--agent", "threshold", "--seed", "7", "--png", str(png), "--log", str(log)])
    shown = capsys.readouterr().out
    assert code == 0
    assert "SLO compliance" in shown
    assert "reward per window" in shown
    assert png.read_bytes().startswith(PNG)
    episode = EpisodeLog.model_validate_json(log.read_text())
    assert (episode.task_id, episode.seed, len(episode.steps)) == ("static_workload", 7, 120)
    assert main(["grade", str(log)]) == 0
    assert "genuine" in capsys.readouterr().out


def test_knobs_given_on_the_command_line_are_the_configuration_that_is_served(trace: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    knobs = ["--batch-cap", "48", "--quantization-tier", "INT8", "--speculation-depth", "2", "--priority-routing"]
    assert main(["run", "--trace", str(trace), *knobs, "--kv-budget-fraction", "0.5", "--log", str(log)]) == 0
    action = EpisodeLog.model_validate_json(log.read_text()).steps[0].action
    assert action.model_dump() == {
        "batch_cap": 48,
        "kv_budget_fraction": 0.5,
        "speculation_depth": 2,
        "quantization_tier": "INT8",
        "prefill_decode_split": False,
        "priority_routing": True,
    }


def test_a_trace_runs_for_as_long_as_it_lasts(log: Path) -> None:
    steps = EpisodeLog.model_validate_json(log.read_text()).steps
    assert len(steps) == 3
    assert steps[-1].observation.done
    assert sum(step.observation.request_arrival_rate * 5 for step in steps) == pytest.approx(4)


def test_grade_says_by_its_exit_code_whether_a_log_is_genuine(
    trace: Path, log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["grade", str(log), "--trace", str(trace), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verified"] is True
    edited = json.loads(log.read_text())
    edited["steps"][0]["observation"]["reward"] = 1.0
    forged = tmp_path / "forged.json"
    forged.write_text(json.dumps(edited))
    assert main(["grade", str(forged), "--trace", str(trace)]) == 1
    assert "NOT GENUINE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "no_such_task"], "task_id"),
        (["run", "--batch-cap", "0"], "batch_cap: must be an integer in 1..512"),
        (["run", "--batch-cap", "many"], "--batch-cap"),
        (["run", "--kv-budget-fraction", "nan"], "kv_budget_fraction: must be a finite number in 0.1..1.0"),
        (["run", "--kv-budget-fraction", "inf"], "kv_budget_fraction"),
        (["run", "--speculation-depth", "9"], "speculation_depth: must be an integer in 0..8"),
        (["run", "--quantization-tier", "FP8"], "quantization_tier: must be one of FP16, INT8, INT4"),
        (["run", "--agent", "oracle"], "random, static, threshold"),
        (["run", "--agent", "random", "--batch-cap", "8"], "batch_cap: fits only --agent static"),
        (["run", "--seed", "-1"], "seed: must be an integer in 0.."),
        (["run", "--deployment", "tpu"], "deployment"),
        (["run", "--trace", "nowhere.csv"], "nowhere.csv"),
        (["run", "--png", "no/such/folder/x.png"], "--png: must be a file in a folder that exists"),
        (["run", "--frobnicate"], "--frobnicate"),
        (["grade", "nowhere.json"], "log: must be a readable file"),
        (["levitate"], "levitate"),
    ],
)
def test_bad_input_is_one_line_that_names_it_and_exit_code_two(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("llmserve-sim: ")
    assert shown.err.count("\n") == 1
    assert named in shown.err


@pytest.mark.parametrize("flag", [["--rate-scale", "0"], ["--format", "excel"], ["--duration-s", "-3"]])
def test_a_bad_option_of_a_trace_is_refused_by_name(
    trace: Path, flag: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--trace", str(trace), *flag]) == 2
    assert flag[0].removeprefix("--").replace("-", "_") in capsys.readouterr().err


def test_a_truncated_log_is_refused_and_not_graded(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.json"
    cut.write_text(log.read_text()[:500])
    capsys.readouterr()
    assert main(["grade", str(cut)]) == 2
    assert capsys.readouterr().err.startswith("llmserve-sim: log: must be one complete JSON document")


@pytest.mark.parametrize("command", [[], ["tasks"], ["run"], ["grade"], ["fidelity"], ["bench"]])
def test_every_command_has_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    assert "Usage: llmserve-sim" in capsys.readouterr().out


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"llmserve-sim {__version__}"


def test_python_m_llmserve_sim_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmserve_sim", "tasks", "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)[0]["id"] == "static_workload"


def test_without_the_extra_it_names_the_extra() -> None:
    code = "import sys; sys.modules['typer'] = None; from llmserve_sim.cli import main; sys.exit(main(['tasks']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'llmserve-sim[cli]'" in done.stderr
    assert "Traceback" not in done.stderr
