"""Decode, prefill and mixed attention per GPU.

Six GPUs from kernel tables, over served rows; the RTX 4090 from a profile, every error weighed against a whole layer's
time. Decodes inside the prefill kernel were profiled on the two RTX cards only. What they cost there follows one law
(`mixed_law`): a sequence is a 64-row tile with one useful row, swept at the prefill kernel's rate. Elsewhere it is
derived from that law: A100 and L40S run the same FlashAttention 2 and take the mean amplification; H100 and H200 run
FlashAttention 3, which keeps the query heads of a KV head in one tile: per KV head, no amplification; on B200, vLLM's
FlashInfer backend gives decodes a kernel of their own. Unmeasured on those five.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import kernel_tables
import numpy as np
from common import SOFT_L1_SCALE, Array, Error, error, fit, table
from shapes import B200, H100, H200, PROFILES, RTX_4090, RTX_PRO_6000, layer_gemms_us

from llmserve_sim.hardware import LLAMA_3_1_8B, QWEN3_32B, GpuSpec, ModelSpec
from llmserve_sim.performance.kernels import (
    decode_attention_us,
    io_offset,
    mixed_decode_us,
    prefill_attention_us,
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
TILE = 64  # query rows of a CTA in FlashAttention 2
TILES = {H100.name: 1, H200.name: 1}  # FlashAttention 3 shows no steps
MAX_KV_HEADS, MAX_GROUP = 8, 16
MIN_CONTEXT, MIN_CHUNK = 128, 16
MAX_PROMPT_TOKENS = 16_384
LAYERS = 32
CACHE_MARGIN = 1.25
LAUNCH_BOUND_S = 1e-6
KV_ELEMENT_BYTES = {"bfloat16": 2.0, "fp8": 1.0}
TABLE_SCALE = 0.03


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


def table_rows(gpu: GpuSpec, gemm: GemmParameters, kind: str, kv_dtype: str = "bfloat16") -> Rows | None:
    """Rows of a kernel table as served: grouped queries, contexts from 128 tokens on, no KV read from the L2 cache.

    Decode rows whose KV takes less than a microsecond to read are kept: there the launch is what is timed.
    """
    columns = kernel_tables.read(gpu, f"{kind}_attention", kv_cache_dtype=kv_dtype)
    if columns is None:
        return None
    batch, isl, step = columns["batch_size"], columns["isl"], columns["step"]
    heads, kv_heads = columns["num_heads"], columns["num_key_value_heads"]
    zero = np.zeros_like(batch)
    decode = kind == "generation"
    group = heads / kv_heads
    keep = (kv_heads <= MAX_KV_HEADS) & (group > 1) & (group <= MAX_GROUP)
    if decode:
        size = batch * (step + 1) * kv_heads * HEAD_DIM * 2.0 * KV_ELEMENT_BYTES[kv_dtype]
        cached = size < CACHE_MARGIN * gpu.l2_bytes
        keep &= ~cached | (size < LAUNCH_BOUND_S * gpu.hbm_bytes_per_s)
        keep &= (step + 1 >= MIN_CONTEXT) & (batch <= 1024) & (size * LAYERS <= gpu.memory_bytes)
    else:
        keep &= (isl >= MIN_CHUNK) & (batch * isl <= MAX_PROMPT_TOKENS)
    beside = layer_gemms_us(gpu, gemm, LLAMA_3_1_8B, batch if decode else batch * isl)
    rows = Rows(
        new=zero if decode else isl,
        cached=zero,
        chunks=zero if decode else batch,
        sequences=batch if decode else zero,
        context=batch * (step + 1) if decode else zero,
        heads=heads,
        kv_heads=kv_heads,
        beside=np.asarray(beside),
        us=columns["us"],
    )
    return rows.where(keep)


def _decode(gpu: GpuSpec, par: DecodeAttentionParameters, rows: Rows, element_bytes: float = 2.0) -> Array:
    time = decode_attention_us(
        par,
        rows.sequences,
        rows.context,
        kv_heads=rows.kv_heads,
        head_dim=HEAD_DIM,
        sm_count=gpu.sm_count,
        hbm_bytes_per_s=gpu.hbm_bytes_per_s,
        kv_element_bytes=element_bytes,
    )
    return np.asarray(par.t0_us + time)


def _prefill(gpu: GpuSpec, par: PrefillAttentionParameters, rows: Rows, offset: float | None = None) -> Array:
    """With an `offset` of its own the search moves it smoothly; a parameter set holds whole tokens.

    The roofline adds the traffic of the new tokens to it for one model; here that is its own array, unrounded.
    """
    tokens = (par.offset if offset is None else offset) + io_offset(
        par,
        heads=rows.heads,
        kv_heads=rows.kv_heads,
        head_dim=HEAD_DIM,
        peak_flops=gpu.peak_bf16_flops,
        hbm_bytes_per_s=gpu.hbm_bytes_per_s,
    )
    time = prefill_attention_us(
        par,
        rows.chunks * np.ceil(rows.new / par.tile) * (2.0 * rows.cached + rows.new + tokens),
        rows.new + rows.cached,
        heads=rows.heads,
        head_dim=HEAD_DIM,
        peak_flops=gpu.peak_bf16_flops,
    )
    return np.asarray(par.t0_us + time)


def fit_decode(
    gpu: GpuSpec, rows: Rows, *, profile: bool, kv_dtype: str = "bfloat16"
) -> tuple[DecodeAttentionParameters, list[Error]]:
    """A p-norm below 1 has no meaning, so p is 1 plus a positive number. Profiles are weighed beside the layer."""
    size = KV_ELEMENT_BYTES[kv_dtype]

    def parameters(p: Array) -> DecodeAttentionParameters:
        return DecodeAttentionParameters(p[0], p[1], p[2], 1.0 + p[3])

    best = fit(
        lambda p: _decode(gpu, parameters(p), rows, size),
        (10.0, 2.0, 0.9, 0.5),
        rows.us,
        beside=rows.beside if profile else 0.0,
        scale=SOFT_L1_SCALE if profile else TABLE_SCALE,
        lower=1e-3,
    )
    par = parameters(best)
    time = _decode(gpu, par, rows, size)
    return par, [
        error(f"decode attention {kv_dtype} {gpu.name}", time, rows.us),
        error(f"decode attention {kv_dtype} {gpu.name}, share of layer", time, rows.us, rows.beside),
    ]


def fit_prefill(gpu: GpuSpec, rows: Rows, *, profile: bool) -> tuple[PrefillAttentionParameters, list[Error]]:
    """Tiles, offset, traffic of the new tokens and critical path; a profile holds too few rows for the traffic."""
    tile = TILES.get(gpu.name, TILE)

    def parameters(p: Array) -> PrefillAttentionParameters:
        if profile:
            return PrefillAttentionParameters(p[0], p[1], tile, TILE, p[2])
        return PrefillAttentionParameters(p[0], p[1], tile, round(p[3]), p[2], p[4])

    starts = [(7.0, 0.6, 0.03)] if profile else [(10.0, 0.6, 0.01, offset, 0.5) for offset in (100.0, 800.0)]
    fits = []
    for start in starts:
        best = fit(
            lambda p: _prefill(gpu, parameters(p), rows, None if profile else float(p[3])),
            start,
            rows.us,
            beside=rows.beside if profile else 0.0,
            scale=SOFT_L1_SCALE if profile else TABLE_SCALE,
            lower=1e-3,
        )
        fits.append((error("", _prefill(gpu, parameters(best), rows), rows.us).median, parameters(best)))
    par = min(fits, key=lambda item: item[0])[1]
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


def tile_token_us(gpu: GpuSpec, prefill: PrefillAttentionParameters) -> float:
    """Time in which one SM sweeps a tile of 64 query rows over one context token, at the prefill kernel's rate."""
    return TILE * 4.0 * HEAD_DIM / (prefill.compute_efficiency * gpu.peak_bf16_flops / gpu.sm_count) * 1e6


def derive_mixed(
    gpu: GpuSpec, prefill: PrefillAttentionParameters, law: tuple[float, float, float]
) -> MixedAttentionParameters:
    """A decoding sequence inside the prefill kernel is a tile with one useful row: its sweep, and a start beside it."""
    sweep, start_tokens, amplification = law
    token_us = sweep * tile_token_us(gpu, prefill)
    if gpu in {H100, H200}:
        return MixedAttentionParameters(start_tokens * token_us, token_us, 1.0, packs_heads=True)
    return MixedAttentionParameters(start_tokens * token_us, token_us, amplification, separate=gpu is B200)


def mixed_law(
    measured: Mapping[str, MixedAttentionParameters], profiles: Mapping[str, PrefillAttentionParameters]
) -> tuple[tuple[float, float, float], list[Error]]:
    """(sweep over the tile's time, start in context tokens, amplification): means over the profiled RTX cards."""
    cards = (RTX_PRO_6000, RTX_4090)
    tokens = np.array([measured[gpu.name].token_us for gpu in cards])
    physical = np.array([tile_token_us(gpu, profiles[gpu.name]) for gpu in cards])
    sweep = float(np.mean(tokens / physical))
    start = float(np.mean([measured[gpu.name].seq_us / measured[gpu.name].token_us for gpu in cards]))
    amplification = float(np.mean([measured[gpu.name].amplification for gpu in cards]))
    return (sweep, start, amplification), [error("mixed law, time per token, both RTX cards", sweep * physical, tokens)]


@dataclass(frozen=True)
class Attention:
    """Parameters by GPU."""

    decode: dict[str, DecodeAttentionParameters]
    decode_fp8: dict[str, DecodeAttentionParameters]
    prefill: dict[str, PrefillAttentionParameters]
    mixed: dict[str, MixedAttentionParameters]


def run(gemm: Mapping[str, GemmParameters]) -> tuple[Attention, list[Error]]:
    """All attention parameters, and the errors."""
    result, errors = Attention({}, {}, {}, {}), []
    profiles: dict[str, PrefillAttentionParameters] = {}
    for gpu in (RTX_PRO_6000, RTX_4090):
        rows = profile_rows(gpu, gemm[gpu.name])
        decode, found = fit_decode(gpu, rows.where(rows.new == 0), profile=True)
        profiles[gpu.name], also = fit_prefill(gpu, rows.where(rows.sequences == 0), profile=True)
        both = rows.where((rows.new > 0) & (rows.sequences > 0))
        result.mixed[gpu.name], mixed = fit_mixed(gpu, decode, profiles[gpu.name], both)
        errors += [replace(line, what=f"{line.what} (profile)") for line in (*found, *also, *mixed)]
        result.decode[gpu.name], result.prefill[gpu.name] = decode, profiles[gpu.name]
    law, found = mixed_law(result.mixed, profiles)
    errors += found
    print(
        f"decode beside prefill: {law[0]:.3f} tile sweeps a token, start {law[1]:.0f} tokens, amplification {law[2]:.2f}"
    )
    for gpu in kernel_tables.GPUS:
        for kv_dtype, store in (("bfloat16", result.decode), ("fp8", result.decode_fp8)):
            rows_ = table_rows(gpu, gemm[gpu.name], "generation", kv_dtype)
            if rows_ is not None:
                store[gpu.name], found = fit_decode(gpu, rows_, profile=False, kv_dtype=kv_dtype)
                errors += found
        prompts = table_rows(gpu, gemm[gpu.name], "context")
        if prompts is not None:
            result.prefill[gpu.name], found = fit_prefill(gpu, prompts, profile=False)
            errors += found
        if gpu is not RTX_PRO_6000:
            result.mixed[gpu.name] = derive_mixed(gpu, result.prefill[gpu.name], law)
    return result, errors
