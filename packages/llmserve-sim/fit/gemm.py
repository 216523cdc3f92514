"""GEMM parameters: BF16 per GPU, and W8A8 and W4A16 on A100, the one GPU here with all formats measured.

Log error over served shapes (matrices of at least 4096 x 1024, at most 2,048 tokens), weighted by the square root of
the matrix's size, since large matrices take the time.
"""

from __future__ import annotations

import numpy as np
from common import Array, Error, error, fit, table
from shapes import A100, H100, PROFILES, RTX_4090, RTX_PRO_6000

from llmserve_sim.performance.kernels import gemm_us
from llmserve_sim.performance.quantization import WEIGHT_FORMATS, WeightFormat
from llmserve_sim.specifications import GemmParameters, GpuSpec

MAX_TOKENS = 2048
MIN_MATRIX = 4096 * 1024
TABLES = {A100.name: "aic_a100_gemm_trtllm1.0.0.csv", H100.name: "aic_h100_gemm_vllm0.19.csv"}
AIC_DTYPES = {"FP16": "bfloat16", "INT8": "sq", "INT4": "int4_wo"}
PROFILE_LAYERS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


def measured(gpu: GpuSpec, form: WeightFormat) -> tuple[Array, Array, Array, Array]:
    """(m, n, k, us) of every usable row."""
    if gpu.name in TABLES:
        columns = table(TABLES[gpu.name], gemm_dtype=AIC_DTYPES[form.name])
        m, n, k, us = (columns[key] for key in ("m", "n", "k", "latency_us"))
        keep = (m <= MAX_TOKENS) & (n * k >= MIN_MATRIX)
        return m[keep], n[keep], k[keep], us[keep]
    parts = []
    for model, profile in PROFILES[gpu.name]:
        for layer, (n_, k_) in zip(PROFILE_LAYERS, model.layer_matrices(1), strict=True):
            columns = table(f"{profile}_dense.csv", layer=layer)
            size = np.ones_like(columns["tokens"])
            parts.append((columns["tokens"], n_ * size, k_ * size, columns["time_us"]))
    m, n, k, us = (np.concatenate(column) for column in zip(*parts, strict=True))
    return m, n, k, us


def fit_gemm(gpu: GpuSpec, form: WeightFormat) -> tuple[GemmParameters, Error]:
    """Parameters of one weight format on one GPU."""
    m, n, k, us = measured(gpu, form)

    def predict(p: Array) -> Array:
        return np.asarray(
            gemm_us(
                GemmParameters(*p),
                m,
                n,
                k,
                peak_flops=form.peak_flops(gpu),
                hbm_bytes_per_s=gpu.hbm_bytes_per_s,
                weight_bytes=form.weight_bytes,
                activation_bytes=form.activation_bytes,
            )
        )

    best = fit(predict, (6.0, 0.85, 0.85, 1.5), us, weight=np.sqrt(n * k / (4096 * 14336)).clip(0.2, 1.5))
    return GemmParameters(*best), error(f"GEMM {form.name} {gpu.name}", predict(best), us)


def run() -> tuple[dict[str, GemmParameters], dict[str, GemmParameters], list[Error]]:
    """(BF16 by GPU, formats on A100, errors)."""
    by_gpu, formats, errors = {}, {}, []
    for gpu in (A100, H100, RTX_PRO_6000, RTX_4090):
        by_gpu[gpu.name], result = fit_gemm(gpu, WEIGHT_FORMATS["FP16"])
        errors.append(result)
    for name in ("INT8", "INT4"):
        formats[name], result = fit_gemm(A100, WEIGHT_FORMATS[name])
        errors.append(result)
    return by_gpu, formats, errors
