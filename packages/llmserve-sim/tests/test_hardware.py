"""GPUs, models and deployments: counts that published checkpoints confirm, and refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.hardware import DEPLOYMENTS, ENGINES, GPUS, LLAMA_3_1_8B, QWEN3_32B, Deployment, get_deployment
from llmserve_sim.performance import calibration_0_1
from llmserve_sim.specifications import DEFAULT_FOR_GPU


def test_parameter_counts_are_those_of_the_published_checkpoints() -> None:
    """8.03 and 32.76 billion, norms left out."""
    assert LLAMA_3_1_8B.layer_parameters + LLAMA_3_1_8B.embedding_parameters == pytest.approx(8.03e9, rel=1e-3)
    assert QWEN3_32B.layer_parameters + QWEN3_32B.embedding_parameters == pytest.approx(32.76e9, rel=1e-3)


def test_a_token_of_llama_8b_keeps_128_kib_of_kv() -> None:
    """32 layers x 8 heads x 128 x (K and V) x 2 bytes."""
    assert LLAMA_3_1_8B.kv_bytes_per_token == 131_072


def test_the_eagle3_head_of_llama_8b_weighs_what_the_published_one_does() -> None:
    """About 0.85 GB in BF16."""
    assert 2 * LLAMA_3_1_8B.draft_parameters == pytest.approx(0.85e9, rel=0.02)


@pytest.mark.parametrize("tensor_parallel", [1, 2, 4, 8])
@pytest.mark.parametrize("model", [LLAMA_3_1_8B, QWEN3_32B], ids=lambda model: model.name)
def test_tensor_parallelism_divides_the_weights_evenly(model: object, tensor_parallel: int) -> None:
    """Each GPU holds 1/TP of every matrix."""
    whole, part = (sum(n * k for n, k in model.layer_matrices(tp)) for tp in (1, tensor_parallel))  # type: ignore[attr-defined]
    assert part * tensor_parallel == whole


def test_the_presets_are_the_documented_three() -> None:
    """The default has two replicas and can split; the other two cannot."""
    assert sorted(DEPLOYMENTS) == ["a100-llama3.1-8b", "h100x2-qwen3-32b", "rtx4090-llama3.1-8b"]
    assert get_deployment("a100-llama3.1-8b").can_split
    assert not get_deployment("rtx4090-llama3.1-8b").can_split
    assert get_deployment("h100x2-qwen3-32b").gpus == 2


def test_the_token_budget_is_vllm_s_default_of_the_gpu_unless_named() -> None:
    """8,192 tokens and 1,024 sequences from 70 GiB on, A100 excepted; 2,048 and 256 otherwise."""
    small = {"A100-80G-SXM", "RTX-4090", "L40S"}
    for version in ("vllm-0.12", "vllm-0.15", "vllm-0.19", "vllm-0.24"):
        defaults = {name: (ENGINES[version].token_budget(gpu), gpu.default_max_num_seqs) for name, gpu in GPUS.items()}
        assert defaults == {name: (2048, 256) if name in small else (8192, 1024) for name in GPUS}
    own = Deployment("mine", GPUS["H100-SXM"], LLAMA_3_1_8B, ENGINES["vllm-0.19"])
    assert own.max_num_batched_tokens == 8192
    assert replace(own, max_num_batched_tokens=512).max_num_batched_tokens == 512


def test_vllm_0_32_takes_twice_the_tokens_on_gpus_of_160_gib() -> None:
    """Of those known here, that is B200."""
    budgets = {name: ENGINES["vllm-0.32"].token_budget(gpu) for name, gpu in GPUS.items()}
    assert budgets == {
        name: 16_384 if name == "B200-SXM" else ENGINES["vllm-0.24"].token_budget(gpu) for name, gpu in GPUS.items()
    }
    assert Deployment("mine", GPUS["B200-SXM"], LLAMA_3_1_8B, ENGINES["vllm-0.32"]).max_num_batched_tokens == 16_384


@pytest.mark.parametrize("field", ["gpu", "engine"])
def test_a_deployment_without_gpu_or_engine_is_refused_by_name(field: str) -> None:
    """The token budget that would follow from them is not what the error names."""
    good = Deployment("mine", GPUS["H100-SXM"], LLAMA_3_1_8B, ENGINES["vllm-0.19"])
    with pytest.raises(InvalidInputError, match=f"deployment.{field}"):
        replace(good, max_num_batched_tokens=DEFAULT_FOR_GPU, **{field: None})


def test_parameters_of_gemm_tiles_come_together() -> None:
    """Rows without columns, or columns without rows, would be no tile."""
    with pytest.raises(InvalidInputError, match=r"gemm_parameters\.tile_n"):
        replace(GPUS["H100-SXM"].kernels.gemm, tile_n=0)


def test_the_presets_keep_simulator_0_1_s_constants() -> None:
    """The built-in tasks' references were computed on them."""
    for deployment in DEPLOYMENTS.values():
        assert deployment.engine == calibration_0_1.ENGINE
        assert deployment.max_num_batched_tokens == 2048
        assert deployment.activation_bytes == 2_500_000_000
        assert deployment.gpu.kernels.gemm.tile_m == 0


def test_a_fleet_costs_its_gpus() -> None:
    """Price per hour times GPUs."""
    deployment = get_deployment("a100-llama3.1-8b")
    assert deployment.usd_per_hour == 2 * deployment.gpu.price_usd_per_hour


def test_there_is_one_cpu_overhead_per_engine_version() -> None:
    """And every version is named after itself."""
    assert {name: engine.name for name, engine in ENGINES.items()} == {name: name for name in ENGINES}


def test_efficiencies_stay_within_what_the_data_sheets_allow() -> None:
    """Below 1.1 of the stated peak: beyond it the stated peak would be another product's."""
    for gpu in GPUS.values():
        for par in (gpu.kernels.gemm, gpu.kernels.gemm_int8, gpu.kernels.gemm_int4):
            if par is not None:
                assert 0.5 < par.compute_efficiency < 1.1
                assert 0.5 < par.bandwidth_efficiency < 1.1
        assert 0.5 < gpu.kernels.decode.bandwidth_efficiency <= 1.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("replicas", 0),
        ("replicas", 9),
        ("replicas", 1.5),
        ("replicas", True),
        ("gpu", "A100"),
        ("model", None),
        ("tensor_parallel", 0),
        ("tensor_parallel", 3),
        ("max_num_batched_tokens", 0),
        ("activation_bytes", -1),
        ("activation_bytes", 2.5e9),
        ("gpu_memory_utilization", 0.0),
        ("gpu_memory_utilization", 1.5),
        ("gpu_memory_utilization", float("nan")),
    ],
)
def test_a_deployment_that_cannot_be_built_is_refused_by_field(field: str, value: Any) -> None:
    """The error names the field."""
    with pytest.raises(InvalidInputError) as caught:
        replace(DEPLOYMENTS["a100-llama3.1-8b"], **{field: value})
    assert caught.value.field == f"deployment.{field}"


def test_an_unknown_deployment_is_refused_with_those_there_are() -> None:
    """So that a typing error teaches."""
    with pytest.raises(InvalidInputError, match=r"a100-llama3\.1-8b"):
        get_deployment("a100")


def test_a_user_can_make_a_deployment_of_their_own() -> None:
    """Plain dataclasses, no registry."""
    own = Deployment(
        "mine", replace(GPUS["H100-SXM"], name="H200", hbm_bytes_per_s=4.8e12), LLAMA_3_1_8B, ENGINES["vllm-0.19"]
    )
    assert own.gpus == 1
