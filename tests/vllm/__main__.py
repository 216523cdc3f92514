"""`python -m tests.vllm --version V` with vLLM's .py files on PYTHONPATH; `nox -s vllm` prepares that and runs it.

Random workloads go through vLLM's scheduler and through the simulator's reference engine under the rules of that
version. Every step's batch and times, and every request's scheduled, first-token and last-token time and preemptions
must be identical. The first workload that differs is shrunk and printed.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections import Counter

from rich.console import Console
from rich.progress import track
from rich.table import Table
from tests.vllm.real import VllmRun, load_vllm
from tests.vllm.simulated import simulate
from tests.vllm.workloads import REGIMES, Workload, make_workload, shrink

from llmserve_sim.hardware import SCHEDULERS


def main() -> int:
    """Compare; return 1 if any workload differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.vllm", description=__doc__.partition("\n")[0])
    parser.add_argument("--version", required=True, help="vLLM's version, as 0.19.1")
    parser.add_argument("--workloads", type=int, default=200, help="workloads in all regimes together (default 200)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32), help="default: drawn, and printed")
    parser.add_argument("--regime", choices=REGIMES, action="append", help="only these (default: all)")
    arguments = parser.parse_args()
    rules = SCHEDULERS.get("vllm-" + ".".join(arguments.version.split(".")[:2]))
    if rules is None:
        parser.error(f"--version: there are rules for {', '.join(SCHEDULERS)}")
    load_vllm()

    def difference(workload: Workload) -> str | None:
        return VllmRun(workload).run().difference(simulate(workload, rules))

    regimes = arguments.regime or list(REGIMES)
    total, identical = Counter[tuple[str, bool]](), Counter[tuple[str, bool]]()
    preemptions = Counter[str]()
    first: Workload | None = None
    console = Console(stderr=True)
    for index in track(range(arguments.workloads), f"vLLM {arguments.version}, seed {arguments.seed}", console=console):
        workload = make_workload(regimes[index % len(regimes)], arguments.seed + index)
        mine = VllmRun(workload).run()
        same = mine.difference(simulate(workload, rules)) is None
        kind = (workload.regime, workload.asynchronous)
        total[kind] += 1
        identical[kind] += same
        preemptions[workload.regime] += sum(row[3] for row in mine.requests.values())
        first = first or (None if same else workload)

    table = Table("identical workloads", "synchronous", "asynchronous", "preemptions")
    table.title = f"vLLM {arguments.version} and the reference"
    for regime in regimes:
        counts = (f"{identical[regime, mode]} of {total[regime, mode]}" for mode in (False, True))
        table.add_row(regime, *counts, str(preemptions[regime]))
    everything = f"{identical.total()} of {total.total()}"
    table.add_row("all", everything, "", str(preemptions.total()), style="bold")
    Console().print(table)
    if first is None:
        return 0
    smallest = shrink(first, lambda workload: difference(workload) is not None)
    sys.stdout.write(f"smallest difference, seed {arguments.seed}\n  {smallest}\n  {difference(smallest)}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
