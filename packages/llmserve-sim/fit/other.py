"""Small kernels (norms, rotary embedding, activation) and all-reduces.

Small kernels were profiled on the RTX cards; the others take the mean of the two, launches being alike and the bytes
scaled by their own bandwidth. All-reduces come from the kernel tables; the RTX 4090, which has none, takes L40S's, a
card of the same generation on the same PCIe.
"""

from __future__ import annotations

from collections.abc import Mapping

import kernel_tables
import numpy as np
from common import Array, Error, error, fit, table
from shapes import L40S, PROFILES, RTX_4090, RTX_PRO_6000, layer_gemms_us

from llmserve_sim.performance.kernels import allreduce_us, small_kernels_us
from llmserve_sim.specifications import AllReduceParameters, GemmParameters, GpuSpec, SmallKernelParameters

MAX_MESSAGE_BYTES = 2048 * 8192 * 2  # a full iteration of a model with hidden size 8,192
MIN_MESSAGE_BYTES = 8192


def fit_small(gpu: GpuSpec, gemm: GemmParameters) -> tuple[SmallKernelParameters, list[Error]]:
    """Two norms, rotary embedding, activation and, where the model has it, the norm of Q and K."""
    parts = []
    for model, profile in PROFILES[gpu.name]:
        names = ["layernorm", "layernorm", "rotary_emb", "act_fn"] + ["qk_norm"] * model.qk_norm
        columns = [table(f"{profile}_dense.csv", layer=name) for name in names]
        tokens = columns[0]["tokens"]
        us = np.sum([column["time_us"] for column in columns], axis=0)
        kernels = np.full_like(tokens, model.elementwise_kernels())
        parts.append((kernels, tokens * model.elementwise_bytes(1), layer_gemms_us(gpu, gemm, model, tokens), us))
    kernels, moved, beside, us = (np.concatenate(column) for column in zip(*parts, strict=True))

    def predict(p: Array) -> Array:
        return np.asarray(
            small_kernels_us(SmallKernelParameters(*p), kernels, moved, hbm_bytes_per_s=gpu.hbm_bytes_per_s)
        )

    best = fit(predict, (2.0, 1.0), us, beside=beside)
    time = predict(best)
    return SmallKernelParameters(*best), [
        error(f"small kernels {gpu.name}", time, us),
        error(f"small kernels {gpu.name}, share of layer", time, us, beside),
    ]


def fit_allreduce(gpu: GpuSpec) -> tuple[AllReduceParameters, list[Error]]:
    """VLLM's own all-reduce inside a CUDA graph; messages from two tokens to a full iteration of hidden size 8,192."""
    columns = kernel_tables.read(gpu, "allreduce", backend="vllm_graph")
    if columns is None:
        message_ = f"no all-reduce table for {gpu.name}"
        raise SystemExit(message_)
    ranks, message, us = columns["num_gpus"], 2.0 * columns["message_size"], columns["us"]
    keep = (message <= MAX_MESSAGE_BYTES) & (message >= MIN_MESSAGE_BYTES)
    ranks, message, us = ranks[keep], message[keep], us[keep]

    def predict(p: Array) -> Array:
        return np.asarray(
            allreduce_us(AllReduceParameters(*p), message, ranks=ranks, link_bytes_per_s=gpu.link_bytes_per_s)
        )

    on_pcie = gpu in {L40S, RTX_PRO_6000}
    best = fit(predict, (4.0, 1.0, 0.6, 1.0) if on_pcie else (4.0, 0.12, 0.6), us, lower=0.05)
    return AllReduceParameters(*best), [error(f"all-reduce {gpu.name}", predict(best), us)]


def run(
    gemm: Mapping[str, GemmParameters],
) -> tuple[dict[str, SmallKernelParameters], dict[str, AllReduceParameters], list[Error]]:
    """(small kernels, all-reduce) by GPU, and the errors."""
    small, allreduce, errors = {}, {}, []
    for gpu in (RTX_PRO_6000, RTX_4090):
        small[gpu.name], found = fit_small(gpu, gemm[gpu.name])
        errors += found
    mean = SmallKernelParameters(
        *(
            float(np.mean([getattr(par, name) for par in small.values()]))
            for name in SmallKernelParameters.__dataclass_fields__
        )
    )
    for gpu in kernel_tables.GPUS:
        small.setdefault(gpu.name, mean)
        allreduce[gpu.name], found = fit_allreduce(gpu)
        errors += found
    return small, allreduce, errors
