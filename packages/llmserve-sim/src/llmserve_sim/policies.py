"""Three simple policies for examples and tests: random, static and a threshold heuristic.

A policy has `reset(task_id, seed)` and `act(observation)`; it sees observations only. Serious agents live in
llmserve-agents; these need no training, no history and no numpy.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final, Protocol, runtime_checkable

from llmserve_sim.bounds import Between, Checked
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.grid import GRID_SIZES, from_indices, grid_sizes
from llmserve_sim.schema import ServeAction

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmserve_sim.schema import ServeObservation

__all__ = [
    "POLICIES",
    "DeploymentPolicy",
    "Policy",
    "RandomPolicy",
    "StaticPolicy",
    "ThresholdPolicy",
    "constrain",
    "make_policy",
]


class Policy(Protocol):
    """Anything that answers an observation with an action."""

    def reset(self, task_id: str, seed: int) -> None:
        """Forget the previous episode."""
        ...

    def act(self, observation: ServeObservation) -> ServeAction:
        """Return the configuration of the next window."""
        ...


@runtime_checkable
class DeploymentPolicy(Policy, Protocol):
    """A policy that chooses only what the deployment allows, once it has been told."""

    def constrain(self, *, can_split: bool) -> None:
        """Choose `prefill_decode_split` in this episode only if `can_split`; called after `reset`."""
        ...


def constrain(policy: Policy, *, can_split: bool) -> None:
    """Tell a policy that has just been reset what the deployment allows, if the policy can follow it."""
    if isinstance(policy, DeploymentPolicy):
        policy.constrain(can_split=can_split)


@dataclass(slots=True)
class RandomPolicy:
    """Uniform over the discrete grid, from a stream that the episode's seed determines."""

    _rng: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311 - a policy, not a secret
    _sizes: tuple[int, ...] = GRID_SIZES

    def reset(self, task_id: str, seed: int) -> None:
        """Start the stream of `seed`, over the whole grid."""
        self._sizes = GRID_SIZES
        self._rng = random.Random(f"random policy {task_id} {seed}")  # noqa: S311 - as above

    def constrain(self, *, can_split: bool) -> None:
        """Draw from the actions that the deployment allows."""
        self._sizes = grid_sizes(can_split=can_split)

    def act(self, observation: ServeObservation) -> ServeAction:
        """Return any of the grid's actions."""
        # Only random() is promised to give the same values in every Python version.
        return from_indices([int(self._rng.random() * n) for n in self._sizes])


@dataclass(slots=True)
class StaticPolicy(Checked):
    """One fixed configuration; the default is that of a vLLM-like deployment."""

    action: ServeAction = field(default_factory=lambda: ServeAction(batch_cap=256, kv_budget_fraction=0.9))

    def reset(self, task_id: str, seed: int) -> None:
        """Nothing to forget."""

    def act(self, observation: ServeObservation) -> ServeAction:
        """Return the fixed configuration."""
        return self.action


@dataclass(slots=True)
class ThresholdPolicy(Checked):
    """Simple rules; each reads the last window and moves one knob.

    The cap grows while requests queue and shrinks while decoding is slow; the KV budget backs off after evictions and
    grows while it is nearly full; the draft is deep when few requests run and off when many do. The weights stay
    INT8 and priority requests go first: a swap costs seconds, so it is not done on a threshold.
    """

    slow_itl_ms: Annotated[float, Between(0, 1e6, "ms")] = 25.0
    """Decoding slower than this shrinks the cap."""
    _cap: int = 128
    _kv: float = 0.7

    def reset(self, task_id: str, seed: int) -> None:
        """Return to the initial configuration."""
        self._cap, self._kv = 128, 0.7

    def act(self, observation: ServeObservation) -> ServeAction:
        """Return the next window's configuration."""
        if observation.p50_itl_ms > self.slow_itl_ms:
            self._cap = max(16, self._cap * 3 // 4)
        elif observation.queue_depth > 4:
            self._cap = min(512, self._cap * 2)
        if observation.eviction_events > 0:
            self._kv = max(0.2, round(self._kv - 0.1, 1))
        elif observation.kv_cache_occupancy > 0.85:
            self._kv = min(1.0, round(self._kv + 0.1, 1))
        running = observation.active_requests
        return ServeAction(
            batch_cap=self._cap,
            kv_budget_fraction=self._kv,
            speculation_depth=4 if running < 16 else 2 if running < 48 else 0,
            quantization_tier="INT8",
            priority_routing=True,
        )


POLICIES: Final[dict[str, Callable[[], Policy]]] = {
    "random": RandomPolicy,
    "static": StaticPolicy,
    "threshold": ThresholdPolicy,
}
"""Policies by the name that the command line uses."""


def make_policy(name: str) -> Policy:
    """Return a new policy; raises `InvalidInputError` for a name that is not in `POLICIES`."""
    try:
        return POLICIES[name]()
    except KeyError:
        raise InvalidInputError("policy", "must be one of " + ", ".join(POLICIES), got=name) from None
