"""Speculative decoding: accepted lengths, and where drafting pays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.hardware import DEPLOYMENTS
from llmserve_sim.performance.roofline import Iteration, Roofline
from llmserve_sim.performance.speculation import (
    EAGLE3_ACCEPTANCE,
    MAX_DEPTH,
    accepted_length,
    draft_step_s,
    tokens_per_step,
)

# vllm-project/vllm issue 20780: EAGLE-3, Llama-3.1-8B, H100, MT-Bench, batch 1
MEASURED_LENGTH = {2: 2.36, 3: 2.79, 4: 3.08, 5: 3.32, 6: 3.46, 7: 3.54}


def gain(deployment: str, sequences: int, depth: int) -> float:
    """Tokens per second at a depth over those without drafting."""
    roofline = Roofline(DEPLOYMENTS[deployment])
    plain, drafted = (roofline.iteration_s(Iteration(sequences, 600.0 * sequences, depth=k)) for k in (0, depth))
    return accepted_length(EAGLE3_ACCEPTANCE, depth) * plain / drafted


@pytest.mark.parametrize(("depth", "measured"), MEASURED_LENGTH.items())
def test_accepted_length_is_within_one_percent_of_the_measured(depth: int, measured: float) -> None:
    """Two parameters for six depths."""
    assert accepted_length(EAGLE3_ACCEPTANCE, depth) == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize("deployment", sorted(DEPLOYMENTS))
def test_depth_4_helps_at_batch_1_and_hurts_at_256(deployment: str) -> None:
    """Reading weights once for five tokens against multiplying five times as much."""
    assert gain(deployment, 1, 4) > 1.4
    assert gain(deployment, 256, 4) < 1.0


@given(st.floats(0.05, 0.95), st.floats(0.0, 0.04), st.integers(1, MAX_DEPTH))
def test_length_grows_with_acceptance_and_depth_but_never_past_depth_plus_one(
    acceptance: float, more: float, depth: int
) -> None:
    """Between one token (nothing accepted) and all of them."""
    length = accepted_length(acceptance, depth)
    assert accepted_length(acceptance, depth - 1) < length <= depth + 1
    assert accepted_length(acceptance + more, depth) >= length


def test_fixed_point_rates_start_at_one_token_and_round_the_expected_length() -> None:
    """One row per tenant class, nine depths, 1/256 token."""
    rows = tokens_per_step((0.775, 0.3))
    assert [len(row) for row in rows] == [9, 9]
    assert [row[0] for row in rows] == [256, 256]
    assert rows[0][4] == round(256 * accepted_length(0.775, 4))
    assert rows[1][4] < rows[0][4]


def test_drafting_is_slower_on_a_gpu_with_less_bandwidth() -> None:
    """The H100 figure, scaled."""
    assert draft_step_s(DEPLOYMENTS["rtx4090-llama3.1-8b"]) > draft_step_s(DEPLOYMENTS["a100-llama3.1-8b"])


@pytest.mark.parametrize(
    ("acceptance", "depth", "field"),
    [(-0.1, 1, "acceptance"), (1.1, 1, "acceptance"), (0.5, 9, "speculation_depth"), (0.5, -1, "speculation_depth")],
)
def test_values_out_of_range_are_refused_by_field(acceptance: float, depth: int, field: str) -> None:
    """Nothing is clamped."""
    with pytest.raises(InvalidInputError) as caught:
        accepted_length(acceptance, depth)
    assert caught.value.field == field
