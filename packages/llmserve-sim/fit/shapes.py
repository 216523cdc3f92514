"""Shapes of the layers whose profiles are fitted: model, tensor parallelism, and the GPU they were measured on."""

from __future__ import annotations

from llmserve_sim.hardware import GPUS, LLAMA_3_1_8B, QWEN3_32B, GpuSpec, ModelSpec
from llmserve_sim.performance.kernels import Real, gemm_us
from llmserve_sim.specifications import GemmParameters

A100 = GPUS["A100-80G-SXM"]
H100 = GPUS["H100-SXM"]
H200 = GPUS["H200-SXM"]
B200 = GPUS["B200-SXM"]
L40S = GPUS["L40S"]
RTX_PRO_6000 = GPUS["RTX-PRO-6000"]
RTX_4090 = GPUS["RTX-4090"]

PROFILES: dict[str, list[tuple[ModelSpec, str]]] = {
    RTX_4090.name: [(LLAMA_3_1_8B, "llmss_prof_RTX4090_meta-llama_Llama-3.1-8B")],
    RTX_PRO_6000.name: [
        (LLAMA_3_1_8B, "llmss_prof_RTXPRO6000_meta-llama_Llama-3.1-8B"),
        (QWEN3_32B, "llmss_prof_RTXPRO6000_Qwen_Qwen3-32B"),
    ],
}
# (query heads, KV heads) of one GPU: Llama-3.1-8B at TP 1/2/4 and Qwen3-32B at TP 1/2/4/8
SERVED_HEADS = ((32, 8), (16, 4), (8, 2), (64, 8), (32, 4), (16, 2), (8, 1))


def layer_gemms_us(gpu: GpuSpec, gemm: GemmParameters, model: ModelSpec, tokens: Real, tp: int = 1) -> Real:
    """Time of a layer's four GEMMs, the scale against which attention errors are weighed."""
    total: Real = 0.0
    for n, k in model.layer_matrices(tp):
        total = total + gemm_us(
            gemm,
            tokens,
            n,
            k,
            peak_flops=gpu.peak_bf16_flops,
            hbm_bytes_per_s=gpu.hbm_bytes_per_s,
            sm_count=gpu.sm_count,
        )
    return total
