"""What a decoder-only transformer is to a serving engine: shapes, counts of parameters, bytes of KV.

`ModelSpec` describes dense and mixture-of-experts models with multi-head or grouped-query attention; fields that Hugging
Face's config.json has keep its words. It computes no times: `performance/` does, from the shapes given here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from llmserve_sim.bounds import Between, Checked

__all__ = ["ModelSpec"]

BYTES_BF16 = 2

Heads = Annotated[int, Between(1, 4096, "heads")]
Layers = Annotated[int, Between(0, 1024, "layers")]
Width = Annotated[int, Between(1, 1 << 22, "elements")]
Vocabulary = Annotated[int, Between(2, 1 << 24, "tokens")]
Experts = Annotated[int, Between(0, 4096, "experts")]
WidthOrNone = Annotated[int, Between(0, 1 << 22, "elements")]
Matrices = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class ModelSpec(Checked):
    """A decoder-only transformer. By default dense, with grouped-query attention, a gated MLP and an untied head."""

    name: str
    layers: Annotated[int, Between(1, 1024, "layers")]
    hidden: Width
    intermediate: Width
    """Width of a dense layer's MLP."""
    heads: Heads
    kv_heads: Heads
    head_dim: Annotated[int, Between(1, 4096, "elements")]
    vocab: Vocabulary
    qk_norm: bool = False
    draft_vocab: Vocabulary = 32_000
    """Vocabulary of the EAGLE-3 draft head (32,000 in the published Llama-3.1-8B and Qwen3 heads)."""
    num_experts: Experts = 0
    """Routed experts of a mixture-of-experts layer; 0: every layer is dense."""
    num_experts_per_tok: Experts = 0
    """Routed experts that each token takes."""
    moe_intermediate_size: WidthOrNone = 0
    """Width of one routed expert."""
    num_shared_experts: Experts = 0
    """Experts that every token takes, besides the routed ones."""
    shared_intermediate_size: WidthOrNone = 0
    """Width of one shared expert."""
    first_dense_layers: Layers = 0
    """Layers before the first with experts; `first_k_dense_replace` of DeepSeek's configs."""
    sliding_window: Annotated[int, Between(0, 1 << 30, "tokens")] = 0
    """Tokens that the windowed layers attend to; 0: no layer is windowed."""
    windowed_layers: Layers = 0
    """How many layers are windowed (their order changes neither times nor memory)."""
    tied_embeddings: bool = False
    """The output head is the embedding matrix."""
    qkv_bias: bool = False
    output_bias: bool = False
    """Bias of attention's output projection."""
    mlp_bias: bool = False
    """Biases of the MLP or of the experts, and of the router."""
    gated_mlp: bool = True
    """The MLP has a gate beside its up projection (SwiGLU, GeGLU)."""
    post_norms: bool = False
    """Attention and MLP have their output normalised, too (Gemma 2 and 3)."""

    def _relations(self) -> None:
        if self.heads % self.kv_heads:
            self._refuse("kv_heads", f"must divide the {self.heads} heads")
        self._check_experts()
        if self.windowed_layers > self.layers:
            self._refuse("windowed_layers", f"must be at most the {self.layers} layers")
        if (self.sliding_window == 0) != (self.windowed_layers == 0):
            bound = f"must be 0 with no windowed layer and positive with them; there are {self.windowed_layers}"
            self._refuse("sliding_window", bound)

    def _check_experts(self) -> None:
        if not self.num_experts:
            for name in ("num_experts_per_tok", "moe_intermediate_size", "num_shared_experts", "first_dense_layers"):
                if getattr(self, name):
                    self._refuse(name, "must be 0 without experts; num_experts is 0")
        elif not 1 <= self.num_experts_per_tok <= self.num_experts:
            self._refuse("num_experts_per_tok", f"must be in 1..{self.num_experts}, the number of experts")
        elif not self.moe_intermediate_size:
            self._refuse("moe_intermediate_size", "must be positive with experts")
        elif self.first_dense_layers >= self.layers:
            self._refuse("first_dense_layers", f"must be below the {self.layers} layers: num_experts is not 0")
        if (self.num_shared_experts == 0) != (self.shared_intermediate_size == 0):
            bound = f"must be 0 with no shared experts and positive with them; there are {self.num_shared_experts}"
            self._refuse("shared_intermediate_size", bound)

    @property
    def moe_layers(self) -> int:
        """Layers whose MLP is a mixture of experts."""
        return self.layers - self.first_dense_layers if self.num_experts else 0

    @property
    def dense_layers(self) -> int:
        """The other layers."""
        return self.layers - self.moe_layers

    def kv_heads_per_gpu(self, tensor_parallel: int) -> int:
        """KV heads on one GPU: ranks split them, or, where there are more ranks than KV heads, hold copies, as in vLLM."""
        return max(1, self.kv_heads // tensor_parallel)

    def attention_matrices(self, tensor_parallel: int) -> Matrices:
        """(n, k) of a layer's QKV and output projections on one GPU."""
        qkv = (self.heads / tensor_parallel + 2 * self.kv_heads_per_gpu(tensor_parallel)) * self.head_dim
        return ((qkv, self.hidden), (self.hidden, self.heads * self.head_dim / tensor_parallel))

    def mlp_matrices(self, width: int, tensor_parallel: int) -> Matrices:
        """(n, k) of the up (with the gate, if there is one) and down projections of an MLP of that width on one GPU."""
        mlp = width / tensor_parallel
        return (((1 + int(self.gated_mlp)) * mlp, self.hidden), (self.hidden, mlp))

    def layer_matrices(self, tensor_parallel: int) -> Matrices:
        """(n, k) of a dense layer's QKV, output, gate-up and down projections on one GPU."""
        return self.attention_matrices(tensor_parallel) + self.mlp_matrices(self.intermediate, tensor_parallel)

    def shared_matrices(self, tensor_parallel: int) -> Matrices:
        """(n, k) of a layer's shared experts, which are computed as one MLP; none where there are none."""
        width = self.num_shared_experts * self.shared_intermediate_size
        return self.mlp_matrices(width, tensor_parallel) if width else ()

    @property
    def expert_parameters(self) -> int:
        """Weights of one routed expert's GEMMs."""
        return (2 + int(self.gated_mlp)) * self.hidden * self.moe_intermediate_size

    def gemm_weights(self, tensor_parallel: int = 1) -> float:
        """Weights in all layers' GEMMs on one GPU. Ranks share the routed experts, whole or cut, but not the router."""
        attention = sum(n * k for n, k in self.attention_matrices(tensor_parallel))
        shared = sum(n * k for n, k in self.shared_matrices(tensor_parallel))
        experts = self.num_experts * self.expert_parameters / tensor_parallel
        dense = self.dense_layers * sum(n * k for n, k in self.layer_matrices(tensor_parallel))
        return dense + self.moe_layers * (attention + shared + experts)

    @property
    def layer_parameters(self) -> int:
        """Weights in all layers' GEMMs."""
        return round(self.gemm_weights())

    @property
    def router_parameters(self) -> int:
        """Weights of all layers' routers, which choose the experts; BF16 in every format."""
        return self.moe_layers * self.hidden * self.num_experts

    @property
    def bias_parameters(self) -> int:
        """Biases of all layers."""
        up = 1 + int(self.gated_mlp)
        attention = int(self.qkv_bias) * (self.heads + 2 * self.kv_heads) * self.head_dim
        attention += int(self.output_bias) * self.hidden
        dense = up * self.intermediate + self.hidden
        shared = up * self.num_shared_experts * self.shared_intermediate_size + self.hidden * bool(
            self.num_shared_experts
        )
        moe = self.num_experts * (up * self.moe_intermediate_size + self.hidden + 1) + shared
        mlp = int(self.mlp_bias) * (self.dense_layers * dense + self.moe_layers * moe)
        return self.layers * attention + mlp

    @property
    def norm_parameters(self) -> int:
        """Weights of all norms."""
        layer = 2 * (1 + int(self.post_norms)) * self.hidden + 2 * int(self.qk_norm) * self.head_dim
        return self.layers * layer + self.hidden

    @property
    def embedding_parameters(self) -> int:
        """Weights of embedding and output head; counted once where they are tied."""
        return (1 if self.tied_embeddings else 2) * self.vocab * self.hidden

    @property
    def total_parameters(self) -> int:
        """All weights, as model cards count them."""
        layers = self.layer_parameters + self.router_parameters + self.bias_parameters + self.norm_parameters
        return layers + self.embedding_parameters

    @property
    def active_parameters(self) -> int:
        """The weights that one token meets: all but those of the experts it does not take."""
        idle = self.num_experts - self.num_experts_per_tok
        biases = int(self.mlp_bias) * ((1 + int(self.gated_mlp)) * self.moe_intermediate_size + self.hidden)
        return self.total_parameters - self.moe_layers * idle * (self.expert_parameters + biases)

    @property
    def kv_bytes_per_token(self) -> int:
        """BF16 keys and values of one token over all layers and heads."""
        return self.layers * self.kv_bytes_per_token_layer

    @property
    def kv_bytes_per_token_layer(self) -> int:
        """The same of one layer."""
        return 2 * self.kv_heads * self.head_dim * BYTES_BF16

    def kept_tokens(self, context: int) -> int:
        """Tokens of KV that all layers together keep of a sequence of `context` tokens: windowed ones their window's."""
        full = (self.layers - self.windowed_layers) * context
        return full + self.windowed_layers * min(context, self.sliding_window)

    @property
    def draft_parameters(self) -> int:
        """Weights of an EAGLE-3 draft head (arXiv:2503.01840): 3H-to-H fusion, one layer of input 2H, a small head."""
        attention = self.heads * self.head_dim
        qkv = 2 * self.hidden * (attention + 2 * self.kv_heads * self.head_dim)
        mlp = 3 * self.hidden * self.intermediate
        return 3 * self.hidden**2 + qkv + attention * self.hidden + mlp + self.draft_vocab * self.hidden

    def elementwise_kernels(self, *, moe: bool = False) -> int:
        """Small kernels of a layer: fused add-and-norms, rotary embedding, activation, and the norm of Q and K.

        With `moe`, those of a layer with experts: the activation is then the shared experts' (the routed experts' kernel
        holds its own).
        """
        activation = int(not moe or self.num_shared_experts > 0)
        return 3 + activation + int(self.qk_norm) + 2 * int(self.post_norms)

    def elementwise_bytes(self, tensor_parallel: int, *, moe: bool = False) -> float:
        """Bytes per token that a layer's small kernels move on one GPU; `moe` as in `elementwise_kernels`."""
        norms = (2 + int(self.post_norms)) * 4 * self.hidden
        heads = self.heads / tensor_parallel + self.kv_heads_per_gpu(tensor_parallel)
        qk = 2 * heads * self.head_dim * (1 + int(self.qk_norm))
        width = self.num_shared_experts * self.shared_intermediate_size if moe else self.intermediate
        activation = (2 + int(self.gated_mlp)) * width / tensor_parallel
        return BYTES_BF16 * (norms + qk + activation)
