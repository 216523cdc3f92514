"""Which experts a batch chooses: whole tokens, no expert chosen twice by one, and the same on every run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve_sim.performance.experts import even, popular, round_robin

SHAPES = [(2, 8, 1), (2, 8, 4), (8, 128, 1), (8, 128, 8), (8, 256, 2), (1, 16, 4)]
shapes = st.sampled_from(SHAPES)
tokens = st.integers(1, 8192)


@settings(deadline=None)  # a shape's first batch draws 16 routings
@given(shapes, tokens)
def test_the_busiest_gpu_has_at_least_its_share_and_no_expert_a_token_twice(
    shape: tuple[int, int, int], count: int
) -> None:
    """For any batch and cut of the experts."""
    top_k, experts, ranks = shape
    load = popular(float(count), top_k=top_k, experts=experts, expert_parallel=ranks)
    share = count * top_k / ranks
    assert share * (1 - 1e-9) <= load.rows <= min(count * top_k, count * experts / ranks) * (1 + 1e-9)
    assert 0 < load.touched <= min(experts / ranks, load.rows) * (1 + 1e-9)


@settings(deadline=None)  # a shape's first batch draws 16 routings
@given(shapes, st.integers(64, 8192))
def test_popularity_touches_fewer_experts_than_chance_and_chance_fewer_than_turns(
    shape: tuple[int, int, int], count: int
) -> None:
    """On one GPU, which sees all of them; a handful of tokens is too few for a law of popularity."""
    top_k, experts, _ = shape
    skewed, chance, turns = (
        float(choose(float(count), top_k=top_k, experts=experts, expert_parallel=1).touched)
        for choose in (popular, even, round_robin)
    )
    assert skewed <= chance * (1 + 0.02)  # a mean over draws
    assert chance <= turns * (1 + 1e-9)


@pytest.mark.parametrize(("top_k", "experts", "ranks"), SHAPES)
def test_one_token_touches_exactly_the_experts_it_takes(top_k: int, experts: int, ranks: int) -> None:
    """On one GPU by any rule; under expert parallelism on the busiest by popularity."""
    del ranks
    for choose in (popular, even, round_robin):
        load = choose(1.0, top_k=top_k, experts=experts, expert_parallel=1)
        assert float(load.touched) == pytest.approx(top_k)
        assert float(load.rows) == pytest.approx(top_k)


def test_the_expected_number_of_experts_is_what_random_choices_give() -> None:
    """Against draws: 20 tokens, 8 of 128 experts each."""
    rng = np.random.default_rng(1)
    seen = [len({int(e) for _ in range(20) for e in rng.permutation(128)[:8]}) for _ in range(400)]
    assert float(even(20.0, top_k=8, experts=128, expert_parallel=1).touched) == pytest.approx(np.mean(seen), rel=0.01)


def test_an_array_of_batches_is_what_each_batch_alone_is() -> None:
    """The tables are built from arrays; no tokens are no work."""
    counts = np.array([0.0, 1.0, 7.0, 300.0, 8192.0])
    together = popular(counts, top_k=8, experts=128, expert_parallel=4)
    alone = [popular(float(count), top_k=8, experts=128, expert_parallel=4) for count in counts]
    np.testing.assert_array_equal(together.rows, [load.rows for load in alone])
    np.testing.assert_array_equal(together.touched, [load.touched for load in alone])
    assert together.rows[0] == together.touched[0] == 0.0
