"""Simulator 0.1's constants, on which the built-in tasks' references and weights were computed.

Removed at the regeneration: until then the presets of `DEPLOYMENTS` are made of these, while `GPUS` and `ENGINES` hold
the present fits. Nothing here is refitted or checked.
"""

from __future__ import annotations

from dataclasses import replace

from llmserve_sim.specifications import (
    AllReduceParameters,
    DecodeAttentionParameters,
    EngineVersion,
    GemmParameters,
    KernelParameters,
    MixedAttentionParameters,
    PrefillAttentionParameters,
    SmallKernelParameters,
)

__all__ = [
    "A100_KERNELS",
    "ACTIVATION_BYTES",
    "ENGINE",
    "H100_KERNELS",
    "MAX_NUM_BATCHED_TOKENS",
    "RTX_4090_KERNELS",
]

ENGINE = EngineVersion("vllm-0.19", iteration_us=50.0, sequence_us=13.0)
MAX_NUM_BATCHED_TOKENS = 2048
ACTIVATION_BYTES = 2_500_000_000
"""Activations, CUDA graphs and the CUDA context per GPU, whatever the model and the budget."""

_A100_BF16 = GemmParameters(6.888, 0.8499, 0.8101, 1.665)
_A100_INT8 = GemmParameters(13.18, 0.8545, 0.9663, 1.048)
_A100_INT4 = GemmParameters(20.07, 0.8507, 1.039, 0.899)


def _with_derived_formats(kernels: KernelParameters) -> KernelParameters:
    """A GPU's own BF16 constants times the ratio that A100 shows between each format and BF16."""

    def derived(form: GemmParameters) -> GemmParameters:
        own, base = kernels.gemm, _A100_BF16
        return GemmParameters(
            own.t0_us * form.t0_us / base.t0_us,
            own.compute_efficiency * form.compute_efficiency / base.compute_efficiency,
            own.bandwidth_efficiency * form.bandwidth_efficiency / base.bandwidth_efficiency,
            form.p,
        )

    return replace(kernels, gemm_int8=derived(_A100_INT8), gemm_int4=derived(_A100_INT4))


A100_KERNELS = KernelParameters(
    gemm=_A100_BF16,
    decode=DecodeAttentionParameters(18.07, 3.669, 0.7378, 2.273),
    prefill=PrefillAttentionParameters(13.78, 0.5673, 1, 718, 0),
    mixed=MixedAttentionParameters(3.701, 0.0327, 1.505),
    small=SmallKernelParameters(1.935, 2.001),
    allreduce=AllReduceParameters(3.798, 0.3013, 0.4975),
    gemm_int8=_A100_INT8,
    gemm_int4=_A100_INT4,
)
H100_KERNELS = _with_derived_formats(
    KernelParameters(
        gemm=GemmParameters(4.242, 0.8255, 0.8701, 3.713),
        decode=DecodeAttentionParameters(9.501, 3.666, 0.8846, 1.656),
        prefill=PrefillAttentionParameters(11.18, 0.7793, 1, 882, 0),
        mixed=MixedAttentionParameters(3.701, 0.0327, 1, packs_heads=True),
        small=SmallKernelParameters(1.935, 2.001),
        allreduce=AllReduceParameters(3.546, 0.2064, 0.571),
    )
)
RTX_4090_KERNELS = _with_derived_formats(
    KernelParameters(
        gemm=GemmParameters(4.6, 1.021, 0.923, 2.392),
        decode=DecodeAttentionParameters(11.92, 1.38, 0.8139, 1),
        prefill=PrefillAttentionParameters(8.597, 0.7949, 64, 64, 0.03099),
        mixed=MixedAttentionParameters(4.308, 0.03795, 1.71),
        small=SmallKernelParameters(1.614, 1.889),
        allreduce=AllReduceParameters(20.0, 0.12, 0.5),  # PCIe 4.0 at the same 16 GB/s; no data
    )
)
