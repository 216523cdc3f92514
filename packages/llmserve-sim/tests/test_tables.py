"""Integer tables against the roofline they were built from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llmserve_sim.engine.interface import FP, TierTables
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.hardware import DEPLOYMENTS, ENGINES, GPUS, LLAMA_3_1_8B, QWEN3_32B, Deployment
from llmserve_sim.memory import MemoryModel
from llmserve_sim.performance.quantization import TIERS
from llmserve_sim.performance.roofline import Iteration, Roofline
from llmserve_sim.performance.tables import MAX_CONTEXT_TOKENS, build_fleet, build_tier

MAX_ERROR = 1e-3
BATCHES = 600
TP8 = Deployment(
    "tp8", GPUS["H100-SXM"], QWEN3_32B, ENGINES["vllm-0.12"], tensor_parallel=8, max_num_batched_tokens=8192
)
CASES = [(deployment, tier) for deployment in (*DEPLOYMENTS.values(), TP8) for tier in TIERS]


def iteration_ps(t: TierTables, it: Iteration) -> int:
    """The formula in the docstring of `TierTables`."""
    n, x = it.sequences, round(it.context * FP)
    piece = int(np.searchsorted(n * t.dec_x, x, side="right")) - 1
    edge, height, slope = (int(column[piece]) for column in (t.dec_x, t.dec_h, t.dec_s))
    decode = n * height + slope * (x - n * edge)
    time = int(t.gemm[it.tokens]) + int(t.head[it.rows]) + t.cpu_seq * (n + len(it.chunks))
    if it.chunks:
        units = sum(-(-new // t.pf_tile) * (2 * cached + new + t.pf_off) for new, cached in it.chunks)
        longest = max(new + cached for new, cached in it.chunks)
        time += t.pf_t0 + max(t.pf_coef * units >> 10, t.pf_crit * longest >> 10)
        if n:
            time += max(n * t.mix_seq + (t.mix_ctx * x >> 10), t.mix_amp * x >> 10, decode)
    else:
        time += t.dec_t0 + decode
    if it.depth and n:
        time += it.depth * t.draft_step + n * t.spec_seq
    return time


def random_iteration(rng: np.random.Generator, budget: int) -> Iteration:
    """Any mix of decodes and chunks that fits the budget; mean contexts from 1 to 131,072 tokens, evenly by magnitude."""
    depth = int(rng.integers(0, 9))
    n = int(rng.integers(0, 513)) if rng.random() < 0.5 else int(rng.integers(0, 33))
    depth = max(0, min(depth, budget // n - 1)) if n else 0
    left = budget - n * (depth + 1)
    chunks = []
    for _ in range(int(rng.integers(0, 4)) if n else int(rng.integers(1, 4))):
        if left > 0:
            new = int(rng.integers(1, left + 1))
            chunks.append((new, int(rng.integers(0, 16_384)) if rng.random() < 0.5 else 0))
            left -= new
    context = n * float(np.exp(rng.uniform(0.0, np.log(MAX_CONTEXT_TOKENS))))
    return Iteration(n, round(context), tuple(chunks), int(rng.integers(0, len(chunks) + 1)), depth)


@pytest.mark.parametrize(("deployment", "tier"), CASES, ids=[f"{d.name}-{tier}" for d, tier in CASES])
def test_tables_are_within_a_tenth_of_a_percent_of_the_roofline(deployment: Deployment, tier: str) -> None:
    """For 600 random iterations of every kind."""
    rng = np.random.default_rng(7)
    roofline = Roofline(deployment, tier)
    tables = build_tier(roofline)
    for _ in range(BATCHES):
        it = random_iteration(rng, tables.budget)
        assert iteration_ps(tables, it) == pytest.approx(roofline.iteration_s(it) * 1e12, rel=MAX_ERROR), it


@pytest.mark.parametrize("deployment", DEPLOYMENTS.values(), ids=lambda deployment: deployment.name)
def test_nothing_overflows_at_the_largest_batch_and_context(deployment: Deployment) -> None:
    """512 sequences of 131,072 tokens, and a full chunk behind as many; every product stays below 2^62."""
    for tier in build_fleet(deployment, max_len=MAX_CONTEXT_TOKENS, max_unfinished=512).tiers:
        n, x = 512, 512 * MAX_CONTEXT_TOKENS * FP
        units = -(-tier.budget // tier.pf_tile) * (2 * MAX_CONTEXT_TOKENS + tier.budget + tier.pf_off)
        products = (
            n * int(tier.dec_h[-1]) + int(tier.dec_s.max()) * x,
            n * tier.mix_seq + tier.mix_ctx * x,
            tier.mix_amp * x,
            tier.pf_coef * units,
            tier.pf_crit * (MAX_CONTEXT_TOKENS + tier.budget),
        )
        assert max(products) < 2**62
        assert min(int(column.min()) for column in (tier.gemm, tier.head, tier.dec_h, tier.dec_s)) >= 0


@pytest.mark.parametrize(("deployment", "tier"), CASES, ids=[f"{d.name}-{tier}" for d, tier in CASES])
def test_decode_attention_is_continuous_and_never_falls(deployment: Deployment, tier: str) -> None:
    """So that a leap over an edge between pieces loses no time."""
    t = build_tier(Roofline(deployment, tier))
    assert int(t.dec_x[0]) == 0
    assert (np.diff(t.dec_x) > 0).all()
    np.testing.assert_array_equal(t.dec_h[1:], t.dec_h[:-1] + t.dec_s[:-1] * np.diff(t.dec_x))


def test_building_twice_gives_the_same_integers() -> None:
    """Tables enter the engine's digest."""
    one, two = (build_fleet(DEPLOYMENTS["a100-llama3.1-8b"], max_len=8192, max_unfinished=512) for _ in range(2))
    for a, b in zip(one.tiers, two.tiers, strict=True):
        for name in ("gemm", "head", "dec_x", "dec_h", "dec_s"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_fleet_and_memory_agree_on_the_smallest_pool() -> None:
    """The engine refuses a smaller one."""
    for deployment in DEPLOYMENTS.values():
        fleet = build_fleet(deployment, max_len=8192, max_unfinished=512)
        assert fleet.min_pool_blocks == MemoryModel(deployment, 8192).min_pool_blocks


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_len", 1), ("max_len", 200_000), ("max_unfinished", 0), ("patience_s", -1.0), ("handover_s", float("nan"))],
)
def test_a_fleet_out_of_range_is_refused_by_field(field: str, value: Any) -> None:
    """Nothing is clamped."""
    arguments: dict[str, Any] = {"max_len": 8192, "max_unfinished": 512} | {field: value}
    with pytest.raises(InvalidInputError) as caught:
        build_fleet(DEPLOYMENTS["a100-llama3.1-8b"], **arguments)
    assert caught.value.field == field


@pytest.mark.parametrize("form", ["FP16", "FP8"])
def test_no_piece_of_decode_attention_falls_at_eight_way_parallelism_on_h200(form: str) -> None:
    """A slope of few picoseconds, rounded up over the first wide piece, must not be undone by a negative one."""
    deployment = Deployment("x", GPUS["H200-SXM"], LLAMA_3_1_8B, ENGINES["vllm-0.12"], tensor_parallel=8)
    assert build_tier(Roofline(replace(deployment, max_num_batched_tokens=16), form)).dec_s.min() >= 0
