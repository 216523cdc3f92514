"""Memory per GPU: who comes first, what is left, what counts as pressure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve_sim.batch import ServingBatch
from llmserve_sim.configuration import Configurator
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.grid import QUANTIZATION_TIER
from llmserve_sim.hardware import DEPLOYMENTS, ENGINES, GPUS, LLAMA_3_1_8B, QWEN3_32B, Deployment
from llmserve_sim.memory import MemoryModel, activation_bytes
from llmserve_sim.model_spec import ModelSpec
from llmserve_sim.performance.quantization import TIERS
from llmserve_sim.schema import ServeAction
from llmserve_sim.tasks import Task, load_task

MAX_LEN = 8192
LLAMA_70B = ModelSpec("Llama-3.1-70B", 80, 8192, 28_672, 64, 8, 128, 128_256)
MODELS = {name: MemoryModel(deployment, MAX_LEN) for name, deployment in DEPLOYMENTS.items()}
models = st.sampled_from(sorted(MODELS)).map(MODELS.__getitem__)
tiers = st.sampled_from(TIERS)
fractions = st.floats(0.1, 1.0)
GB = 10**9


def test_a_block_of_llama_8b_is_two_mebibytes_and_speculation_adds_one_layer() -> None:
    """16 tokens of 128 KiB; the draft has a single layer."""
    model = MODELS["a100-llama3.1-8b"]
    assert model.block_bytes(speculating=False) == 2 * 2**20
    assert model.block_bytes(speculating=True) == 2 * 2**20 * 33 // 32


def test_tensor_parallelism_spreads_blocks_and_weights() -> None:
    """Half on each of two GPUs."""
    two = MODELS["h100x2-qwen3-32b"]
    one = MemoryModel(replace(DEPLOYMENTS["h100x2-qwen3-32b"], gpu=GPUS["RTX-PRO-6000"], tensor_parallel=1), 1024)
    assert 2 * two.block_bytes(speculating=False) == one.block_bytes(speculating=False)
    assert (
        2 * two.requirement("FP16", 1.0, speculating=False).weight_bytes
        == one.requirement("FP16", 1.0, speculating=False).weight_bytes
    )


@given(models, st.tuples(tiers, fractions, st.booleans()), st.integers(0, 90 * GB), st.floats(0.5, 1.0))
def test_the_pool_is_the_least_of_what_is_wanted_and_what_is_left_but_holds_one_request(
    model: MemoryModel, wish: tuple[str, float, bool], cotenant: int, cap: float
) -> None:
    """The co-tenant is refused the rest, and that counts as pressure."""
    tier, fraction, speculating = wish
    need = model.requirement(tier, fraction, speculating=speculating)
    grant = model.grant(need, cotenant, cap_share=cap)
    left = model.usable_bytes - need.reserved_bytes - cotenant
    assert grant.pool_blocks == max(model.min_pool_blocks, min(need.wanted_blocks, left // need.block_bytes))
    assert grant.pool_bytes == grant.pool_blocks * need.block_bytes
    total = need.reserved_bytes + grant.pool_bytes + cotenant
    assert grant.refused_bytes == max(0, total - model.usable_bytes)
    assert grant.pressure == pytest.approx(max(0.0, total / model.usable_bytes - cap), abs=1e-9)
    if grant.refused_bytes:
        assert grant.pool_blocks == model.min_pool_blocks


@given(models, tiers, fractions, st.floats(0.0, 0.5), st.booleans())
def test_a_larger_budget_never_asks_for_fewer_blocks(
    model: MemoryModel, tier: str, fraction: float, more: float, speculating: bool
) -> None:
    """And never more than there is room for."""
    small = model.requirement(tier, fraction, speculating=speculating)
    large = model.requirement(tier, min(1.0, fraction + more), speculating=speculating)
    assert small.wanted_blocks <= large.wanted_blocks
    assert large.reserved_bytes + large.wanted_blocks * large.block_bytes <= model.usable_bytes


@given(models, fractions, st.booleans())
def test_smaller_weights_leave_more_blocks(model: MemoryModel, fraction: float, speculating: bool) -> None:
    """FP16, INT8, INT4."""
    blocks = [model.requirement(tier, fraction, speculating=speculating).wanted_blocks for tier in TIERS]
    assert blocks == sorted(blocks)


@given(models, tiers)
def test_drafting_takes_memory_from_the_pool(model: MemoryModel, tier: str) -> None:
    """Weights of the head, and its KV."""
    plain, drafting = (model.requirement(tier, 1.0, speculating=on) for on in (False, True))
    assert drafting.wanted_blocks < plain.wanted_blocks
    assert drafting.draft_bytes > 0 == plain.draft_bytes


def test_a_pool_held_in_front_of_a_rising_wave_is_pressure() -> None:
    """A smaller budget under the same demand relieves it."""
    model = MODELS["a100-llama3.1-8b"]
    pressures = [
        model.grant(model.requirement("FP16", fraction, speculating=False), 20 * GB, cap_share=0.9).pressure
        for fraction in (0.3, 0.6, 1.0)
    ]
    assert pressures[0] == 0.0
    assert pressures[0] <= pressures[1] <= pressures[2]
    assert pressures[2] == pytest.approx(0.1, abs=1e-3)


def test_every_pool_meets_the_engine_s_minimum() -> None:
    """One largest request and its speculative overshoot."""
    assert MODELS["a100-llama3.1-8b"].min_pool_blocks == (MAX_LEN + 16) // 16 + 2


@pytest.mark.parametrize(
    ("gpu", "share", "tensor_parallel", "measured"),
    [
        ("RTX-4090", 0.9, 1, 2588 * 2 * 2**20),
        ("H100-SXM", 0.95, 1, 476_016 * 131_072),
        ("H100-SXM", 0.95, 2, 63.76 * 2**30),
        ("H100-SXM", 0.95, 4, 67.44 * 2**30),
    ],
)
def test_the_pool_is_within_three_percent_of_what_vllm_measured(
    gpu: str, share: float, tensor_parallel: int, measured: float
) -> None:
    """Llama-3.1-8B, bytes of KV per GPU."""
    deployment = Deployment(
        "measured",
        GPUS[gpu],
        LLAMA_3_1_8B,
        ENGINES["vllm-0.19"],
        tensor_parallel=tensor_parallel,
        gpu_memory_utilization=share,
    )
    need = MemoryModel(deployment, 1024).requirement("FP16", 1.0, speculating=False)
    assert need.wanted_blocks * need.block_bytes == pytest.approx(measured, rel=0.03)


def test_a_4090_serves_contexts_of_32_768_tokens() -> None:
    """As vLLM does."""
    deployment = Deployment("long", GPUS["RTX-4090"], LLAMA_3_1_8B, ENGINES["vllm-0.19"])
    assert MemoryModel(deployment, 32_768).min_pool_blocks > 2048


def test_a_larger_token_budget_takes_activation_memory_from_the_pool() -> None:
    """Once a batch's activations outgrow the sampler's."""
    small = Deployment("budget", GPUS["H100-SXM"], QWEN3_32B, ENGINES["vllm-0.19"], tensor_parallel=2)
    large = replace(small, max_num_batched_tokens=16_384)
    assert activation_bytes(large) > activation_bytes(small)


def test_a_model_that_does_not_fit_is_refused_when_the_fleet_is_planned() -> None:
    """Not when the first request arrives."""
    with pytest.raises(InvalidInputError, match="INT4 model that leaves room"):
        MemoryModel(replace(DEPLOYMENTS["rtx4090-llama3.1-8b"], model=LLAMA_70B), MAX_LEN)


@pytest.mark.parametrize(
    ("gpu", "model", "max_len"), [("H100-SXM", LLAMA_70B, 32_768), ("RTX-4090", QWEN3_32B, 2048)], ids=["70B", "32B"]
)
def test_a_format_that_does_not_fit_is_refused_by_name_and_refuses_no_other(
    gpu: str, model: ModelSpec, max_len: int
) -> None:
    """70B in INT4 on one card of 80 GB, 32B in INT4 on a 4090: in episodes, batches and on the grid alike."""
    deployment = Deployment("tight", GPUS[gpu], model, ENGINES["vllm-0.19"])
    memory = MemoryModel(deployment, max_len)
    assert memory.fitting_tiers == ("INT4",)
    task = Task.model_validate(
        load_task("static_workload").model_dump() | {"max_len_tokens": max_len, "cotenant": None}
    )
    configurator = Configurator.build(task, deployment)
    configurator.check(ServeAction(quantization_tier="INT4"))
    batch = ServingBatch(task, 2, deployment=deployment)
    batch.start([1, 2])
    fits = np.tile((5, 10, 0, TIERS.index("INT4"), 0, 0), (2, 1))
    for tier, needs in (("FP16", "FP16 needs"), ("INT8", "INT8 needs")):
        with pytest.raises(InvalidInputError, match=needs) as caught:
            configurator.check(ServeAction(quantization_tier=tier))
        assert caught.value.field == "quantization_tier"
        refused = fits.copy()
        refused[1, QUANTIZATION_TIER] = TIERS.index(tier)
        with pytest.raises(InvalidInputError, match=needs):
            batch.advance(refused)
    assert not batch.advance(fits).done


def test_bad_arguments_are_refused_by_field() -> None:
    """Nothing is clamped."""
    model = MODELS["a100-llama3.1-8b"]
    need = model.requirement("FP16", 1.0, speculating=False)
    for field, call in (
        ("quantization_tier", lambda: model.requirement("FP8", 1.0, speculating=False)),
        ("kv_budget_fraction", lambda: model.requirement("FP16", 0.0, speculating=False)),
        ("kv_budget_fraction", lambda: model.requirement("FP16", float("nan"), speculating=False)),
        ("cotenant_bytes", lambda: model.grant(need, -1)),
        ("cap_share", lambda: model.grant(need, 0, cap_share=1.1)),
        ("max_len", lambda: MemoryModel(DEPLOYMENTS["a100-llama3.1-8b"], 1)),
    ):
        with pytest.raises(InvalidInputError) as caught:
            call()
        assert caught.value.field == field
