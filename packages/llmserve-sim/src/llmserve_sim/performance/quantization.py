"""Weight formats: how a GEMM's time, the bytes of the weights and the answer's quality depend on the precision.

FP16 is the unquantised BF16 checkpoint, INT8 is W8A8 (SmoothQuant-style, 8-bit weights and activations), INT4 is W4A16
(GPTQ/AWQ-style, group size 128), FP8 is W8A8 in 8-bit floats. Embedding and output head stay BF16 in every format, as
in published checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from llmserve_sim.bounds import Between, Checked
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.performance.calibration import A100_BF16_PLAIN, A100_KERNELS
from llmserve_sim.specifications import GemmParameters, GpuSpec, ModelSpec, MoeParameters

__all__ = [
    "TIERS",
    "WEIGHT_FORMATS",
    "WeightFormat",
    "gemm_parameters",
    "moe_parameters",
    "swap_s",
    "weight_bytes",
]

BYTES_BF16 = 2.0
_GROUP = 128  # weights that share one BF16 scale in W4A16 checkpoints (GPTQ and AWQ default)

SWAP_RESTART_S = 2.7
"""Fixed part of a change of format: re-capturing CUDA graphs and re-creating the KV cache.

An assumption: with the copy it gives 3.2-4.1 s for the 8B model and 5.4 s for the 32B one. Model switching with weights
in host memory takes 3-6 s."""


@dataclass(frozen=True, slots=True)
class WeightFormat(Checked):
    """One serving precision."""

    name: str
    scheme: str
    weight_bytes: Annotated[float, Between(0.1, 8, "bytes")]
    """Bytes per weight in the GEMM, scales left out."""
    scale_bytes: Annotated[float, Between(0, 8, "bytes")]
    """Bytes per weight for quantisation scales."""
    activation_bytes: Annotated[float, Between(0.1, 8, "bytes")]
    int8_math: bool
    """Tensor cores multiply INT8 (twice the BF16 rate or more) and not BF16."""
    quality_loss: Annotated[float, Between(0, 1)]
    """Relative loss of answer quality, 0 for the unquantised model.

    W8A8 loses 0-1.5 % and W4A16 1.1-3.9 % on the OpenLLM leaderboards v1 and v2 (Kurtic et al., "Give Me BF16 or Give
    Me Death?", arXiv:2411.02355); one figure each in that range. FP8 is called lossless there.
    """
    fp8_math: bool = False
    """Tensor cores multiply FP8."""

    def peak_flops(self, gpu: GpuSpec) -> float:
        """Peak rate of the multiplications this format uses, per second."""
        if self.fp8_math:
            return gpu.peak_fp8_flops
        return gpu.peak_int8_ops if self.int8_math else gpu.peak_bf16_flops


WEIGHT_FORMATS: dict[str, WeightFormat] = {
    "FP16": WeightFormat("FP16", "BF16 weights and activations", BYTES_BF16, 0.0, BYTES_BF16, False, 0.0),
    "INT8": WeightFormat("INT8", "W8A8", 1.0, 0.0, 1.0, True, 0.01),
    "INT4": WeightFormat("INT4", "W4A16", 0.5, BYTES_BF16 / _GROUP, BYTES_BF16, False, 0.03),
    "FP8": WeightFormat("FP8", "FP8 W8A8", 1.0, 0.0, 1.0, False, 0.0, fp8_math=True),
}
TIERS: tuple[str, str, str] = ("FP16", "INT8", "INT4")
"""Formats in the order in which the engine numbers them."""


def gemm_parameters(gpu: GpuSpec, name: str) -> GemmParameters:
    """GEMM parameters of a format on a GPU.

    INT8 and INT4 are measured on A100 only. Elsewhere they are derived: the GPU's own BF16 start-up time and efficiencies
    times the ratio that A100 shows between the format and BF16, with A100's p. Unverified on those GPUs.

    Raises:
        InvalidInputError: no such format, or FP8 on a GPU without measured FP8 kernels.
    """
    if name not in WEIGHT_FORMATS:
        raise InvalidInputError("quantization_tier", f"one of {', '.join(WEIGHT_FORMATS)}", got=name)
    own = gpu.kernels.gemm
    if name == "FP16":
        return own
    if name == "FP8":
        if gpu.kernels.gemm_fp8 is None:
            raise InvalidInputError("quantization_tier", f"a format with kernels on {gpu.name}", got=name)
        return gpu.kernels.gemm_fp8
    is_int8 = name == "INT8"
    measured = gpu.kernels.gemm_int8 if is_int8 else gpu.kernels.gemm_int4
    if measured is not None:
        return measured
    base = A100_BF16_PLAIN
    form = A100_KERNELS.gemm_int8 if is_int8 else A100_KERNELS.gemm_int4
    if form is None:  # pragma: no cover - the A100 constants hold every format
        raise InvalidInputError("quantization_tier", "a format with A100 measurements", got=name)
    return GemmParameters(
        own.t0_us * form.t0_us / base.t0_us,
        own.compute_efficiency * form.compute_efficiency / base.compute_efficiency,
        own.bandwidth_efficiency * form.bandwidth_efficiency / base.bandwidth_efficiency,
        form.p,
    )


def moe_parameters(gpu: GpuSpec, name: str) -> MoeParameters:
    """Parameters of the fused experts of a format on a GPU. INT8 and INT4 take BF16's: only their weights are smaller.

    Raises:
        InvalidInputError: no experts in this format were measured on the GPU.
    """
    measured = gpu.kernels.moe_fp8 if name == "FP8" else gpu.kernels.moe
    if measured is None:
        raise InvalidInputError("model", f"without {name} experts: none were measured on {gpu.name}")
    return measured


def weight_bytes(model: ModelSpec, name: str, tensor_parallel: int = 1) -> int:
    """Bytes of the weights on one GPU: layers in the format; embedding, head, routers and biases in BF16."""
    form = WEIGHT_FORMATS[name]
    layers = model.gemm_weights(tensor_parallel)
    embedding = model.embedding_parameters * BYTES_BF16 / tensor_parallel
    others = (model.router_parameters + model.bias_parameters) * BYTES_BF16  # ranks hold copies
    return round(layers * (form.weight_bytes + form.scale_bytes) + embedding + others)


def swap_s(gpu: GpuSpec, model: ModelSpec, name: str, tensor_parallel: int = 1) -> float:
    """Stall of loading a format whose weights wait in host memory: the copy over PCIe plus `SWAP_RESTART_S`."""
    return SWAP_RESTART_S + weight_bytes(model, name, tensor_parallel) / gpu.host_bytes_per_s
