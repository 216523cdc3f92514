"""What the learned agent sees: a batch's row is what one episode shows, and lags are what was pushed."""

from __future__ import annotations

import numpy as np
import pytest

from llmserve_agents.learning.features import FEATURES, LAGS, FeatureHistory, features_hash, vectors_of
from llmserve_sim.batch import ServingBatch
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.grid import GRID_SIZES, from_indices
from llmserve_sim.metrics import encode, observation_names
from llmserve_sim.observation import vector

NAMES = observation_names("extended")
WIDTH = len(NAMES)


def windows(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Vectors that nobody measured."""
    return np.random.default_rng(seed).random((count, size, WIDTH))


def test_a_batch_shows_each_episode_what_it_would_see_alone() -> None:
    pushed = windows(40, 5)
    together = FeatureHistory(5)
    alone = [FeatureHistory() for _ in range(5)]
    for vectors in pushed:
        inputs = together.push(vectors)
        assert inputs.dtype == np.float32
        for row, history in enumerate(alone):
            np.testing.assert_array_equal(history.push(vectors[row : row + 1])[0], inputs[row])


def test_a_batchs_vectors_are_those_of_the_formula_to_the_last_bit() -> None:
    batch = ServingBatch("bursty_workload", 3)
    outcome = batch.start([1, 2, 3])
    for _ in range(4):
        columns = encode(outcome.measurement, "extended")
        slow = np.stack([np.broadcast_to(column, 3) for column in columns], axis=1)
        np.testing.assert_array_equal(vectors_of(outcome, 3), slow)
        outcome = batch.advance(np.tile([2, 4, 1, 1, 0, 1], (3, 1)))


def test_the_first_inputs_are_the_vector_itself() -> None:
    [vectors] = windows(1, 3)
    inputs = FeatureHistory(3).push(vectors)
    np.testing.assert_array_equal(inputs[:, :WIDTH], vectors.astype(np.float32))
    assert not inputs[:, WIDTH:-1].any()


def test_a_lag_shows_what_was_pushed_so_many_windows_ago_and_zero_before_the_beginning() -> None:
    pushed = windows(45, 2)
    history = FeatureHistory(2)
    for now, vectors in enumerate(pushed):
        inputs = history.push(vectors)
        for name, lags in LAGS.items():
            for lag in lags:
                seen = inputs[:, FEATURES.index(f"{name}[-{lag}]")]
                then = pushed[now - lag][:, NAMES.index(name)] if now >= lag else np.zeros(2)
                np.testing.assert_array_equal(seen, then.astype(np.float32))


def test_the_age_of_the_last_draft_grows_until_there_is_another() -> None:
    history, depth = FeatureHistory(), NAMES.index("depth_share")
    ages = []
    for drafted in (0.0, 0.0, 0.0, 0.5, 0.0):
        vectors = np.zeros((1, WIDTH))
        vectors[0, depth] = drafted
        ages.append(float(history.push(vectors)[0, -1]))
    assert ages[0] < ages[1] < ages[2] < 1.0
    assert ages[3] == 0.0
    assert ages[4] == ages[0]


def test_a_reset_forgets_everything() -> None:
    pushed = windows(35, 2)
    fresh, used = FeatureHistory(2), FeatureHistory(2)
    for vectors in pushed:
        used.push(vectors)
    used.reset()
    for vectors in windows(35, 2, seed=1):
        np.testing.assert_array_equal(used.push(vectors), fresh.push(vectors))


def test_what_was_returned_does_not_change_with_the_next_window() -> None:
    history = FeatureHistory()
    first, second = windows(2, 1)
    inputs = history.push(first)
    kept = inputs.copy()
    history.push(second)
    first[:] = 0.0
    np.testing.assert_array_equal(inputs, kept)


@pytest.mark.parametrize("shape", [(WIDTH,), (1, WIDTH), (3, WIDTH), (2, WIDTH - 1), (2, WIDTH, 1)])
def test_vectors_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match=r"vectors: must have shape \(2, 40\)"):
        FeatureHistory(2).push(np.zeros(shape))


def test_observations_give_the_inputs_that_measurements_give() -> None:
    """Training reads a batch's measurements; acting reads what came over the wire."""
    task, seeds = "adversarial_multitenant", (3, 4)
    batch, batched = ServingBatch(task, 2), FeatureHistory(2)
    envs, alone = [ServingEnv(task) for _ in seeds], [FeatureHistory() for _ in seeds]
    outcome, observations = batch.start(seeds), [env.reset(seed) for env, seed in zip(envs, seeds, strict=True)]
    rng = np.random.default_rng(0)
    for _ in range(12):
        columns = encode(outcome.measurement, "extended")
        inputs = batched.push(np.stack([np.broadcast_to(column, 2) for column in columns], axis=1))
        for row, observation in enumerate(observations):
            wire = type(observation).model_validate_json(observation.model_dump_json())
            np.testing.assert_array_equal(alone[row].push(np.array([vector(wire, "extended")]))[0], inputs[row])
        actions = rng.integers(0, GRID_SIZES, (2, len(GRID_SIZES)))
        actions[:, list(from_indices([0] * 6).model_dump()).index("prefill_decode_split")] *= batch.can_split
        outcome = batch.advance(actions)
        observations = [env.step(from_indices(row)) for env, row in zip(envs, actions.tolist(), strict=True)]


def test_the_hash_is_that_of_the_names_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(set(FEATURES)) == len(FEATURES)
    here = features_hash()
    monkeypatch.setattr("llmserve_agents.learning.features.FEATURES", (*FEATURES[1:], FEATURES[0]))
    assert features_hash() != here
