"""The learned agent's network, forward only, in numpy: what acting needs, in every process, without torch.

    inputs -> (x - mean) / std, clipped -> tanh layer -> tanh layer -> one row of logits for all heads

A head per knob of the action grid, in its order. The heads of the knobs whose change costs seconds (tier, split) have one more
choice, KEEP: leave what is in force. It knows nothing about files, tasks or training.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from llmserve_agents.learning.features import FEATURES
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.grid import ACTION_GRID, GRID_SIZES
from llmserve_sim.metrics import observation_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Singles = NDArray[np.float32]

__all__ = [
    "ACTOR_LAYERS",
    "CLIP",
    "HEADS",
    "HEAD_SLICES",
    "KEEP_KNOBS",
    "KEEP_LOGITS",
    "PLACES",
    "WIDEST",
    "MLPPolicy",
    "in_force",
    "masked",
    "standing",
    "to_grid",
]

_NAMES: Final = list(ACTION_GRID)
TIER: Final = _NAMES.index("quantization_tier")
SPLIT: Final = _NAMES.index("prefill_decode_split")
KEEP_KNOBS: Final = (TIER, SPLIT)
"""Knobs whose head has the choice KEEP, as its last one."""
HEADS: Final[tuple[int, ...]] = tuple(size + (knob in KEEP_KNOBS) for knob, size in enumerate(GRID_SIZES))
"""Choices of each head."""
_EDGES: Final = np.cumsum((0, *HEADS)).tolist()
HEAD_SLICES: Final = tuple(slice(low, high) for low, high in pairwise(_EDGES))
"""Where each head's logits stand."""
KEEP_LOGITS: Final = tuple(_EDGES[knob + 1] - 1 for knob in KEEP_KNOBS)
"""Where the logits of KEEP stand."""
_SPLIT_ON: Final = _EDGES[SPLIT] + 1
WIDEST: Final = max(HEADS)
"""Choices of the head with the most."""
PLACES: Final = np.concatenate([head * WIDEST + np.arange(size) for head, size in enumerate(HEADS)])
"""Where each logit stands in a table of heads that are all as wide as the widest."""
CLIP: Final = 5.0
"""Normalised inputs are cut off at this many standard deviations."""
ACTOR_LAYERS: Final = ("0", "1", "2")
"""Names of the actor's layers in a checkpoint: ``actor.0.weight`` [out, in], ``actor.0.bias`` [out], and so on."""
_VECTOR: Final = observation_names("extended")
_TIERS: Final = [_VECTOR.index(name) for name in ("tier_fp16", "tier_int8", "tier_int4")]
_SPLIT_FLAG: Final = _VECTOR.index("split")
_TINY: Final = np.float32(1e-30)
_NEVER: Final = np.float32(-1e9)
"""Logit of a choice that there is not."""


@dataclass(frozen=True, eq=False)
class MLPPolicy:
    """An actor with its frozen input normaliser; all arrays are float32."""

    mean: Singles
    """[inputs]"""
    std: Singles
    """[inputs]"""
    layers: tuple[tuple[Singles, Singles], ...]
    """(weight [out, in], bias [out]) of each layer."""
    can_split: bool
    """Whether the deployment can split; where it cannot, the choice is masked."""

    @classmethod
    def of(cls, tensors: Mapping[str, Singles], *, can_split: bool) -> MLPPolicy:
        """Return the policy that a checkpoint's tensors make; raises `InvalidInputError` naming a tensor that does not fit."""
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
        if width != sum(HEADS):
            raise InvalidInputError(f"actor.{ACTOR_LAYERS[-1]}.weight", f"must have {sum(HEADS)} rows", got=width)
        mean, std = tensors[names[0]], tensors[names[1]]
        if mean.shape != (len(FEATURES),) or std.shape != mean.shape or (std <= 0).any():
            raise InvalidInputError("normalizer", f"must be {len(FEATURES)} means and positive deviations")
        return cls(mean, std, layers, can_split)

    def logits(self, inputs: Singles) -> Singles:
        """Return float32[n, sum(HEADS)] of inputs float32[n, len(FEATURES)]; choices that there are not have none to speak of."""
        x: Singles = np.clip((inputs - self.mean) / self.std, -CLIP, CLIP)
        for weight, bias in self.layers[:-1]:
            x = np.tanh(x @ weight.T + bias)
        weight, bias = self.layers[-1]
        return masked(x @ weight.T + bias, inputs, can_split=self.can_split)

    def act(self, inputs: Singles) -> Ints:
        """Return int64[n, 6] grid indices of the likeliest choice of every head."""
        return to_grid(_table(self.logits(inputs)).argmax(axis=2), inputs)

    def sample(self, inputs: Singles, rng: np.random.Generator) -> tuple[Ints, Singles]:
        """Return choices int64[n, 6] drawn from the heads, KEEP included, and their log-probabilities float32[n, 6]."""
        logits = self.logits(inputs)
        # The largest of logits with Gumbel noise is a draw from their softmax (Gumbel 1954; Maddison et al., 2014).
        noise = -np.log(np.maximum(rng.standard_exponential(logits.shape, dtype=np.float32), _TINY))
        choices = _table(logits + noise).argmax(axis=2)
        table = _table(logits)
        table -= table.max(axis=2, keepdims=True)
        chosen = np.take_along_axis(table, choices[:, :, None], axis=2)[:, :, 0]
        logp: Singles = chosen - np.log(np.exp(table).sum(axis=2))
        return choices, logp


def _table(logits: Singles) -> Singles:
    """Return float32[n, heads, widest]: the logits of each head in a row of its own, filled up with choices that there are not."""
    table = np.full((len(logits), len(HEADS) * WIDEST), _NEVER)
    table[:, PLACES] = logits
    return table.reshape(len(logits), len(HEADS), WIDEST)


def masked(logits: Singles, inputs: Singles, *, can_split: bool) -> Singles:
    """Return the logits without the choices that there are not: a split of one replica, KEEP before anything is in force."""
    logits = logits.copy()
    if not can_split:
        logits[:, _SPLIT_ON] = _NEVER
    nothing = ~in_force(inputs)
    for column in KEEP_LOGITS:
        logits[nothing, column] = _NEVER
    return logits


def in_force(inputs: Singles) -> NDArray[np.bool_]:
    """Return bool[n]: whether a configuration is in force, which is so after the first step."""
    result: NDArray[np.bool_] = inputs[:, _TIERS].sum(axis=1) > 0.5
    return result


def standing(inputs: Singles) -> Ints:
    """Return grid indices int64[n, 6] with the tier and the split in force in their places, and 0 in the others."""
    indices = np.zeros((len(inputs), len(GRID_SIZES)), dtype=np.int64)
    indices[:, TIER] = inputs[:, _TIERS].argmax(axis=1)
    indices[:, SPLIT] = inputs[:, _SPLIT_FLAG] > 0.5
    return indices


def to_grid(choices: Ints, inputs: Singles) -> Ints:
    """Return grid indices int64[n, 6] of choices, with what is in force in place of KEEP."""
    kept = standing(inputs)
    indices = choices.copy()
    for knob in KEEP_KNOBS:
        indices[:, knob] = np.where(choices[:, knob] == GRID_SIZES[knob], kept[:, knob], choices[:, knob])
    return indices
