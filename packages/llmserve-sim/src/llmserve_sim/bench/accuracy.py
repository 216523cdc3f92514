"""Measures the difference between the kernel's integer tables and the roofline that they are made from."""

from __future__ import annotations

import random

from llmserve_sim.bench.report import Result
from llmserve_sim.engine.interface import FP, TierTables
from llmserve_sim.hardware import DEPLOYMENTS
from llmserve_sim.performance.quantization import TIERS
from llmserve_sim.performance.roofline import Iteration, Roofline
from llmserve_sim.performance.tables import build_tier

__all__ = ["measure_tables", "table_s"]

PS_PER_S = 10**12


def table_s(tables: TierTables, it: Iteration) -> float:
    """Seconds that the tables give an iteration (their docstring's formula)."""
    n, x = it.sequences, int(it.context * FP)
    time = int(tables.gemm[it.tokens]) + int(tables.head[it.rows]) + tables.cpu_seq * (n + len(it.chunks))
    decode = mixed = prefill = 0
    if n:
        piece = max(j for j in range(len(tables.dec_x)) if n * int(tables.dec_x[j]) <= x)
        decode = n * int(tables.dec_h[piece]) + int(tables.dec_s[piece]) * (x - n * int(tables.dec_x[piece]))
        mixed = max(n * tables.mix_seq + (tables.mix_ctx * x >> 10), tables.mix_amp * x >> 10, decode)
        if it.depth:
            time += it.depth * tables.draft_step + n * tables.spec_seq
    if it.chunks:
        units = sum(-(-q // tables.pf_tile) * (2 * c + q + tables.pf_off) for q, c in it.chunks)
        longest = max(c + q for q, c in it.chunks)
        prefill = tables.pf_t0 + max(tables.pf_coef * units >> 10, tables.pf_crit * longest >> 10)
        time += prefill + mixed
    elif n:
        time += tables.dec_t0 + decode
    return time / PS_PER_S


def measure_tables(*, samples: int) -> Result:
    """Largest relative difference over random iterations of every deployment and weight format, in percent."""
    rng = random.Random(0)  # noqa: S311 - a sample, not a secret
    models = [(Roofline(d, tier), build_tier(Roofline(d, tier))) for d in DEPLOYMENTS.values() for tier in TIERS]
    worst = 0.0
    for _ in range(samples):
        roofline, tables = rng.choice(models)
        it = _iteration(rng, tables.budget)
        exact = roofline.iteration_s(it)
        worst = max(worst, abs(table_s(tables, it) - exact) / exact)
    return Result("integer tables against the roofline, largest difference", 100 * worst, "%", at_most=0.1)


def _iteration(rng: random.Random, budget: int) -> Iteration:
    depth = rng.choice((0, 0, 1, 2, 4, 8))
    sequences = rng.choice((0, rng.randint(1, min(512, budget // (depth + 1)))))
    left = budget - sequences * (depth + 1)
    chunks = []
    for _ in range(rng.randint(0 if sequences else 1, 3)):
        if left > 0:
            chunks.append((rng.randint(1, left), rng.choice((0, rng.randint(0, 6000)))))
            left -= chunks[-1][0]
    if not sequences:
        depth = 0
    return Iteration(
        sequences, float(sequences * rng.randint(1, 8000)), tuple(chunks), rng.randint(0, len(chunks)), depth
    )
