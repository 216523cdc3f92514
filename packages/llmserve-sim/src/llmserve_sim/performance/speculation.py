"""Speculative decoding with an EAGLE-3 draft head: how many tokens a step yields, and what drafting costs.

One step at depth K verifies K + 1 tokens per sequence and yields `AL(K) = 1 + sum_k prod_{j<=k} a d^(j-1)` of them:
position j is accepted with probability a d^(j-1), given that those before it were. Steps yield this expected number in
fixed point, not a draw per request, so the model makes no claim on the tail of inter-token latency when K > 0.
"""

from __future__ import annotations

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.specifications import Deployment

__all__ = [
    "ACCEPTANCE_BOUNDS",
    "DRAFT_DECAY",
    "DRAFT_SEQUENCE_S",
    "EAGLE3_ACCEPTANCE",
    "MAX_DEPTH",
    "accepted_length",
    "draft_step_s",
    "tokens_per_step",
]

MAX_DEPTH = 8
FP = 256
"""Fixed-point steps in one token, as in the engine."""

# Fitted by packages/llmserve-sim/fit/speculation.py to the accepted lengths of vllm-project/vllm issue 20780 (EAGLE-3,
# Llama-3.1-8B, H100, MT-Bench, batch 1).
EAGLE3_ACCEPTANCE = 0.775
DRAFT_DECAY = 0.974
ACCEPTANCE_BOUNDS = (0.05, 0.95)

H100_DRAFT_STEP_S = 1.278e-3
"""One draft position with the Llama-3.1-8B EAGLE-3 head on H100; same issue, same script.

It absorbs about 1.1 ms per step that does not grow with depth, so shallow drafts come out some 6 % too
fast, and deep ones too slow."""
DRAFT_SEQUENCE_S = 60e-6
"""Drafting and sampling per sequence; the design's figure from a published batch-64 run."""
_H100_BYTES_PER_S = 3.35e12
_LLAMA_DRAFT_PARAMETERS = 425_197_568


def accepted_length(acceptance: float, depth: int) -> float:
    """Expected tokens per step, the verifier's own included: 1 at depth 0.

    Raises:
        InvalidInputError: `acceptance` outside [0, 1] or `depth` outside 0..8.
    """
    if not 0.0 <= acceptance <= 1.0:
        raise InvalidInputError("acceptance", "in [0, 1]", got=acceptance)
    if not 0 <= depth <= MAX_DEPTH:
        raise InvalidInputError("speculation_depth", f"0..{MAX_DEPTH}", got=depth)
    length, survives = 1.0, 1.0
    for position in range(depth):
        survives *= acceptance * DRAFT_DECAY**position
        length += survives
    return length


def tokens_per_step(acceptances: tuple[float, ...]) -> tuple[tuple[int, ...], ...]:
    """Tokens per step of each tenant class at depth 0..8, in 1/256 token; row t is for `acceptances[t]`."""
    return tuple(
        tuple(round(FP * accepted_length(acceptance, depth)) for depth in range(MAX_DEPTH + 1))
        for acceptance in acceptances
    )


def draft_step_s(deployment: Deployment) -> float:
    """Time of one draft position: the H100 measurement scaled by the bytes of the head and the GPUs' bandwidth."""
    weights = deployment.model.draft_parameters / _LLAMA_DRAFT_PARAMETERS
    bandwidth = deployment.tensor_parallel * deployment.gpu.hbm_bytes_per_s / _H100_BYTES_PER_S
    return H100_DRAFT_STEP_S * weights / bandwidth
