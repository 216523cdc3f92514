"""GEMM parameters: BF16 and FP8 from the kernel tables of six GPUs, BF16 on RTX 4090, W8A8 and W4A16 on A100.

Log error over served shapes: matrices of at least 4096 x 1024 that stay in no cache, and as many tokens as one iteration
of vLLM's default budget on that GPU. Per GPU and format, the large tile is the one of `TILES` that fits best. FP8 on
Hopper has three kernels, by the number of rows. The RTX 4090's profile and A100's quantised formats are too coarse for
tiles and keep the plain form.
"""

from __future__ import annotations

from collections.abc import Mapping

import kernel_tables
import numpy as np
from common import Array, Error, error, fit, table
from shapes import A100, H100, H200, PROFILES, RTX_4090

from llmserve_sim.performance.kernels import gemm_us
from llmserve_sim.performance.quantization import TIERS, WEIGHT_FORMATS, WeightFormat
from llmserve_sim.specifications import GemmParameters, GpuSpec

MIN_MATRIX = 4096 * 1024
MAX_TOKENS = 2048
TILES = ((128, 128), (128, 256), (256, 128))
HOPPER = (H100.name, H200.name)
A100_TABLE = "aic_a100_gemm_trtllm1.0.0.csv"
AIC_DTYPES = {"FP16": "bfloat16", "INT8": "sq", "INT4": "int4_wo"}
PROFILE_LAYERS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
ELEMENT_BYTES = {"bfloat16": 2.0, "fp8": 1.0}
TABLE_SCALE = 0.05  # the tables' scatter is smaller than that of the profiles


def fit_tiled(gpu: GpuSpec, dtype: str) -> tuple[GemmParameters, Error] | None:
    """Parameters from a GPU's kernel table; None where it has no rows of that type."""
    columns = kernel_tables.read(gpu, "gemm", gemm_dtype=dtype)
    if columns is None:
        return None
    size = ELEMENT_BYTES[dtype]
    peak = gpu.peak_bf16_flops if dtype == "bfloat16" else gpu.peak_fp8_flops
    m, n, k, us = (columns[key] for key in ("m", "n", "k", "us"))
    keep = (n * k >= MIN_MATRIX) & (m <= kernel_tables.token_budget(gpu))
    keep &= ~kernel_tables.fits_cache(gpu, n * k * size, kernel_tables.COPIES)
    m, n, k, us = m[keep], n[keep], k[keep], us[keep]
    eight_bit = size < 2.0
    by_rows = eight_bit and gpu.name in HOPPER

    def parameters(p: Array, tile: tuple[int, int]) -> GemmParameters:
        paid = p[5] / (1.0 + p[5])
        quantize = (p[7], p[8]) if eight_bit else (0.0, 1.0)
        return GemmParameters(
            p[0], p[1], p[2], 1.0 + p[3], *tile, p[4], paid, p[6], *quantize, p[9] if by_rows else 0.0
        )

    def predict(p: Array, tile: tuple[int, int]) -> Array:
        time = gemm_us(
            parameters(p, tile),
            m,
            n,
            k,
            peak_flops=peak,
            hbm_bytes_per_s=gpu.hbm_bytes_per_s,
            sm_count=gpu.sm_count,
            weight_bytes=size,
            activation_bytes=size,
        )
        return np.asarray(time)

    start = (5.0, 0.8, 0.8, 1.0, 100.0, 0.3, 0.8) + ((6.0, 1.1) if eight_bit else ()) + ((0.6,) if by_rows else ())
    fits = []
    for tile in TILES:
        best = fit(lambda p, tile=tile: predict(p, tile), start, us, scale=TABLE_SCALE, lower=1e-3)  # type: ignore[misc]
        found = error(f"GEMM {dtype} {gpu.name}", predict(best, tile), us)
        fits.append((found.median, tile, best, found))
    _, tile, best, found = min(fits, key=lambda item: item[0])
    return parameters(best, tile), found


def fit_plain(
    gpu: GpuSpec, form: WeightFormat, shapes: tuple[Array, Array, Array, Array]
) -> tuple[GemmParameters, Error]:
    """Parameters without tiles; large matrices weigh more, since they take the time."""
    m, n, k, us = shapes

    def predict(p: Array) -> Array:
        return np.asarray(
            gemm_us(
                GemmParameters(*p),
                m,
                n,
                k,
                peak_flops=form.peak_flops(gpu),
                hbm_bytes_per_s=gpu.hbm_bytes_per_s,
                sm_count=gpu.sm_count,
                weight_bytes=form.weight_bytes,
                activation_bytes=form.activation_bytes,
            )
        )

    best = fit(predict, (6.0, 0.85, 0.85, 1.5), us, weight=np.sqrt(n * k / (4096 * 14336)).clip(0.2, 1.5))
    return GemmParameters(*best), error(f"GEMM {form.name} {gpu.name}, plain form", predict(best), us)


def _a100_formats(form: WeightFormat) -> tuple[Array, Array, Array, Array]:
    columns = table(A100_TABLE, gemm_dtype=AIC_DTYPES[form.name])
    m, n, k, us = (columns[key] for key in ("m", "n", "k", "latency_us"))
    keep = (m <= MAX_TOKENS) & (n * k >= MIN_MATRIX)
    return m[keep], n[keep], k[keep], us[keep]


def _profile(gpu: GpuSpec) -> tuple[Array, Array, Array, Array]:
    parts = []
    for model, profile in PROFILES[gpu.name]:
        for layer, (n_, k_) in zip(PROFILE_LAYERS, model.layer_matrices(1), strict=True):
            columns = table(f"{profile}_dense.csv", layer=layer)
            size = np.ones_like(columns["tokens"])
            parts.append((columns["tokens"], n_ * size, k_ * size, columns["time_us"]))
    m, n, k, us = (np.concatenate(column) for column in zip(*parts, strict=True))
    return m, n, k, us


def run() -> tuple[dict[str, GemmParameters], dict[str, GemmParameters], Mapping[str, GemmParameters], list[Error]]:
    """(BF16 by GPU, FP8 by GPU, all formats in the plain form on A100, errors)."""
    bf16, fp8, formats, errors = {}, {}, {}, []
    for gpu in kernel_tables.GPUS:
        for dtype, store in (("bfloat16", bf16), ("fp8", fp8)):
            found = fit_tiled(gpu, dtype)
            if found is not None:
                store[gpu.name], line = found
                errors.append(line)
    bf16[RTX_4090.name], line = fit_plain(RTX_4090, WEIGHT_FORMATS["FP16"], _profile(RTX_4090))
    errors.append(line)
    for name, form in ((tier, WEIGHT_FORMATS[tier]) for tier in TIERS):
        formats[name], line = fit_plain(A100, form, _a100_formats(form))
        errors.append(line)
    return bf16, fp8, formats, errors
