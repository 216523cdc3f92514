"""Time of one GPU kernel from the shape of its work: the few closed forms that every estimate is made of.

Each function takes a parameter set fitted to measurements (`calibration.py`) and the shape, and returns microseconds.
Arguments may be floats or numpy arrays of one shape, so the fit scripts minimise exactly what the simulator evaluates.
This module knows kernels; it knows nothing about models, batches, schedulers or where the parameters come from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "AllReduceParameters",
    "DecodeAttentionParameters",
    "GemmParameters",
    "KernelParameters",
    "MixedAttentionParameters",
    "PrefillAttentionParameters",
    "Real",
    "SmallKernelParameters",
    "allreduce_us",
    "decode_attention_us",
    "gemm_us",
    "mixed_decode_us",
    "prefill_attention_us",
    "small_kernels_us",
]

Real = float | NDArray[np.float64]

_US_PER_S = 1e6
BYTES_BF16 = 2.0


@dataclass(frozen=True, slots=True)
class GemmParameters:
    """`t0 + (tc^p + tm^p)^(1/p)`; efficiencies are shares of the stated peak (above 1: an effective constant)."""

    t0_us: float
    compute_efficiency: float
    bandwidth_efficiency: float
    p: float


@dataclass(frozen=True, slots=True)
class DecodeAttentionParameters:
    """Paged decode attention: a fixed part, a part per (sequence, KV head), and the KV bytes, joined by a p-norm."""

    t0_us: float
    seq_us: float
    bandwidth_efficiency: float
    p: float


@dataclass(frozen=True, slots=True)
class PrefillAttentionParameters:
    """Prefill attention of chunks of `q` new tokens behind `c` cached ones.

    Work units are `ceil(q / tile) * (2 c + q + offset)`. With `tile` > 1 they are query tiles that sweep the context (RTX
    cards); with `tile` = 1 they are the causal FLOPs with a fitted offset (A100, H100). `critical_us_per_token` is the
    time one CTA needs for one context token: a single long sweep cannot be split, however idle the GPU is.
    """

    t0_us: float
    compute_efficiency: float
    tile: int
    offset: int
    critical_us_per_token: float


@dataclass(frozen=True, slots=True)
class MixedAttentionParameters:
    """Decode sequences inside a prefill kernel: no split-KV and, in FlashAttention 2, no packing of query heads.

    `seq_us` is paid per (sequence, head) over all SMs, `token_us` per (context token, head) over all SMs;
    `amplification` times the KV bytes is a floor, because KV is read again by query heads that no longer share it.
    Heads are query heads, or KV heads where the kernel packs those that share one (FlashAttention 3, on H100).
    """

    seq_us: float
    token_us: float
    amplification: float
    packs_heads: bool = False


@dataclass(frozen=True, slots=True)
class AllReduceParameters:
    """`latency (1 + growth log2 N) + 2 (N - 1) / N bytes / (efficiency link)`."""

    latency_us: float
    growth: float
    link_efficiency: float


@dataclass(frozen=True, slots=True)
class SmallKernelParameters:
    """Norms, rotary embedding, activation: a fixed time per kernel plus the bytes they move."""

    launch_us: float
    bandwidth_efficiency: float


@dataclass(frozen=True, slots=True)
class KernelParameters:
    """Everything fitted for one GPU."""

    gemm: GemmParameters
    decode: DecodeAttentionParameters
    prefill: PrefillAttentionParameters
    mixed: MixedAttentionParameters
    small: SmallKernelParameters
    allreduce: AllReduceParameters
    gemm_int8: GemmParameters | None = None
    """W8A8 GEMMs where they were measured on this GPU; None: derived from A100 (`quantization.py`)."""
    gemm_int4: GemmParameters | None = None
    """W4A16 GEMMs likewise."""


def gemm_us(
    par: GemmParameters,
    m: Real,
    n: Real,
    k: Real,
    *,
    peak_flops: float,
    hbm_bytes_per_s: float,
    weight_bytes: float = BYTES_BF16,
    activation_bytes: float = BYTES_BF16,
) -> Real:
    """Time of `(m x k) @ (k x n)`; `weight_bytes` and `activation_bytes` are per element, the output is BF16."""
    compute = 2.0 * m * n * k / (par.compute_efficiency * peak_flops) * _US_PER_S
    moved = n * k * weight_bytes + m * k * activation_bytes + BYTES_BF16 * m * n
    memory = moved / (par.bandwidth_efficiency * hbm_bytes_per_s) * _US_PER_S
    return par.t0_us + _p_norm(compute, memory, par.p)


def decode_attention_us(
    par: DecodeAttentionParameters,
    sequences: Real,
    context: Real,
    *,
    kv_heads: Real,
    head_dim: float,
    sm_count: int,
    hbm_bytes_per_s: float,
) -> Real:
    """Time of one layer's decode attention over `context` tokens in total, without `t0_us`.

    Homogeneous of degree one in (sequences, context): the integer tables rely on it.
    """
    launch = par.seq_us * sequences * kv_heads / sm_count
    kv_bytes = context * kv_heads * head_dim * 2.0 * BYTES_BF16
    return _p_norm(launch, kv_bytes / (par.bandwidth_efficiency * hbm_bytes_per_s) * _US_PER_S, par.p)


def prefill_units(par: PrefillAttentionParameters, new: Real, cached: Real) -> Real:
    """Work units of one chunk: `ceil(new / tile) (2 cached + new + offset)`."""
    return np.ceil(np.asarray(new) / par.tile) * (2.0 * cached + new + par.offset)


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

    `units` is the sum of `prefill_units` over the chunks, `longest` the largest `new + cached`. One unit is `tile` query
    rows times half a context token, and a (row, token) pair costs 4 head_dim FLOP (QK^T and PV).
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
) -> Real:
    """Time that decoding sequences add to one layer's attention when prefill chunks share the kernel."""
    blocks = kv_heads if par.packs_heads else heads
    unpacked = (par.seq_us * sequences + par.token_us * context) * blocks / sm_count
    kv_bytes = context * kv_heads * head_dim * 2.0 * BYTES_BF16
    amplified = par.amplification * kv_bytes / hbm_bytes_per_s * _US_PER_S
    alone = decode_attention_us(
        decode,
        sequences,
        context,
        kv_heads=kv_heads,
        head_dim=head_dim,
        sm_count=sm_count,
        hbm_bytes_per_s=hbm_bytes_per_s,
    )
    return np.maximum(np.maximum(unpacked, amplified), alone)


def small_kernels_us(par: SmallKernelParameters, kernels: Real, moved_bytes: Real, *, hbm_bytes_per_s: float) -> Real:
    """Time of `kernels` element-wise kernels that together move `moved_bytes`."""
    return par.launch_us * kernels + moved_bytes / (par.bandwidth_efficiency * hbm_bytes_per_s) * _US_PER_S


def allreduce_us(par: AllReduceParameters, message_bytes: Real, *, ranks: Real, link_bytes_per_s: float) -> Real:
    """Time of one all-reduce among `ranks` GPUs (0 for one)."""
    latency = par.latency_us * (1.0 + par.growth * np.log2(ranks))
    wire = message_bytes * 2.0 * (ranks - 1.0) / ranks / (par.link_efficiency * link_bytes_per_s) * _US_PER_S
    return np.where(np.asarray(ranks) > 1, latency + wire, 0.0)


def _p_norm(a: Real, b: Real, p: float) -> Real:
    largest = np.maximum(a, b)
    smallest = np.minimum(a, b)
    return largest * (1.0 + (smallest / np.maximum(largest, 1e-300)) ** p) ** (1.0 / p)
