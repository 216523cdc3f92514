"""How long one engine iteration takes, in seconds: the float model that the integer tables are built from.

    T = layers (GEMMs + experts + attention + small kernels + 2 all-reduces) + output head + CPU (+ drafting)

for a batch of decoding sequences and prefill chunks. Everything is per replica: with tensor parallelism each GPU holds
its share of every matrix and of the KV heads, and all GPUs run in step. It does not depend on queues or memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, TypeVar

import numpy as np

from llmserve_sim.bounds import Between, Checked
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.performance import experts, kernels
from llmserve_sim.performance.kernels import Real
from llmserve_sim.performance.quantization import WEIGHT_FORMATS, gemm_parameters, moe_parameters
from llmserve_sim.performance.speculation import DRAFT_SEQUENCE_S, draft_step_s
from llmserve_sim.specifications import Deployment

if TYPE_CHECKING:
    from llmserve_sim.specifications import GemmParameters, MoeParameters, PrefillAttentionParameters

__all__ = ["Iteration", "Roofline"]

_S = 1e-6  # seconds per microsecond
_BYTES_BF16 = 2.0
_KV_BYTES = {"auto": 2.0, "fp8": 1.0}
_SAMPLER_BYTES_PER_LOGIT = 10.0  # vLLM's sampler reads BF16 logits, writes FP32 and reads that for the arg max


@dataclass(frozen=True, slots=True)
class Iteration(Checked):
    """What one iteration works on.

    `sequences` decode with `context` tokens in total, each verifying `depth` drafted tokens besides its own; `chunks`
    are (new, cached) tokens of prefills, `completed` of which reach the end of their prompt.
    """

    sequences: Annotated[int, Between(0, 1 << 20, "sequences")] = 0
    context: Annotated[float, Between(0, 1e15, "tokens")] = 0.0
    chunks: tuple[tuple[Annotated[int, Between(0, 1 << 24, "tokens")], int], ...] = ()
    completed: Annotated[int, Between(0, 1 << 20, "prompts")] = 0
    depth: Annotated[int, Between(0, 64, "tokens")] = 0

    @property
    def tokens(self) -> int:
        """Tokens that pass through the GEMMs."""
        return self.sequences * (self.depth + 1) + sum(new for new, _ in self.chunks)

    @property
    def rows(self) -> int:
        """Positions whose logits are computed."""
        return self.sequences * (self.depth + 1) + self.completed


class Roofline:
    """Iteration times of one replica at one weight format, in seconds. Token counts may be arrays."""

    def __init__(self, deployment: Deployment, tier: str = "FP16", kv_cache_dtype: str = "auto") -> None:
        """Look the GPU's constants up and fix the per-GPU shapes.

        Args:
            deployment: GPU, model, engine and parallelism.
            tier: weight format, of `quantization.WEIGHT_FORMATS`.
            kv_cache_dtype: "auto" (BF16) or "fp8"; vLLM's option of that name.

        Raises:
            InvalidInputError: no such format, or the GPU has no measured kernels for it or for the model's experts.
        """
        self.deployment = deployment
        self.gpu = deployment.gpu
        self.model = deployment.model
        self.tp = deployment.tensor_parallel
        self.form = WEIGHT_FORMATS[tier]
        sustained = self.gpu.kernels.sustained
        self.gemm = _sustained(gemm_parameters(self.gpu, tier), sustained)
        self.head_gemm = _sustained(self.gpu.kernels.gemm, sustained)
        self.heads = self.model.heads / self.tp
        self.kv_heads = float(self.model.kv_heads_per_gpu(self.tp))
        self.prefill = self._prefill(_sustained(self.gpu.kernels.prefill, sustained))
        if kv_cache_dtype not in _KV_BYTES:
            raise InvalidInputError("kv_cache_dtype", f"one of {', '.join(_KV_BYTES)}", got=kv_cache_dtype)
        self.kv_element_bytes = _KV_BYTES[kv_cache_dtype]
        decode = self.gpu.kernels.decode if kv_cache_dtype == "auto" else self.gpu.kernels.decode_fp8
        if decode is None:
            raise InvalidInputError("kv_cache_dtype", f"one with kernels on {self.gpu.name}", got=kv_cache_dtype)
        self.decode = decode
        self.moe = self._experts(sustained) if self.model.moe_layers else None

    def _prefill(self, par: PrefillAttentionParameters) -> PrefillAttentionParameters:
        """The parameters for this model: the traffic of new tokens depends on its heads and becomes part of `offset`."""
        if not par.io:
            return par
        traffic = kernels.io_offset(
            par,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.model.head_dim,
            peak_flops=self.gpu.peak_bf16_flops,
            hbm_bytes_per_s=self.gpu.hbm_bytes_per_s,
        )
        return replace(par, offset=round(par.offset + float(traffic)), io=0.0)

    def _experts(self, sustained: float) -> MoeParameters:
        """The parameters of the experts in this format, padded as the engine's version pads them."""
        par = _sustained(moe_parameters(self.gpu, self.form.name), sustained)
        rows = self.deployment.engine.fp8_expert_rows
        return replace(par, pad_rows=float(rows)) if rows and self.form.fp8_math else par

    def layers_s(self, tokens: Real) -> Real:
        """GEMMs, experts, small kernels and all-reduces of all layers for `tokens` tokens."""
        model = self.model
        reduced = self._allreduce_us(tokens * model.hidden * _BYTES_BF16)
        total: Real = 0.0
        if model.dense_layers:
            gemms = self._gemms_us(tokens, model.layer_matrices(self.tp))
            total = model.dense_layers * (gemms + self._small_us(tokens, moe=False) + 2.0 * reduced)
        if model.moe_layers:
            gemms = self._gemms_us(tokens, model.attention_matrices(self.tp) + model.shared_matrices(self.tp))
            layer = gemms + self._moe_us(tokens) + self._small_us(tokens, moe=True) + 2.0 * reduced
            total = total + model.moe_layers * layer
        return (total + reduced) * _S  # one more after the embedding

    def _gemms_us(self, tokens: Real, matrices: tuple[tuple[float, float], ...]) -> Real:
        total: Real = 0.0
        for n, k in matrices:
            total = total + kernels.gemm_us(
                self.gemm,
                tokens,
                n,
                k,
                peak_flops=self.form.peak_flops(self.gpu),
                hbm_bytes_per_s=self.gpu.hbm_bytes_per_s,
                sm_count=self.gpu.sm_count,
                weight_bytes=self.form.weight_bytes + self.form.scale_bytes,
                activation_bytes=self.form.activation_bytes,
            )
        return total

    def _small_us(self, tokens: Real, *, moe: bool) -> Real:
        return kernels.small_kernels_us(
            self.gpu.kernels.small,
            self.model.elementwise_kernels(moe=moe),
            tokens * self.model.elementwise_bytes(self.tp, moe=moe),
            hbm_bytes_per_s=self.gpu.hbm_bytes_per_s,
        )

    def _moe_us(self, tokens: Real) -> Real:
        """A layer's router (BF16 in every format) and its routed experts."""
        model, ranks = self.model, self.tp
        if self.moe is None:  # pragma: no cover - only called for models that have experts
            return 0.0
        split = self.deployment.enable_expert_parallel
        choose = experts.popular if self.deployment.skewed_experts else experts.even
        load = choose(
            tokens,
            top_k=model.num_experts_per_tok,
            experts=model.num_experts,
            expert_parallel=ranks if split else 1,
        )
        routed = kernels.moe_us(
            self.moe,
            load,
            hidden=model.hidden,
            width=model.moe_intermediate_size / (1 if split else ranks),
            peak_flops=self.form.peak_flops(self.gpu) if self.form.fp8_math else self.gpu.peak_bf16_flops,
            hbm_bytes_per_s=self.gpu.hbm_bytes_per_s,
            weight_bytes=self.form.weight_bytes + self.form.scale_bytes,
        )
        router = kernels.gemm_us(
            self.head_gemm,
            tokens,
            float(model.num_experts),
            model.hidden,
            peak_flops=self.gpu.peak_bf16_flops,
            hbm_bytes_per_s=self.gpu.hbm_bytes_per_s,
            sm_count=self.gpu.sm_count,
        )
        return routed + router

    def head_s(self, rows: Real) -> Real:
        """Output head (BF16 in every format), gathering the logits of all ranks, and sampling. 0 rows take no time."""
        vocab = self.model.vocab / self.tp
        gemm = kernels.gemm_us(
            self.head_gemm,
            rows,
            vocab,
            self.model.hidden,
            peak_flops=self.gpu.peak_bf16_flops,
            hbm_bytes_per_s=self.gpu.hbm_bytes_per_s,
            sm_count=self.gpu.sm_count,
        )
        logits = rows * self.model.vocab
        sampling = logits * _SAMPLER_BYTES_PER_LOGIT / self.gpu.hbm_bytes_per_s / _S
        # Gathering moves (N - 1) / N of the logits into each rank: half of what reducing them would
        total = gemm + sampling + self._allreduce_us(logits * _BYTES_BF16 / 2.0)
        return np.where(np.asarray(rows) > 0, total, 0.0) * _S

    def decode_attention_s(self, sequences: Real, context: Real) -> Real:
        """Decode attention of all layers, without its start-up time."""
        time = kernels.decode_attention_us(
            self.decode,
            sequences,
            context,
            kv_heads=self.kv_heads,
            head_dim=self.model.head_dim,
            sm_count=self.gpu.sm_count,
            hbm_bytes_per_s=self.gpu.hbm_bytes_per_s,
            kv_element_bytes=self.kv_element_bytes,
        )
        return self.model.layers * time * _S

    def mixed_decode_s(self, sequences: Real, context: Real) -> Real:
        """What decoding sequences add to the attention of an iteration that also prefills."""
        if self.deployment.engine.separate_attention:
            return self.decode_attention_s(sequences, context)
        time = kernels.mixed_decode_us(
            self.gpu.kernels.mixed,
            self.decode,
            sequences,
            context,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.model.head_dim,
            sm_count=self.gpu.sm_count,
            hbm_bytes_per_s=self.gpu.hbm_bytes_per_s,
            kv_element_bytes=self.kv_element_bytes,
        )
        return self.model.layers * time * _S

    def prefill_attention_s(self, chunks: tuple[tuple[int, int], ...]) -> float:
        """Attention of (new, cached) chunks over all layers, without its start-up time."""
        par = self.prefill
        units = sum(float(kernels.prefill_units(par, new, cached)) for new, cached in chunks)
        time = kernels.prefill_attention_us(
            par,
            units,
            float(max(new + cached for new, cached in chunks)),
            heads=self.heads,
            head_dim=self.model.head_dim,
            peak_flops=self.gpu.peak_bf16_flops,
        )
        return self.model.layers * float(time) * _S

    @property
    def prefill_unit_s(self) -> float:
        """Time of one unit of prefill work over all layers (see `kernels.prefill_units`)."""
        par = self.prefill
        one = kernels.prefill_attention_us(
            par, 1.0, 0.0, heads=self.heads, head_dim=self.model.head_dim, peak_flops=self.gpu.peak_bf16_flops
        )
        return self.model.layers * float(one) * _S

    @property
    def prefill_critical_s_per_token(self) -> float:
        """Time of the longest context, per token, over all layers: the floor of prefill attention."""
        return self.model.layers * self.prefill.critical_us_per_token * _S

    @property
    def decode_start_s(self) -> float:
        """Start-up of decode attention over all layers."""
        return self.model.layers * self.decode.t0_us * _S

    @property
    def prefill_start_s(self) -> float:
        """Start-up of prefill (or mixed) attention over all layers."""
        return self.model.layers * self.prefill.t0_us * _S

    def attention_s(self, it: Iteration) -> float:
        """Attention of one iteration."""
        if not it.chunks:
            return self.decode_start_s + float(self.decode_attention_s(it.sequences, it.context))
        prefill = self.prefill_start_s + self.prefill_attention_s(it.chunks)
        return prefill + float(self.mixed_decode_s(it.sequences, it.context))

    def cpu_s(self, sequences: int) -> float:
        """Time that the engine's version adds to an iteration: CPU that the GPU waits for, and slower layers."""
        engine = self.deployment.engine
        return (engine.iteration_us + self.model.layers * engine.layer_us) * _S + self.cpu_sequence_s * sequences

    @property
    def cpu_sequence_s(self) -> float:
        """The part of `cpu_s` that each sequence adds."""
        engine = self.deployment.engine
        return (engine.sequence_us + self.model.layers * engine.layer_sequence_us) * _S

    def drafting_s(self, sequences: int, depth: int) -> float:
        """Drafting `depth` tokens for each of `sequences`, beyond the verification itself."""
        if not (depth and sequences):
            return 0.0
        return depth * draft_step_s(self.deployment) + sequences * DRAFT_SEQUENCE_S

    def iteration_s(self, it: Iteration) -> float:
        """Time of one iteration.

        Raises:
            InvalidInputError: it has no tokens to work on.
        """
        if it.tokens < 1:
            raise InvalidInputError("iteration", "at least one token to work on", got=it)
        return (
            float(self.layers_s(float(it.tokens)))
            + float(self.head_s(float(it.rows)))
            + self.attention_s(it)
            + self.cpu_s(it.sequences + len(it.chunks))
            + self.drafting_s(it.sequences, it.depth)
        )

    def _allreduce_us(self, message_bytes: Real) -> Real:
        if self.tp == 1:
            return 0.0
        return kernels.allreduce_us(
            self.gpu.kernels.allreduce, message_bytes, ranks=self.tp, link_bytes_per_s=self.gpu.link_bytes_per_s
        )


_Computing = TypeVar("_Computing", "GemmParameters", "MoeParameters", "PrefillAttentionParameters")


def _sustained(par: _Computing, share: float) -> _Computing:
    """The parameters at the compute rate that is kept under steady load."""
    return par if share == 1.0 else replace(par, compute_efficiency=par.compute_efficiency * share)
