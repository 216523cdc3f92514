"""The known GPUs, models, serving engines and deployments; each figure has its source beside it.

Their types are in `specifications.py` and can be imported from here, too. To add a GPU, a model or a deployment, make
one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llmserve_sim.engine.interface import SchedulerRules
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.model_config import read_model_config
from llmserve_sim.performance import calibration_0_1
from llmserve_sim.performance.calibration import (
    A100_KERNELS,
    B200_KERNELS,
    H100_KERNELS,
    H200_KERNELS,
    L40S_KERNELS,
    RTX_4090_KERNELS,
    RTX_PRO_6000_KERNELS,
)
from llmserve_sim.specifications import Deployment, EngineVersion, GpuSpec, ModelSpec

__all__ = [
    "DEPLOYMENTS",
    "ENGINES",
    "GPUS",
    "LLAMA_3_1_8B",
    "MODELS",
    "QWEN3_32B",
    "SCHEDULERS",
    "Deployment",
    "EngineVersion",
    "GpuSpec",
    "ModelSpec",
    "get_deployment",
    "get_model",
    "with_model",
]

MIB = 2**20

# Rates: NVIDIA data sheets (A100 80GB SXM, H100 SXM, GeForce RTX 4090 / Ada whitepaper). Links: NVLink 3 and 4 carry
# 300 and 450 GB/s per direction; the RTX cards have PCIe 4.0 and 5.0 x16 (31.5 and 63 GB/s). Memory: nvidia-smi totals.
# host_bytes_per_s: 0.4 of the PCIe rate, since weights wait in pageable memory; an assumption.
GPUS: dict[str, GpuSpec] = {
    gpu.name: gpu
    for gpu in (
        GpuSpec(
            name="A100-80G-SXM",
            memory_bytes=81_920 * MIB,
            peak_bf16_flops=312e12,
            peak_int8_ops=624e12,
            hbm_bytes_per_s=2.039e12,
            sm_count=108,
            link_bytes_per_s=300e9,
            host_bytes_per_s=12.6e9,
            price_usd_per_hour=1.99,  # middle of on-demand list prices, early 2026, 1.49-2.49 (pricegpu.pages.dev)
            kernels=A100_KERNELS,
            l2_bytes=40 * MIB,
        ),
        GpuSpec(
            name="H100-SXM",
            memory_bytes=81_559 * MIB,
            peak_bf16_flops=989e12,
            peak_int8_ops=1979e12,
            hbm_bytes_per_s=3.35e12,
            sm_count=132,
            link_bytes_per_s=450e9,
            host_bytes_per_s=25.2e9,
            price_usd_per_hour=2.95,  # median on-demand list price, May 2026 (aimultiple.com/gpu-index)
            kernels=H100_KERNELS,
            peak_fp8_flops=1979e12,
            l2_bytes=50 * MIB,
        ),
        GpuSpec(
            # Server Edition: 1.597 TB/s (the workstation card has 1.792). The measured GEMMs stream weights at 1.47
            # TB/s, a plausible 92 % of the former and an implausible 82 % of the latter.
            name="RTX-PRO-6000",
            memory_bytes=97_887 * MIB,
            peak_bf16_flops=467.8e12,
            peak_int8_ops=935.6e12,
            hbm_bytes_per_s=1.597e12,
            sm_count=188,
            link_bytes_per_s=63e9,
            host_bytes_per_s=25.2e9,
            price_usd_per_hour=1.57,  # on-demand list price, March 2026 (deploybase.ai/articles/runpod-gpu-pricing)
            kernels=RTX_PRO_6000_KERNELS,
            peak_fp8_flops=935.6e12,
            l2_bytes=128 * MIB,
        ),
        GpuSpec(
            name="RTX-4090",
            memory_bytes=24_564 * MIB,
            peak_bf16_flops=165.2e12,
            peak_int8_ops=660.6e12,
            hbm_bytes_per_s=1.008e12,
            sm_count=128,
            link_bytes_per_s=31.5e9,
            host_bytes_per_s=12.6e9,
            price_usd_per_hour=0.60,  # as above
            kernels=RTX_4090_KERNELS,
            peak_fp8_flops=660.6e12,
            l2_bytes=72 * MIB,
        ),
        GpuSpec(
            name="H200-SXM",
            memory_bytes=143_771 * MIB,
            peak_bf16_flops=989e12,
            peak_int8_ops=1979e12,
            hbm_bytes_per_s=4.8e12,
            sm_count=132,
            link_bytes_per_s=450e9,
            host_bytes_per_s=25.2e9,
            price_usd_per_hour=4.00,  # middle of specialised clouds' 3.50-4.50, May 2026 (mercatus-ai.com)
            kernels=H200_KERNELS,
            peak_fp8_flops=1979e12,
            l2_bytes=50 * MIB,
        ),
        GpuSpec(
            name="B200-SXM",
            memory_bytes=183_359 * MIB,
            peak_bf16_flops=2250e12,
            peak_int8_ops=4500e12,
            hbm_bytes_per_s=8.0e12,
            sm_count=148,
            link_bytes_per_s=900e9,
            host_bytes_per_s=25.2e9,
            price_usd_per_hour=5.25,  # middle of specialised clouds' 4.50-6.00, March 2026 (lyceum.technology)
            kernels=B200_KERNELS,
            peak_fp8_flops=4500e12,
            l2_bytes=126 * MIB,
        ),
        GpuSpec(
            name="L40S",
            memory_bytes=46_068 * MIB,
            peak_bf16_flops=362.05e12,
            peak_int8_ops=733e12,
            hbm_bytes_per_s=0.864e12,
            sm_count=142,
            link_bytes_per_s=31.5e9,
            host_bytes_per_s=12.6e9,
            price_usd_per_hour=0.79,  # on-demand list price, March 2026 (deploybase.ai/articles/nvidia-l40s-price)
            kernels=L40S_KERNELS,
            peak_fp8_flops=733e12,
            l2_bytes=96 * MIB,
        ),
    )
}

# Architectures: config.json of meta-llama/Llama-3.1-8B and Qwen/Qwen3-32B.
LLAMA_3_1_8B = ModelSpec("Llama-3.1-8B", 32, 4096, 14_336, 32, 8, 128, 128_256)
QWEN3_32B = ModelSpec("Qwen3-32B", 64, 5120, 25_600, 64, 8, 128, 151_936, qk_norm=True)
MODELS: dict[str, ModelSpec] = {model.name: model for model in (LLAMA_3_1_8B, QWEN3_32B)}

# Fitted by packages/llmserve-sim/fit/overhead.py, each version on a part of its end-to-end runs; docs/simulator.md says
# which. 0.15: what H100's kernels leave of CodeLlama-34B's TPOT at two rates hardly depends on the batch, and its front
# end is what a median TTFT at light load holds besides iterations. No run of 0.24 or 0.32 is known here: they take
# 0.19's CPU time and 0.15's front end. Asynchronous versions are fitted under their own scheduling rules (`SCHEDULERS`), by the
# reference engine, the others under the first scheduler. 0.12's time grows with layers: what 64 layers on H100 leave is twice
# what 32 layers on H200 do.
# "tensorrt-llm-0.14" is A100's alone: it was fitted to one 8B model on one GPU, and is 17-38 % fast for 70B under
# tensor parallelism.
_FRONTEND_US = 9000.0
ENGINES: dict[str, EngineVersion] = {
    engine.name: engine
    for engine in (
        EngineVersion(
            "vllm-0.12",
            iteration_us=0.0,
            sequence_us=0.0,
            layer_us=21.0,
            layer_sequence_us=0.7,
            fp8_expert_rows=128,  # DeepGEMM's contiguous layout; slower than Triton's in 0.12 to 0.14 (llm-compressor 2292)
        ),
        EngineVersion("vllm-0.15", iteration_us=100.0, sequence_us=0.0, frontend_us=_FRONTEND_US),
        EngineVersion("vllm-0.19", iteration_us=0.0, sequence_us=2.0),
        EngineVersion("vllm-0.24", iteration_us=0.0, sequence_us=2.0, frontend_us=_FRONTEND_US),
        EngineVersion(
            "vllm-0.32",
            iteration_us=0.0,
            sequence_us=2.0,
            frontend_us=_FRONTEND_US,
            largest_token_budget=16_384,
        ),
        EngineVersion("tensorrt-llm-0.14", iteration_us=12.0, sequence_us=3.0, separate_attention=True),
    )
}

# Until the built-in tasks' references and weights are computed anew, the presets keep simulator 0.1's constants.
_PINNED = {
    name: replace(GPUS[name], kernels=kernels)
    for name, kernels in (
        ("A100-80G-SXM", calibration_0_1.A100_KERNELS),
        ("H100-SXM", calibration_0_1.H100_KERNELS),
        ("RTX-4090", calibration_0_1.RTX_4090_KERNELS),
    )
}

SCHEDULERS: dict[str, SchedulerRules] = {
    version: SchedulerRules(
        whole_prompt,
        lookahead,
        resumes,
        asynchronous,
        unhashed_blocks_first=unhashed,
        lookahead_block_hashes=ahead,
        drafts_beside_last_token=drafts,
    )
    for version, whole_prompt, lookahead, resumes, asynchronous, unhashed, ahead, drafts in (
        ("vllm-0.12", False, False, False, False, False, False, False),
        ("vllm-0.15", False, False, False, True, False, False, False),
        ("vllm-0.19", True, False, False, True, False, False, False),
        ("vllm-0.24", True, True, False, True, True, False, False),
        ("vllm-0.32", True, True, False, True, True, False, True),
        ("vllm-0.33", True, True, True, True, True, True, True),
    )
}
"""The scheduling rules of vLLM's versions; `nox -s vllm` holds each against that version's own scheduler."""

DEPLOYMENTS: dict[str, Deployment] = {
    name: Deployment(
        name,
        _PINNED[gpu],
        model,
        calibration_0_1.ENGINE,
        replicas=replicas,
        tensor_parallel=tensor_parallel,
        max_num_batched_tokens=calibration_0_1.MAX_NUM_BATCHED_TOKENS,
        activation_bytes=calibration_0_1.ACTIVATION_BYTES,
    )
    for name, gpu, model, replicas, tensor_parallel in (
        ("a100-llama3.1-8b", "A100-80G-SXM", LLAMA_3_1_8B, 2, 1),
        ("rtx4090-llama3.1-8b", "RTX-4090", LLAMA_3_1_8B, 1, 1),
        ("h100x2-qwen3-32b", "H100-SXM", QWEN3_32B, 1, 2),
    )
}


def get_deployment(name: str) -> Deployment:
    """Return the preset of that name.

    Raises:
        InvalidInputError: there is no such preset; the message lists the known ones.
    """
    if name not in DEPLOYMENTS:
        raise InvalidInputError("deployment", f"one of {', '.join(sorted(DEPLOYMENTS))}", got=name)
    return DEPLOYMENTS[name]


def get_model(name: str | Path) -> ModelSpec:
    """Return the model of that name in `MODELS`, or the one that the config.json at that path describes.

    Raises:
        InvalidInputError: neither is there, or `read_model_config` refuses the file.
    """
    if str(name) in MODELS:
        return MODELS[str(name)]
    path = Path(name)
    if path.suffix != ".json":
        raise InvalidInputError(
            "model", f"the path of a config.json, or one of {', '.join(sorted(MODELS))}", got=str(name)
        )
    return read_model_config(path)


def with_model(deployment: Deployment, model: str | Path) -> Deployment:
    """Return a deployment that serves another model, taken as by `get_model`; GPUs and engine stay.

    Raises:
        InvalidInputError: from `get_model`, or the model's heads cannot be split over the deployment's GPUs.
    """
    served = get_model(model)
    return replace(deployment, name=f"{deployment.name} with {served.name}", model=served)
