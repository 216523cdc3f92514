"""EAGLE-3 acceptance (a, d) from accepted lengths, and the time of a draft position from TPOT against depth."""

from __future__ import annotations

import numpy as np
from common import Array, Error, data_dir, error, fit

from llmserve_sim.fidelity.data import read_accepted_lengths
from llmserve_sim.hardware import ENGINES, GPUS, LLAMA_3_1_8B, Deployment
from llmserve_sim.performance.roofline import Iteration, Roofline
from llmserve_sim.performance.speculation import DRAFT_SEQUENCE_S

CONTEXT_TOKENS = 512.0  # MT-Bench turns; decode attention at batch 1 hardly depends on it


def run() -> tuple[dict[str, float], list[Error]]:
    """({constant: value}, errors)."""
    lengths, tpot_ms, vanilla_ms = read_accepted_lengths(data_dir() / "speculative_decoding_eagle_h100.json")
    depths = np.array(sorted(lengths))
    measured = np.array([lengths[depth] for depth in depths])

    def accepted(p: Array) -> Array:
        position = np.arange(depths.max())
        survives = np.cumprod(p[0] * p[1] ** position)
        return np.asarray(1.0 + np.cumsum(survives)[depths - 1])

    acceptance = fit(accepted, (0.8, 0.95), measured)

    roofline = Roofline(Deployment("fit", GPUS["H100-SXM"], LLAMA_3_1_8B, ENGINES["vllm-0.19"]))
    plain = roofline.iteration_s(Iteration(1, CONTEXT_TOKENS))
    verify = np.array(
        [
            roofline.iteration_s(Iteration(1, CONTEXT_TOKENS, depth=int(depth))) - roofline.drafting_s(1, int(depth))
            for depth in depths
        ]
    )
    base = vanilla_ms * 1e-3 + (verify - plain) + DRAFT_SEQUENCE_S
    tpot = np.array([tpot_ms[depth] for depth in depths]) * 1e-3
    step = fit(lambda p: (base + depths * p[0]) / measured, (1e-3,), tpot)
    return {
        "EAGLE3_ACCEPTANCE": float(acceptance[0]),
        "DRAFT_DECAY": float(acceptance[1]),
        "H100_DRAFT_STEP_S": float(step[0]),
    }, [
        error("EAGLE-3 accepted length by depth", accepted(acceptance), measured),
        error("EAGLE-3 TPOT by depth", (base + depths * step[0]) / measured, tpot),
    ]
