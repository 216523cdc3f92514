"""GPUs, models, serving engines and the deployments made of them: data, each figure with its source.

All of it is plain frozen dataclasses: a user adds a GPU, a model or a deployment by making one. Timing lives in
`performance/`, memory in `memory.py`; this module computes nothing beyond counts of parameters and bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmserve_sim.engine.interface import REPLICAS_MAX
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.performance.calibration import A100_KERNELS, H100_KERNELS, RTX_4090_KERNELS, RTX_PRO_6000_KERNELS
from llmserve_sim.performance.kernels import KernelParameters

__all__ = [
    "DEPLOYMENTS",
    "ENGINES",
    "GPUS",
    "LLAMA_3_1_8B",
    "MODELS",
    "QWEN3_32B",
    "Deployment",
    "EngineVersion",
    "GpuSpec",
    "ModelSpec",
    "get_deployment",
]

MIB = 2**20
BYTES_BF16 = 2


@dataclass(frozen=True, slots=True)
class GpuSpec:
    """One GPU: data-sheet rates and the kernel constants fitted against them."""

    name: str
    memory_bytes: int
    """Total device memory as nvidia-smi reports it."""
    peak_bf16_flops: float
    """Dense BF16 tensor-core rate with FP32 accumulation, FLOP/s."""
    peak_int8_ops: float
    """Dense INT8 tensor-core rate, op/s."""
    hbm_bytes_per_s: float
    sm_count: int
    link_bytes_per_s: float
    """One direction of the GPU-to-GPU link that tensor parallelism and KV hand-over use."""
    host_bytes_per_s: float
    """Rate at which weights reach the GPU from host memory."""
    price_usd_per_hour: float
    kernels: KernelParameters


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A dense decoder-only transformer with grouped-query attention and a gated MLP."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    qk_norm: bool = False
    draft_vocab: int = 32_000
    """Vocabulary of the EAGLE-3 draft head (32,000 in the published Llama-3.1-8B and Qwen3 heads)."""

    def layer_matrices(self, tensor_parallel: int) -> tuple[tuple[float, float], ...]:
        """(n, k) of a layer's QKV, output, gate-up and down projections on one GPU."""
        qkv = (self.heads + 2 * max(self.kv_heads, tensor_parallel)) * self.head_dim / tensor_parallel
        attention = self.heads * self.head_dim / tensor_parallel
        mlp = self.intermediate / tensor_parallel
        return ((qkv, self.hidden), (self.hidden, attention), (2 * mlp, self.hidden), (self.hidden, mlp))

    @property
    def layer_parameters(self) -> int:
        """Weights in all layers' GEMMs."""
        return self.layers * round(sum(n * k for n, k in self.layer_matrices(1)))

    @property
    def embedding_parameters(self) -> int:
        """Weights of embedding and output head (untied)."""
        return 2 * self.vocab * self.hidden

    @property
    def kv_bytes_per_token(self) -> int:
        """BF16 keys and values of one token over all layers and heads."""
        return self.layers * self.kv_bytes_per_token_layer

    @property
    def kv_bytes_per_token_layer(self) -> int:
        """The same of one layer."""
        return 2 * self.kv_heads * self.head_dim * BYTES_BF16

    @property
    def draft_parameters(self) -> int:
        """Weights of an EAGLE-3 draft head (arXiv:2503.01840): 3H-to-H fusion, one layer fed with 2H, a reduced head."""
        attention = self.heads * self.head_dim
        qkv = 2 * self.hidden * (attention + 2 * self.kv_heads * self.head_dim)
        mlp = 3 * self.hidden * self.intermediate
        return 3 * self.hidden**2 + qkv + attention * self.hidden + mlp + self.draft_vocab * self.hidden

    def elementwise_kernels(self) -> int:
        """Small kernels per layer: two fused add-and-norms, rotary embedding, activation, and the norm of Q and K."""
        return 4 + int(self.qk_norm)

    def elementwise_bytes(self, tensor_parallel: int) -> float:
        """Bytes per token that a layer's small kernels move on one GPU."""
        norms = 2 * 4 * self.hidden
        qk = 2 * (self.heads + self.kv_heads) * self.head_dim * (1 + int(self.qk_norm)) / tensor_parallel
        activation = 3 * self.intermediate / tensor_parallel
        return BYTES_BF16 * (norms + qk + activation)


@dataclass(frozen=True, slots=True)
class EngineVersion:
    """What the serving software adds to an iteration beyond the GPU's kernels. One set per version, for every GPU and model."""

    name: str
    iteration_us: float
    """Scheduling, input preparation and output processing that the GPU waits for."""
    sequence_us: float
    """The same per sequence in the batch."""
    separate_attention: bool = False
    """Prefill and decode attention run as two kernels. False: one kernel for the whole batch, as in vLLM."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A fleet: `replicas` copies of `model`, each on `tensor_parallel` GPUs."""

    name: str
    gpu: GpuSpec
    model: ModelSpec
    engine: EngineVersion
    replicas: int = 1
    tensor_parallel: int = 1
    max_num_batched_tokens: int = 2048
    """Most tokens in one iteration; vLLM's field of that name."""
    gpu_memory_utilization: float = 0.9
    """Share of the device that the engine and its co-tenant may use; vLLM's default."""

    def __post_init__(self) -> None:
        """Refuse what cannot be built.

        Raises:
            InvalidInputError: a field is out of range.
        """
        for name, kind in (("name", str), ("gpu", GpuSpec), ("model", ModelSpec), ("engine", EngineVersion)):
            if not isinstance(getattr(self, name), kind):
                raise InvalidInputError(f"deployment.{name}", f"must be a {kind.__name__}", got=getattr(self, name))
        for name, most in (("replicas", REPLICAS_MAX), ("tensor_parallel", 64), ("max_num_batched_tokens", 16_384)):
            count = getattr(self, name)
            if type(count) is not int or not 1 <= count <= most:
                raise InvalidInputError(f"deployment.{name}", f"must be an integer in 1..{most}", got=count)
        if self.model.heads % self.tensor_parallel:
            raise InvalidInputError(
                "deployment.tensor_parallel",
                f"must divide the model's {self.model.heads} heads",
                got=self.tensor_parallel,
            )
        share: object = self.gpu_memory_utilization  # as it came: annotations bind nobody
        if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0.0 < share <= 1.0:
            raise InvalidInputError("deployment.gpu_memory_utilization", "must be a number in (0, 1]", got=share)

    @property
    def gpus(self) -> int:
        """GPUs in the fleet."""
        return self.replicas * self.tensor_parallel

    @property
    def can_split(self) -> bool:
        """Whether prefill and decode can run on different replicas."""
        return self.replicas > 1

    @property
    def usd_per_hour(self) -> float:
        """Price of the whole fleet."""
        return self.gpus * self.gpu.price_usd_per_hour


# Rates: NVIDIA data sheets (A100 80GB SXM, H100 SXM, GeForce RTX 4090 / Ada whitepaper). Links: NVLink 3 and 4 carry 300 and
# 450 GB/s per direction; the RTX cards have PCIe 4.0 and 5.0 x16 (31.5 and 63 GB/s). Memory: nvidia-smi totals.
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
            price_usd_per_hour=1.99,  # middle of the on-demand list prices of early 2026, 1.49-2.49 (pricegpu.pages.dev)
            kernels=A100_KERNELS,
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
        ),
        GpuSpec(
            # Server Edition: 1.597 TB/s (the workstation card has 1.792). The measured GEMMs stream weights at 1.47 TB/s, a
            # plausible 92 % of the former and an implausible 82 % of the latter.
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
        ),
    )
}

# Architectures: config.json of meta-llama/Llama-3.1-8B and Qwen/Qwen3-32B.
LLAMA_3_1_8B = ModelSpec("Llama-3.1-8B", 32, 4096, 14_336, 32, 8, 128, 128_256)
QWEN3_32B = ModelSpec("Qwen3-32B", 64, 5120, 25_600, 64, 8, 128, 151_936, qk_norm=True)
MODELS: dict[str, ModelSpec] = {model.name: model for model in (LLAMA_3_1_8B, QWEN3_32B)}

# Fitted by packages/llmserve-sim/fit/overhead.py on end-to-end runs.
ENGINES: dict[str, EngineVersion] = {
    engine.name: engine
    for engine in (
        EngineVersion("vllm-0.19", iteration_us=50.0, sequence_us=13.0),
        EngineVersion("vllm-0.12", iteration_us=1500.0, sequence_us=52.0),
        EngineVersion("tensorrt-llm-0.14", iteration_us=0.0, sequence_us=10.0, separate_attention=True),
    )
}

DEPLOYMENTS: dict[str, Deployment] = {
    deployment.name: deployment
    for deployment in (
        Deployment("a100-llama3.1-8b", GPUS["A100-80G-SXM"], LLAMA_3_1_8B, ENGINES["vllm-0.19"], replicas=2),
        Deployment("rtx4090-llama3.1-8b", GPUS["RTX-4090"], LLAMA_3_1_8B, ENGINES["vllm-0.19"]),
        Deployment("h100x2-qwen3-32b", GPUS["H100-SXM"], QWEN3_32B, ENGINES["vllm-0.19"], tensor_parallel=2),
    )
}


def get_deployment(name: str) -> Deployment:
    """The preset of that name.

    Raises:
        InvalidInputError: there is none; the message lists those there are.
    """
    if name not in DEPLOYMENTS:
        raise InvalidInputError("deployment", f"one of {', '.join(sorted(DEPLOYMENTS))}", got=name)
    return DEPLOYMENTS[name]
