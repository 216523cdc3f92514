"""The engine's units and limits, and the types of numbers in them.

- time: integer picoseconds (`_ps`), 0 at the start of the episode;
- tokens: integers, or *fixed-point tokens* of 1/256 token (`_fp`) for the rates of speculative decoding and for sums of
  context, so that closed forms stay exact;
- KV memory: blocks of 16 tokens.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from llmserve_sim.bounds import Between, Column

__all__ = [
    "BLOCK_TOKENS",
    "DEPTHS",
    "FP",
    "MAX_ITERATION_PS",
    "MAX_LEN",
    "MAX_PRODUCT",
    "MAX_STALL_PS",
    "PRIORITY",
    "PS_PER_S",
    "REPLICAS_MAX",
    "SEQS_MAX",
    "STANDARD",
    "TENANTS",
    "UNFINISHED_MAX",
    "Coefficient",
    "Cost",
    "CostColumn",
    "Ints",
    "Moment",
    "Stall",
    "Tokens",
]

Ints = NDArray[np.int64]

PS_PER_S = 10**12
"""Picoseconds in a second."""
BLOCK_TOKENS = 16
"""Tokens in one KV block (vLLM's default `block_size`)."""
FP = 256
"""Fixed-point steps in one token."""
TENANTS = 4
"""Tenant classes. Each has its own acceptance rate, so each is one lock-step group of a replica."""
DEPTHS = 9
"""Speculation depths 0..8."""
REPLICAS_MAX = 8
"""Most replicas in a fleet."""
SEQS_MAX = 1024
"""Most sequences in a batch (vLLM's `max_num_seqs`; its server's default on large GPUs). Actions take at most 512."""
PRIORITY, STANDARD = 0, 1
"""The two request classes, as vLLM orders them: a lower number is served first."""
UNFINISHED_MAX = 524_288
"""Most unfinished requests: the kernel finds its slots of 168 bytes by 24-bit offsets."""
MAX_LEN = 1 << 20
"""Longest prompt plus output, tokens."""
MAX_ITERATION_PS = 1 << 56
"""Longest iteration (20 hours): times stay far inside int64."""
MAX_STALL_PS = 64 * PS_PER_S
"""Most that one change of every knob may stall: 100,000 windows of it, which is a task's most, stay inside int64."""
MAX_PRODUCT = 1 << 62
"""Bound of every product that the engine forms in int64."""

Cost = Annotated[int, Between(0, MAX_ITERATION_PS, "ps")]
Coefficient = Annotated[int, Between(0, MAX_ITERATION_PS, "ps/1024")]
Moment = Annotated[int, Between(0, MAX_PRODUCT, "ps")]
Stall = Annotated[int, Between(0, MAX_STALL_PS, "ps")]
Tokens = Annotated[Ints, Column(Between(1, 2 * MAX_LEN, "tokens"))]
CostColumn = Annotated[Ints, Column(Between(0, MAX_ITERATION_PS, "ps"))]
