"""Compiles the simulator's kernel into numba's cache folder, so that a new process takes its first step at once.

The image runs this at build time, for the processor named `generic` (`NUMBA_CPU_NAME`): numba stores machine code
under the name of its processor, and an image is built on one machine and runs on another. With `--check` nothing may
be compiled: the run fails if the cache grows.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from llmserve_sim.engine.kernel import compiled
from llmserve_sim.env import ServingEnv
from llmserve_sim.schema import ServeAction
from llmserve_sim.tasks import list_tasks

#: Every knob leaves its default at least once, so that every function of the kernel is called.
ACTIONS = (
    ServeAction(),
    ServeAction(batch_cap=128, speculation_depth=4, quantization_tier="INT8", priority_routing=True),
    ServeAction(kv_budget_fraction=0.3, quantization_tier="INT4", prefill_decode_split=True),
)


def main() -> int:
    """Play every shipped task for a few windows; return 1 if the cache is not as expected."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="fail if anything is still compiled")
    check = parser.parse_args().check
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    before = _entries(folder)
    start = time.perf_counter()
    compiled.load()  # the batch's kernel too, which no episode below uses
    for task in list_tasks():
        env = ServingEnv(task, engine="numba")
        env.reset(seed=0)
        for action in ACTIONS * 2:
            env.step(action)
    after = _entries(folder)
    print(f"{time.perf_counter() - start:.1f} s, {len(after)} entries in {folder}, {len(after - before)} of them new")
    if check and after != before:
        print("the cache did not serve this process: is NUMBA_CPU_NAME set as it was when the cache was filled?")
        return 1
    return int(not after)


def _entries(folder: Path) -> set[Path]:
    return set(folder.rglob("*.nb[ci]"))


if __name__ == "__main__":
    sys.exit(main())
