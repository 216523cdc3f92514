"""Constants fitted to measurements, one set per GPU. Regenerated and checked by `python packages/llmserve-sim/fit`.

Which script fits what (all under packages/llmserve-sim/fit/, each prints its error): `gemm.py` the GEMMs,
`attention.py` decode, prefill and mixed attention, `other.py` small kernels and all-reduces. Measurements:
ai-dynamo/aiconfigurator for A100 and H100, casys-kaist/LLMServingSim kernel profiles for the RTX cards.

Two constants are above 1 because they are relative to the stated peak: the RTX 4090's compute efficiency above 1 (it boosts beyond the
clock of its data sheet) and A100's W4A16 bandwidth efficiency above 1 (its large start-up time hides part of the
traffic).
"""

from __future__ import annotations

from llmserve_sim.specifications import (
    AllReduceParameters,
    DecodeAttentionParameters,
    GemmParameters,
    KernelParameters,
    MixedAttentionParameters,
    PrefillAttentionParameters,
    SmallKernelParameters,
)

__all__ = ["A100_KERNELS", "H100_KERNELS", "RTX_4090_KERNELS", "RTX_PRO_6000_KERNELS"]

A100_KERNELS = KernelParameters(
    gemm=GemmParameters(6.888, 0.8499, 0.8101, 1.665),
    decode=DecodeAttentionParameters(18.07, 3.669, 0.7378, 2.273),
    prefill=PrefillAttentionParameters(13.78, 0.5673, 1, 718, 0),
    mixed=MixedAttentionParameters(3.701, 0.0327, 1.505),
    small=SmallKernelParameters(1.935, 2.001),
    allreduce=AllReduceParameters(3.798, 0.3013, 0.4975),
    gemm_int8=GemmParameters(13.18, 0.8545, 0.9663, 1.048),
    gemm_int4=GemmParameters(20.07, 0.8507, 1.039, 0.899),
)
H100_KERNELS = KernelParameters(
    gemm=GemmParameters(4.242, 0.8255, 0.8701, 3.713),
    decode=DecodeAttentionParameters(9.501, 3.666, 0.8846, 1.656),
    prefill=PrefillAttentionParameters(11.18, 0.7793, 1, 882, 0),
    mixed=MixedAttentionParameters(3.701, 0.0327, 1, packs_heads=True),
    small=SmallKernelParameters(1.935, 2.001),
    allreduce=AllReduceParameters(3.546, 0.2064, 0.571),
)
RTX_PRO_6000_KERNELS = KernelParameters(
    gemm=GemmParameters(3.853, 0.8655, 0.9166, 1.976),
    decode=DecodeAttentionParameters(14.2, 2.377, 0.9151, 1),
    prefill=PrefillAttentionParameters(8.752, 0.5471, 64, 64, 0.02131),
    mixed=MixedAttentionParameters(3.095, 0.02746, 1.3),
    small=SmallKernelParameters(2.255, 2.112),
    allreduce=AllReduceParameters(20.0, 0.12, 0.25),  # PCIe: the design's 20 us and 16 GB/s; no data here to fit
)
RTX_4090_KERNELS = KernelParameters(
    gemm=GemmParameters(4.6, 1.021, 0.923, 2.392),
    decode=DecodeAttentionParameters(11.92, 1.38, 0.8139, 1),
    prefill=PrefillAttentionParameters(8.597, 0.7949, 64, 64, 0.03099),
    mixed=MixedAttentionParameters(4.308, 0.03795, 1.71),
    small=SmallKernelParameters(1.614, 1.889),
    allreduce=AllReduceParameters(20.0, 0.12, 0.5),  # PCIe 4.0 at the same 16 GB/s; no data
)
