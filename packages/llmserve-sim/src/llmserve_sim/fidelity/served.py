"""Served runs: CodeLlama-34B and Mixtral in open loops on H100, FP8 Llama and Qwen3 in closed ones on H200."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from llmserve_sim.fidelity.data import columns
from llmserve_sim.fidelity.replay import RecordedRun, replay
from llmserve_sim.fidelity.rows import Row, relative, with_median
from llmserve_sim.hardware import ENGINES, GPUS, LLAMA_3_1_8B, Deployment, EngineVersion, ModelSpec

__all__ = ["blis_rows", "fp8_rows"]

_SERVED_PERCENT = 4.0
_SERVED_TTFT_PERCENT = 15.0
# BLIS's runs: arrivals at a constant rate. At 20 requests/s their prompts alone would need 40 % of two H100s' BF16 peak,
# and TPOT rises by 2.5 ms: all but about a block of each prompt came from the prefix cache. Lengths are the published
# mean prompt and median output.
_BLIS_UNCACHED_TOKENS = 32
_BLIS_SECONDS = 45.0
# A load generator's clock and the network scatter arrivals by more than an iteration's 14 ms. Without that, a constant
# rate keeps meeting the iterations in one phase, and the median TTFT is that of the phase.
_BLIS_SCATTER_S = 0.03
_GOLDEN = 0.6180339887498949
_BLIS_WARM_S = 20.0
_BLIS_LIMIT = "reasoning"  # the run that is overloaded throughout: its times are the benchmark's timeout
_CODELLAMA_34B = ModelSpec("CodeLlama-34B", 48, 8192, 22_016, 64, 8, 128, 32_000)
_MIXTRAL_8X7B = ModelSpec(
    "Mixtral-8x7B",
    32,
    4096,
    14_336,
    32,
    8,
    128,
    32_000,
    num_experts=8,
    num_experts_per_tok=2,
    moe_intermediate_size=14_336,
)
_BLIS_MODELS = {"codellama-34b-tp2-": _CODELLAMA_34B, "mixtral-8x7b-v0-1-tp2-": _MIXTRAL_8X7B}
_MIXTRAL_PERCENT = 8.0
_QWEN3_235B = ModelSpec(
    "Qwen3-235B-A22B",
    94,
    4096,
    12_288,
    64,
    4,
    128,
    151_936,
    qk_norm=True,
    num_experts=128,
    num_experts_per_tok=8,
    moe_intermediate_size=1536,
)
# The FP8 loops: NVIDIA's checkpoint of Llama sets an FP8 KV cache, Qwen's does not. Their load generator, AIPerf, makes 100
# prompts and sends them in turn, and vLLM 0.12 caches prefixes: only the first 100 requests compute their prompt, the
# others all but its last block. Twenty requests per client is an assumption: ten leave 8.7 % on Llama, 4.0 % on Qwen.
_FP8_MODELS = {"Llama": (LLAMA_3_1_8B, "fp8", 6.0), "Qwen3": (_QWEN3_235B, "auto", 12.0)}
_AIPERF_PROMPTS = 100
_FP8_LOOP_ROUNDS = 20


def blis_rows(path: Path, engine: EngineVersion = ENGINES["vllm-0.15"]) -> Iterator[Row]:
    """Median E2E, TPOT and TTFT of CodeLlama-34B and Mixtral-8x7B on H100 at TP 2, open loop."""
    table = columns(path)
    mixtral: list[Row] = []  # one run at two rates: its bar is on their median
    for name, *figures in zip(
        table["run"],
        *(table[key] for key in ("rate", "prompt_mean", "output_median", "ttft_p50_ms", "e2e_p50_ms")),
        strict=True,
    ):
        prefix = next((prefix for prefix in _BLIS_MODELS if name.startswith(prefix)), None)
        if prefix is None or _BLIS_LIMIT in name:
            continue
        model = _BLIS_MODELS[prefix]
        deployment = Deployment("replay", GPUS["H100-SXM"], model, engine, tensor_parallel=2)
        rate, prompt, output, ttft_ms, e2e_ms = map(float, figures)
        index = np.arange(int(rate * _BLIS_SECONDS))
        arrival = index / rate + _BLIS_SCATTER_S * (index * _GOLDEN % 1.0)
        size = np.ones_like(arrival)
        run = RecordedRun("vLLM 0.15", deployment, 256, cached_share=1.0 - _BLIS_UNCACHED_TOKENS / prompt)
        result = replay(run, arrival, round(prompt) * size, output * size)
        warm = (arrival >= _BLIS_WARM_S) & (arrival <= arrival[-1] - e2e_ms * 1e-3)
        ttft = 1e3 * float(np.median((result.first_s - arrival)[warm]))
        e2e = 1e3 * float(np.median((result.last_s - arrival)[warm]))
        title = f"vLLM 0.15, H100, {model.name} TP 2"
        what = f"{name.removeprefix(prefix)}, {rate:.0f}/s"
        tpot = (e2e - ttft) / (output - 1)
        bound = None if model.moe_layers else _SERVED_PERCENT
        row = relative(title, f"{what}, TPOT ms", (e2e_ms - ttft_ms) / (output - 1), tpot, bound)
        yield row
        yield relative(title, f"{what}, E2E p50 ms", e2e_ms, e2e, bound)
        yield relative(title, f"{what}, TTFT p50 ms", ttft_ms, ttft, bound and _SERVED_TTFT_PERCENT)
        if model.moe_layers:
            mixtral.append(row)
    if mixtral:
        yield list(with_median(mixtral, _MIXTRAL_PERCENT))[-1]


def fp8_rows(path: Path, engine: EngineVersion = ENGINES["vllm-0.12"]) -> Iterator[Row]:
    """TPOT of Llama-3.1-8B and Qwen3-235B-A22B in FP8 on H200, closed loops. Data-parallel attention is not modelled."""
    table = columns(path)
    for key, (model, kv_cache_dtype, bound) in _FP8_MODELS.items():
        rows = []
        for name, tp, moe_tp, *figures in zip(
            table["model_path"],
            *(map(float, table[column]) for column in ("tp_size", "moe_tp_size")),
            *(map(float, table[column]) for column in ("batch_size", "isl", "osl", "silicon_tpot_ms")),
            strict=True,
        ):
            if key not in name or (model.moe_layers and tp != moe_tp):
                continue
            clients, isl, osl, measured = figures
            deployment = Deployment("replay", GPUS["H200-SXM"], model, engine, tensor_parallel=int(tp))
            run = RecordedRun(
                "vLLM 0.12",
                deployment,
                int(clients),
                kv_blocks=int(clients) * (int(isl + osl) // 16 + 1),
                cached_share=1.0 - 16.0 / isl,
                distinct_prompts=_AIPERF_PROMPTS,
                weight_format="FP8",
                kv_cache_dtype=kv_cache_dtype,
            )
            size = np.ones(int(clients) * _FP8_LOOP_ROUNDS)
            result = replay(run, 0.0 * size, isl * size, osl * size)
            predicted = 1e3 * float(np.mean(result.last_s - result.first_s)) / (osl - 1)
            what = f"TP {tp:.0f}, {clients:.0f} clients, {isl:.0f}/{osl:.0f}, TPOT ms"
            rows.append(relative(f"vLLM 0.12, H200, {model.name} FP8", what, measured, predicted))
        yield from with_median(rows, bound)
