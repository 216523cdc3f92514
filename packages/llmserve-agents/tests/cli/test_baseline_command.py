"""The command: what it prints, writes and returns, under both of its names."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from llmserve_agents import cli
from llmserve_agents.evaluation.baseline_report import BaselineReport

ROOT = Path(__file__).resolve().parents[4]
FAST = ["--task", "bursty_workload", "--seed", "2000001", "--agent", "heuristic"]


def test_the_deterministic_suite_prints_a_table_and_returns_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--mode", "deterministic", "--task", "bursty_workload", "--seed", "2000001"], only="baseline") == 0
    shown = capsys.readouterr().out
    for word in ("heuristic", "static", "random", "bursty_workload", "mean", "verified"):
        assert word in shown


def test_both_names_give_the_same_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*FAST, "--json"], only="baseline") == 0
    first = capsys.readouterr().out
    assert cli.main(["baseline", *FAST, "--json"]) == 0
    assert capsys.readouterr().out == first
    assert BaselineReport.model_validate_json(first).agent == "heuristic"


def test_the_report_is_written_and_folders_are_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "artifacts" / "baseline.json"
    assert cli.main([*FAST, "--output", str(path)], only="baseline") == 0
    first = path.read_bytes()
    assert cli.main([*FAST, "--output", str(path)], only="baseline") == 0
    assert path.read_bytes() == first
    assert json.loads(first)["mode"] == "deterministic"
    assert str(path) in capsys.readouterr().out.replace("\n", "")


def test_a_missing_key_is_one_clear_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--mode", "openai", "--runtime", "in-process", "--model", "gpt-4.1-mini"], only="baseline") == 2
    said = capsys.readouterr().err
    assert said == "python -m server.baseline_inference: the openai agent needs an API key: set OPENAI_API_KEY\n"


def test_the_openai_suite_runs_against_the_endpoint_in_the_environment(
    endpoint: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", endpoint.KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    path, talk = tmp_path / "report.json", tmp_path / "talk.jsonl"
    arguments = ["--mode", "openai", "--task", "bursty_workload", "--model", "own", "--output", str(path)]
    assert cli.main([*arguments, "--transcript", str(talk)], only="baseline") == 0
    shown = capsys.readouterr().out
    assert "120 requests" in shown
    assert "cost unknown" in shown
    assert "invalid actions: 0" in shown
    report = BaselineReport.model_validate_json(path.read_text())
    assert report.model == "own"
    assert len(talk.read_text().splitlines()) == 121
    assert endpoint.KEY not in shown + path.read_text() + talk.read_text()


def test_an_endpoint_that_refuses_is_one_line_and_code_2(
    endpoint: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", endpoint.KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    endpoint.follow(endpoint.reply(status=401, error=f"Incorrect API key provided: {endpoint.KEY}"))
    assert cli.main(["--mode", "openai", "--task", "bursty_workload"], only="baseline") == 2
    captured = capsys.readouterr()
    assert "401" in captured.err
    assert captured.err.count("\n") == 1
    assert endpoint.KEY not in captured.err + captured.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mode", "guess"], "--mode: must be one of deterministic, openai, got 'guess'"),
        (["--runtime", "http"], "--base-url: goes with runtime http"),
        (["--task", "nothing"], "--task: must be one of"),
        (["--agent", "nobody"], "--agent: must be one of"),
        (["--seed", "-4", "--task", "bursty_workload"], "--seed: must be"),
        (["--seed", "x"], "--seed"),
        (["--nonsense"], "--nonsense"),
        (["--timeout-s", "0"], "--timeout-s: must be a number"),
        (["--output", "/dev/null/report.json"], "--output: must be a file that can be written"),
    ],
)
def test_a_wrong_call_names_the_option_and_returns_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments, only="baseline") == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.startswith("python -m server.baseline_inference: ")


def test_a_server_that_is_not_there_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*FAST, "--runtime", "http", "--base-url", "http://127.0.0.1:9"], only="baseline") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_ctrl_c_while_the_command_is_loaded_is_told_as_any_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Loading(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "llmserve_agents.cli.app", Loading("llmserve_agents.cli.app"))
    assert cli.main(["--version"]) == 130
    assert capsys.readouterr().err == "llmserve: stopped\n"


def test_a_stream_that_cannot_be_written_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("llmserve_agents.cli.baseline.episode_table", full)
    assert cli.main(["--task", "bursty_workload", "--agent", "static"], only="baseline") == 2
    told = capsys.readouterr().err
    assert "No space left on device" in told
    assert told.count("\n") == 1


def test_without_a_command_the_help_is_all_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    shown, told = capsys.readouterr()
    assert "evaluate" in shown
    assert told == ""


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"], only="baseline") == 0
    text = capsys.readouterr().out
    for option in ("--mode", "--runtime", "--base-url", "--model", "--output"):
        assert option in text
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("llmserve 0.")


def test_without_the_extra_the_command_says_which_one_it_wants(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "llmserve_agents.cli.app", raising=False)
    monkeypatch.setitem(sys.modules, "typer", None)
    assert cli.main(["baseline"]) == 2
    assert "llmserve-agents[cli]" in capsys.readouterr().err


def test_the_documented_command_works_from_the_repository_root(tmp_path: Path) -> None:
    if not (ROOT / "server" / "baseline_inference.py").exists():
        pytest.skip("not in the repository: the documented command is at its root")
    command = [sys.executable, "-m", "server.baseline_inference", "--mode", "deterministic"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "r.json")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "adversarial_multitenant" in done.stdout
    assert len(BaselineReport.model_validate_json((tmp_path / "r.json").read_text()).episodes) == 45
