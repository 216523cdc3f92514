"""The trained agent's network, forward only, in numpy: what acting needs, in every process, without torch.

    inputs -> (x - mean) / std, clipped -> tanh layer -> tanh layer -> one row of logits for all heads

There is one head per knob of the action grid, in its order. The heads of the knobs whose change costs seconds (tier, split) have
one more choice, KEEP: leave what is in force. The module knows nothing about files, tasks or training.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from llmserve_agents.learning.features import FEATURES
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.grid import GRID_SIZES, PREFILL_DECODE_SPLIT, QUANTIZATION_TIER
from llmserve_sim.metrics import observation_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Singles = NDArray[np.float32]

__all__ = [
    "ACTOR_LAYERS",
    "HEAD_SIZES",
    "HEAD_SLICES",
    "INPUT_CLIP",
    "KEEP_KNOBS",
    "KEEP_LOGITS",
    "MASKED_LOGIT",
    "MAX_CHOICES",
    "PADDED_COLUMNS",
    "MLPPolicy",
    "configuration_in_force",
    "is_configured",
    "mask_logits",
    "to_grid",
]

KEEP_KNOBS: Final = (QUANTIZATION_TIER, PREFILL_DECODE_SPLIT)
"""Knobs whose head has the choice KEEP, as its last one."""
HEAD_SIZES: Final[tuple[int, ...]] = tuple(size + (knob in KEEP_KNOBS) for knob, size in enumerate(GRID_SIZES))
"""Number of choices of each head."""
_EDGES: Final = np.cumsum((0, *HEAD_SIZES)).tolist()
HEAD_SLICES: Final = tuple(slice(low, high) for low, high in pairwise(_EDGES))
"""Columns of each head in a row of logits."""
KEEP_LOGITS: Final = tuple(_EDGES[knob + 1] - 1 for knob in KEEP_KNOBS)
"""Columns of the KEEP choices in a row of logits."""
_SPLIT_ON_LOGIT: Final = _EDGES[PREFILL_DECODE_SPLIT] + 1
MAX_CHOICES: Final = max(HEAD_SIZES)
"""Number of choices of the largest head."""
PADDED_COLUMNS: Final = np.concatenate([head * MAX_CHOICES + np.arange(size) for head, size in enumerate(HEAD_SIZES)])
"""Column of each logit in a row where every head is padded to `MAX_CHOICES`."""
INPUT_CLIP: Final = 5.0
"""Normalised inputs are clipped to this many standard deviations."""
MASKED_LOGIT: Final = np.float32(-1e9)
"""Logit of a masked choice."""
ACTOR_LAYERS: Final = ("0", "1", "2")
"""Names of the actor's layers in a checkpoint: ``actor.0.weight`` [out, in], ``actor.0.bias`` [out], and so on."""
_VECTOR: Final = observation_names("extended")
_TIER_COLUMNS: Final = [_VECTOR.index(name) for name in ("tier_fp16", "tier_int8", "tier_int4")]
_SPLIT_COLUMN: Final = _VECTOR.index("split")
_TINY: Final = np.float32(1e-30)


@dataclass(frozen=True, eq=False)
class MLPPolicy:
    """An actor with its input normaliser; all arrays are float32."""

    mean: Singles
    """[inputs]"""
    std: Singles
    """[inputs]"""
    layers: tuple[tuple[Singles, Singles], ...]
    """(weight [out, in], bias [out]) of each layer."""
    can_split: bool
    """Whether the deployment can split; if not, the choice is masked."""

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Singles], *, can_split: bool) -> MLPPolicy:
        """Return the policy of a checkpoint's tensors; raises `InvalidInputError` that names a tensor which does not fit."""
        names = ["normalizer.mean", "normalizer.std"]
        names += [f"actor.{layer}.{part}" for layer in ACTOR_LAYERS for part in ("weight", "bias")]
        for name in names:
            if name not in tensors:
                raise InvalidInputError(name, "must be in the checkpoint")
            if tensors[name].dtype != np.float32 or not np.isfinite(tensors[name]).all():
                raise InvalidInputError(name, "must be finite float32 numbers", got=str(tensors[name].dtype))
        layers = tuple((tensors[f"actor.{i}.weight"], tensors[f"actor.{i}.bias"]) for i in ACTOR_LAYERS)
        width = len(FEATURES)
        for layer, (weight, bias) in zip(ACTOR_LAYERS, layers, strict=True):
            if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
                raise InvalidInputError(f"actor.{layer}.weight", f"must have {width} columns", got=weight.shape)
            width = weight.shape[0]
        if width != sum(HEAD_SIZES):
            raise InvalidInputError(f"actor.{ACTOR_LAYERS[-1]}.weight", f"must have {sum(HEAD_SIZES)} rows", got=width)
        mean, std = tensors[names[0]], tensors[names[1]]
        if mean.shape != (len(FEATURES),) or std.shape != mean.shape or (std <= 0).any():
            raise InvalidInputError("normalizer", f"must be {len(FEATURES)} means and positive deviations")
        return cls(mean, std, layers, can_split)

    def logits(self, inputs: Singles) -> Singles:
        """Return float32[n, sum(HEAD_SIZES)] for inputs float32[n, len(FEATURES)]; masked choices get logit -1e9."""
        x: Singles = np.clip((inputs - self.mean) / self.std, -INPUT_CLIP, INPUT_CLIP)
        for weight, bias in self.layers[:-1]:
            x = np.tanh(x @ weight.T + bias)
        weight, bias = self.layers[-1]
        return mask_logits(x @ weight.T + bias, inputs, can_split=self.can_split)

    def act(self, inputs: Singles) -> Ints:
        """Return int64[n, 6] grid indices of the likeliest choice of every head."""
        return to_grid(_pad(self.logits(inputs)).argmax(axis=2), inputs)

    def sample(self, inputs: Singles, rng: np.random.Generator) -> tuple[Ints, Singles]:
        """Return sampled actions int64[n, 6], which may be KEEP, and their log-probabilities float32[n, 6] per head."""
        logits = self.logits(inputs)
        # The largest of logits with Gumbel noise is a sample of their softmax (Gumbel 1954; Maddison et al., 2014).
        noise = -np.log(np.maximum(rng.standard_exponential(logits.shape, dtype=np.float32), _TINY))
        actions = _pad(logits + noise).argmax(axis=2)
        padded = _pad(logits)
        padded -= padded.max(axis=2, keepdims=True)
        chosen = np.take_along_axis(padded, actions[:, :, None], axis=2)[:, :, 0]
        logprobs: Singles = chosen - np.log(np.exp(padded).sum(axis=2))
        return actions, logprobs


def _pad(logits: Singles) -> Singles:
    """Return float32[n, heads, MAX_CHOICES]: each head's logits in a row of its own, filled up with `MASKED_LOGIT`."""
    padded = np.full((len(logits), len(HEAD_SIZES) * MAX_CHOICES), MASKED_LOGIT)
    padded[:, PADDED_COLUMNS] = logits
    return padded.reshape(len(logits), len(HEAD_SIZES), MAX_CHOICES)


def mask_logits(logits: Singles, inputs: Singles, *, can_split: bool) -> Singles:
    """Return the logits with impossible choices masked: a split of one replica, KEEP before the first action."""
    logits = logits.copy()
    if not can_split:
        logits[:, _SPLIT_ON_LOGIT] = MASKED_LOGIT
    unconfigured = ~is_configured(inputs)
    for column in KEEP_LOGITS:
        logits[unconfigured, column] = MASKED_LOGIT
    return logits


def is_configured(inputs: Singles) -> NDArray[np.bool_]:
    """Return bool[n]: whether a configuration is in force, as it is after the first action of an episode."""
    result: NDArray[np.bool_] = inputs[:, _TIER_COLUMNS].sum(axis=1) > 0.5
    return result


def configuration_in_force(inputs: Singles) -> Ints:
    """Return int64[n, 6]: the grid indices of the tier and the split in force, and 0 for the other knobs."""
    indices = np.zeros((len(inputs), len(GRID_SIZES)), dtype=np.int64)
    indices[:, QUANTIZATION_TIER] = inputs[:, _TIER_COLUMNS].argmax(axis=1)
    indices[:, PREFILL_DECODE_SPLIT] = inputs[:, _SPLIT_COLUMN] > 0.5
    return indices


def to_grid(actions: Ints, inputs: Singles) -> Ints:
    """Return the grid indices int64[n, 6] of actions; KEEP becomes what is in force."""
    in_force = configuration_in_force(inputs)
    indices = actions.copy()
    for knob in KEEP_KNOBS:
        indices[:, knob] = np.where(actions[:, knob] == GRID_SIZES[knob], in_force[:, knob], actions[:, knob])
    return indices
