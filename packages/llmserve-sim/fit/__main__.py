"""Refit every fitted constant of the performance model and print each fit's error.

python packages/llmserve-sim/fit                      kernels and speculation (seconds)
python packages/llmserve-sim/fit --overheads          CPU overheads too, by replaying the end-to-end runs (minutes)
python packages/llmserve-sim/fit --check [...]        exit 1 if a committed constant is more than 2 % off its refit
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import Any

import attention
import gemm
import kernel_tables
import moe
import other
import overhead
import speculation
from common import Error, differences
from shapes import A100, L40S, RTX_4090

from llmserve_sim.performance import speculation as committed_speculation
from llmserve_sim.performance.calibration import A100_BF16_PLAIN

TOLERANCE = 0.02


def main() -> int:
    """Run all fits; returns the process's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--overheads", action="store_true")
    arguments = parser.parse_args()

    gemms, fp8, formats, errors = gemm.run()
    attentions, found = attention.run(gemms)
    errors += found
    small, allreduce, found = other.run(gemms)
    errors += found
    experts, experts_fp8, found = moe.run()
    errors += found

    changed: list[str] = []
    for gpu in (*kernel_tables.GPUS, RTX_4090):
        refit: dict[str, Any] = {
            "gemm": gemms[gpu.name],
            "decode": attentions.decode[gpu.name],
            "prefill": attentions.prefill[gpu.name],
            "mixed": attentions.mixed[gpu.name],
            "small": small[gpu.name],
            "allreduce": allreduce.get(gpu.name, allreduce[L40S.name]),
        }
        refit |= {"gemm_fp8": fp8[gpu.name]} if gpu.name in fp8 else {}
        refit |= {"moe": experts[gpu.name]} if gpu.name in experts else {}
        refit |= {"moe_fp8": experts_fp8[gpu.name]} if gpu.name in experts_fp8 else {}
        refit |= {"decode_fp8": attentions.decode_fp8[gpu.name]} if gpu.name in attentions.decode_fp8 else {}
        if gpu is A100:
            refit |= {"gemm_int8": formats["INT8"], "gemm_int4": formats["INT4"]}
        if gpu is A100:
            changed += differences("A100 BF16, plain form", A100_BF16_PLAIN, formats["FP16"], TOLERANCE)
        print(f"\n{gpu.name}")
        for name, parameters in refit.items():
            values = ", ".join(
                f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                for name, value in asdict(parameters).items()
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
