"""How fast PPO trains: windows simulated per second, as a ratio to stable-baselines3's PPO, and where a second goes.

Both train on one task with one network (separate 128 × 128 tanh actor and critic), the same number of environments, steps,
epochs and minibatches, in one process after the other, turn about, with as many threads; the ratio is that of the best of a
few rounds each. Ours also sees a history of windows, which makes its first layer larger and counts against it.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import gymnasium
import torch
from llmserve_agents.ppo import PPOConfig, train

import llmserve_sim.gym  # noqa: F401 - registers the environments

LEAST: Final = 4.0
"""The bar: our windows per second over theirs."""
ENVIRONMENTS: Final = 96
STEPS: Final = 120
EPOCHS: Final = 3
MINIBATCHES: Final = 6
HIDDEN: Final = (128, 128)
IDS: Final = {
    "static_workload": "LLMServe/StaticWorkload-v0",
    "bursty_workload": "LLMServe/BurstyWorkload-v0",
    "adversarial_multitenant": "LLMServe/AdversarialMultitenant-v0",
}
PARTS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("simulating windows (llmserve_sim)", ("llmserve_sim",)),
    ("backward pass", ("run_backward", "autograd")),
    ("optimiser", ("optim", "_foreach", "clip_grad")),
    ("features", ("features.py",)),
    ("networks, losses and the rest of torch", ("torch",)),
    ("numpy", ("numpy",)),
)
"""Where a second goes: the first of these whose word stands in a function's file or name."""


def ours(task: str, rounds: int) -> Callable[[], int]:
    """Return a training of `rounds` batches, which returns how many windows it simulated."""
    config = PPOConfig(task=task, steps=rounds * ENVIRONMENTS * STEPS, seed=0)

    def run() -> int:
        train(config)
        return rounds * ENVIRONMENTS * STEPS

    return run


def theirs(task: str, rounds: int) -> Callable[[], int]:
    """Return the same for stable-baselines3."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv

    vector = DummyVecEnv([lambda: gymnasium.make(IDS[task], observation="extended") for _ in range(ENVIRONMENTS)])
    model = PPO(
        "MlpPolicy",
        vector,
        n_steps=STEPS,
        batch_size=ENVIRONMENTS * STEPS // MINIBATCHES,
        n_epochs=EPOCHS,
        gamma=0.97,
        seed=0,
        device="cpu",
        policy_kwargs={"net_arch": {"pi": list(HIDDEN), "vf": list(HIDDEN)}, "activation_fn": torch.nn.Tanh},
    )

    def run() -> int:
        model.learn(rounds * ENVIRONMENTS * STEPS)
        return rounds * ENVIRONMENTS * STEPS

    return run


def rate(run: Callable[[], int]) -> float:
    """Windows per second of wall clock."""
    begun = time.perf_counter()
    windows = run()
    return windows / (time.perf_counter() - begun)


def profile(run: Callable[[], int]) -> dict[str, float]:
    """Return the share of a training's time by part, of the functions' own times under a profiler."""
    profiler = cProfile.Profile()
    profiler.runcall(run)
    times: dict[str, float] = {}
    statistics: Any = pstats.Stats(profiler)
    for (file, _line, name), row in statistics.stats.items():
        times[_part(f"{file} {name}")] = times.get(_part(f"{file} {name}"), 0.0) + row[2]
    total = sum(times.values())
    return {part: seconds / total for part, seconds in sorted(times.items(), key=lambda pair: -pair[1])}


def _part(where: str) -> str:
    return next((part for part, words in PARTS if any(word in where for word in words)), "everything else")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 1 if the ratio misses its bar."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_speed", description=__doc__)
    parser.add_argument("--task", default="adversarial_multitenant", choices=IDS, help="(default: %(default)s)")
    parser.add_argument("--batches", type=int, default=5, help="rollouts per measurement (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's threads, for both")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    own, other = ours(options.task, options.batches), theirs(options.task, max(1, options.batches // 3))
    own(), other()  # compiled, warm
    rates: dict[str, list[float]] = {"ours": [], "stable-baselines3": []}
    for _ in range(options.rounds):
        rates["ours"].append(rate(own))
        rates["stable-baselines3"].append(rate(other))
    best = {name: max(some) for name, some in rates.items()}
    ratio = best["ours"] / best["stable-baselines3"]
    shares = profile(own)
    print(f"{options.task}, {ENVIRONMENTS} environments, {options.threads} threads")
    for name, one in best.items():
        print(f"  {name:20} {one:10,.0f} windows/s")
    print(f"{'PASS' if ratio >= LEAST else 'FAIL'}  {ratio:.1f} times as fast, at least {LEAST:g} wanted")
    print("where a training second goes (a profiler's own times):")
    for part, share in shares.items():
        print(f"  {share:6.1%}  {part}")
    if options.out is not None:
        content = {"task": options.task, "threads": options.threads, "windows_per_s": rates, "ratio": ratio}
        options.out.write_text(json.dumps(content | {"profile": shares}, indent=2) + "\n", encoding="utf-8")
    return 0 if ratio >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
