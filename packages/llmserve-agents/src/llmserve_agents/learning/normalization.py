"""Running statistics of training, in numpy: of the network's inputs, and of the rewards that the critic learns from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmserve_agents.learning.features import FEATURES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Singles = NDArray[np.float32]

__all__ = ["InputNormalizer", "RewardNormalizer"]


class InputNormalizer:
    """Running mean and variance of the network's inputs. A checkpoint keeps them as they are then."""

    def __init__(self) -> None:
        self.count = 1e-4
        self.mean = np.zeros(len(FEATURES))
        self.variance = np.ones(len(FEATURES))

    def update(self, inputs: Singles) -> None:
        """Add inputs float32[n, features] to the statistics."""
        mean, count = inputs.mean(axis=0, dtype=np.float64), len(inputs)
        variance = np.square(inputs - mean.astype(np.float32)).mean(axis=0, dtype=np.float64)
        total = self.count + count
        delta = mean - self.mean
        m2 = self.variance * self.count + variance * count + delta**2 * self.count * count / total
        self.mean, self.variance, self.count = self.mean + delta * count / total, m2 / total, total

    @property
    def std(self) -> Floats:
        """Standard deviations [features], at least 0.01: a feature that hardly ever moves is not blown up."""
        return np.sqrt(self.variance + 1e-4)


class RewardNormalizer:
    """Mean of the rewards and standard deviation of the discounted returns. The critic learns (reward - mean) / std."""

    def __init__(self) -> None:
        self.mean = 0.0
        self.std = 1.0
        self.updates = 0

    def update(self, rewards: Singles, gamma: float) -> None:
        """Add the rewards [windows, envs] of whole episodes, with weight 1/10, or 1/n in the n-th of the first ten updates."""
        self.updates += 1
        weight = max(0.1, 1.0 / self.updates)
        self.mean += weight * (float(rewards.mean()) - self.mean)
        running, returns = np.zeros(rewards.shape[1]), np.empty(rewards.shape)
        for window, row in enumerate(rewards):
            running = returns[window] = gamma * running + row - self.mean
        self.std += weight * (max(float(returns.std()), 1e-3) - self.std)

    def normalize(self, rewards: Singles) -> Singles:
        """Return float32 rewards in the critic's units."""
        result: Singles = ((rewards - self.mean) / self.std).astype(np.float32)
        return result
