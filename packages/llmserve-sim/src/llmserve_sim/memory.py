"""Memory per GPU: the shares of weights, draft, activations, KV pool and co-tenant.

    usable = device memory x gpu_memory_utilization
    reserved = weights + activations (+ draft head while speculating)
    pool = min(fraction x (usable - reserved), usable - reserved - co-tenant), never below the largest request

All bytes are per GPU. With tensor parallelism, weights and KV blocks are spread over the replica's GPUs. The module
counts KV blocks and knows nothing about requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmserve_sim.arithmetic import SCALAR
from llmserve_sim.engine.interface import BLOCK_TOKENS
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.performance.quantization import TIERS, weight_bytes

if TYPE_CHECKING:
    from llmserve_sim.arithmetic import Arithmetic
    from llmserve_sim.hardware import Deployment

__all__ = ["MemoryGrant", "MemoryModel", "MemoryRequirement", "activation_bytes"]

_BYTES_BF16 = 2
_GIB = 2**30

# What a started vLLM 0.19 leaves for the KV cache of Llama-3.1-8B fixes the three constants: 2,588 blocks on an RTX
# 4090 (utilization .9, 2,048 tokens, 256 sequences), 476,016 tokens on an H100 (.95, 8,192 tokens, 1,024 sequences),
# 63.76 and 67.44 GiB a GPU there at TP 2 and 4.
CONTEXT_BYTES = int(1.27 * _GIB)
"""CUDA context, library workspaces, and what nvidia-smi counts and PyTorch does not see, per GPU."""
COMMUNICATOR_BYTES = int(1.89 * _GIB)
"""Buffers of NCCL and of the custom all-reduce, per GPU of a tensor-parallel replica."""
SAMPLER_BYTES_PER_LOGIT = 10
"""BF16 logits, their FP32 copy, and the sampler's copy of that, when vLLM profiles `max_num_seqs` sampled rows."""


def activation_bytes(deployment: Deployment) -> int:
    """Bytes per GPU that are neither weights nor KV: `Deployment.activation_bytes`, or what vLLM's start would leave out.

    vLLM runs one batch of `max_num_batched_tokens` and then samples `max_num_seqs` rows before it sizes the KV cache;
    the larger of the two peaks stays reserved. A layer's live tensors are the MLP's gate, up and product (split over
    the ranks) and four copies of the hidden state; in a layer with experts, the same of every expert that a token takes,
    and its output.
    """
    if deployment.activation_bytes is not None:
        return deployment.activation_bytes
    model, tp = deployment.model, deployment.tensor_parallel
    dense = 3 * model.intermediate // tp if model.dense_layers else 0
    routed = model.num_experts_per_tok * (3 * model.moe_intermediate_size // tp + model.hidden)
    layer = deployment.max_num_batched_tokens * _BYTES_BF16 * (max(dense, routed) + 4 * model.hidden)
    sampler = deployment.gpu.default_max_num_seqs * model.vocab * SAMPLER_BYTES_PER_LOGIT
    return CONTEXT_BYTES + max(layer, sampler) + (COMMUNICATOR_BYTES if tp > 1 else 0)


@dataclass(frozen=True, slots=True)
class MemoryRequirement:
    """The memory that a configuration reserves and asks for, before any co-tenant. Bytes are per GPU."""

    weight_bytes: int
    draft_bytes: int
    activation_bytes: int
    block_bytes: int
    """One KV block; while speculating, the draft's KV is included."""
    wanted_blocks: int
    """Blocks that `kv_budget_fraction` asks for."""

    @property
    def reserved_bytes(self) -> int:
        """Weights, draft and activations: held at every pool size."""
        return self.weight_bytes + self.draft_bytes + self.activation_bytes


@dataclass(frozen=True, slots=True)
class MemoryGrant:
    """The KV pool that is left beside the co-tenant. Bytes are per GPU."""

    pool_blocks: int
    """KV blocks of each replica."""
    pool_bytes: int
    refused_bytes: int
    """Part of the co-tenant's demand that does not fit beside the smallest pool."""
    pressure: float
    """Demand above the shared cap, as a share of usable memory; 0 below it."""


class MemoryModel:
    """Memory of one deployment."""

    def __init__(self, deployment: Deployment, max_len: int) -> None:
        """Compute the fixed parts.

        Args:
            deployment: GPUs, model and parallelism.
            max_len: longest prompt plus output, tokens. Every pool must hold one such request.

        Raises:
            InvalidInputError: no weight format leaves room for the smallest pool.
        """
        if type(max_len) is not int or max_len < 2:
            raise InvalidInputError("max_len", "must be an integer of at least 2 tokens", got=max_len)
        self.deployment = deployment
        self.usable_bytes = int(deployment.gpu.memory_bytes * deployment.gpu_memory_utilization)
        self.min_pool_blocks = (max_len + BLOCK_TOKENS) // BLOCK_TOKENS + 2
        self.refusals: dict[str, InvalidInputError] = {}
        """The weight formats that do not fit, each with the error that an action which chooses it raises."""
        for tier in TIERS:
            requirement = self.requirement(tier, 1.0, speculating=True)
            free = self.usable_bytes - requirement.reserved_bytes
            least = self.min_pool_blocks * requirement.block_bytes
            if free < least:
                bound = (
                    f"must be a format that fits {deployment.name}: {tier} needs {least} bytes per GPU for "
                    f"{self.min_pool_blocks} KV blocks and leaves {free}"
                )
                self.refusals[tier] = InvalidInputError("quantization_tier", bound, got=tier)
        if len(self.refusals) == len(TIERS):
            smallest = self.requirement(TIERS[-1], 1.0, speculating=True)
            raise InvalidInputError(
                "deployment",
                f"a {TIERS[-1]} model that leaves room for {self.min_pool_blocks} KV blocks "
                f"({self.min_pool_blocks * smallest.block_bytes} bytes per GPU)",
                got=f"{self.usable_bytes - smallest.reserved_bytes} bytes",
            )

    @property
    def fitting_tiers(self) -> tuple[str, ...]:
        """The weight formats that fit; at least one."""
        return tuple(tier for tier in TIERS if tier not in self.refusals)

    def check(self, tier: str) -> None:
        """Raise `InvalidInputError` for a weight format that does not fit, with what it needs and what it leaves."""
        if tier in self.refusals:
            refusal = self.refusals[tier]
            raise InvalidInputError(refusal.field, refusal.bound, got=refusal.got)

    @staticmethod
    def longest_request(deployment: Deployment) -> int:
        """Return the largest `max_len` that the deployment's memory holds at every weight format, tokens.

        Formats that hold no request at all are left out.

        Raises:
            InvalidInputError: no format leaves room for any request.
        """
        memory = MemoryModel(deployment, 2)
        blocks = min(
            (memory.usable_bytes - need.reserved_bytes) // need.block_bytes
            for need in (memory.requirement(tier, 1.0, speculating=True) for tier in memory.fitting_tiers)
        )
        return (blocks - 2) * BLOCK_TOKENS - 1

    def block_bytes(self, *, speculating: bool) -> int:
        """Return the bytes of one 16-token KV block on one GPU; an EAGLE draft adds the KV of its single layer."""
        model, tp = self.deployment.model, self.deployment.tensor_parallel
        layer = 2 * model.kv_heads_per_gpu(tp) * model.head_dim * _BYTES_BF16
        return BLOCK_TOKENS * layer * (model.layers + int(speculating))

    def requirement(self, tier: str, fraction: float, *, speculating: bool) -> MemoryRequirement:
        """Return what a configuration reserves, and how many blocks it asks for.

        Raises:
            InvalidInputError: unknown format, or a fraction outside (0, 1].
        """
        if tier not in TIERS:
            raise InvalidInputError("quantization_tier", f"one of {', '.join(TIERS)}", got=tier)
        if not 0.0 < fraction <= 1.0:
            raise InvalidInputError("kv_budget_fraction", "in (0, 1]", got=fraction)
        model, tp = self.deployment.model, self.deployment.tensor_parallel
        weights = weight_bytes(model, tier, tp)
        draft = model.draft_parameters * _BYTES_BF16 // tp if speculating else 0
        block = self.block_bytes(speculating=speculating)
        activations = activation_bytes(self.deployment)
        free = max(0, self.usable_bytes - weights - draft - activations)
        wanted = max(self.min_pool_blocks, int(fraction * free / block))
        return MemoryRequirement(weights, draft, activations, block, wanted)

    def grant(self, requirement: MemoryRequirement, cotenant_bytes: int, *, cap_share: float = 1.0) -> MemoryGrant:
        """Return the pool beside a co-tenant. The co-tenant is served first, but the smallest pool always stays.

        Args:
            requirement: from `requirement`.
            cotenant_bytes: the co-tenant's demand per GPU.
            cap_share: share of usable memory above which pressure is counted.

        Raises:
            InvalidInputError: a negative demand, or a cap outside (0, 1].
        """
        if cotenant_bytes < 0:
            raise InvalidInputError("cotenant_bytes", "at least 0", got=cotenant_bytes)
        if not 0.0 < cap_share <= 1.0:
            raise InvalidInputError("cap_share", "in (0, 1]", got=cap_share)
        return self.share(SCALAR, requirement, cotenant_bytes, cap_share)

    def share(
        self, arithmetic: Arithmetic, requirement: MemoryRequirement, cotenant_bytes: Any, cap_share: float
    ) -> MemoryGrant:
        """Return what `grant` returns, without its checks; with `ARRAYS`, all three hold one entry per environment."""
        at_least, at_most = arithmetic.at_least, arithmetic.at_most
        room = (self.usable_bytes - requirement.reserved_bytes - cotenant_bytes) // requirement.block_bytes
        blocks = at_least(at_most(requirement.wanted_blocks, room), self.min_pool_blocks)
        demand = requirement.reserved_bytes + blocks * requirement.block_bytes + cotenant_bytes
        return MemoryGrant(
            pool_blocks=blocks,
            pool_bytes=blocks * requirement.block_bytes,
            refused_bytes=at_least(demand - self.usable_bytes, 0),
            pressure=at_least(demand - self.usable_bytes * cap_share, 0.0) / self.usable_bytes,
        )
