"""From a `ServeAction` to the engine's `WindowPlan`, and the memory that the configuration takes.

A `Configurator` holds what is the same in all episodes (fleet, targets, memory model, price). `apply` is a pure
function of the action, the configuration in force and the window. The module knows nothing about requests.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmserve_sim.arithmetic import SCALAR, Arithmetic
from llmserve_sim.bounds import Between, Checked, Column
from llmserve_sim.engine.interface import DEPTHS, FP, PS_PER_S, TENANTS, Slo, WindowPlan
from llmserve_sim.engine.kernel.engine import check_fleet
from llmserve_sim.engine.units import MAX_PRODUCT
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.hardware import Deployment, get_deployment
from llmserve_sim.memory import MemoryModel, MemoryRequirement
from llmserve_sim.metrics import WindowFacts
from llmserve_sim.performance.quantization import TIERS, WEIGHT_FORMATS
from llmserve_sim.performance.speculation import DRAFT_DECAY
from llmserve_sim.performance.tables import build_fleet
from llmserve_sim.workload.scenario import MAX_WINDOW_PS, MAX_WINDOWS, Scenario

if TYPE_CHECKING:
    from llmserve_sim.engine import FleetSpec
    from llmserve_sim.schema import ServeAction
    from llmserve_sim.tasks import Task

__all__ = ["TIER_INDEX", "Allocation", "Configurator", "EpisodeConditions", "Requirement", "Setting", "tokens_per_step"]

_BYTES_PER_GB: Final = 1e9
TIER_INDEX: Final = {name: index for index, name in enumerate(TIERS)}
_LOSSES: Final = np.array([WEIGHT_FORMATS[name].quality_loss for name in TIERS])


@dataclass(frozen=True, slots=True)
class Setting:
    """An action as one window's engine plan, with the facts that the environment itself knows about the window."""

    action: ServeAction
    plan: WindowPlan
    facts: WindowFacts
    quality: tuple[float, ...]
    """Quality factor 1 - stake x loss of each tenant class under the action's tier."""
    wanted_blocks: int
    """KV blocks per replica that the action asks for, before the co-tenant's share is taken off."""
    stall_ps: int
    """Time of a reconfiguration's stall that is left when the window ends."""


class Requirement(NamedTuple):
    """The GPU memory that a configuration asks for."""

    memory: MemoryRequirement
    reserved_gb: float
    """Weights, draft and activations, per GPU."""
    half_blocks: int
    """Cached blocks at which half of all prefixes are hit."""


class Allocation(NamedTuple):
    """The GPU memory that a configuration gets; GB are per GPU."""

    wanted_blocks: int
    pool_blocks: int
    half_blocks: int
    """Cached blocks at which half of all prefixes are hit."""
    reserved_gb: float
    pool_gb: float
    cotenant_gb: float
    pressure: float
    """Memory demand above the shared cap, as a share of usable memory, at most 1."""


@dataclass(frozen=True, eq=False)
class EpisodeConditions(Checked):
    """A scenario's conditions in each window, in the engine's units; they do not depend on actions."""

    windows: Annotated[int, Between(1, MAX_WINDOWS, "windows")]
    window_ps: Annotated[int, Between(1, MAX_WINDOW_PS, "ps")]
    cotenant_bytes: tuple[Annotated[int, Between(0, 1 << 50, "bytes")], ...]
    """[windows] bytes per GPU that the co-tenant wants."""
    tokens_per_step: Annotated[
        NDArray[np.int64], Column(Between(FP, DEPTHS * FP, "1/256 token"), inner=(TENANTS, DEPTHS))
    ]
    """[windows, tenant class, depth] fixed-point tokens per step."""
    quality: Annotated[NDArray[np.float64], Column(Between(0, 1), dtype=np.float64, inner=(len(TIERS), TENANTS))]
    """[windows, tier, tenant class] factors."""

    def _relations(self) -> None:
        if self.windows * self.window_ps > MAX_PRODUCT:
            self._refuse("window_ps", f"must let {self.windows} windows last at most {MAX_PRODUCT} ps")
        for name in ("cotenant_bytes", "tokens_per_step", "quality"):
            if len(getattr(self, name)) != self.windows:
                self._refuse(name, f"must have an entry for each of the {self.windows} windows")

    @classmethod
    def of(cls, scenario: Scenario) -> EpisodeConditions:
        """Return a scenario's conditions; raises `InvalidInputError` for quality stakes that make a factor negative."""
        quality = 1.0 - scenario.quality_stake[:, None, :] * _LOSSES[:, None]
        if quality.min() < 0.0:
            raise InvalidInputError("quality_stake", f"must be at most {1.0 / _LOSSES.max():g}")
        return cls(
            scenario.windows,
            scenario.window_ps,
            tuple(scenario.cotenant_bytes.tolist()),
            tokens_per_step(scenario.acceptance),
            quality,
        )


class Configurator:
    """A task on a deployment: everything that is the same in all its episodes."""

    def __init__(self, task: Task, deployment: Deployment) -> None:
        self.task = task
        self.deployment = deployment
        self.memory = MemoryModel(deployment, task.max_len_tokens)
        self.fleet: FleetSpec = build_fleet(
            deployment,
            max_len=task.max_len_tokens,
            max_unfinished=task.max_unfinished,
            patience_s=task.patience_s,
        )
        check_fleet(self.fleet)
        self.slo = _slo(task)
        cache = task.prefix_cache
        self.hit_q10 = 0 if cache is None else round(cache.hit_share * 1024)
        self.usd_per_s = deployment.usd_per_hour / 3600.0
        self.digest = task.digest
        """SHA-256 (hex) of the task and, if it is not the task's own preset, of the deployment."""
        if deployment != get_deployment(task.deployment):
            self.digest = hashlib.sha256(f"{task.digest} {deployment!r}".encode()).hexdigest()
        self.requirement = lru_cache(maxsize=4096)(self._requirement)
        """Return the `Requirement` of (tier index, KV fraction, whether draft tokens are proposed)."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle task and deployment only; unpickling returns the process's shared configurator for them."""
        return _build, (self.task, self.deployment)

    @staticmethod
    def build(task: Task, deployment: str | Deployment | None) -> Configurator:
        """Return the configurator of a task on its own deployment or on another one; it is made once and shared.

        Raises `InvalidInputError` for an unknown deployment, or for one whose memory is too small for the task.
        """
        name = task.deployment if deployment is None else deployment
        if not isinstance(name, str | Deployment):
            raise InvalidInputError("deployment", "must be a preset's name or a Deployment", got=name)
        return _build(task, name if isinstance(name, Deployment) else get_deployment(name))

    def check(self, action: ServeAction) -> None:
        """Raise `InvalidInputError` for an action that this deployment cannot carry out."""
        if action.prefill_decode_split:
            self.check_split()
        self.memory.check(action.quantization_tier)

    def check_split(self) -> None:
        """Raise `InvalidInputError` if the deployment cannot split prefill and decode."""
        if not self.deployment.can_split:
            raise InvalidInputError(
                "prefill_decode_split",
                f"must be false: {self.deployment.name} has a single replica, which cannot prefill and decode apart",
            )

    def apply(self, action: ServeAction, before: Setting | None, conditions: EpisodeConditions, window: int) -> Setting:
        """Return the setting of `action` in the window with this index; `before` is the previous window's setting.

        Raises `InvalidInputError` for an action that this deployment cannot carry out.
        """
        self.check(action)
        tier = TIER_INDEX[action.quantization_tier]
        requirement = self.requirement(tier, action.kv_budget_fraction, action.speculation_depth > 0)
        allocation = self.allocate(SCALAR, requirement, conditions.cotenant_bytes[window])
        resized, stall_ps = False, 0
        if before is not None:
            last = before.plan
            resized, stall_ps = self.transition(
                SCALAR,
                swapped=tier != last.tier,
                swap_ps=self.fleet.swap_ps[tier],
                moved=action.prefill_decode_split != last.split,
                pool_changed=before.wanted_blocks != allocation.wanted_blocks,
                stall_ps=before.stall_ps,
                window_ps=conditions.window_ps,
            )
        # The action, the conditions and the memory model keep to the plan's bounds.
        plan = WindowPlan.unchecked(
            end_ps=(window + 1) * conditions.window_ps,
            batch_cap=action.batch_cap,
            depth=action.speculation_depth,
            tier=tier,
            split=action.prefill_decode_split,
            priority=action.priority_routing,
            pool_blocks=allocation.pool_blocks,
            resized=resized,
            tokens_per_step=tuple(map(tuple, conditions.tokens_per_step[window].tolist())),
            hit_q10=self.hit_q10,
            hit_half_blocks=allocation.half_blocks,
        )
        facts = WindowFacts(
            batch_cap=action.batch_cap,
            kv_budget_fraction=action.kv_budget_fraction,
            speculation_depth=action.speculation_depth,
            tier=tier,
            split=action.prefill_decode_split,
            priority=action.priority_routing,
            reserved_gb=allocation.reserved_gb,
            pool_gb=allocation.pool_gb,
            cotenant_gb=allocation.cotenant_gb,
            memory_pressure=allocation.pressure,
            stall_s=stall_ps / PS_PER_S,
        )
        quality = tuple(conditions.quality[window, tier].tolist())
        return Setting(action, plan, facts, quality, allocation.wanted_blocks, stall_ps)

    def cotenant_gb(self, conditions: EpisodeConditions) -> float:
        """Return the co-tenant's demand per GPU when the episode begins, GB."""
        return conditions.cotenant_bytes[0] / _BYTES_PER_GB

    def allocate(self, arithmetic: Arithmetic, requirement: Requirement, cotenant_bytes: Any) -> Allocation:
        """Return the memory that a requirement gets beside the co-tenant; with `ARRAYS`, one per environment."""
        grant = self.memory.share(arithmetic, requirement.memory, cotenant_bytes, self.task.memory_cap_share)
        return Allocation(
            wanted_blocks=requirement.memory.wanted_blocks,
            pool_blocks=grant.pool_blocks,
            half_blocks=requirement.half_blocks,
            reserved_gb=requirement.reserved_gb,
            pool_gb=grant.pool_bytes / _BYTES_PER_GB,
            cotenant_gb=cotenant_bytes / _BYTES_PER_GB,
            # A co-tenant may demand more than the GPU holds; pressure is a share of its memory.
            pressure=arithmetic.at_most(grant.pressure, 1.0),
        )

    def transition(
        self,
        arithmetic: Arithmetic,
        *,
        swapped: Any,
        swap_ps: Any,
        moved: Any,
        pool_changed: Any,
        stall_ps: Any,
        window_ps: int,
    ) -> tuple[Any, Any]:
        """Return whether the pool is resized, and the stall (ps) that is left when the window ends.

        `swapped`, `moved`, `pool_changed` say whether tier, replica roles and wanted pool differ from the previous
        window; `stall_ps` is the stall that the previous window left. A swap of tiers makes a new pool, so its stall
        covers the resize. Stalls add up, as in the engine: a new reconfiguration begins when the running one has ended.
        """
        choose = arithmetic.choose
        resized = choose(swapped, False, pool_changed)
        anew = choose(swapped, swap_ps, 0) + choose(moved, self.fleet.split_ps, 0)
        stall = stall_ps + anew + choose(resized, self.fleet.resize_ps, 0)
        return resized, arithmetic.at_least(stall - window_ps, 0)

    def _requirement(self, tier: int, fraction: float, speculating: bool) -> Requirement:
        memory = self.memory.requirement(TIERS[tier], fraction, speculating=speculating)
        cache = self.task.prefix_cache
        half = 1 if cache is None else max(1, round(cache.half_gb * _BYTES_PER_GB / memory.block_bytes))
        return Requirement(memory, memory.reserved_bytes / _BYTES_PER_GB, half)


@lru_cache(maxsize=64)
def _build(task: Task, deployment: Deployment) -> Configurator:
    return Configurator(task, deployment)


def tokens_per_step(acceptance: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return int64[windows, class, depth]: fixed-point tokens per step at depths 0..8.

    `acceptance` is float64[windows, class]. The numbers are those of `performance.speculation.tokens_per_step`, for all
    windows at once.
    """
    # Multiply and add in the order of the scalar function, so that the results agree to the last bit.
    length = np.ones_like(acceptance)
    survives = np.ones_like(acceptance)
    steps = [length]
    for position in range(DEPTHS - 1):
        survives = survives * (acceptance * DRAFT_DECAY**position)
        length = length + survives
        steps.append(length)
    fixed: NDArray[np.int64] = np.rint(np.stack(steps, axis=-1) * FP).astype(np.int64)
    return fixed


def _slo(task: Task) -> Slo:
    classes = (task.slo.priority, task.slo.standard)
    return Slo(
        ttft_ps=(round(classes[0].ttft_s * PS_PER_S), round(classes[1].ttft_s * PS_PER_S)),
        ttft_ps_per_prompt_token=round(PS_PER_S / task.slo.ttft_prompt_tokens_per_s),
        tpot_ps=(round(classes[0].tpot_ms * PS_PER_S / 1000), round(classes[1].tpot_ms * PS_PER_S / 1000)),
    )
