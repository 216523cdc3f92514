"""The command does what it says, refuses bad input in one line that names the field, and knows its exit codes."""

from __future__ import annotations

import json
import os
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
    assert len(steps) == 3 + 12
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
        (["run", "--batch-cap", "0"], "--batch-cap: must be an integer in 1..512"),
        (["run", "--batch-cap", "many"], "--batch-cap"),
        (["run", "--kv-budget-fraction", "nan"], "--kv-budget-fraction: must be a finite number in 0.1..1.0"),
        (["run", "--kv-budget-fraction", "inf"], "--kv-budget-fraction"),
        (["run", "--speculation-depth", "9"], "--speculation-depth: must be an integer in 0..8"),
        (["run", "--quantization-tier", "FP8"], "--quantization-tier: must be one of FP16, INT8, INT4"),
        (["run", "--agent", "oracle"], "random, static, threshold"),
        (["run", "--agent", "random", "--batch-cap", "8"], "--batch-cap: fits only --agent static"),
        (["run", "--seed", "-1"], "seed: must be an integer in 0.."),
        (["run", "--deployment", "tpu"], "deployment"),
        (["run", "--model", "Llama-9"], "--model: the path of a config.json, or one of Llama-3.1-8B, Qwen3-32B"),
        (["run", "--model", "nowhere.json"], "--model: a config.json that can be read"),
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


@pytest.mark.parametrize(
    "flag",
    [
        ["--rate-scale", "0"],
        ["--format", "excel"],
        ["--duration-s", "-3"],
        ["--start-s", "nan"],
        ["--limit", "0"],
        ["--drain-s", "-1"],
    ],
)
def test_a_bad_option_of_a_trace_is_refused_by_name(
    trace: Path, flag: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--trace", str(trace), *flag]) == 2
    assert f"llmserve-sim: {flag[0]}: must" in capsys.readouterr().err


def test_a_log_of_a_task_of_ones_own_wants_its_file(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(log.read_text())
    own = tmp_path / "own.json"
    own.write_text(json.dumps(content | {"task_id": "my_task"}))
    capsys.readouterr()
    assert main(["grade", str(own)]) == 2
    assert "--task: must name the file of the task that the log is of, got 'my_task'" in capsys.readouterr().err


def test_a_log_of_a_trace_graded_without_the_trace_is_a_wrong_call_and_no_verdict(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["grade", str(log)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "--trace: must name the trace that the log is of" in shown.err


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


@pytest.mark.parametrize(
    "option",
    [
        ["--format", "plain"],
        ["--start-s", "1"],
        ["--duration-s", "9"],
        ["--limit", "5"],
        ["--rate-scale", "1"],
        ["--sort"],
        ["--drain-s", "0"],
        ["--cotenant"],
        ["--prefix-reuse"],
    ],
)
def test_what_only_a_trace_can_have_is_refused_without_one(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *option]) == 2
    assert f"{option[0]}: needs --trace FILE" in capsys.readouterr().err


def test_advice_about_a_trace_names_options_that_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backwards = tmp_path / "backwards.csv"
    backwards.write_text("t_s,input,output\n5,10,10\n0,10,10\n")
    assert main(["run", "--trace", str(backwards)]) == 2
    assert "(--sort orders the file)" in capsys.readouterr().err
    assert main(["run", "--trace", str(backwards), "--sort", "--limit", "1", "--start-s", "1", "--drain-s", "0"]) == 0
    assert "backwards.csv" in capsys.readouterr().out


def test_a_trace_is_served_alone_unless_the_tasks_company_is_asked_for(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, shared = tmp_path / "alone.json", tmp_path / "shared.json"
    company = ["--cotenant", "--prefix-reuse"]
    assert main(["run", "--trace", str(trace), "--log", str(alone)]) == 0
    assert "azure_conversation, alone" in " ".join(capsys.readouterr().out.split())
    assert main(["run", "--trace", str(trace), *company, "--log", str(shared)]) == 0
    assert "with its co-tenant and with its prefix reuse" in " ".join(capsys.readouterr().out.split())

    def cotenant_gb(path: Path) -> float:
        steps = EpisodeLog.model_validate_json(path.read_text()).steps
        return max(step.observation.metadata["window"]["cotenant_gb"] for step in steps)

    assert cotenant_gb(alone) == 0 < cotenant_gb(shared)
    assert main(["grade", str(shared), "--trace", str(trace), *company]) == 0
    assert main(["grade", str(shared), "--trace", str(trace)]) == 1


def test_a_knob_makes_the_agent_static_and_no_knob_the_threshold_rules(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--trace", str(trace)]) == 0
    assert "threshold" in capsys.readouterr().out
    assert main(["run", "--trace", str(trace), "--batch-cap", "8"]) == 0
    assert "static" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "name", "bound"),
    [
        ("--png", "x.foo", "must end in one of"),
        ("--png", "x", "must end in one of"),
        ("--log", ".", "must be a file in a folder that exists"),
        ("--log", "file/x.json", "must be a file in a folder that exists"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_simulated(
    option: str, name: str, bound: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["run", option, str(tmp_path / name)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"llmserve-sim: {option}: {bound}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_log_and_picture_cannot_be_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = str(tmp_path / "same.png")
    assert main(["run", "--png", same, "--log", same]) == 2
    assert "--log: must be another file than --png" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_line_and_exit_code_two(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--trace", str(trace), "--log", "/dev/full"]) == 2
    read, shown = capsys.readouterr().err.split("\n", 1)
    assert read.startswith("trace.csv (")  # what was read of the trace
    shown = shown.strip()  # older rich ends a hidden progress bar with an empty line
    assert "\n" not in shown
    assert shown.startswith("llmserve-sim: --log: cannot be written")
    full_png = tmp_path / "full.png"
    full_png.symlink_to("/dev/full")
    assert main(["run", "--trace", str(trace), "--png", str(full_png)]) == 2
    _, shown = capsys.readouterr().err.split("\n", 1)
    assert shown.strip().startswith("llmserve-sim: --png: must be a writable path of a picture")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "llmserve_sim", "tasks"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.startswith("llmserve-sim: the output cannot be written")
    assert done.stderr.count("\n") == 1


def test_ctrl_c_is_one_line_and_exit_code_130(
    monkeypatch: pytest.MonkeyPatch, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llmserve_sim.cli.app.run_episode", interrupted)
    assert main(["run", "--trace", str(trace)]) == 130
    assert capsys.readouterr().err.strip().endswith("llmserve-sim: stopped")
    monkeypatch.setattr("llmserve_sim.cli.app.run", interrupted)
    assert main(["tasks"]) == 130


def test_a_terminal_of_ascii_gets_question_marks_and_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmserve_sim", "tasks"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    assert "bursty_workload" in done.stdout


def test_a_narrow_terminal_keeps_the_numbers(
    trace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["run", "--trace", str(trace), "--batch-cap", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "…" not in "".join(lines)
    assert any(line.split()[:2] == ["finished", "4"] for line in lines)


def test_fidelity_takes_a_run_of_ones_own_and_refuses_what_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(bytes(range(256)))
    assert main(["fidelity", "--requests", str(binary), "--tp", "1"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("fidelity: ")
    assert shown.count("\n") == 1


def test_another_model_is_served_from_its_config_and_graded_with_it(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half the layers are faster; the log says what was served, and is not genuine without it."""
    shape = {"num_hidden_layers": 16, "hidden_size": 4096, "intermediate_size": 14_336, "vocab_size": 128_256}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": True}
    small = tmp_path / "small.json"
    small.write_text(json.dumps({"architectures": ["LlamaForCausalLM"], **shape, **heads}))
    log = tmp_path / "log.json"
    assert main(["run", "--trace", str(trace), "--json"]) == 0
    own = json.loads(capsys.readouterr().out)
    assert main(["run", "--trace", str(trace), "--model", str(small), "--log", str(log), "--json"]) == 0
    served = json.loads(capsys.readouterr().out)
    assert served["deployment"] == f"{own['deployment']} with small"
    assert served["tpot_ms"]["mean"] < own["tpot_ms"]["mean"]
    assert main(["grade", str(log), "--trace", str(trace), "--model", str(small)]) == 0
    assert main(["grade", str(log), "--trace", str(trace)]) == 1


def test_a_model_with_experts_is_refused_on_a_gpu_without_measured_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the GPU's name."""
    path = tmp_path / "mixtral.json"
    shape = {"num_hidden_layers": 4, "hidden_size": 4096, "intermediate_size": 14_336, "vocab_size": 32_000}
    experts = {"num_attention_heads": 32, "num_local_experts": 8, "num_experts_per_tok": 2}
    path.write_text(json.dumps({"architectures": ["MixtralForCausalLM"], **shape, **experts}))
    assert main(["run", "--model", str(path)]) == 2
    assert "without FP16 experts: none were measured on A100" in capsys.readouterr().err
