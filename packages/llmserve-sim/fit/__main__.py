"""Refit every fitted constant of the performance model and print each fit's error.

python packages/llmserve-sim/fit                      kernels and speculation (seconds)
python packages/llmserve-sim/fit --overheads          CPU overheads too, by replaying the end-to-end runs (minutes)
python packages/llmserve-sim/fit --check [...]        exit 1 if a committed constant is more than 2 % off its refit
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import astuple
from typing import Any

import attention
import gemm
import other
import overhead
import speculation
from common import Error, differences
from shapes import A100, H100, RTX_4090, RTX_PRO_6000

from llmserve_sim.performance import speculation as committed_speculation

TOLERANCE = 0.02


def main() -> int:
    """Run all fits; returns the process's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--overheads", action="store_true")
    arguments = parser.parse_args()

    gemms, formats, errors = gemm.run()
    decode, prefill, mixed, found = attention.run(gemms)
    errors += found
    small, allreduce, found = other.run(gemms)
    errors += found

    changed: list[str] = []
    for gpu in (A100, H100, RTX_PRO_6000, RTX_4090):
        refit: dict[str, Any] = {
            "gemm": gemms[gpu.name],
            "decode": decode[gpu.name],
            "prefill": prefill[gpu.name],
            "mixed": mixed[gpu.name],
            "small": small[gpu.name],
        }
        if gpu.name in allreduce:
            refit["allreduce"] = allreduce[gpu.name]
        if gpu is A100:
            refit |= {"gemm_int8": formats["INT8"], "gemm_int4": formats["INT4"]}
        print(f"\n{gpu.name}")
        for name, parameters in refit.items():
            values = ", ".join(
                f"{value:.4g}" if isinstance(value, float) else str(value) for value in astuple(parameters)
            )
            print(f"    {name}={type(parameters).__name__}({values}),")
            changed += differences(f"{gpu.name}.{name}", getattr(gpu.kernels, name), parameters, TOLERANCE)
    constants, found = speculation.run()
    errors += found
    print("\nllmserve_sim.performance.speculation")
    for name, value in constants.items():
        print(f"    {name} = {value:.4g}")
        changed += differences(name, getattr(committed_speculation, name), value, TOLERANCE)
    print_errors(errors)
    if arguments.overheads:
        changed += overhead.run()
    for line in changed:
        print(line, file=sys.stderr)
    return int(arguments.check and bool(changed))


def print_errors(errors: list[Error]) -> None:
    """One line per fit."""
    print(f"\n{'|predicted / measured - 1|, %':52s}{'rows':>6s}{'median':>8s}{'p90':>8s}{'max':>8s}{'bias':>8s}")
    for row in errors:
        print(f"{row.what:52s}{row.rows:6d}{row.median:8.1f}{row.p90:8.1f}{row.worst:8.1f}{row.bias:8.1f}")


if __name__ == "__main__":
    sys.exit(main())
