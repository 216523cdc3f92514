"""The whole bench: what the package measures of itself, and its simulated requests per second against Vidur's.

Vidur needs an environment of its own; `--vidur-python` names its interpreter (`nox -s bench` makes it). Both simulate the
same requests on two replicas with the same token budget and batch cap. Vidur gets a constant in place of its predictor,
as long as our mean iteration, which favours it (see vidur_rate.py).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from llmserve_sim.bench import Result, conclude, measure
from llmserve_sim.bench.case import Case, task_case
from llmserve_sim.bench.speed import run_case
from llmserve_sim.schema import ServeAction
from llmserve_sim.tasks import load_task

HERE = Path(__file__).parent
PS_PER_S = 10**12
EPISODES = 200


def write_trace(case: Case, path: Path) -> None:
    """Write a case's requests as the CSV that Vidur replays."""
    rows = zip(case.traffic.arrival_ps, case.traffic.prompt, case.traffic.output, strict=True)
    lines = [f"all,{arrival / PS_PER_S:.9f},{prompt},{output}" for arrival, prompt, output in rows]
    path.write_text("\n".join(["Date,Time,PromptTokenCount,CompletionTokenCount", *lines, ""]), encoding="utf-8")


def mean_iteration_ms(case: Case) -> float:
    """Mean duration of an iteration of the case, ms."""
    engine = case.engine("numba")
    stats = [engine.step(plan) for plan in case.plans]
    return sum(s.busy_ps for s in stats) / sum(s.iterations for s in stats) / 1e9


def against_vidur(python: str) -> Result:
    """Simulated requests per CPU second over Vidur's, on the traffic of `static_workload`."""
    task = load_task("static_workload")
    action = ServeAction(batch_cap=256, kv_budget_fraction=0.9)
    case = task_case(task, task.seeds.validation.start, [action] * task.windows)
    run_case(case, "numba")
    start = time.process_time()
    for _ in range(EPISODES):
        run_case(case, "numba")
    ours = EPISODES * len(case.traffic) / (time.process_time() - start)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.csv"
        write_trace(case, trace)
        command = [python, str(HERE / "vidur_rate.py"), str(trace), "--iteration-ms", f"{mean_iteration_ms(case):.6f}"]
        command += ["--replicas", str(case.fleet.replicas), "--blocks", str(case.plans[0].pool_blocks)]
        output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout
    theirs = json.loads(output.splitlines()[-1])
    return Result(
        "simulated requests per second / Vidur 0.0.26 with a constant predictor",
        ours / theirs["requests_per_s"],
        "x",
        at_least=2000.0,
        note=f"{ours:,.0f} requests/s on this core, {theirs['requests']} requests each",
    )


def main() -> int:
    """Measure, print and write; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for bench.json and bench.png")
    parser.add_argument("--quick", action="store_true", help="shorter measurements, no verdict")
    parser.add_argument("--vidur-python", help="interpreter of an environment that holds vidur==0.0.26")
    arguments = parser.parse_args()
    results = measure(quick=arguments.quick)
    if arguments.vidur_python:
        results.append(against_vidur(arguments.vidur_python))
    else:
        print("Vidur is not measured: no --vidur-python was given")
    return conclude(results, out=arguments.out, verdict=not arguments.quick)


if __name__ == "__main__":
    sys.exit(main())
