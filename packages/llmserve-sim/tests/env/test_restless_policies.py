"""On the shipped tasks, under policies that move every knob at random, all engines still say the same.

Such a policy swaps tiers and roles again and again, which cancels iterations and hand-overs in every state they can
be in.
"""

from __future__ import annotations

from random import Random

import pytest

from llmserve_sim.bench.case import task_case
from llmserve_sim.engine.kernel.compiled import available
from llmserve_sim.grid import GRID_SIZES, from_indices
from llmserve_sim.tasks import load_task

WINDOWS = 40
KERNELS = ("python", "numba") if available() else ("python",)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("task", ["static_workload", "bursty_workload", "adversarial_multitenant"])
def test_random_actions_leave_kernel_and_reference_in_agreement(task: str, seed: int) -> None:
    rng = Random(seed)
    actions = [from_indices([rng.randrange(size) for size in GRID_SIZES]) for _ in range(WINDOWS)]
    case = task_case(load_task(task), seed, actions)
    reference = case.engine("reference")
    kernels = {kind: case.engine(kind) for kind in KERNELS}
    for window, plan in enumerate(case.plans):
        expected = reference.step(plan)
        for kind, kernel in kernels.items():
            assert kernel.step(plan) == expected, f"window {window}, {kind}"
