"""Time of one GPU kernel from the shape of its work: the closed forms that every estimate uses.

Each function takes a parameter set fitted to measurements (`calibration.py`) and the shape, and returns microseconds.
Arguments may be floats or numpy arrays of one shape, so the fit scripts minimise exactly what the simulator evaluates.
This module knows nothing about models, batches or schedulers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmserve_sim.performance.experts import ExpertLoad
from llmserve_sim.specifications import (
    AllReduceParameters,
    DecodeAttentionParameters,
    GemmParameters,
    MixedAttentionParameters,
    MoeParameters,
    PrefillAttentionParameters,
    SmallKernelParameters,
)

__all__ = [
    "Real",
    "allreduce_us",
    "decode_attention_us",
    "gemm_us",
    "io_offset",
    "mixed_decode_us",
    "moe_us",
    "prefill_attention_us",
    "small_kernels_us",
]

Real = float | NDArray[np.float64]

_US_PER_S = 1e6
BYTES_BF16 = 2.0
_WIDTH_TILE = 128
"""Columns of an expert that its kernels take at a time."""
_SMALL_TILE = (64, 64)
"""Output tile of the kernels that libraries choose for few tokens."""
_FEWEST_ROWS = 16
_FEW_ROWS = 128
_FEW_TILE = (64, 128)
"""vLLM's FP8 kernels on Hopper: 64 x 64 up to 16 rows, 64 x 128 up to 128 (scaled_mm_sm90_fp8_dispatch.cuh)."""


def gemm_us(
    par: GemmParameters,
    m: Real,
    n: Real,
    k: Real,
    *,
    peak_flops: float,
    hbm_bytes_per_s: float,
    sm_count: int,
    weight_bytes: float = BYTES_BF16,
    activation_bytes: float = BYTES_BF16,
) -> Real:
    """Time of `(m x k) @ (k x n)`; `weight_bytes` and `activation_bytes` are per element, the output is BF16."""
    moved = n * k * weight_bytes + m * k * activation_bytes + BYTES_BF16 * m * n
    memory = moved / (par.bandwidth_efficiency * hbm_bytes_per_s) * _US_PER_S
    if not par.tile_m:
        compute = 2.0 * m * n * k / (par.compute_efficiency * peak_flops) * _US_PER_S
        return par.t0_us + _p_norm(compute, memory, par.p)
    large = _waves(m, n, par.tile_m, par.tile_n, sm_count, par.wave)
    small = _waves(m, n, *_SMALL_TILE, sm_count, par.wave)
    if par.fewest_efficiency:
        few = _waves(m, n, *_FEW_TILE, sm_count, par.wave) / par.small_efficiency
        compute = np.where(np.asarray(m) <= _FEW_ROWS, few, large)
        compute = np.where(np.asarray(m) <= _FEWEST_ROWS, small / par.fewest_efficiency, compute)
    else:
        compute = np.minimum(large, small / par.small_efficiency)
    compute = compute * 2.0 * (k + par.fill_k) / (par.compute_efficiency * peak_flops) * _US_PER_S
    if par.unaligned != 1.0:
        compute = np.where(np.asarray(m) % 8 == 0, compute, par.unaligned * compute)
    quantize = par.quantize_bytes * m * k / hbm_bytes_per_s * _US_PER_S
    return par.t0_us + _p_norm(compute, memory, par.p) + quantize


def _waves(m: Real, n: Real, tile_m: int, tile_n: int, sm_count: int, paid: float) -> Real:
    """Output elements that all SMs together could have worked on: whole tiles, and `paid` of the last wave's rest."""
    waves = np.ceil(np.asarray(m) / tile_m) * np.ceil(np.asarray(n) / tile_n) / sm_count
    return (waves + paid * (np.ceil(waves) - waves)) * (sm_count * tile_m * tile_n)


def decode_attention_us(
    par: DecodeAttentionParameters,
    sequences: Real,
    context: Real,
    *,
    kv_heads: Real,
    head_dim: float,
    sm_count: int,
    hbm_bytes_per_s: float,
    kv_element_bytes: float = BYTES_BF16,
) -> Real:
    """Time of one layer's decode attention over `context` tokens in total, without `t0_us`.

    Homogeneous of degree one in (sequences, context): the integer tables rely on it.
    """
    launch = par.seq_us * sequences * kv_heads / sm_count
    kv_bytes = context * kv_heads * head_dim * 2.0 * kv_element_bytes
    return _p_norm(launch, kv_bytes / (par.bandwidth_efficiency * hbm_bytes_per_s) * _US_PER_S, par.p)


def prefill_units(par: PrefillAttentionParameters, new: Real, cached: Real) -> Real:
    """Work units of one chunk: `ceil(new / tile) (2 cached + new + offset)`."""
    return np.ceil(np.asarray(new) / par.tile) * (2.0 * cached + new + par.offset)


def io_offset(
    par: PrefillAttentionParameters,
    *,
    heads: Real,
    kv_heads: Real,
    head_dim: float,
    peak_flops: float,
    hbm_bytes_per_s: float,
) -> Real:
    """The traffic of the new tokens, which is linear in them, as so many tokens more of `offset`."""
    token_bytes = par.io * 2.0 * (heads + kv_heads) * head_dim * BYTES_BF16
    token_flops = 2.0 * heads * head_dim / (par.compute_efficiency * peak_flops)
    return token_bytes / hbm_bytes_per_s / token_flops


def prefill_attention_us(
    par: PrefillAttentionParameters,
    units: Real,
    longest: Real,
    *,
    heads: Real,
    head_dim: float,
    peak_flops: float,
) -> Real:
    """Time of one layer's prefill attention, without `t0_us`.

    `units` is the sum of `prefill_units` over the chunks, `longest` the largest `new + cached`. One unit is `tile`
    query rows times half a context token, and a (row, token) pair costs 4 head_dim FLOP (QK^T and PV).
    """
    flops = 2.0 * units * par.tile * heads * head_dim
    spread = flops / (par.compute_efficiency * peak_flops) * _US_PER_S
    return np.maximum(spread, par.critical_us_per_token * longest)


def mixed_decode_us(
    par: MixedAttentionParameters,
    decode: DecodeAttentionParameters,
    sequences: Real,
    context: Real,
    *,
    heads: Real,
    kv_heads: Real,
    head_dim: float,
    sm_count: int,
    hbm_bytes_per_s: float,
    kv_element_bytes: float = BYTES_BF16,
) -> Real:
    """Time that decoding sequences add to one layer's attention when prefill chunks share the kernel."""
    if par.separate:
        return decode_attention_us(
            decode,
            sequences,
            context,
            kv_heads=kv_heads,
            head_dim=head_dim,
            sm_count=sm_count,
            hbm_bytes_per_s=hbm_bytes_per_s,
            kv_element_bytes=kv_element_bytes,
        )
    blocks = kv_heads if par.packs_heads else heads
    unpacked = (par.seq_us * sequences + par.token_us * context) * blocks / sm_count
    kv_bytes = context * kv_heads * head_dim * 2.0 * kv_element_bytes
    amplified = par.amplification * kv_bytes / hbm_bytes_per_s * _US_PER_S
    alone = decode_attention_us(
        decode,
        sequences,
        context,
        kv_heads=kv_heads,
        head_dim=head_dim,
        sm_count=sm_count,
        hbm_bytes_per_s=hbm_bytes_per_s,
        kv_element_bytes=kv_element_bytes,
    )
    return np.maximum(np.maximum(unpacked, amplified), alone)


def small_kernels_us(par: SmallKernelParameters, kernels: Real, moved_bytes: Real, *, hbm_bytes_per_s: float) -> Real:
    """Time of `kernels` element-wise kernels that together move `moved_bytes`."""
    return par.launch_us * kernels + moved_bytes / (par.bandwidth_efficiency * hbm_bytes_per_s) * _US_PER_S


def moe_us(
    par: MoeParameters,
    load: ExpertLoad,
    *,
    hidden: Real,
    width: Real,
    peak_flops: float,
    hbm_bytes_per_s: float,
    weight_bytes: float = BYTES_BF16,
) -> Real:
    """Time of one layer's routed experts on the busiest GPU, each of `width` columns there (`load`: `experts.py`)."""
    padded = np.where(np.asarray(width) % _WIDTH_TILE == 0, 1.0, par.unaligned) * width
    rows = load.rows + load.touched * par.pad_rows
    compute = 6.0 * rows * hidden * padded / (par.compute_efficiency * peak_flops) * _US_PER_S
    weights = 3.0 * load.touched * hidden * padded * weight_bytes
    memory = weights / (par.bandwidth_efficiency * hbm_bytes_per_s) * _US_PER_S
    moved = par.io * load.rows * (2.0 * hidden + 4.0 * width) * BYTES_BF16 / hbm_bytes_per_s * _US_PER_S
    return par.t0_us + _p_norm(compute, memory, par.p) + moved


def allreduce_us(par: AllReduceParameters, message_bytes: Real, *, ranks: Real, link_bytes_per_s: float) -> Real:
    """Time of one all-reduce among `ranks` GPUs (0 for one)."""
    latency = par.latency_us * (1.0 + par.growth * np.log2(ranks))
    wire = message_bytes * 2.0 * (ranks - 1.0) / ranks / (par.link_efficiency * link_bytes_per_s) * _US_PER_S
    if par.contention:
        wire = wire * (np.asarray(ranks) / 2.0) ** par.contention
    return np.where(np.asarray(ranks) > 1, latency + wire, 0.0)


def _p_norm(a: Real, b: Real, p: float) -> Real:
    largest = np.maximum(a, b)
    smallest = np.minimum(a, b)
    return largest * (1.0 + (smallest / np.maximum(largest, 1e-300)) ** p) ** (1.0 / p)
