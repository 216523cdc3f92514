"""The cases that engines are timed on: an episode of a task in which every knob moves, or steady traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmserve_sim.bounds import Checked
from llmserve_sim.configuration import Configurator, EpisodeConditions
from llmserve_sim.engine import Engine, KernelEngine, ReferenceEngine
from llmserve_sim.engine.interface import FleetSpec, Slo, Traffic, WindowPlan
from llmserve_sim.schema import QUANTIZATION_TIERS, ServeAction
from llmserve_sim.tasks import Task
from llmserve_sim.workload.scenario import generate

__all__ = ["ENGINES", "Case", "busy_actions", "steady_case", "task_case"]

ENGINES = ("reference", "python", "numba")
PS_PER_S = 10**12


@dataclass(frozen=True, slots=True)
class Case(Checked):
    """A fleet, its requests and the plan of every window."""

    name: str
    fleet: FleetSpec
    slo: Slo
    traffic: Traffic
    plans: tuple[WindowPlan, ...]

    def engine(self, kind: str, traffic: Traffic | None = None) -> Engine:
        """A new engine of one of `ENGINES`."""
        requests = self.traffic if traffic is None else traffic
        if kind == "reference":
            return ReferenceEngine(self.fleet, self.slo, requests)
        return KernelEngine(self.fleet, self.slo, requests, backend="numba" if kind == "numba" else "python")


def busy_actions(windows: int, *, can_split: bool) -> list[ServeAction]:
    """Return actions that use every feature: each knob moves at its own pace, with a swap or a split now and then."""
    return [
        ServeAction(
            batch_cap=(256, 64, 128, 512)[w // 7 % 4],
            kv_budget_fraction=(0.9, 0.6, 0.75)[w // 11 % 3],
            speculation_depth=(0, 2, 4, 0, 1)[w // 5 % 5],
            quantization_tier=QUANTIZATION_TIERS[w // 30 % 3],
            prefill_decode_split=can_split and w // 20 % 3 == 1,
            priority_routing=w // 9 % 2 == 1,
        )
        for w in range(windows)
    ]


def task_case(task: Task, seed: int, actions: Sequence[ServeAction] | None = None) -> Case:
    """The episode of a task and a seed under `actions` (by default `busy_actions`)."""
    configurator = Configurator.build(task, None)
    scenario = generate(task, seed)
    conditions = EpisodeConditions.of(scenario)
    if actions is None:
        actions = busy_actions(task.windows, can_split=configurator.fleet.replicas > 1)
    setting, plans = None, []
    for window, action in enumerate(actions):
        setting = configurator.apply(action, setting, conditions, window)
        plans.append(setting.plan)
    return Case(task.id, configurator.fleet, configurator.slo, scenario.traffic, tuple(plans))


def steady_case(base: Case, *, windows: int, window_s: float, rate_rps: float, prompt: int, output: int) -> Case:
    """`base`'s fleet under its first plan, with evenly spaced equal requests and windows of another length."""
    count = int(windows * window_s * rate_rps)
    traffic = Traffic(
        arrival_ps=np.linspace(0, windows * window_s * PS_PER_S, count, endpoint=False).astype(np.int64),
        prompt=np.full(count, prompt, dtype=np.int64),
        output=np.full(count, output, dtype=np.int64),
        priority=np.ones(count, dtype=np.int64),
        tenant=np.zeros(count, dtype=np.int64),
    )
    plans = tuple(replace(base.plans[0], end_ps=round((w + 1) * window_s * PS_PER_S)) for w in range(windows))
    return Case(f"{rate_rps:g} requests/s, windows of {window_s:g} s", base.fleet, base.slo, traffic, plans)
