"""The float model of an iteration: what must grow, what must shrink, and two iterations worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.hardware import DEPLOYMENTS, ENGINES, GPUS, LLAMA_3_1_8B, Deployment, EngineVersion, ModelSpec
from llmserve_sim.performance import experts, kernels
from llmserve_sim.performance.roofline import Iteration, Roofline

ROOFLINES = {name: Roofline(deployment) for name, deployment in DEPLOYMENTS.items()}
rooflines = st.sampled_from(sorted(ROOFLINES)).map(ROOFLINES.__getitem__)
sequences = st.integers(1, 512)
contexts = st.integers(1, 8192)
chunks = st.tuples(st.integers(1, 1500), st.integers(0, 8192))


def test_one_decoding_sequence_costs_about_the_weights_over_the_bandwidth() -> None:
    """16.1 GB over 81 % of 2.039 TB/s is 9.8 ms; small kernels and attention add about a millisecond."""
    assert ROOFLINES["a100-llama3.1-8b"].iteration_s(Iteration(1, 512.0)) == pytest.approx(11.2e-3, rel=0.1)


def test_a_full_prefill_iteration_costs_about_its_flops_over_the_peak() -> None:
    """2,048 tokens x 2 x 6.98 G weights over 85 % of 312 TFLOP/s is 108 ms."""
    time = ROOFLINES["a100-llama3.1-8b"].iteration_s(Iteration(chunks=((2048, 0),), completed=1))
    assert time == pytest.approx(0.125, rel=0.1)


@given(rooflines, sequences, contexts, st.integers(1, 64), st.integers(1, 4096))
def test_more_sequences_or_more_context_never_take_less_time(
    roofline: Roofline, n: int, context: int, more: int, longer: int
) -> None:
    """Pure decode."""
    base = roofline.iteration_s(Iteration(n, float(n * context)))
    assert roofline.iteration_s(Iteration(n + more, float((n + more) * context))) >= base
    assert roofline.iteration_s(Iteration(n, float(n * (context + longer)))) >= base


@given(rooflines, st.lists(chunks, min_size=1, max_size=3), chunks)
def test_another_chunk_never_takes_less_time(
    roofline: Roofline, some: list[tuple[int, int]], extra: tuple[int, int]
) -> None:
    """Prefill only."""
    assert roofline.iteration_s(Iteration(chunks=(*some, extra))) >= roofline.iteration_s(Iteration(chunks=tuple(some)))


@given(rooflines, sequences, contexts, chunks)
def test_prefill_beside_decode_costs_at_least_either_alone(
    roofline: Roofline, n: int, context: int, chunk: tuple[int, int]
) -> None:
    """Less the start-up of a second attention kernel, which the mixed one saves."""
    both = roofline.iteration_s(Iteration(n, float(n * context), (chunk,)))
    assert both + roofline.decode_start_s >= roofline.iteration_s(Iteration(n, float(n * context)))
    assert both >= roofline.iteration_s(Iteration(chunks=(chunk,)))


@given(rooflines, sequences, contexts, st.integers(2, 8))
def test_decode_attention_is_homogeneous_in_sequences_and_context(
    roofline: Roofline, n: int, context: int, times: int
) -> None:
    """The integer tables store one function of the mean context."""
    one = float(roofline.decode_attention_s(float(n), float(n * context)))
    assert float(roofline.decode_attention_s(float(n * times), float(times * n * context))) == pytest.approx(
        times * one
    )


def test_decoding_beside_a_prefill_costs_more_attention_than_alone_except_with_separate_kernels() -> None:
    """The mixed kernel loses split-KV and head packing; TensorRT-LLM launches two kernels instead."""
    vllm = Deployment("x", GPUS["A100-80G-SXM"], LLAMA_3_1_8B, ENGINES["vllm-0.19"])
    roofline = Roofline(vllm)
    assert float(roofline.mixed_decode_s(64.0, 65_536.0)) > 1.3 * float(roofline.decode_attention_s(64.0, 65_536.0))
    separate = Roofline(replace(vllm, engine=ENGINES["tensorrt-llm-0.14"]))
    assert float(separate.mixed_decode_s(64.0, 65_536.0)) == float(separate.decode_attention_s(64.0, 65_536.0))


def test_tensor_parallelism_helps_less_than_in_proportion() -> None:
    """Each GPU reads half the weights, but all-reduces are added."""
    one = Deployment("x", GPUS["H100-SXM"], LLAMA_3_1_8B, ENGINES["vllm-0.19"])
    batch = Iteration(32, 32_768.0)
    alone, two = (Roofline(replace(one, tensor_parallel=tp)).iteration_s(batch) for tp in (1, 2))
    assert alone / 2 < two < alone


def test_cpu_overhead_counts_sequences_and_chunks() -> None:
    """Per iteration, layer, sequence, and layer and sequence, from the engine version."""
    engine = EngineVersion("x", iteration_us=3.0, sequence_us=5.0, layer_us=7.0, layer_sequence_us=11.0)
    roofline = Roofline(Deployment("x", GPUS["H100-SXM"], LLAMA_3_1_8B, engine))
    assert roofline.cpu_s(10) == pytest.approx(1e-6 * (3 + 32 * 7 + 10 * (5 + 32 * 11)))


def test_no_logits_no_head() -> None:
    """A chunk that ends inside the prompt samples nothing."""
    assert float(ROOFLINES["a100-llama3.1-8b"].head_s(0.0)) == 0.0


def test_an_empty_iteration_is_refused() -> None:
    """There is nothing to time."""
    with pytest.raises(InvalidInputError, match="iteration"):
        ROOFLINES["a100-llama3.1-8b"].iteration_s(Iteration())


def moe(tokens: float, *, tensor_parallel: int = 1, expert_parallel: int = 1, gpu: str = "H100-SXM") -> float:
    """A Mixtral-8x7B layer, in microseconds."""
    spec = GPUS[gpu]
    assert spec.kernels.moe is not None
    time = kernels.moe_us(
        spec.kernels.moe,
        experts.even(tokens, top_k=2, experts=8, expert_parallel=expert_parallel),
        hidden=4096,
        width=14_336 / tensor_parallel,
        peak_flops=spec.peak_bf16_flops,
        hbm_bytes_per_s=spec.hbm_bytes_per_s,
    )
    return float(time)


def test_experts_are_read_from_memory_as_far_as_tokens_choose_them() -> None:
    """One token reads two of Mixtral's eight experts, 64 tokens read all: 2.8 GB at 3.35 TB/s take 841 us."""
    assert moe(64) == pytest.approx(900, rel=0.15)
    assert moe(1) == pytest.approx(0.25 * moe(64), rel=0.25)


def test_more_tokens_never_make_experts_faster_and_more_gpus_never_slower() -> None:
    """Up to a full iteration."""
    times = [moe(2.0**power) for power in range(14)]
    assert times == sorted(times)
    for tokens in (1, 64, 4096):
        assert moe(tokens) > moe(tokens, tensor_parallel=2) > moe(tokens, tensor_parallel=8)
        assert moe(tokens) > moe(tokens, expert_parallel=2)


def test_the_decode_attention_beside_a_short_chunk_costs_less_than_simulator_0_1_said() -> None:
    """15 prompt tokens beside 82 decodes on an A100: the law derived from its own prefill rate, not the RTX cards' mean."""
    preset = DEPLOYMENTS["a100-llama3.1-8b"]
    own = Deployment("own", GPUS["A100-80G-SXM"], LLAMA_3_1_8B, ENGINES["vllm-0.19"])
    batch = Iteration(82, 82 * 1500.0, ((15, 0),), 1)
    before, now = (Roofline(deployment).iteration_s(batch) for deployment in (preset, own))
    assert now < 0.9 * before


MIXTRAL = ModelSpec(
    "Mixtral-8x7B",
    32,
    4096,
    14_336,
    32,
    8,
    128,
    32_000,
    num_experts=8,
    num_experts_per_tok=2,
    moe_intermediate_size=14_336,
)
H200_MIXTRAL = Deployment("x", GPUS["H200-SXM"], MIXTRAL, ENGINES["vllm-0.24"], tensor_parallel=2)


def test_one_token_reads_two_of_eight_experts_and_a_full_batch_all() -> None:
    """Bytes over 4.8 TB/s bound an iteration from below: 12.9 G weights are active, 46.7 G are there, on two GPUs."""
    roofline = Roofline(H200_MIXTRAL)
    one, many = (float(roofline.layers_s(count)) for count in (1.0, 64.0))
    assert 2 * 12.6e9 / 2 / 4.8e12 < one < 2 * 2 * 12.6e9 / 2 / 4.8e12
    assert 2 * 46.4e9 / 2 / 4.8e12 < many < 2 * 2 * 46.4e9 / 2 / 4.8e12


@pytest.mark.parametrize("model", [LLAMA_3_1_8B, MIXTRAL])
@pytest.mark.parametrize("tokens", [64, 2048])
def test_fp8_takes_less_than_bf16_and_more_than_half_of_it(model: ModelSpec, tokens: int) -> None:
    """Half the bytes and twice the rate at most; norms, all-reduces and start-up times do not shrink."""
    deployment = replace(H200_MIXTRAL, model=model)
    bf16, fp8 = (float(Roofline(deployment, form).layers_s(tokens)) for form in ("FP16", "FP8"))
    assert 0.5 * bf16 < fp8 < bf16


def test_an_fp8_kv_cache_shortens_what_a_long_context_takes() -> None:
    """As long as the kernel keeps its bandwidth; the tables show it at four fifths of BF16's."""
    bf16, fp8 = (Roofline(H200_MIXTRAL, "FP16", kind) for kind in ("auto", "fp8"))
    times = [float(it.decode_attention_s(64, 64 * 16_384.0)) for it in (bf16, fp8)]
    assert 0.5 < times[1] / times[0] < 0.75


def test_a_kv_format_without_kernels_is_refused() -> None:
    """By name, unknown or not measured."""
    for gpu, kind in (("H200-SXM", "int8"), ("A100-80G-SXM", "fp8")):
        deployment = Deployment("x", GPUS[gpu], LLAMA_3_1_8B, ENGINES["vllm-0.24"])
        with pytest.raises(InvalidInputError, match="kv_cache_dtype"):
            Roofline(deployment, "FP16", kind)


def test_popular_experts_slow_expert_parallelism_more_than_tensor_parallelism() -> None:
    """The GPU with the popular experts is waited for; with a part of every expert no GPU is busier."""
    slower = {}
    for split in (False, True):
        even = replace(H200_MIXTRAL, tensor_parallel=8, enable_expert_parallel=split)
        times = [float(Roofline(it).layers_s(4096.0)) for it in (even, replace(even, skewed_experts=True))]
        slower[split] = times[1] / times[0]
    assert 0.9 < slower[False] < 1.1
    assert slower[True] > 1.5
