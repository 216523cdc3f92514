"""Streams are addressed, not consumed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.workload.random import (
    MAX_SEED,
    U32,
    bernoulli_threshold,
    derive_seed,
    first_u32,
    stream_key,
    uniform_u32,
)

MASK = 2**64 - 1
seeds = st.integers(0, MAX_SEED)


def plain(seed: int, purpose: str, index: int) -> int:
    """Splitmix64 in Python's integers, as published, upper half without its last xor-shift."""
    z = (stream_key(seed, purpose) + (index + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z >> 32


@given(seeds, st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
@settings(deadline=None)
def test_the_vectorised_draws_are_splitmix64_in_plain_integers(seed: int, indices: list[int]) -> None:
    assert uniform_u32(seed, "x", indices).tolist() == [plain(seed, "x", i) for i in indices]


@given(seeds, st.integers(0, 300), st.integers(0, 300))
@settings(max_examples=50, deadline=None)
def test_a_longer_draw_begins_with_the_shorter_one(seed: int, a: int, b: int) -> None:
    short, long = sorted((a, b))
    assert first_u32(seed, "gap", long)[:short].tolist() == first_u32(seed, "gap", short).tolist()
    assert first_u32(seed, "gap", long).tolist() == uniform_u32(seed, "gap", range(long)).tolist()


def test_committed_draws_hold_on_every_platform() -> None:
    assert first_u32(0, "gap", 4).tolist() == [1710809246, 316752653, 2815557611, 1059236367]
    assert first_u32(2**63 - 1, "prompt", 4).tolist() == [894267908, 317410760, 3520876797, 2243342033]


def test_a_draw_longer_than_the_cache_is_the_same_stream() -> None:
    n = (1 << 14) + 3
    long = first_u32(5, "p", n)
    assert long[-1] == plain(5, "p", n - 1)
    assert first_u32(5, "p", 10).tolist() == long[:10].tolist()


def test_draws_are_uniform_and_streams_uncorrelated() -> None:
    n = 1 << 16
    streams = [first_u32(seed, purpose, n) / U32 for seed in (0, 1, 2) for purpose in ("gap", "prompt", "output")]
    for u in streams:
        assert abs(u.mean() - 0.5) < 0.005
        counts = np.bincount((u * 64).astype(int), minlength=64)
        assert ((counts - n / 64) ** 2 / (n / 64)).sum() < 120  # chi-square with 63 degrees of freedom, p < 1e-5
        assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 0.02
    assert np.abs(np.corrcoef(streams) - np.eye(len(streams))).max() < 0.02


def test_seed_and_purpose_each_change_the_stream() -> None:
    keys = {stream_key(seed, purpose) for seed in range(100) for purpose in ("a", "b", "ab")}
    assert len(keys) == 300
    assert derive_seed(1, "forecast") != derive_seed(2, "forecast")
    assert 0 <= derive_seed(MAX_SEED, "x") <= MAX_SEED


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, True, "7", None, float("nan")])
def test_a_bad_seed_is_refused_by_name(seed: object) -> None:
    with pytest.raises(InvalidInputError, match=r"integer in 0\.\.9223372036854775807") as caught:
        stream_key(seed, "x")  # type: ignore[arg-type]
    assert caught.value.field == "seed"


def test_a_probability_becomes_a_threshold() -> None:
    assert [bernoulli_threshold(p) for p in (0.0, 0.25, 1.0)] == [0, U32 // 4, U32]
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(InvalidInputError):
            bernoulli_threshold(bad)
