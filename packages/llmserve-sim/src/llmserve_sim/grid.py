"""The discrete action grid: 10 caps, 13 KV fractions, 9 depths, 3 tiers, split, priority: 14,040 actions.

Agents with discrete heads and Gymnasium's `MultiDiscrete` space choose indices; this module turns them into
`ServeAction` and back. It depends on the schema's bounds only. A deployment with a single replica cannot split prefill
and decode: `action_grid` and `grid_sizes` give what such a deployment leaves, with the same indices.
"""

from __future__ import annotations

from functools import lru_cache
from operator import index
from typing import TYPE_CHECKING, Final

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import ACTION_FIELDS, QUANTIZATION_TIERS, ServeAction, plain_scalar

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "ACTION_GRID",
    "BATCH_CAP",
    "GRID_INDEX",
    "GRID_SIZES",
    "KV_BUDGET_FRACTION",
    "PREFILL_DECODE_SPLIT",
    "PRIORITY_ROUTING",
    "QUANTIZATION_TIER",
    "SPECULATION_DEPTH",
    "action_grid",
    "from_indices",
    "grid_sizes",
    "to_indices",
]

_DEPTH_HIGH: Final = int(ACTION_FIELDS["speculation_depth"].high or 0)

ACTION_GRID: Final[dict[str, tuple[int | float | str | bool, ...]]] = {
    "batch_cap": (4, 8, 16, 32, 64, 96, 128, 192, 256, 512),
    "kv_budget_fraction": tuple(round(0.1 + 0.075 * i, 3) for i in range(13)),
    "speculation_depth": tuple(range(_DEPTH_HIGH + 1)),
    "quantization_tier": QUANTIZATION_TIERS,
    "prefill_decode_split": (False, True),
    "priority_routing": (False, True),
}
"""The choices of each field, in the order of `ServeAction`."""

GRID_SIZES: Final[tuple[int, ...]] = tuple(len(choices) for choices in ACTION_GRID.values())
"""Number of choices per field: Gymnasium's `nvec`."""

GRID_INDEX: Final[dict[str, int]] = {name: position for position, name in enumerate(ACTION_GRID)}
"""Position of each field in a row of grid indices, by the field's name."""
BATCH_CAP: Final = GRID_INDEX["batch_cap"]
KV_BUDGET_FRACTION: Final = GRID_INDEX["kv_budget_fraction"]
SPECULATION_DEPTH: Final = GRID_INDEX["speculation_depth"]
QUANTIZATION_TIER: Final = GRID_INDEX["quantization_tier"]
PREFILL_DECODE_SPLIT: Final = GRID_INDEX["prefill_decode_split"]
PRIORITY_ROUTING: Final = GRID_INDEX["priority_routing"]


def action_grid(*, can_split: bool) -> dict[str, tuple[int | float | str | bool, ...]]:
    """Return the choices of each field on a deployment; `can_split`: whether it allows `prefill_decode_split`."""
    return dict(ACTION_GRID) if can_split else {**ACTION_GRID, "prefill_decode_split": (False,)}


def grid_sizes(*, can_split: bool) -> tuple[int, ...]:
    """Return the number of choices per field on a deployment, as `action_grid` has them."""
    return tuple(len(choices) for choices in action_grid(can_split=can_split).values())


def from_indices(indices: Sequence[int]) -> ServeAction:
    """Return the action at `indices` (one per field); raises `InvalidInputError` for a wrong count or index."""
    try:
        key = tuple(index(i) for i in indices)
    except TypeError:  # numpy's bools stand for 0 and 1, as Python's do
        key = _plain(indices)
    return _at(key)


def _plain(indices: object) -> tuple[int, ...]:
    try:
        return tuple(index(plain_scalar(i)) for i in indices)  # type: ignore[attr-defined,arg-type] # hence the TypeError
    except TypeError:
        raise InvalidInputError("action", f"must be {len(GRID_SIZES)} integers", got=indices) from None


@lru_cache(maxsize=16384)
def _at(key: tuple[int, ...]) -> ServeAction:
    if len(key) != len(GRID_SIZES):
        raise InvalidInputError("action", f"must be {len(GRID_SIZES)} integers", got=key)
    chosen: dict[str, object] = {}
    for (name, choices), i in zip(ACTION_GRID.items(), key, strict=True):
        if not 0 <= i < len(choices):
            raise InvalidInputError(name, f"index must be in 0..{len(choices) - 1}", got=i)
        chosen[name] = choices[i]
    return ServeAction.model_validate(chosen)


def to_indices(action: ServeAction) -> tuple[int, ...]:
    """Return the grid indices of an action; raises `InvalidInputError` for a value that is not on the grid."""
    found = []
    for name, choices in ACTION_GRID.items():
        value = getattr(action, name)
        if value not in choices:
            raise InvalidInputError(name, f"must be on the grid {choices}", got=value)
        found.append(choices.index(value))
    return tuple(found)
