"""The data types of GPUs, serving engines and deployments. The presets made of them are in `hardware.py`.

All are frozen dataclasses, as `ModelSpec` of `model_spec.py`: to add a GPU, a model or a deployment, make one. The times
that the kernel parameters stand for are computed in `performance/kernels.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from llmserve_sim.bounds import Between, Checked
from llmserve_sim.engine.interface import REPLICAS_MAX
from llmserve_sim.engine.rules import SchedulerRules
from llmserve_sim.model_spec import ModelSpec

__all__ = [
    "AllReduceParameters",
    "DecodeAttentionParameters",
    "Deployment",
    "EngineVersion",
    "GemmParameters",
    "GpuSpec",
    "KernelParameters",
    "MixedAttentionParameters",
    "ModelSpec",
    "MoeParameters",
    "PrefillAttentionParameters",
    "SmallKernelParameters",
]

DEFAULT_FOR_GPU = -1
"""`max_num_batched_tokens` that stands for the GPU's default."""
_LARGE_BYTES = 70 * 2**30
_LARGEST_BYTES = 160 * 2**30

Microseconds = Annotated[float, Between(0, 1e6, "us")]
Efficiency = Annotated[float, Between(1e-3, 10, "of the stated rate")]
Exponent = Annotated[float, Between(0.1, 100)]
OpsPerSecond = Annotated[float, Between(1e9, 1e18, "op/s")]
BytesPerSecond = Annotated[float, Between(1e6, 1e15, "bytes/s")]


@dataclass(frozen=True, slots=True)
class GemmParameters(Checked):
    """`t0 + (tc^p + tm^p)^(1/p)`; efficiencies are shares of the stated peak (above 1: an effective constant).

    With `tile_m` > 0, the output is cut into tiles that the SMs take in waves, and `tc` is the faster of two kernels:
    `tile_m` x `tile_n` at full efficiency and 64 x 64 at `small_efficiency` of it; or, with `fewest_efficiency` > 0,
    the number of rows decides: 64 x 64 at that efficiency up to 16, 64 x 128 at `small_efficiency` up to 128.
    """

    t0_us: Microseconds
    compute_efficiency: Efficiency
    bandwidth_efficiency: Efficiency
    p: Exponent
    tile_m: Annotated[int, Between(0, 4096, "rows")] = 0
    """Rows of the large output tile; 0: no tiles, `tc` is the FLOPs over the rate."""
    tile_n: Annotated[int, Between(0, 4096, "columns")] = 0
    """Its columns; 0 exactly where `tile_m` is."""
    fill_k: Annotated[float, Between(0, 1e5, "elements")] = 0.0
    """Elements of k that filling and draining a tile's pipeline costs."""
    wave: Annotated[float, Between(0, 1)] = 0.0
    """Share of the last wave's idle SMs that is paid (stream-K kernels leave less of it)."""
    small_efficiency: Annotated[float, Between(1e-3, 10)] = 1.0
    quantize_bytes: Annotated[float, Between(0, 1e3, "bytes")] = 0.0
    """Bytes that turning one activation into 8 bits costs at the full bandwidth; 0 for 16-bit activations."""
    unaligned: Annotated[float, Between(0.1, 10)] = 1.0
    """Factor on `tc` where m is no multiple of 8."""
    fewest_efficiency: Annotated[float, Between(0, 10)] = 0.0
    """Of the kernel for up to 16 rows where the library chooses by rows (FP8 on Hopper); 0: it takes the faster kernel."""

    def _relations(self) -> None:
        if (self.tile_m == 0) != (self.tile_n == 0):
            self._refuse("tile_n", f"must be 0 with no tiles and positive with them; tile_m is {self.tile_m}")


@dataclass(frozen=True, slots=True)
class DecodeAttentionParameters(Checked):
    """Paged decode attention: a fixed part, a part per (sequence, KV head), and the KV bytes, joined by a p-norm."""

    t0_us: Microseconds
    seq_us: Microseconds
    bandwidth_efficiency: Efficiency
    p: Exponent


@dataclass(frozen=True, slots=True)
class PrefillAttentionParameters(Checked):
    """Prefill attention of chunks of `q` new tokens behind `c` cached ones.

    Work units are `ceil(q / tile) * (2 c + q + offset)`. With `tile` > 1 they are query tiles that sweep the context
    (RTX cards); with `tile` = 1 they are the causal FLOPs with a fitted offset (A100, H100). `critical_us_per_token` is
    the time one CTA needs for one context token: a single long sweep cannot be split, however idle the GPU is.
    """

    t0_us: Microseconds
    compute_efficiency: Efficiency
    tile: Annotated[int, Between(1, 65_536, "tokens")]
    offset: Annotated[int, Between(0, 1 << 20, "tokens")]
    critical_us_per_token: Microseconds
    io: Annotated[float, Between(0, 1e3)] = 0.0
    """Times that queries, keys, values and outputs of the new tokens pass through memory, at the stated bandwidth."""


@dataclass(frozen=True, slots=True)
class MixedAttentionParameters(Checked):
    """Decode sequences inside a prefill kernel: no split-KV and, in FlashAttention 2, no packing of query heads.

    `seq_us` is paid per (sequence, head) over all SMs, `token_us` per (context token, head) over all SMs;
    `amplification` times the KV bytes is a floor, because KV is read again by query heads that no longer share it.
    Heads are query heads, or KV heads where the kernel packs those that share one (FlashAttention 3, on H100).
    """

    seq_us: Microseconds
    token_us: Microseconds
    amplification: Annotated[float, Between(0, 100)]
    packs_heads: bool = False
    separate: bool = False
    """The attention library runs decodes in a kernel of their own (FlashInfer on B200): they cost what they cost alone."""


@dataclass(frozen=True, slots=True)
class AllReduceParameters(Checked):
    """`latency (1 + growth log2 N) + 2 (N - 1) / N bytes (N / 2)^contention / (efficiency link)`."""

    latency_us: Microseconds
    growth: Annotated[float, Between(0, 1e4)]
    link_efficiency: Efficiency
    contention: Annotated[float, Between(0, 10)] = 0.0
    """How far the ranks' links share what lies behind them: PCIe through a host bridge; 0 for NVLink."""


@dataclass(frozen=True, slots=True)
class MoeParameters(Checked):
    """Fused mixture-of-experts MLP (gate-up, activation, down): `t0 + (tc^p + tm^p)^(1/p) + io`.

    `tm` reads the weights of the experts that any token chose, `tc` multiplies the routed rows, each expert's padded by
    `pad_rows`, and `io` moves the routed activations. Which experts those are: `performance/experts.py`.
    """

    t0_us: Microseconds
    compute_efficiency: Efficiency
    bandwidth_efficiency: Efficiency
    p: Exponent
    pad_rows: Annotated[float, Between(0, 1e5, "rows")]
    io: Annotated[float, Between(0, 1e3)]
    unaligned: Annotated[float, Between(0.1, 10)] = 1.0
    """Factor on weights and multiplications where an expert's width on a GPU is no multiple of 128."""


@dataclass(frozen=True, slots=True)
class SmallKernelParameters(Checked):
    """Norms, rotary embedding, activation: a fixed time per kernel plus the bytes they move."""

    launch_us: Microseconds
    bandwidth_efficiency: Efficiency


@dataclass(frozen=True, slots=True)
class KernelParameters(Checked):
    """Everything fitted for one GPU."""

    gemm: GemmParameters
    decode: DecodeAttentionParameters
    prefill: PrefillAttentionParameters
    mixed: MixedAttentionParameters
    small: SmallKernelParameters
    allreduce: AllReduceParameters
    gemm_int8: GemmParameters | None = None
    """W8A8 GEMMs where they were measured on this GPU; None: derived from A100 (`quantization.py`)."""
    gemm_int4: GemmParameters | None = None
    """W4A16 GEMMs likewise."""
    gemm_fp8: GemmParameters | None = None
    """FP8 W8A8 GEMMs, quantising the activations included; None: not measured, or no such tensor cores."""
    decode_fp8: DecodeAttentionParameters | None = None
    """Decode attention over an FP8 KV cache."""
    moe: MoeParameters | None = None
    """BF16 experts; None: not measured."""
    moe_fp8: MoeParameters | None = None
    """FP8 experts with scales per 128 x 128 block."""
    sustained: Annotated[float, Between(0.01, 1)] = 1.0
    """Share of the tables' compute rate that a server under steady load keeps: kernels are timed in short bursts."""


@dataclass(frozen=True, slots=True)
class GpuSpec(Checked):
    """One GPU: data-sheet rates and the kernel constants fitted against them."""

    name: str
    memory_bytes: Annotated[int, Between(1 << 30, 1 << 42, "bytes")]
    """Total device memory as nvidia-smi reports it."""
    peak_bf16_flops: OpsPerSecond
    """Dense BF16 tensor-core rate with FP32 accumulation, FLOP/s."""
    peak_int8_ops: OpsPerSecond
    """Dense INT8 tensor-core rate, op/s."""
    hbm_bytes_per_s: BytesPerSecond
    sm_count: Annotated[int, Between(1, 65_536, "SMs")]
    link_bytes_per_s: BytesPerSecond
    """One direction of the GPU-to-GPU link that tensor parallelism and KV hand-over use."""
    host_bytes_per_s: BytesPerSecond
    """Rate at which weights reach the GPU from host memory."""
    price_usd_per_hour: Annotated[float, Between(0, 1e6, "USD/h")]
    kernels: KernelParameters
    peak_fp8_flops: Annotated[float, Between(0, 1e18, "FLOP/s")] = 0.0
    """Dense FP8 tensor-core rate, FLOP/s; 0: none."""
    l2_bytes: Annotated[int, Between(0, 1 << 40, "bytes")] = 0
    """L2 cache; tells the fit which measured matrices stayed in it."""

    @property
    def default_max_num_seqs(self) -> int:
        """`max_num_seqs` of `vllm serve`: 1,024 from 70 GiB on, except A100, else 256; see `EngineVersion.token_budget`."""
        return 1024 if self.is_large else 256

    @property
    def is_large(self) -> bool:
        """Whether vLLM gives the GPU its larger defaults."""
        return self.memory_bytes >= _LARGE_BYTES and "a100" not in self.name.lower()


@dataclass(frozen=True, slots=True)
class EngineVersion(Checked):
    """Time that the serving software adds to an iteration. One set per version, for every GPU and model."""

    name: str
    iteration_us: Microseconds
    """Scheduling, input preparation and output processing that the GPU waits for."""
    sequence_us: Microseconds
    """The same per sequence in the batch."""
    layer_us: Microseconds = 0.0
    """Time of every layer beyond the kernel tables', which were taken with a newer version."""
    layer_sequence_us: Microseconds = 0.0
    """The same per layer and sequence in the batch."""
    fp8_expert_rows: Annotated[int, Between(0, 4096, "rows")] = 0
    """Rows to which block-scaled FP8 experts are padded; 0: as in the kernel tables."""
    frontend_us: Microseconds = 0.0
    """HTTP, tokenisation and the way to the scheduler and back, once per request, beside the GPU's work.

    Replays add it to a request's first and last token; episodes do not know it yet.
    """
    largest_token_budget: Annotated[int, Between(1, 16_384, "tokens")] = 8192
    """Default `max_num_batched_tokens` of the server on GPUs of 160 GiB and more."""
    separate_attention: bool = False
    """Prefill and decode attention run as two kernels. False: one kernel for the whole batch, as in vLLM."""
    rules: SchedulerRules | None = None
    """Of the version's scheduler (`hardware.SCHEDULERS`). None: the simulator's first scheduler, the only one that the
    kernel, and so the environment, can run."""

    def token_budget(self, gpu: GpuSpec) -> int:
        """Return the default `max_num_batched_tokens` of `vllm serve` on a GPU.

        8,192 from 70 GiB on, except on A100, else 2,048: `EngineArgs.get_batch_defaults` in vllm/engine/arg_utils.py,
        usage context OPENAI_API_SERVER, of 0.12.0, 0.15.0, 0.19.1 and 0.24.0. 0.32.0 adds 16,384 from 160 GiB on. (For
        the `LLM` class the figures are 16,384 and 8,192.)
        """
        if gpu.memory_bytes >= _LARGEST_BYTES:
            return self.largest_token_budget
        return 8192 if gpu.is_large else 2048


@dataclass(frozen=True, slots=True)
class Deployment(Checked):
    """A fleet: `replicas` copies of `model`, each on `tensor_parallel` GPUs."""

    name: str
    gpu: GpuSpec
    model: ModelSpec
    engine: EngineVersion
    replicas: Annotated[int, Between(1, REPLICAS_MAX, "replicas")] = 1
    tensor_parallel: Annotated[int, Between(1, 64, "GPUs")] = 1
    max_num_batched_tokens: Annotated[int, Between(1, 16_384, "tokens")] = DEFAULT_FOR_GPU
    """Most tokens in one iteration; vLLM's field of that name. `DEFAULT_FOR_GPU`: `EngineVersion.token_budget`."""
    gpu_memory_utilization: Annotated[float, Between(0, 1, above=True)] = 0.9
    """Share of the device that the engine and its co-tenant may use; vLLM's default."""
    activation_bytes: Annotated[int, Between(0, 1 << 42, "bytes")] | None = None
    """Reserved per GPU beside the weights; None: computed by `memory.py` from budget, model and parallelism."""
    enable_expert_parallel: bool = False
    """Each GPU of a replica holds whole experts; vLLM's option of that name. False: a part of every expert."""
    skewed_experts: bool = False
    """Tokens choose the experts by a power law (see `MoeParameters`). False: evenly."""

    def __post_init__(self) -> None:
        """Look the GPU's default up, then check every field.

        Raises:
            InvalidInputError: a field is out of range.
        """
        given: tuple[object, object] = (self.gpu, self.engine)  # annotations are not checked at run time
        known = isinstance(given[0], GpuSpec) and isinstance(given[1], EngineVersion)
        if self.max_num_batched_tokens == DEFAULT_FOR_GPU and known:  # else the check below says what is wrong
            object.__setattr__(self, "max_num_batched_tokens", self.engine.token_budget(self.gpu))
        Checked.__post_init__(self)  # super() without arguments finds no class in a dataclass with slots

    def _relations(self) -> None:
        model, ranks = self.model, self.tensor_parallel
        if model.heads % ranks:
            self._refuse("tensor_parallel", f"must divide the model's {model.heads} heads")
        if model.kv_heads % ranks and ranks % model.kv_heads:
            self._refuse(
                "tensor_parallel", f"must divide the model's {model.kv_heads} KV heads or be a multiple of them"
            )
        if self.enable_expert_parallel and ranks > max(1, model.num_experts):
            self._refuse("enable_expert_parallel", f"must be false: {ranks} GPUs share {model.num_experts} experts")
        if self.activation_bytes is not None and self.activation_bytes > self.gpu.memory_bytes:
            self._refuse("activation_bytes", f"must fit the GPU's {self.gpu.memory_bytes} bytes")

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
