"""Plays an episode in real mode against `transformers serve`: a real server that this project did not write.

The script makes a tiny Llama with random weights (`tiny_llama.py`) and serves it offline. A client plays an episode on
llmserve-server in real mode. In the middle of a step the script kills the server and starts it again: the session
continues, and the step runs again. It prints what it measured and exits with 1 if something that must hold does not.

    python scripts/real_mode.py --transformers-python PYTHON_WITH_TORCH_AND_TRANSFORMERS [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from llmserve_client import ClientError, LLMServeEnv, ServeObservation
from local_server import Running, free_port, running

HERE = Path(__file__).parent
KEY = "sk-local-0123456789-never-shown"
LIMITS = {
    "LLMSERVE_REAL_MAX_REQUESTS_PER_STEP": "3",
    "LLMSERVE_REAL_MAX_PROMPT_TOKENS": "24",
    "LLMSERVE_REAL_MAX_COMPLETION_TOKENS": "6",
    "LLMSERVE_REAL_TIME_SCALE": "0.02",
    "LLMSERVE_REAL_TIMEOUT_S": "60",
}


def main() -> int:
    """Run the episode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transformers-python", type=Path, required=True, help="its environment serves the model")
    parser.add_argument("--task", default="static_workload")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--out", type=Path, help="folder for real_mode.json and the servers' logs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        model = Path(scratch) / "tiny-llama"
        python = options.transformers_python
        subprocess.run([python, HERE / "tiny_llama.py", "--out", model], check=True)
        with serving_model(python, model, out) as endpoint:
            environment = {**LIMITS, "LLMSERVE_MODE": "real", "LLMSERVE_REAL_PROVIDER": "other"}
            environment |= {
                "LLMSERVE_REAL_MODEL": str(model),
                "OPENAI_BASE_URL": f"{endpoint}/v1",
                "OPENAI_API_KEY": KEY,
            }
            environment["LLMSERVE_STORE_URL"] = f"sqlite:///{scratch}/episodes.db"
            report = play(options.task, options.seed, environment, out)
    (out / "real_mode.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name, value in report.items():
        print(f"{name:>28}  {value}")
    problems = [
        f"the key stands in {path.name}" for path in out.glob("*.log") if KEY in path.read_text("utf-8", "replace")
    ]
    problems += failed(report)
    for problem in problems:
        print(f"FAILED: {problem}", file=sys.stderr)
    return 1 if problems else 0


def play(task: str, seed: int, environment: dict[str, str], out: Path) -> dict[str, object]:
    """Play a whole episode, with a kill in the middle; return the measurements."""
    seen: list[ServeObservation] = []
    began = time.monotonic()
    with running(out, env=environment) as server, LLMServeEnv.from_url(server.url) as env:
        env.reset(task, seed)
        session = env.state()
        session_id = env.session_id
        while len(seen) < session.episode_length // 2:
            seen.append(env.step(knobs(len(seen))).observation)
        interrupt(server, env, len(seen))
    with running(out, env=environment) as server, LLMServeEnv.from_url(server.url) as env:
        last = env.resume(session_id)
        resumed = env.state().step_count
        # If the server stored the interrupted step before it was killed, the step is not run again.
        seen = [*seen[:resumed], *([last] if resumed > len(seen) else [])]
        same = last.model_dump_json() == seen[-1].model_dump_json()
        while not seen[-1].done:
            seen.append(env.step(knobs(len(seen))).observation)
        state, grade, log = env.state(), env.grade(), env.episode_log()
    logged = [step.observation.model_dump_json() for step in log.steps]
    real = [one.metadata["real"] for one in seen]
    failures = sum((Counter(window["failures"]) for window in real), Counter())
    return {
        "task": task,
        "seed": seed,
        "steps": len(seen),
        "wall_s": round(time.monotonic() - began, 1),
        "resumed_at": resumed,
        "resumed_as_it_stood": same,
        "log_is_what_was_seen": logged == [one.model_dump_json() for one in seen],
        "requests_sent": state.arrived,
        "finished": state.finished,
        "abandoned": state.abandoned,
        "failed": state.rejected,
        "failures": dict(failures),
        "tokens_delivered": sum(window["delivered_tokens"] for window in real),
        "requests_estimated": sum(window["estimated_requests"] for window in real),
        "ttft_ms_median": round(median(one.p50_ttft_ms for one in seen if one.metadata["real"]["finished"]), 1),
        "itl_ms_median": round(median(one.p50_itl_ms for one in seen if one.metadata["real"]["finished"]), 1),
        "slo_compliance_mean": round(sum(one.slo_compliance_rate for one in seen) / len(seen), 3),
        "total_reward": round(state.total_reward, 3),
        "score": grade.score,
        "verified": grade.verified,
        "complete": grade.complete,
        "reason": grade.reason,
        "unapplied": seen[-1].metadata["unapplied"],
        "unmeasured": seen[-1].metadata["unmeasured"],
    }


def failed(report: dict[str, object]) -> Iterator[str]:
    """Yield a sentence for each measurement that is not as it must be."""
    expected = {
        "steps": 120,
        "resumed_as_it_stood": True,
        "log_is_what_was_seen": True,
        "failed": 0,
        "requests_estimated": 0,
        "verified": None,
        "complete": True,
    }
    for name, value in expected.items():
        if report[name] != value:
            yield f"{name} is {report[name]!r}, should be {value!r}"
    if report["requests_sent"] != report["finished"]:
        yield "not every request that was sent was answered"
    for name in ("tokens_delivered", "ttft_ms_median", "itl_ms_median"):
        if not report[name]:
            yield f"{name} was not measured"


def knobs(step: int) -> dict[str, object]:
    """Return an action; every knob changes now and then."""
    return {
        "batch_cap": (1, 4, 32)[step % 3],
        "priority_routing": step % 2 == 0,
        "quantization_tier": ("FP16", "INT8", "INT4")[step // 10 % 3],
    }


def interrupt(server: Running, env: LLMServeEnv, step: int) -> None:
    """Kill the server during a step; the caller gets an error, or an answer that arrived just in time."""
    outcome: list[str] = []

    def one() -> None:
        try:
            env.step(knobs(step))
            outcome.append("answered")
        except ClientError as error:
            outcome.append(type(error).__name__)

    stepping = threading.Thread(target=one)
    stepping.start()
    time.sleep(0.05)
    server.process.kill()
    server.process.wait(10)
    stepping.join(60)
    print(
        f"the server was killed in the middle of step {step + 1}; its caller saw: {', '.join(outcome) or 'nothing yet'}"
    )


@contextmanager
def serving_model(python: Path, model: Path, out: Path) -> Iterator[str]:
    """Serve the model with `transformers serve`, offline; yield its address."""
    port, log = free_port(), out / "transformers.log"
    command = [str(python.with_name("transformers")), "serve", str(model), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(model.with_name("hf"))}
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path, *, limit_s: float = 180.0) -> None:
    """Return once `url` answers; raise if the process ends first or takes too long."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - an address made here
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"{url} did not answer: {log.read_text('utf-8', 'replace')[-2000:]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that this script started."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


if __name__ == "__main__":
    raise SystemExit(main())
