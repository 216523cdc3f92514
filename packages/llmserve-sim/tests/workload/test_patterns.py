"""Patterns recur as said, and can be inferred from what was seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve_sim.tasks.traffic import Burst
from llmserve_sim.workload.patterns import (
    Recurrence,
    ar1,
    bernoulli_windows,
    normal,
    on_off_windows,
    wave,
    wave_phase,
)

BURST = Burst(rate_rps=1.0, period_windows=12, length_windows=3, jitter_windows=1)


@given(st.integers(0, 2**62), st.integers(1, 400))
@settings(deadline=None)
def test_every_occurrence_has_its_length_and_lies_within_its_jitter(seed: int, windows: int) -> None:
    drawn = Recurrence.draw(seed, "burst", BURST, windows)
    starts = np.array(drawn.starts)
    assert drawn.mask(windows).shape == (windows,)
    assert starts[0] < 0 or starts[0] <= 12
    assert starts[-1] + 3 >= windows - 12
    gaps = np.diff(starts)
    assert ((gaps >= 10) & (gaps <= 14)).all()
    residue = (starts - starts[0] + 2) % 12
    assert (residue <= 4).all()


def test_all_phases_and_shifts_occur_and_a_quarter_of_windows_is_loaded() -> None:
    drawn = [Recurrence.draw(seed, "burst", BURST, 1200) for seed in range(300)]
    share = np.mean([d.mask(1200).mean() for d in drawn])
    assert abs(share - 0.25) < 0.003
    without = Burst(rate_rps=1.0, period_windows=12, length_windows=3)
    phases = {Recurrence.draw(seed, "burst", without, 12).starts[0] for seed in range(300)}
    assert phases == set(range(-12, 0))


def test_evidence_reveals_the_phase() -> None:
    truth = Recurrence.draw(7, "burst", BURST, 120).mask(120)
    gain = np.where(truth[:40], 20.0, -20.0)
    for seed in range(20):
        guess = Recurrence.draw(seed, "burst", BURST, 120, gain).mask(120)
        assert guess[:40].tolist() == truth[:40].tolist()
        assert (guess[40:] == truth[40:]).mean() > 0.7  # each later one may be shifted by up to 2 windows


def test_evidence_that_says_nothing_leaves_the_prior() -> None:
    phases = [Recurrence.draw(seed, "burst", BURST, 120, np.zeros(40)).starts[1] for seed in range(600)]
    counts = np.bincount(np.array(phases) + 1, minlength=14)
    assert counts.min() > 0
    assert counts[1:13].max() < 90


def test_spikes_have_their_probability() -> None:
    assert abs(bernoulli_windows(0, "spike", 0.05, 100_000).mean() - 0.05) < 0.003
    assert not bernoulli_windows(0, "spike", 0.0, 1000).any()
    assert bernoulli_windows(0, "spike", 1.0, 1000).all()


def test_on_off_periods_have_their_means_and_go_on_from_a_known_state() -> None:
    on = on_off_windows(0, "on_off", 7.5, 10.0, 100_000)
    assert abs(on.mean() - 7.5 / 17.5) < 0.02
    changes = np.count_nonzero(on[1:] & ~on[:-1])
    assert abs(on.sum() / changes / 7.5 - 1) < 0.05
    for state in (True, False):
        stay = np.mean([on_off_windows(s, "on_off", 50.0, 50.0, 1, last_on=state)[0] == state for s in range(500)])
        assert abs(stay - 0.98) < 0.02


def test_normal_numbers_are_standard_normal() -> None:
    z = normal(0, "z", 200_000)
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01
    assert abs(np.mean(np.abs(z) < 1.96) - 0.95) < 0.003


def test_ar1_has_its_spread_and_correlation_and_continues() -> None:
    x = ar1(0, "n", 0.3, 0.8, 100_000)
    assert abs(x.std() / 0.3 - 1) < 0.03
    assert abs(np.corrcoef(x[1:], x[:-1])[0, 1] - 0.8) < 0.02
    first = np.array([ar1(s, "n", 0.3, 0.8, 1, last=2.0)[0] for s in range(2000)])
    assert abs(first.mean() - 1.6) < 0.02
    assert abs(first.std() / (0.3 * 0.6) - 1) < 0.06
    assert not ar1(0, "n", 0.0, 0.5, 10).any()


@pytest.mark.parametrize("missing", [False, True])
def test_a_seen_wave_is_recognised(*, missing: bool) -> None:
    seen = wave(17, 40, 25)
    if missing:
        seen[::2] = np.nan
    assert {wave_phase(seed, "w", 40, seen, 0.05) for seed in range(30)} <= {16, 17, 18}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_a_wave_unseen_has_any_phase(seed: int) -> None:
    assert wave_phase(seed, "w", 40) == wave_phase(seed, "w", 40, np.full(5, np.nan))
    assert 0 <= wave_phase(seed, "w", 40) < 64
