"""Prefill and decode on different replicas: what it costs to hand a request over, and to change roles."""

from __future__ import annotations

from llmserve_sim.specifications import Deployment

__all__ = ["HANDOVER_S", "SPLIT_STALL_S", "link_s_per_token"]

HANDOVER_S = 0.168
"""Fixed latency of a hand-over: 197 ms in the median less 29 ms of transfer, measured in vLLM (pull request 51919)."""
SPLIT_STALL_S = 0.5
"""Stall of a change of roles: the connections between the new pairs are set up before anything runs. An assumption."""


def link_s_per_token(deployment: Deployment) -> float:
    """Return the transfer time of one token's KV over a prefill replica's link, seconds.

    Tensor-parallel ranks send their shares side by side. The link reaches the same share of its rate as in large
    all-reduces.
    """
    gpu = deployment.gpu
    rate = gpu.link_bytes_per_s * gpu.kernels.allreduce.link_efficiency
    model = deployment.model
    share = model.kv_heads_per_gpu(deployment.tensor_parallel) / model.kv_heads
    return model.kv_bytes_per_token * share / rate
