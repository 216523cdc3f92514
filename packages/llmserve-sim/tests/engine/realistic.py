"""A fleet of two A100-80G serving Llama-3.1-8B, written down from published figures, and traffic for it.

It leans on nothing but the engine's interface, so that the engine's tests say nothing about the performance model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from random import Random

import numpy as np

from llmserve_sim.engine import FleetSpec, Slo, TierTables, Traffic, WindowPlan
from llmserve_sim.engine.interface import DEPTHS, FP, PS_PER_S, TENANTS

MS = 10**9
US = 10**6
LAYERS = 32
GEMMS = ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))  # QKV, O, gate-up, down: n x k
FP16, INT8, INT4 = 0, 1, 2
A100_FLOPS, A100_BYTES = 312e12, 2.039e12
# (t0 us, compute efficiency, memory efficiency, q, FLOP factor, weight bytes): measured A100 GEMMs by weight format
FORMATS = ((6.9, 0.838, 0.810, 1.68, 1, 2.0), (12.8, 0.880, 0.974, 1.05, 2, 1.0), (19.9, 0.819, 1.071, 1.05, 1, 0.5))
POOL = 27_000  # blocks: 56 GB at 131,072 bytes a token


def tables(tier: int) -> TierTables:
    """Llama-3.1-8B on one A100 at one weight format, from the roofline with a p-norm of compute and memory time."""
    t0, ec, eb, q, factor, weight = FORMATS[tier]
    m = np.arange(2049.0)
    gemms = sum(
        t0 * 1e-6
        + (
            (2 * m * n * k / (ec * A100_FLOPS * factor)) ** q
            + ((n * k * weight + 2 * m * k + 2 * m * n) / (eb * A100_BYTES)) ** q
        )
        ** (1 / q)
        for n, k in GEMMS
    )
    gemm = LAYERS * (gemms + 9e-6) + 0.5e-3  # 9 us of small kernels a layer, 0.5 ms of CPU
    head = np.maximum(128256 * 4096 * 2 / (0.81 * A100_BYTES), 2 * m * 128256 * 4096 / (0.838 * A100_FLOPS))
    head[0] = 0
    token_ps = 131_072 / (0.71 * A100_BYTES) * PS_PER_S  # reading one token's KV
    sequence_ps = LAYERS * 4.0 * US * 8 / 108  # a sequence's CTAs over 108 SMs
    slope = int(token_ps / FP)
    return TierTables(
        budget=2048,
        gemm=np.rint(gemm * PS_PER_S).astype(np.int64),
        head=np.rint(head * PS_PER_S).astype(np.int64),
        cpu_seq=10 * US,
        dec_t0=LAYERS * 19 * US,
        dec_x=np.array([0, int(sequence_ps / slope)]),
        dec_h=np.array([int(sequence_ps), int(sequence_ps)]),
        dec_s=np.array([0, slope]),
        pf_t0=int(LAYERS * 12.8 * US),
        pf_tile=1,
        pf_off=575,
        pf_coef=int(1024 * LAYERS * 2 * 4096 / (0.574 * A100_FLOPS) * PS_PER_S),
        pf_crit=0,
        mix_seq=45 * US,
        mix_ctx=int(1024 * 1.2 * slope),
        mix_amp=int(1024 * 1.47 * slope),
        draft_step=1680 * US,
        spec_seq=60 * US,
    )


FLEET = FleetSpec(
    replicas=2,
    tiers=(tables(FP16), tables(INT8), tables(INT4)),
    swap_ps=(5 * PS_PER_S, 4 * PS_PER_S, 3 * PS_PER_S),
    split_ps=500 * MS,
    resize_ps=100 * MS,
    evict_ps=300 * MS,
    handover_ps=170 * MS,
    link_ps_per_token=6 * US,
    max_len=8192,
    max_unfinished=1024,
    patience_ps=0,
)
ALONE = replace(FLEET, replicas=1)
SLO = Slo(ttft_ps=(PS_PER_S, 2 * PS_PER_S), ttft_ps_per_prompt_token=250 * US, tpot_ps=(22 * MS, 30 * MS))


def rates(acceptance: float = 0.7) -> tuple[tuple[int, ...], ...]:
    """Tokens per step at each depth, if each draft token is accepted with one probability."""
    row = tuple(int(FP * sum(acceptance**j for j in range(depth + 1))) for depth in range(DEPTHS))
    return (row,) * TENANTS


PLAN = WindowPlan(
    end_ps=PS_PER_S,
    batch_cap=256,
    depth=0,
    tier=FP16,
    split=False,
    priority=False,
    pool_blocks=POOL,
    resized=False,
    tokens_per_step=rates(),
)


def requests(rows: Iterable[tuple[float, int, int, int]]) -> Traffic:
    """Traffic of (arrival s, prompt, output, class), one tenant."""
    columns = [np.array(column) for column in zip(*sorted(rows), strict=True)]
    arrival = np.rint(columns[0] * PS_PER_S).astype(np.int64)
    return Traffic(arrival, *(c.astype(np.int64) for c in columns[1:]), tenant=np.zeros(len(arrival), np.int64))


def chat(rate: float, seconds: float, prompt: int = 400, output: int = 200, priority_share: float = 0.0) -> Traffic:
    """Poisson arrivals of conversations; lengths spread by a half around their means."""
    rng, now, rows = Random(7), 0.0, []
    while (now := now + rng.expovariate(rate)) < seconds:
        kind = int(rng.random() >= priority_share)
        rows.append((now, int(prompt * rng.uniform(0.5, 1.5)), int(output * rng.uniform(0.5, 1.5)), kind))
    return requests(rows)
