"""The inputs of the trained agent's network: the extended observation, and past values of some of its entries.

`FeatureHistory` turns one vector per window (llmserve_sim's extended vector, entries in [0, 1]) into the network's inputs. The same
code serves thousands of training episodes and the one episode that an agent plays, in this process or over a network. It uses
observations only: no rewards, no task, no seed.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import numpy as np

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.metrics import encode_batch, observation_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.env import Outcome

    Floats = NDArray[np.float64]
    Singles = NDArray[np.float32]

__all__ = ["FEATURES", "LAGS", "FeatureHistory", "features_hash", "vectors_of"]

_VECTOR: Final = observation_names("extended")
_WIDTH: Final = len(_VECTOR)

LAGS: Final[dict[str, tuple[int, ...]]] = {
    # Of a cycle of up to two dozen windows, the last period shows the phase; of a longer one, the last change does.
    "request_arrival_rate": tuple(range(1, 27)),
    "priority_arrival_rate": tuple(range(1, 17)),
    "mean_prompt_length": tuple(range(1, 21)),
    # The neighbour's memory is a smooth wave: a few points show its phase and direction.
    "cotenant_gb": (1, 2, 4, 7, 11, 16, 22, 30),
    "spec_acceptance_rate": (1, 2, 4, 8),
    "queue_depth": (1, 2, 3),
    "slo_compliance_rate": (1, 2, 3),
}
"""Entries of the vector that are remembered, and their lags in windows."""
_MAX_LAG: Final = max(max(lags) for lags in LAGS.values())
_LAG_COLUMNS: Final = np.array([_VECTOR.index(name) for name in LAGS])
_LAGGED: Final = np.array([(row, lag - 1) for row, lags in enumerate(LAGS.values()) for lag in lags]).T
_DEPTH_COLUMN: Final = _VECTOR.index("depth_share")
_AGE_WINDOWS: Final = 8.0
"""Windows since the last draft for which the feature `windows_since_draft` is one half."""

FEATURES: Final[tuple[str, ...]] = (
    *_VECTOR,
    *(f"{name}[-{lag}]" for name, lags in LAGS.items() for lag in lags),
    "windows_since_draft",
)
"""Names of the network's inputs, in order."""


def features_hash() -> str:
    """Return the SHA-256 (hex) of the features' names. Weights fit only the inputs that they were trained on."""
    return hashlib.sha256("\n".join(FEATURES).encode()).hexdigest()


def vectors_of(outcome: Outcome, size: int) -> Floats:
    """Return float64[size, 40]: the extended vectors of a batch of `size` episodes."""
    return encode_batch(outcome.measurement, "extended", size)


class FeatureHistory:
    """Past values of `size` episodes in lock step. Values from before an episode's start are 0."""

    def __init__(self, size: int = 1) -> None:
        self.size = size
        self._past = np.zeros((size, len(LAGS), _MAX_LAG))
        self._windows_since_draft = np.zeros(size)

    def reset(self) -> None:
        """Set all past values to 0, for new episodes."""
        self._past[:] = 0.0
        self._windows_since_draft[:] = 0.0

    def push(self, vectors: Floats) -> Singles:
        """Add the newest window, float[size, 40], and return the inputs, float32[size, len(FEATURES)].

        Raises `InvalidInputError` for vectors of another shape.
        """
        if vectors.shape != (self.size, _WIDTH):
            raise InvalidInputError("vectors", f"must have shape {(self.size, _WIDTH)}", got=vectors.shape)
        drafted = vectors[:, _DEPTH_COLUMN] > 0.0
        self._windows_since_draft = np.where(drafted, 0.0, self._windows_since_draft + 1.0)
        age = self._windows_since_draft / (self._windows_since_draft + _AGE_WINDOWS)
        lagged = self._past[:, _LAGGED[0], _LAGGED[1]]
        inputs = np.concatenate((vectors, lagged, age[:, None]), axis=1).astype(np.float32)
        self._past[:, :, 1:] = self._past[:, :, :-1]
        self._past[:, :, 0] = vectors[:, _LAG_COLUMNS]
        return inputs
