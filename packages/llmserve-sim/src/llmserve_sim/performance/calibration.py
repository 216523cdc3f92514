"""Constants fitted to measurements, one set per GPU. Regenerated and checked by `python packages/llmserve-sim/fit`.

Which script fits what (all under packages/llmserve-sim/fit/, each prints its error): `gemm.py` the GEMMs,
`attention.py` decode, prefill and mixed attention, `other.py` small kernels and all-reduces, `moe.py` fused experts. Measurements:
ai-dynamo/aiconfigurator's kernel tables (vLLM 0.24; A100: 0.14), casys-kaist/LLMServingSim kernel profiles for the
RTX 4090 and for the mixed and the small kernels of the RTX PRO 6000.

Constants above 1 are relative to a stated peak: the RTX 4090 boosts beyond the clock of its data sheet, and start-up
times hide part of the traffic of A100's W4A16 and of B200's FP8 GEMMs.
"""

from __future__ import annotations

from llmserve_sim.specifications import (
    AllReduceParameters,
    DecodeAttentionParameters,
    GemmParameters,
    KernelParameters,
    MixedAttentionParameters,
    MoeParameters,
    PrefillAttentionParameters,
    SmallKernelParameters,
)

__all__ = [
    "A100_BF16_PLAIN",
    "A100_KERNELS",
    "B200_KERNELS",
    "H100_KERNELS",
    "H200_KERNELS",
    "L40S_KERNELS",
    "RTX_4090_KERNELS",
    "RTX_PRO_6000_KERNELS",
]

SUSTAINED = 0.77
"""Of H100's short-burst compute rate, served Qwen3-32B kept this share (fit/overhead.py), and the recorded run on RTX PRO
6000 agrees with it. Derived for H200, B200 and L40S: unmeasured there. A100, at 400 W, served Llama-3-8B at the full
rate of its table, and the RTX 4090's constants come from profiles inside a server."""

A100_BF16_PLAIN = GemmParameters(6.888, 0.8499, 0.8101, 1.665)
"""BF16 in the form of A100's other formats: what they are compared with where they are derived for other GPUs."""

A100_KERNELS = KernelParameters(
    gemm=GemmParameters(
        5.211, 0.8806, 0.7838, 2.599, tile_m=128, tile_n=256, fill_k=199.7, wave=0.09969, small_efficiency=0.8171
    ),
    decode=DecodeAttentionParameters(18.16, 0.8506, 0.7366, 1.001),
    prefill=PrefillAttentionParameters(9.971, 0.5424, 64, 0, 0.03261, io=2.296),
    mixed=MixedAttentionParameters(2.747, 0.0243, 1.505),
    small=SmallKernelParameters(1.93, 2.011),
    allreduce=AllReduceParameters(3.798, 0.3012, 0.4975),
    gemm_int8=GemmParameters(13.18, 0.8545, 0.9663, 1.048),
    gemm_int4=GemmParameters(20.07, 0.8507, 1.039, 0.899),
)
H100_KERNELS = KernelParameters(
    gemm=GemmParameters(
        3.602, 0.8565, 0.8797, 4.112, tile_m=256, tile_n=128, fill_k=145, wave=0.2401, small_efficiency=0.995
    ),
    decode=DecodeAttentionParameters(12.95, 2.162, 0.9063, 1.049),
    prefill=PrefillAttentionParameters(12.79, 0.7023, 1, 0, 0.01319, io=2.515),
    mixed=MixedAttentionParameters(0.8181, 0.007238, 1, packs_heads=True),
    small=SmallKernelParameters(1.93, 2.011),
    allreduce=AllReduceParameters(3.537, 0.2131, 0.5671),
    gemm_fp8=GemmParameters(
        5.779,
        0.6534,
        0.8362,
        3.963,
        tile_m=128,
        tile_n=128,
        fill_k=89.59,
        wave=0.534,
        small_efficiency=0.8795,
        quantize_bytes=6.827,
        unaligned=1.2,
        fewest_efficiency=0.7554,
    ),
    decode_fp8=DecodeAttentionParameters(14.9, 3.508, 0.8253, 1.001),
    sustained=SUSTAINED,
    moe=MoeParameters(31.71, 0.5256, 0.8704, 4, 64, 2.421, unaligned=1.022),
    moe_fp8=MoeParameters(36.77, 0.4176, 0.8702, 4, 64, 3.336),
)
H200_KERNELS = KernelParameters(
    gemm=GemmParameters(
        3.897, 0.8456, 0.8431, 4.515, tile_m=256, tile_n=128, fill_k=112, wave=0.1666, small_efficiency=0.998
    ),
    decode=DecodeAttentionParameters(12.88, 2.616, 0.8795, 1.074),
    prefill=PrefillAttentionParameters(12.65, 0.692, 1, 0, 0.01326, io=3.459),
    mixed=MixedAttentionParameters(0.8303, 0.007345, 1, packs_heads=True),
    small=SmallKernelParameters(1.93, 2.011),
    allreduce=AllReduceParameters(3.812, 0.1722, 0.5957),
    gemm_fp8=GemmParameters(
        5.918,
        0.767,
        0.8154,
        3.103,
        tile_m=128,
        tile_n=128,
        fill_k=193.1,
        wave=0.6787,
        small_efficiency=0.9374,
        quantize_bytes=10.19,
        unaligned=1.244,
        fewest_efficiency=0.8485,
    ),
    decode_fp8=DecodeAttentionParameters(14.74, 3.638, 0.6439, 1.001),
    sustained=SUSTAINED,
    moe=MoeParameters(33.67, 0.6112, 0.8802, 4, 64, 3.274, unaligned=1.018),
    moe_fp8=MoeParameters(36.96, 0.4634, 0.8541, 4, 64, 4.911),
)
B200_KERNELS = KernelParameters(
    gemm=GemmParameters(
        3.846, 0.7467, 0.822, 2.99, tile_m=256, tile_n=128, fill_k=35.47, wave=0.2765, small_efficiency=0.968
    ),
    decode=DecodeAttentionParameters(9.223, 0.7094, 0.8779, 1.514),
    prefill=PrefillAttentionParameters(10.66, 0.6046, 64, 0, 0.01554, io=4.678),
    mixed=MixedAttentionParameters(0.4683, 0.004143, 1.505, separate=True),
    small=SmallKernelParameters(1.93, 2.011),
    allreduce=AllReduceParameters(6.597, 0.09404, 0.4009),
    gemm_fp8=GemmParameters(
        5.172,
        0.7905,
        1.013,
        1.705,
        tile_m=128,
        tile_n=256,
        fill_k=577.8,
        wave=0.2187,
        small_efficiency=0.06702,
        quantize_bytes=17.29,
        unaligned=1.034,
    ),
    decode_fp8=DecodeAttentionParameters(10.17, 1.018, 0.8565, 1.785),
    sustained=SUSTAINED,
    moe=MoeParameters(15.06, 0.3508, 0.8802, 4, 64, 0.3047, unaligned=1.542),
    moe_fp8=MoeParameters(30.05, 0.2266, 1, 4, 64, 2.537),
)
L40S_KERNELS = KernelParameters(
    gemm=GemmParameters(
        0.002515, 0.706, 0.775, 2.812, tile_m=256, tile_n=128, fill_k=165.5, wave=0.09988, small_efficiency=0.9383
    ),
    decode=DecodeAttentionParameters(11.47, 2.985, 0.8101, 1.001),
    prefill=PrefillAttentionParameters(6.916, 0.5074, 64, 0, 0.01982, io=0.6624),
    mixed=MixedAttentionParameters(3.327, 0.02944, 1.505),
    small=SmallKernelParameters(1.93, 2.011),
    allreduce=AllReduceParameters(0.05, 114.7, 0.5651, contention=1.642),
    gemm_fp8=GemmParameters(
        0.001,
        0.6658,
        0.6868,
        4.356,
        tile_m=128,
        tile_n=128,
        fill_k=985.4,
        wave=0.4899,
        small_efficiency=0.6939,
        quantize_bytes=3.627,
        unaligned=0.9863,
    ),
    decode_fp8=DecodeAttentionParameters(11.03, 1.457, 0.8012, 1.001),
    sustained=SUSTAINED,
    moe=MoeParameters(0.001, 0.7434, 0.777, 4, 64, 2.957, unaligned=0.9762),
    moe_fp8=MoeParameters(0.001, 0.6147, 0.7612, 4, 64, 1.924),
)
RTX_PRO_6000_KERNELS = KernelParameters(
    gemm=GemmParameters(
        2.578, 0.8841, 0.9357, 2.976, tile_m=128, tile_n=256, fill_k=115.8, wave=0.06322, small_efficiency=0.8692
    ),
    decode=DecodeAttentionParameters(12.64, 2.657, 0.928, 1.348),
    prefill=PrefillAttentionParameters(7.522, 0.5799, 64, 0, 0.02055, io=1.009),
    mixed=MixedAttentionParameters(3.089, 0.02744, 1.3),
    small=SmallKernelParameters(2.245, 2.133),
    allreduce=AllReduceParameters(0.05, 140.8, 0.6376, contention=0.5602),
    gemm_fp8=GemmParameters(
        3.553,
        0.9137,
        0.9292,
        3.075,
        tile_m=128,
        tile_n=128,
        fill_k=157.8,
        wave=0.588,
        small_efficiency=0.7238,
        quantize_bytes=3.859,
        unaligned=0.9951,
    ),
    decode_fp8=DecodeAttentionParameters(12.09, 0.6249, 0.9339, 1.001),
    sustained=SUSTAINED,
    moe=MoeParameters(20.79, 0.4122, 0.9358, 4, 64, 1.081, unaligned=1.019),
)
RTX_4090_KERNELS = KernelParameters(
    gemm=GemmParameters(4.6, 1.021, 0.923, 2.392),
    decode=DecodeAttentionParameters(11.92, 1.383, 0.8139, 1.001),
    prefill=PrefillAttentionParameters(8.597, 0.7949, 64, 64, 0.03099),
    mixed=MixedAttentionParameters(4.308, 0.03795, 1.71),
    small=SmallKernelParameters(1.614, 1.889),
    allreduce=AllReduceParameters(0.05, 114.7, 0.5651, contention=1.642),
)
