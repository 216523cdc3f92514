"""Decode, prefill and mixed attention per GPU; every error is weighed against a whole layer's time.

Decode and prefill: the RTX cards from profiles of both models, A100 and H100 from kernel tables with the head counts
that the two models have at TP 1 to 8. The mixed kernel was profiled on the RTX cards only. A100 takes the mean of the
two: the same time per (CTA, SM) and the same amplification, since it runs the same FlashAttention 2. H100 runs
FlashAttention 3, which keeps query heads that share a KV head in one CTA: the same times per KV head and no
amplification. Unmeasured on both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from common import Array, Error, error, fit, table
from shapes import A100, AIC_NAMES, H100, PROFILES, RTX_4090, RTX_PRO_6000, SERVED_HEADS, layer_gemms_us

from llmserve_sim.hardware import LLAMA_3_1_8B, QWEN3_32B, GpuSpec, ModelSpec
from llmserve_sim.performance.kernels import (
    decode_attention_us,
    mixed_decode_us,
    prefill_attention_us,
    prefill_units,
)
from llmserve_sim.performance.quantization import weight_bytes
from llmserve_sim.specifications import (
    DecodeAttentionParameters,
    GemmParameters,
    MixedAttentionParameters,
    PrefillAttentionParameters,
)

HEAD_DIM = 128
MEMORY_SHARE = 0.9
TILE = 64  # query rows of a CTA in FlashAttention on the RTX cards


@dataclass(frozen=True)
class Rows:
    """Measured attention kernels: columns of equal length; `beside` is the layer's GEMM time."""

    new: Array
    cached: Array
    chunks: Array
    sequences: Array
    context: Array
    heads: Array
    kv_heads: Array
    beside: Array
    us: Array

    def servable(self, gpu: GpuSpec) -> Rows:
        """The rows whose decode context fits the memory of a GPU that holds the model it belongs to.

        Profiles go on to 128 x 8,192 tokens of an 8B model on a 24 GB card, where kernels fall off an L2 cliff that no
        served batch reaches; such rows would decide the fit.
        """
        llama = self.heads * LLAMA_3_1_8B.kv_heads == self.kv_heads * LLAMA_3_1_8B.heads
        limit = np.where(llama, *(_context_limit(gpu, model, self.kv_heads) for model in (LLAMA_3_1_8B, QWEN3_32B)))
        return self.where(self.context <= limit)

    def where(self, keep: NDArrayBool) -> Rows:
        """The rows for which `keep` holds."""
        return Rows(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))


NDArrayBool = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


def _context_limit(gpu: GpuSpec, model: ModelSpec, kv_heads: Array) -> Array:
    """Tokens of KV beside the model's weights, both shared by as many GPUs as leave `kv_heads` on each."""
    share = kv_heads / model.kv_heads
    free = MEMORY_SHARE * gpu.memory_bytes - weight_bytes(model, "FP16") * share
    return np.asarray(np.maximum(free, 0.0) / (model.kv_bytes_per_token * share))


def profile_rows(gpu: GpuSpec, gemm: GemmParameters) -> Rows:
    """All attention rows of an RTX card, both models where both were profiled."""
    parts = []
    for model, name in PROFILES[gpu.name]:
        columns = table(f"{name}_attention.csv")
        q, c, n, x = (columns[key] for key in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode"))
        one = np.ones_like(q)
        beside = layer_gemms_us(gpu, gemm, model, q + n)
        parts.append(
            (q, c, np.minimum(q, 1), n, n * x, model.heads * one, model.kv_heads * one, beside, columns["time_us"])
        )
    return Rows(*(np.concatenate(column) for column in zip(*parts, strict=True))).servable(gpu)


def aic_rows(gpu: GpuSpec, gemm: GemmParameters, kind: str) -> Rows:
    """Rows of a kernel table with the head counts of the two models, at most 8,192 query tokens and 512 sequences."""
    columns = table(f"aic_{AIC_NAMES[gpu.name]}_{kind}_attention.csv")
    batch, isl, step = columns["batch_size"], columns["isl"], columns["step"]
    heads, kv_heads = columns["num_heads"], columns["num_key_value_heads"]
    zero = np.zeros_like(batch)
    decode = kind == "generation"
    tokens = batch if decode else batch * isl
    beside = np.zeros_like(batch)
    keep = np.zeros(batch.shape, dtype=np.bool_)
    for h, kv in SERVED_HEADS:
        model = LLAMA_3_1_8B if h * LLAMA_3_1_8B.kv_heads == kv * LLAMA_3_1_8B.heads else QWEN3_32B
        mine = (heads == h) & (kv_heads == kv)
        tp = model.heads // h
        beside[mine] = layer_gemms_us(gpu, gemm, model, tokens[mine], tp)
        keep |= mine
    keep &= (batch <= 512) & (tokens <= 8192) if decode else (tokens <= 8192)
    q = zero if decode else isl
    n = batch if decode else zero
    rows = Rows(q, zero, zero if decode else batch, n, n * (step + 1), heads, kv_heads, beside, columns["latency_us"])
    return rows.where(keep).servable(gpu)


def _decode(gpu: GpuSpec, par: DecodeAttentionParameters, rows: Rows) -> Array:
    time = decode_attention_us(
        par,
        rows.sequences,
        rows.context,
        kv_heads=rows.kv_heads,
        head_dim=HEAD_DIM,
        sm_count=gpu.sm_count,
        hbm_bytes_per_s=gpu.hbm_bytes_per_s,
    )
    return np.asarray(par.t0_us + time)


def _prefill(gpu: GpuSpec, par: PrefillAttentionParameters, rows: Rows) -> Array:
    time = prefill_attention_us(
        par,
        rows.chunks * prefill_units(par, rows.new, rows.cached),
        rows.new + rows.cached,
        heads=rows.heads,
        head_dim=HEAD_DIM,
        peak_flops=gpu.peak_bf16_flops,
    )
    return np.asarray(par.t0_us + time)


def fit_decode(gpu: GpuSpec, rows: Rows) -> tuple[DecodeAttentionParameters, list[Error]]:
    """A p-norm below 1 has no meaning, so p is 1 plus a positive number."""

    def parameters(p: Array) -> DecodeAttentionParameters:
        return DecodeAttentionParameters(p[0], p[1], p[2], 1.0 + p[3])

    best = fit(lambda p: _decode(gpu, parameters(p), rows), (10.0, 2.0, 0.9, 0.5), rows.us, beside=rows.beside)
    par = parameters(best)
    time = _decode(gpu, par, rows)
    return par, [
        error(f"decode attention {gpu.name}", time, rows.us),
        error(f"decode attention {gpu.name}, share of layer", time, rows.us, rows.beside),
    ]


def fit_prefill(gpu: GpuSpec, rows: Rows, *, tiled: bool) -> tuple[PrefillAttentionParameters, list[Error]]:
    """Tile form with a critical path, or FLOPs with an offset (`offset` is a whole number of tokens)."""

    def parameters(p: Array) -> PrefillAttentionParameters:
        if tiled:
            return PrefillAttentionParameters(p[0], p[1], TILE, TILE, p[2])
        return PrefillAttentionParameters(p[0], p[1], 1, round(p[2]) if rounded else p[2], 0.0)

    rounded = False
    start = (7.0, 0.6, 0.03) if tiled else (12.0, 0.6, 600.0)
    best = fit(lambda p: _prefill(gpu, parameters(p), rows), start, rows.us, beside=rows.beside)
    rounded = True
    par = parameters(best)
    time = _prefill(gpu, par, rows)
    return par, [
        error(f"prefill attention {gpu.name}", time, rows.us),
        error(f"prefill attention {gpu.name}, share of layer", time, rows.us, rows.beside),
    ]


def fit_mixed(
    gpu: GpuSpec, decode: DecodeAttentionParameters, prefill: PrefillAttentionParameters, rows: Rows
) -> tuple[MixedAttentionParameters, list[Error]]:
    """Given decode and prefill alone, what decoding sequences add inside the prefill kernel."""

    def predict(p: Array) -> Array:
        added = mixed_decode_us(
            MixedAttentionParameters(*p),
            decode,
            rows.sequences,
            rows.context,
            heads=rows.heads,
            kv_heads=rows.kv_heads,
            head_dim=HEAD_DIM,
            sm_count=gpu.sm_count,
            hbm_bytes_per_s=gpu.hbm_bytes_per_s,
        )
        return np.asarray(_prefill(gpu, prefill, rows) + added)

    best = fit(predict, (5.0, 0.02, 1.3), rows.us, beside=rows.beside)
    time = predict(best)
    return MixedAttentionParameters(*best), [
        error(f"mixed attention {gpu.name}", time, rows.us),
        error(f"mixed attention {gpu.name}, share of layer", time, rows.us, rows.beside),
    ]


def run(
    gemm: Mapping[str, GemmParameters],
) -> tuple[
    dict[str, DecodeAttentionParameters],
    dict[str, PrefillAttentionParameters],
    dict[str, MixedAttentionParameters],
    list[Error],
]:
    """(decode, prefill, mixed) by GPU, and the errors."""
    decode, prefill, mixed, errors = {}, {}, {}, []
    for gpu in (A100, H100):
        rows = aic_rows(gpu, gemm[gpu.name], "generation")
        decode[gpu.name], found = fit_decode(gpu, rows)
        errors += found
        rows = aic_rows(gpu, gemm[gpu.name], "context")
        prefill[gpu.name], found = fit_prefill(gpu, rows, tiled=False)
        errors += found
    for gpu in (RTX_PRO_6000, RTX_4090):
        rows = profile_rows(gpu, gemm[gpu.name])
        decode[gpu.name], found = fit_decode(gpu, rows.where(rows.new == 0))
        errors += found
        prefill[gpu.name], found = fit_prefill(gpu, rows.where(rows.sequences == 0), tiled=True)
        errors += found
        both = rows.where((rows.new > 0) & (rows.sequences > 0))
        mixed[gpu.name], found = fit_mixed(gpu, decode[gpu.name], prefill[gpu.name], both)
        errors += found
    seq_us, token_us, amplification = (
        float(np.mean([getattr(par, name) for par in mixed.values()]))
        for name in ("seq_us", "token_us", "amplification")
    )
    mean = MixedAttentionParameters(seq_us, token_us, amplification)
    mixed[A100.name] = mean
    mixed[H100.name] = replace(mean, amplification=1.0, packs_heads=True)
    return decode, prefill, mixed, errors
