"""Measures what control is worth in a task and in variants of it; the tasks' loads and patterns were chosen with it.

    python scripts/scan_tasks.py bursty_workload --set traffic.rate_rps=6,9,12
    python scripts/scan_tasks.py phase_shift --knobs
    python scripts/scan_tasks.py adversarial_multitenant --held
    python scripts/scan_tasks.py mine.toml --load

For every variant it prints mean rewards per window, on training seeds, of the random policy, of the best fixed
configuration, and of the best configuration per *regime*. It also prints the share of requests that the best fixed
configuration serves within their targets, which tells whether the load is at the cliff (docs/tasks.md). A regime is a
combination of what an attentive operator can tell apart. The gap between the last two is what control can gain.

`--knobs` searches the table of regimes again with each knob tied to one value: the loss is the knob's value over
time. `--bound` runs a pass of the clairvoyant search that starts from the table. `--held` is quick, seconds a
variant: it holds each configuration of a coarse grid for whole episodes, and prints the best reward of every knob's
values in each regime. A knob has value over time if its best value differs between regimes by more than a change
costs, and if the regimes last long enough to pay for the change. `llmserve ablate --agent ppo` measures it after
training.

`--load` prints the expected load that a task file needs for a reward that counts (`[reward]`), with its standard error.

Choose a load at which the best fixed configuration is neither saturated nor idle. Every knob should have value in
some task.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from llmserve_agents.clairvoyant import Budget, improve
from llmserve_agents.search import MAX_BATCH_SIZE, best_by_regime, best_static, rollout, simulate_plans
from llmserve_sim.batch import ServingBatch
from llmserve_sim.engine.interface import PRIORITY
from llmserve_sim.grid import ACTION_GRID, GRID_SIZES, to_indices
from llmserve_sim.tasks import Task, load_task
from llmserve_sim.workload.scenario import Phase, generate

COARSE: Final = ((2, 3, 4, 5, 7), (1, 3, 5), (0, 2), (0, 1, 2), (0, 1), (0, 1))
"""Indices on the action grid that `--held` combines, knob by knob."""

LOAD_SEEDS: Final = 256
"""Training seeds of `--load`, by default: the standard error is then below 1.2 % on every built-in task but azure_code (2.1 %)."""


def variants(task: Task, settings: Sequence[str]) -> list[tuple[str, Task]]:
    """Return every combination of the settings' values, ``field.field=value,value``, with its name."""
    axes = []
    for setting in settings:
        path, _, values = setting.partition("=")
        axes.append([(path, json.loads(value)) for value in values.split(",")])
    found = []
    for chosen in itertools.product(*axes):
        content = task.model_dump(mode="json")
        for path, value in chosen:
            *parents, name = path.split(".")
            table: Any = content
            for parent in parents:
                table = table[int(parent) if isinstance(table, list) else parent]
            table[name] = value
        found.append(
            (" ".join(f"{path}={value}" for path, value in chosen) or "as it is", Task.model_validate(content))
        )
    return found


def regimes(task: Task, seeds: Sequence[int]) -> tuple[np.ndarray, list[str], list[list[int]]]:
    """Return int64[seeds, windows] regimes that an operator could tell apart, their signs, and groups by sign.

    The signs, if the task has them: loaded windows and the one before them; the co-tenant low, high or at its peak;
    draft acceptance above or below the average; alternating lengths; a surge of priority requests.
    """
    scenarios = [generate(task, seed) for seed in seeds]
    signs: dict[str, np.ndarray] = {}
    phase = np.array([scenario.phase for scenario in scenarios])
    if task.traffic.burst or task.traffic.spikes:
        loaded = (phase & int(Phase.BURST | Phase.SPIKE)) != 0
        signs["loaded"] = loaded | np.roll(loaded, -1, axis=1)
    if task.cotenant is not None and task.cotenant.high_gb > task.cotenant.low_gb:
        demand = np.array([scenario.cotenant_bytes for scenario in scenarios])
        low, span = 1e9 * task.cotenant.low_gb, 1e9 * (task.cotenant.high_gb - task.cotenant.low_gb)
        signs["neighbour"], signs["crest"] = demand > low + span / 3, demand > low + 0.8 * span
    if task.acceptance.swing > 0.0:
        signs["acceptance"] = np.array([scenario.acceptance[:, 0] for scenario in scenarios]) > task.acceptance.mean
    if task.lengths.alternation is not None:
        signs["alternate"] = (phase & int(Phase.ALTERNATE)) != 0
    if task.priority.surge is not None:
        signs["surge"] = (phase & int(Phase.SURGE)) != 0
    code = np.zeros_like(phase)
    for bit, sign in enumerate(signs.values()):
        code += sign.astype(np.int64) << bit
    present, dense = np.unique(code, return_inverse=True)
    groups = [np.flatnonzero((present >> bit & 1) == side) for bit in range(len(signs)) for side in (0, 1)]
    return dense.reshape(code.shape), list(signs), [group.tolist() for group in groups if len(group)]


def describe(task: Task, seeds: Sequence[int], *, knobs: bool, bound: bool) -> str:
    """Return lines about a task: best fixed, best by regime, each knob's value over time, clairvoyant."""
    action, fixed = best_static(task, seeds, pairs=False)
    windows = (len(seeds), task.windows, len(GRID_SIZES))
    chance = ServingBatch(task, len(seeds))
    chance.start(seeds)
    random = float(simulate_plans(chance, np.random.default_rng(0).integers(0, GRID_SIZES, windows)).mean())
    held = ServingBatch(task, len(seeds))
    held.start(seeds)
    indices = np.tile(to_indices(action), (len(seeds), 1))
    met = np.mean([outcome.measurement.slo_compliance_rate for outcome in rollout(held, lambda *_: indices)])
    by_regime, signs, groups = regimes(task, seeds)
    table, adapted = best_by_regime(task, seeds, by_regime, action, groups=groups)
    lines = [
        f"random {random:+.4f}  fixed {fixed:.4f} (SLO {met:.2f}) {_short(to_indices(action))}",
        f"  by regime ({', '.join(signs)}): {adapted.mean():.4f}, {adapted.mean() - fixed:+.4f}",
        *(
            f"    {code:2d} {_short(row)} in {np.mean(by_regime == code):.0%}"
            for code, row in enumerate(table.tolist())
        ),
    ]
    if knobs:
        for knob, name in enumerate(ACTION_GRID):
            _, tied = best_by_regime(task, seeds, by_regime, action, groups=groups, tied=[knob])
            loss = adapted - tied
            lines.append(f"  {name:22s} worth {loss.mean():+.4f} (+-{1.96 * loss.std() / len(seeds) ** 0.5:.4f})")
    if bound:
        plans, values = improve(task, seeds, table[by_regime], Budget(passes=1))
        changes = (np.diff(plans, axis=1) != 0).mean(axis=(0, 1)) * task.windows
        counted = ", ".join(f"{name} {n:.0f}" for name, n in zip(ACTION_GRID, changes, strict=True))
        lines.append(f"  clairvoyant {values.mean():.4f}, changes per episode: {counted}")
    return "\n".join(lines)


def describe_held(task: Task, seeds: Sequence[int]) -> str:
    """Return lines about a task: by regime, the best reward of each knob's values, held for whole episodes."""
    can_split = ServingBatch(task, 1).can_split
    grid = np.array([row for row in itertools.product(*COARSE) if can_split or not row[4]])
    first = ServingBatch(task, len(seeds))
    first.start(seeds)
    each = max(1, MAX_BATCH_SIZE // len(seeds))
    rewards = np.empty((len(grid), len(seeds), task.windows))
    for begin in range(0, len(grid), each):
        some = grid[begin : begin + each]
        batch = first.select(np.tile(np.arange(len(seeds)), len(some)))
        plan = np.repeat(some, len(seeds), axis=0)
        played = simulate_plans(batch, np.broadcast_to(plan[:, None], (len(plan), task.windows, plan.shape[1])))
        rewards[begin : begin + len(some)] = played.reshape(len(some), len(seeds), task.windows)
    by_regime, signs, _ = regimes(task, seeds)
    overall = rewards.mean(axis=(1, 2))
    lines = [f"best held {overall.max():.4f} {_short(grid[overall.argmax()])}; regimes are made of {', '.join(signs)}"]
    for code in range(by_regime.max() + 1):
        where = by_regime == code
        values = rewards[:, where].mean(axis=1)
        lines.append(f"    {code:2d} in {where.mean():.0%}: {values.max():.3f} {_short(grid[values.argmax()])}")
        for knob, (name, choices) in enumerate(ACTION_GRID.items()):
            best = {choices[i]: values[grid[:, knob] == i].max() for i in np.unique(grid[:, knob])}
            lines.append(f"       {name:22s} " + ", ".join(f"{choice} {value:.3f}" for choice, value in best.items()))
    return "\n".join(lines)


def expected_load(task: Task, seeds: Sequence[int]) -> dict[str, tuple[float, float]]:
    """Return mean and standard error over `seeds` (two at least) of the load that an episode's arrivals bring.

    `requests_per_s` is priority-weighted requests/s, `output_tokens_per_s` the output tokens/s that they ask for.
    """
    length_s, weight = task.windows * task.window_s, task.priority.weight
    rows = np.empty((len(seeds), 2))
    for row, seed in zip(rows, seeds, strict=True):
        traffic = generate(task, seed).traffic
        row[:] = np.where(traffic.priority == PRIORITY, weight, 1.0).sum() / length_s, traffic.output.sum() / length_s
    errors = rows.std(axis=0, ddof=1) / len(seeds) ** 0.5
    names = ("requests_per_s", "output_tokens_per_s")
    return {name: (float(m), float(e)) for name, m, e in zip(names, rows.mean(axis=0), errors, strict=True)}


def describe_load(task: Task, seeds: Sequence[int]) -> str:
    """Return the expected load as lines of a task file's `[reward]`."""
    return "\n  ".join(
        f"{name} = {value:.6g}  # standard error {error:.2g}, {len(seeds)} seeds from {seeds[0]}"
        for name, (value, error) in expected_load(task, seeds).items()
    )


def _short(indices: Sequence[int]) -> str:
    cap, kv, depth, tier, split, priority = (
        choices[i] for choices, i in zip(ACTION_GRID.values(), indices, strict=True)
    )
    return f"cap {cap} kv {kv} K {depth} {tier}{' split' if split else ''}{' priority' if priority else ''}"


def main() -> int:
    """Parse, scan, print."""
    parser = argparse.ArgumentParser(
        prog="python scripts/scan_tasks.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", help="a task's id, or the path of a task file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=V,V", help="values of a field (repeatable)"
    )
    parser.add_argument("--knobs", action="store_true", help="the value of each knob over time as well")
    parser.add_argument("--held", action="store_true", help="only a coarse grid of held configurations, by regime")
    parser.add_argument("--bound", action="store_true", help="the clairvoyant search's value as well")
    parser.add_argument("--load", action="store_true", help="only the expected load, for a reward that counts")
    parser.add_argument("--seeds", type=int, help="training seeds (8; with --load 256)")
    options = parser.parse_args()
    task = load_task(options.task)
    train = task.seeds.train
    count = options.seeds if options.seeds is not None else LOAD_SEEDS if options.load else 8
    if not 2 <= count <= len(train):
        parser.error(f"--seeds: must be an integer in 2..{len(train)}")
    seeds = list(range(train.start, train.start + count))
    for name, variant in variants(task, options.set):
        sys.stdout.write(f"{task.id}, {name}\n  ")
        if options.load:
            found = describe_load(variant, seeds)
        elif options.held:
            found = describe_held(variant, seeds)
        else:
            found = describe(variant, seeds, knobs=options.knobs, bound=options.bound)
        sys.stdout.write(found + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
