"""Runs all benchmarks of the simulator: its own ratios, and its simulated requests per second against Vidur's.

Vidur needs its own environment; `--vidur-python` names its interpreter (`nox -s bench` makes it). Both simulate the
same requests on two replicas with the same token budget and batch cap, under a configuration that keeps up with the
load, so that both serve every request. Vidur gets a constant in place of its predictor, equal to our mean iteration.
This favours Vidur (see vidur_rate.py).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from llmserve_sim.bench import Result, conclude, measure
from llmserve_sim.bench.case import Case, task_case
from llmserve_sim.engine import KernelBatch
from llmserve_sim.engine.kernel.engine import pack_plan
from llmserve_sim.schema import ServeAction
from llmserve_sim.tasks import load_task

HERE = Path(__file__).parent
PS_PER_S = 10**12
ENVIRONMENTS = 16
ROUNDS = 8


def write_trace(case: Case, path: Path) -> None:
    """Write a case's requests as the CSV that Vidur replays."""
    rows = zip(case.traffic.arrival_ps, case.traffic.prompt, case.traffic.output, strict=True)
    lines = [f"all,{arrival / PS_PER_S:.9f},{prompt},{output}" for arrival, prompt, output in rows]
    path.write_text("\n".join(["Date,Time,PromptTokenCount,CompletionTokenCount", *lines, ""]), encoding="utf-8")


def mean_iteration_ms(case: Case) -> float:
    """Return the mean duration of an iteration of the case, ms."""
    engine = case.engine("numba")
    stats = [engine.step(plan) for plan in case.plans]
    return sum(s.busy_ps for s in stats) / sum(s.iterations for s in stats) / 1e9


def our_rate(case: Case) -> float:
    """Return the requests that one core simulates per CPU second, in a batch as in training; best of a few rounds."""
    batch = KernelBatch(case.fleet, case.slo, ENVIRONMENTS, backend="numba")
    plans = [np.stack([pack_plan(plan)] * ENVIRONMENTS) for plan in case.plans]
    seconds = []
    for _ in range(ROUNDS):
        for index in range(ENVIRONMENTS):
            batch.load(index, case.traffic)
        start = time.process_time()
        for packed in plans:
            batch.step(packed)
        seconds.append(time.process_time() - start)
    return ENVIRONMENTS * len(case.traffic) / min(seconds)


def vidur_rate(python: str, case: Case) -> float:
    """Return the requests that Vidur simulates per CPU second."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.csv"
        write_trace(case, trace)
        command = [python, str(HERE / "vidur_rate.py"), str(trace), "--iteration-ms", f"{mean_iteration_ms(case):.6f}"]
        command += ["--replicas", str(case.fleet.replicas), "--blocks", str(case.plans[0].pool_blocks)]
        command += ["--batch-cap", str(case.plans[0].batch_cap), "--token-budget", str(case.fleet.tiers[0].budget)]
        output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout
    return float(json.loads(output.splitlines()[-1])["requests_per_s"])


def against_vidur(python: str) -> Result:
    """Return simulated requests per CPU second over Vidur's, on the traffic of `static_workload`."""
    task = load_task("static_workload")
    action = ServeAction(batch_cap=256, kv_budget_fraction=0.9, quantization_tier="INT8")
    case = task_case(task, task.seeds.validation.start, [action] * task.windows)
    ours, theirs = our_rate(case), vidur_rate(python, case)
    return Result(
        "simulated requests per second / Vidur 0.0.26 with a constant predictor",
        ours / theirs,
        "x",
        at_least=2000.0,
        note=f"{ours:,.0f} requests/s on one core, {len(case.traffic):,} requests each",
    )


def main() -> int:
    """Measure, print and write; return 1 if a bar is missed."""
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
