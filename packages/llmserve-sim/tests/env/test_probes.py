"""Ways to earn reward without serving well: none beats the best fixed configuration of its task.

Each probe is a policy of the window index, designed against this reward. If you find a better one, add it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from llmserve_sim.batch import ServingBatch
from llmserve_sim.env import ServingEnv
from llmserve_sim.references import load_references
from llmserve_sim.schema import ServeAction
from llmserve_sim.tasks import list_tasks

SEEDS = (1_000_001, 1_000_002, 1_000_003, 1_000_004, 1_000_005, 1_000_006)
TASKS = [task.id for task in list_tasks(extended=False)]
Probe = Callable[[int, ServeAction], ServeAction]


def _with(action: ServeAction, **fields: object) -> ServeAction:
    return ServeAction.model_validate(action.model_dump() | fields)


def _lowest(best: ServeAction) -> ServeAction:
    """What takes the least of everything."""
    return _with(
        best, batch_cap=1, kv_budget_fraction=0.1, speculation_depth=0, quantization_tier="INT4", priority_routing=False
    )


PROBES: dict[str, Probe] = {
    "refuse nearly all work": lambda _, best: _with(best, batch_cap=1, kv_budget_fraction=0.1),
    "refuse nearly all work at the least cost": lambda _, best: _lowest(best),
    "serve the first windows, then refuse": lambda w, best: best if w < 6 else _lowest(best),
    "refuse until the last windows": lambda w, best: best if w >= 100 else _lowest(best),
    "cap 1": lambda _, best: _with(best, batch_cap=1),
    "alternate caps": lambda w, best: _with(best, batch_cap=512 if w % 2 else 1),
    "starve two windows, then serve": lambda w, best: _with(best, batch_cap=512 if w % 3 == 2 else 1),
    "starve six windows, then serve six": lambda w, best: _with(best, batch_cap=512 if w // 6 % 2 else 1),
    "flip the KV budget": lambda w, best: _with(best, kv_budget_fraction=1.0 if w % 2 else 0.1),
    "flip tiers every window": lambda w, best: _with(best, quantization_tier=("FP16", "INT8", "INT4")[w % 3]),
    "flip between the extreme tiers": lambda w, best: _with(best, quantization_tier=("FP16", "INT4")[w % 2]),
    "flip tiers every sixth window": lambda w, best: _with(best, quantization_tier=("INT8", "INT4")[w // 6 % 2]),
    "flip the split": lambda w, best: _with(best, prefill_decode_split=w % 2 == 0),
    "flip the split every sixth window": lambda w, best: _with(best, prefill_decode_split=w // 6 % 2 == 0),
    "flip the depth": lambda w, best: _with(best, speculation_depth=8 if w % 2 else 0),
    "flip priority": lambda w, best: _with(best, priority_routing=w % 2 == 0),
    "flip everything": lambda w, best: (
        _lowest(best)
        if w % 2
        else _with(best, batch_cap=512, kv_budget_fraction=1.0, speculation_depth=8, quantization_tier="FP16")
    ),
    "always FP16, everything on": lambda _, best: _with(
        best, quantization_tier="FP16", batch_cap=512, kv_budget_fraction=1.0
    ),
    "always INT4, everything on": lambda _, best: _with(
        best, quantization_tier="INT4", batch_cap=512, kv_budget_fraction=1.0
    ),
}
EXTREMES: dict[str, tuple[object, ...]] = {
    "batch_cap": (1, 512),
    "kv_budget_fraction": (0.1, 1.0),
    "speculation_depth": (0, 8),
    "quantization_tier": ("FP16", "INT4"),
    "prefill_decode_split": (False, True),
    "priority_routing": (False, True),
}
PROBES |= {
    f"{knob} {value}": lambda _, best, knob=knob, value=value: _with(best, **{knob: value})
    for knob, values in EXTREMES.items()
    for value in values
}


def _earned(task: str, act: Callable[[int], ServeAction]) -> float:
    """Return the mean reward per window of a plan, over all seeds."""
    batch = ServingBatch(task, len(SEEDS))
    batch.start(SEEDS)
    plan = [act(window) for window in range(batch.episode_length)]
    return float(np.mean([batch.advance([action] * len(SEEDS)).reward for action in plan]))


@cache
def _best(task: str) -> tuple[ServeAction, float]:
    env = ServingEnv(task)
    env.start(0)
    references = load_references(task, env.state().task_digest)
    assert references is not None
    action = references.best_static_action
    return action, _earned(task, lambda _: action)


@pytest.mark.parametrize("task", TASKS)
def test_every_validator_task_has_references_of_this_version(task: str) -> None:
    env = ServingEnv(task)
    env.start(0)
    found = load_references(task, env.state().task_digest)
    assert found is not None, "run: python -m llmserve_agents.references"
    assert found.random < found.best_static < found.clairvoyant
    assert all(seed in env.task.seeds.reference for seed in found.seeds)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", list(PROBES))
def test_no_probe_beats_the_best_fixed_configuration(task: str, name: str) -> None:
    best, value = _best(task)
    probe = PROBES[name]
    assert _earned(task, lambda window: probe(window, best)) <= value + 1e-9
