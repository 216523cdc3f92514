"""What an action means to the fleet: from a `ServeAction` to the engine's `WindowPlan`, and what memory it takes.

A `Configurator` holds what does not change between episodes (fleet, targets, memory model, price); `apply` is a pure
function of the action, the configuration in force and the window. It knows nothing about what requests do.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from llmserve_sim.arithmetic import SCALAR, Arithmetic
from llmserve_sim.engine.interface import DEPTHS, FP, PS_PER_S, Slo, WindowPlan
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.hardware import Deployment, get_deployment
from llmserve_sim.memory import MemoryModel, MemoryNeed
from llmserve_sim.metrics import WindowFacts
from llmserve_sim.performance.quantization import TIERS, WEIGHT_FORMATS
from llmserve_sim.performance.speculation import DRAFT_DECAY
from llmserve_sim.performance.tables import build_fleet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.engine import FleetSpec
    from llmserve_sim.schema import ServeAction
    from llmserve_sim.tasks import Task
    from llmserve_sim.workload.scenario import Scenario

__all__ = ["TIER_INDEX", "Claim", "Configurator", "Course", "Need", "Setting", "tokens_per_step"]

_BYTES_PER_GB: Final = 1e9
TIER_INDEX: Final = {name: index for index, name in enumerate(TIERS)}
_LOSSES: Final = np.array([WEIGHT_FORMATS[name].quality_loss for name in TIERS])


@dataclass(frozen=True, slots=True)
class Setting:
    """An action as one window's engine plan, with what the environment knows about it."""

    action: ServeAction
    plan: WindowPlan
    facts: WindowFacts
    quality: tuple[float, ...]
    """Quality factor 1 - stake x loss of each tenant class under the action's tier."""
    wanted_blocks: int
    """KV blocks per replica that the action asks for, before the co-tenant takes its share."""
    stall_ps: int
    """What is left of a reconfiguration's stall when the window ends."""


class Need(NamedTuple):
    """What a configuration asks of the GPUs' memory."""

    memory: MemoryNeed
    reserved_gb: float
    """Per GPU."""
    half_blocks: int
    """Cached blocks at which half of all prefixes are hit."""


class Claim(NamedTuple):
    """What a configuration gets of the GPUs' memory; GB are per GPU."""

    wanted_blocks: int
    pool_blocks: int
    half_blocks: int
    """Cached blocks at which half of all prefixes are hit."""
    reserved_gb: float
    pool_gb: float
    cotenant_gb: float
    pressure: float


@dataclass(frozen=True, eq=False)
class Course:
    """A scenario as the windows need it: what each of them brings, whatever the action."""

    windows: int
    window_ps: int
    cotenant_bytes: list[int]
    tokens_per_step: NDArray[np.int64]
    """[windows, tenant class, depth] fixed-point tokens per step."""
    quality: NDArray[np.float64]
    """[windows, tier, tenant class] factors."""

    @classmethod
    def of(cls, scenario: Scenario) -> Course:
        """Return the course of a scenario; raises `InvalidInputError` for stakes that make an answer's value negative."""
        quality = 1.0 - scenario.quality_stake[:, None, :] * _LOSSES[:, None]
        if quality.size and quality.min() < 0.0:
            raise InvalidInputError("quality_stake", f"must be at most {1.0 / _LOSSES.max():g}")
        return cls(
            scenario.windows,
            scenario.window_ps,
            scenario.cotenant_bytes.tolist(),
            tokens_per_step(scenario.acceptance),
            quality,
        )


class Configurator:
    """A task on a deployment: everything that is the same in all of its episodes."""

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
        self.slo = _slo(task)
        cache = task.prefix_cache
        self.hit_q10 = 0 if cache is None else round(cache.hit_share * 1024)
        self.usd_per_s = deployment.usd_per_hour / 3600.0
        self.digest = task.digest
        """SHA-256 (hex) of the task and, where it is not the task's own preset, of the deployment."""
        if deployment != get_deployment(task.deployment):
            self.digest = hashlib.sha256(f"{task.digest} {deployment!r}".encode()).hexdigest()
        self.need = lru_cache(maxsize=4096)(self._memory_need)
        """Return the `Need` of a tier (index), a KV fraction and whether anything is drafted."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it is made of: the copy is made anew, or is the one that its process already shares."""
        return _build, (self.task, self.deployment)

    @staticmethod
    def build(task: Task, deployment: str | Deployment | None) -> Configurator:
        """Return the configurator of a task on its own deployment, or on another one; made once and shared.

        Raises `InvalidInputError` for an unknown deployment, or one that the task does not fit into.
        """
        name = task.deployment if deployment is None else deployment
        if not isinstance(name, str | Deployment):
            raise InvalidInputError("deployment", "must be a preset's name or a Deployment", got=name)
        return _build(task, name if isinstance(name, Deployment) else get_deployment(name))

    def check(self, action: ServeAction) -> None:
        """Raise `InvalidInputError` for an action that this deployment cannot carry out."""
        if action.prefill_decode_split and not self.deployment.can_split:
            raise InvalidInputError(
                "prefill_decode_split",
                f"must be false: {self.deployment.name} has a single replica, which cannot prefill and decode apart",
            )

    def apply(self, action: ServeAction, before: Setting | None, course: Course, window: int) -> Setting:
        """Return what `action` means in a window that follows the setting `before`.

        Raises `InvalidInputError` for an action that this deployment cannot carry out.
        """
        self.check(action)
        tier = TIER_INDEX[action.quantization_tier]
        claim = self.claim(tier, action.kv_budget_fraction, action.speculation_depth > 0, course.cotenant_bytes[window])
        resized, stall_ps = False, 0
        if before is not None:
            last = before.plan
            resized, stall_ps = self.transition(
                SCALAR,
                swapped=tier != last.tier,
                swap_ps=self.fleet.swap_ps[tier],
                moved=action.prefill_decode_split != last.split,
                pool_changed=before.wanted_blocks != claim.wanted_blocks,
                stall_ps=before.stall_ps,
                window_ps=course.window_ps,
            )
        plan = WindowPlan(
            end_ps=(window + 1) * course.window_ps,
            batch_cap=action.batch_cap,
            depth=action.speculation_depth,
            tier=tier,
            split=action.prefill_decode_split,
            priority=action.priority_routing,
            pool_blocks=claim.pool_blocks,
            resized=resized,
            tokens_per_step=tuple(map(tuple, course.tokens_per_step[window].tolist())),
            hit_q10=self.hit_q10,
            hit_half_blocks=claim.half_blocks,
        )
        facts = WindowFacts(
            batch_cap=action.batch_cap,
            kv_budget_fraction=action.kv_budget_fraction,
            speculation_depth=action.speculation_depth,
            tier=tier,
            split=action.prefill_decode_split,
            priority=action.priority_routing,
            reserved_gb=claim.reserved_gb,
            pool_gb=claim.pool_gb,
            cotenant_gb=claim.cotenant_gb,
            memory_pressure=claim.pressure,
            stall_s=stall_ps / PS_PER_S,
        )
        return Setting(action, plan, facts, tuple(course.quality[window, tier].tolist()), claim.wanted_blocks, stall_ps)

    def cotenant_gb(self, course: Course) -> float:
        """Return what the co-tenant demands per GPU as the episode begins."""
        return course.cotenant_bytes[0] / _BYTES_PER_GB

    def claim(self, tier: int, fraction: float, speculating: bool, cotenant_bytes: int) -> Claim:
        """Return what a configuration gets of the GPUs' memory beside the co-tenant's demand."""
        return self.claim_of(SCALAR, self.need(tier, fraction, speculating), cotenant_bytes)

    def claim_of(self, arithmetic: Arithmetic, need: Need, cotenant_bytes: Any) -> Claim:
        """Return what a need gets beside the co-tenant's demand; with `ARRAYS`, for every environment."""
        grant = self.memory.share(arithmetic, need.memory, cotenant_bytes, self.task.memory_cap_share)
        return Claim(
            wanted_blocks=need.memory.wanted_blocks,
            pool_blocks=grant.pool_blocks,
            half_blocks=need.half_blocks,
            reserved_gb=need.reserved_gb,
            pool_gb=grant.pool_bytes / _BYTES_PER_GB,
            cotenant_gb=cotenant_bytes / _BYTES_PER_GB,
            # A neighbour may demand more than the card holds; pressure is a share of the card.
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

        `swapped`, `moved`, `pool_changed`: tier, roles and wanted pool differ from the window before; `stall_ps`: what
        that window left. A swap of tiers makes the pool anew, so its stall covers the resize. Stalls add up, as in the
        engine: what is asked for next begins when what is under way has ended.
        """
        choose = arithmetic.choose
        resized = choose(swapped, False, pool_changed)
        anew = choose(swapped, swap_ps, 0) + choose(moved, self.fleet.split_ps, 0)
        stall = stall_ps + anew + choose(resized, self.fleet.resize_ps, 0)
        return resized, arithmetic.at_least(stall - window_ps, 0)

    def _memory_need(self, tier: int, fraction: float, speculating: bool) -> Need:
        need = self.memory.need(TIERS[tier], fraction, speculating=speculating)
        cache = self.task.prefix_cache
        half = 1 if cache is None else max(1, round(cache.half_gb * _BYTES_PER_GB / need.block_bytes))
        return Need(need, need.reserved_bytes / _BYTES_PER_GB, half)


@lru_cache(maxsize=64)
def _build(task: Task, deployment: Deployment) -> Configurator:
    return Configurator(task, deployment)


def tokens_per_step(acceptance: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return int64[windows, class, depth]: fixed-point tokens per step at depth 0..8, given float64[windows, class].

    The same numbers as `performance.speculation.tokens_per_step`, for all windows at once.
    """
    # Repeated multiplication and addition in the scalar function's order: equal to the last bit.
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
