"""Models: parameters and KV bytes that hold for any of them, and shapes that do not go together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.hardware import ENGINES, GPUS, LLAMA_3_1_8B, Deployment
from llmserve_sim.memory import activation_bytes
from llmserve_sim.model_spec import ModelSpec
from llmserve_sim.performance.quantization import weight_bytes

# config.json of mistralai/Mixtral-8x7B-v0.1 and of zai-org/GLM-4.5-Air
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
GLM_AIR = ModelSpec(
    "GLM-4.5-Air",
    46,
    4096,
    10_944,
    96,
    8,
    128,
    151_552,
    num_experts=128,
    num_experts_per_tok=8,
    moe_intermediate_size=1408,
    num_shared_experts=1,
    shared_intermediate_size=1408,
    first_dense_layers=1,
    qkv_bias=True,
)


def by_hand(model: ModelSpec) -> dict[str, int]:
    """Count the tensors of a gated checkpoint one by one."""
    h, d = model.hidden, model.head_dim
    counts = {"embed_tokens": model.vocab * h, "norm": h}
    if not model.tied_embeddings:
        counts["lm_head"] = model.vocab * h
    for layer in range(model.layers):
        at = f"layers.{layer}."
        counts |= {at + "q": h * model.heads * d, at + "o": model.heads * d * h, at + "norms": 2 * h}
        counts |= {at + "k": h * model.kv_heads * d, at + "v": h * model.kv_heads * d}
        if model.qkv_bias:
            counts[at + "bias"] = (model.heads + 2 * model.kv_heads) * d
        if model.qk_norm:
            counts[at + "qk"] = 2 * d
        if layer < model.first_dense_layers or not model.num_experts:
            counts[at + "mlp"] = 3 * h * model.intermediate
            continue
        counts[at + "gate"] = h * model.num_experts
        counts |= {at + f"experts.{e}": 3 * h * model.moe_intermediate_size for e in range(model.num_experts)}
        counts |= {at + f"shared.{e}": 3 * h * model.shared_intermediate_size for e in range(model.num_shared_experts)}
    return counts


dense = st.builds(
    ModelSpec,
    name=st.just("dense"),
    layers=st.integers(2, 9),
    hidden=st.integers(8, 512),
    intermediate=st.integers(8, 512),
    heads=st.sampled_from([4, 8]),
    kv_heads=st.sampled_from([1, 2, 4]),
    head_dim=st.integers(8, 64),
    vocab=st.integers(2, 1000),
    qk_norm=st.booleans(),
    tied_embeddings=st.booleans(),
    qkv_bias=st.booleans(),
)
sparse = st.builds(
    lambda base, experts, taken, shared, width, first: replace(
        base,
        num_experts=experts,
        num_experts_per_tok=min(taken, experts),
        moe_intermediate_size=width,
        num_shared_experts=shared,
        shared_intermediate_size=width if shared else 0,
        first_dense_layers=first,
    ),
    dense,
    st.integers(1, 16),
    st.integers(1, 8),
    st.integers(0, 2),
    st.integers(4, 128),
    st.integers(0, 1),
)


@given(dense | sparse)
def test_parameters_are_those_of_the_tensors_counted_one_by_one(model: ModelSpec) -> None:
    """Active ones leave out the experts that a token does not take."""
    counts = by_hand(model)
    assert model.total_parameters == sum(counts.values())
    taken = [f"experts.{e}" for e in range(model.num_experts_per_tok)]
    active = [n for name, n in counts.items() if ".experts." not in name or name.split(".", 2)[2] in taken]
    assert model.active_parameters == sum(active)


@pytest.mark.parametrize(
    ("model", "total", "active"), [(MIXTRAL, 46.70e9, 12.88e9), (GLM_AIR, 106e9, 12e9)], ids=["Mixtral", "GLM-4.5-Air"]
)
def test_parameters_of_published_mixtures(model: ModelSpec, total: float, active: float) -> None:
    """Mixtral's exact count; GLM's model card says 106 and 12 billion, with what it does not serve (1 %, 15 %)."""
    assert model.total_parameters == pytest.approx(total, rel=1e-3 if model is MIXTRAL else 0.02)
    assert model.active_parameters == pytest.approx(active, rel=1e-3 if model is MIXTRAL else 0.15)


@given(sparse, st.sampled_from(["FP16", "INT8", "INT4"]))
def test_ranks_share_the_experts_and_copy_the_router(model: ModelSpec, tier: str) -> None:
    """So two GPUs hold more than half each."""
    one, two = (weight_bytes(replace(model, kv_heads=4), tier, ranks) for ranks in (1, 2))
    copies = 2 * (model.router_parameters + replace(model, kv_heads=4).bias_parameters)
    assert 2 * two == pytest.approx(one + copies, abs=2)


def test_a_tied_head_takes_no_memory_of_its_own() -> None:
    """Nor does a model without gate have one."""
    tied = replace(LLAMA_3_1_8B, tied_embeddings=True)
    assert weight_bytes(LLAMA_3_1_8B, "FP16") - weight_bytes(tied, "FP16") == 2 * 128_256 * 4096
    plain = replace(LLAMA_3_1_8B, gated_mlp=False)
    assert LLAMA_3_1_8B.layer_parameters - plain.layer_parameters == 32 * 4096 * 14_336


@pytest.mark.parametrize(("context", "tokens"), [(100, 3200), (4096, 32 * 4096), (10_000, 2 * 10_000 + 30 * 4096)])
def test_windowed_layers_keep_no_more_than_their_window(context: int, tokens: int) -> None:
    """The others keep everything."""
    model = replace(LLAMA_3_1_8B, sliding_window=4096, windowed_layers=30)
    assert model.kept_tokens(context) == tokens


def test_experts_take_activation_memory_of_their_own() -> None:
    """Two experts as wide as the dense MLP: twice its live tensors and their outputs; the sampler's peak is lower here."""
    deployment = Deployment("moe", GPUS["H200-SXM"], MIXTRAL, ENGINES["vllm-0.24"])
    wide = replace(MIXTRAL, num_experts=0, num_experts_per_tok=0, moe_intermediate_size=0, intermediate=2 * 14_336)
    extra = activation_bytes(deployment) - activation_bytes(replace(deployment, model=wide))
    assert extra == 8192 * 2 * 2 * 4096


@pytest.mark.parametrize(
    ("base", "field", "value"),
    [
        (LLAMA_3_1_8B, "num_experts_per_tok", 2),
        (LLAMA_3_1_8B, "moe_intermediate_size", 512),
        (LLAMA_3_1_8B, "first_dense_layers", 1),
        (LLAMA_3_1_8B, "num_shared_experts", 1),
        (LLAMA_3_1_8B, "sliding_window", 4096),
        (LLAMA_3_1_8B, "windowed_layers", 33),
        (LLAMA_3_1_8B, "kv_heads", 5),
        (MIXTRAL, "num_experts_per_tok", 9),
        (MIXTRAL, "num_experts_per_tok", 0),
        (MIXTRAL, "moe_intermediate_size", 0),
        (MIXTRAL, "first_dense_layers", 32),
        (MIXTRAL, "shared_intermediate_size", 512),
    ],
)
def test_shapes_that_do_not_go_together_are_refused_by_field(base: ModelSpec, field: str, value: Any) -> None:
    """Nothing is guessed."""
    with pytest.raises(InvalidInputError) as caught:
        replace(base, **{field: value})
    assert caught.value.field == f"model_spec.{field}"


def test_expert_parallelism_needs_an_expert_for_every_gpu() -> None:
    """A dense model has none."""
    with pytest.raises(InvalidInputError, match=r"deployment\.enable_expert_parallel"):
        Deployment(
            "dense",
            GPUS["H100-SXM"],
            LLAMA_3_1_8B,
            ENGINES["vllm-0.24"],
            tensor_parallel=2,
            enable_expert_parallel=True,
        )
