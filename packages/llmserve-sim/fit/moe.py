"""Fused mixture-of-experts parameters from the kernel tables: BF16 and block-scaled FP8.

Log error over gated experts that no cache holds, cut over at most eight GPUs, for as many tokens as an iteration of
vLLM's default budget on the GPU. Rows of models whose experts have no gate (two matrices, not three) are left out.
A100 gets no parameters: its kernels, untuned in vLLM 0.14, follow no such form (18 % in the median, at absurd values).
"""

from __future__ import annotations

import kernel_tables
import numpy as np
from common import Array, Error, error, fit
from numpy.typing import NDArray
from shapes import A100

from llmserve_sim.hardware import GpuSpec
from llmserve_sim.performance.experts import ExpertLoad, popular, round_robin
from llmserve_sim.performance.kernels import moe_us
from llmserve_sim.specifications import MoeParameters

MOST_GPUS = 8
CACHE_MARGIN = 2.0
SCALE = 0.05
P_NORM = 4.0  # the tables hardly tell a sharp bend from a rounder one
PAD_ROWS = 64.0  # rows of a kernel's tile; left free, padding takes the place of an imperfect bandwidth
WEIGHT_BYTES = {"bfloat16": 2.0, "fp8_block": 1.0}


def _share(ratio: float) -> float:
    """A share below 1 from a positive ratio: an efficiency above 1 would say that experts came from a cache."""
    return ratio / (1.0 + ratio)


def _loads(rows: kernel_tables.Columns, skewed: NDArray[np.bool_]) -> ExpertLoad:
    """What each row's kernel had to do: experts in turn, or chosen by the power law."""
    taken, touched = np.empty(skewed.size), np.empty(skewed.size)
    for index, uneven in enumerate(skewed):
        tokens, top_k, experts, ranks = (
            int(rows[name][index]) for name in ("num_tokens", "topk", "num_experts", "moe_ep_size")
        )
        choose = popular if uneven else round_robin
        taken[index], touched[index] = choose(float(tokens), top_k=top_k, experts=experts, expert_parallel=ranks)
    return ExpertLoad(taken, touched)


def fit_moe(gpu: GpuSpec, dtype: str) -> tuple[MoeParameters, list[Error]] | None:
    """Parameters of one GPU and weight format; None where its table has none."""
    columns = kernel_tables.read(gpu, "moe", moe_dtype=dtype)
    if columns is None:
        return None
    size = WEIGHT_BYTES[dtype]
    held = columns["num_experts"] / columns["moe_ep_size"]
    weights = held * 3.0 * columns["hidden_size"] * columns["inter_size"] / columns["moe_tp_size"] * size
    ungated = (columns["topk"] == 22) | np.isin(columns["inter_size"], (1856.0, 2688.0))
    keep = (
        (columns["num_tokens"] <= kernel_tables.token_budget(gpu)) & ~ungated & (weights > CACHE_MARGIN * gpu.l2_bytes)
    )
    keep &= (columns["moe_tp_size"] <= MOST_GPUS) & (columns["moe_ep_size"] <= MOST_GPUS)
    rows = kernel_tables.where(columns, keep)
    skewed = rows["distribution"] != "balanced"
    load = _loads(rows, skewed)
    width = rows["inter_size"] / rows["moe_tp_size"]
    uneven = bool((width % 128 != 0).any())

    def parameters(p: Array) -> MoeParameters:
        return MoeParameters(p[0], _share(p[1]), _share(p[2]), P_NORM, PAD_ROWS, p[3], p[4] if uneven else 1.0)

    def predict(p: Array) -> Array:
        time = moe_us(
            parameters(p),
            load,
            hidden=rows["hidden_size"],
            width=width,
            peak_flops=gpu.peak_bf16_flops if size > 1.0 else gpu.peak_fp8_flops,
            hbm_bytes_per_s=gpu.hbm_bytes_per_s,
            weight_bytes=size,
        )
        return np.asarray(time)

    best = fit(predict, (30.0, 1.0, 4.0, 1.0) + (1.3,) * uneven, rows["us"], scale=SCALE, lower=1e-3)
    time = predict(best)
    found = [error(f"MoE {dtype} {gpu.name}", time, rows["us"])]
    if not skewed.all():
        found.append(error(f"MoE {dtype} {gpu.name}, balanced", time[~skewed], rows["us"][~skewed]))
    return parameters(best), found


def run() -> tuple[dict[str, MoeParameters], dict[str, MoeParameters], list[Error]]:
    """(BF16 by GPU, block-scaled FP8 by GPU, errors)."""
    bf16, fp8, errors = {}, {}, []
    for gpu in (gpu for gpu in kernel_tables.GPUS if gpu is not A100):
        for dtype, store in (("bfloat16", bf16), ("fp8_block", fp8)):
            found = fit_moe(gpu, dtype)
            if found is not None:
                store[gpu.name], lines = found
                errors += lines
    return bf16, fp8, errors
