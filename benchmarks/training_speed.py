"""How fast PPO trains: windows simulated per second, as a ratio to stable-baselines3's PPO, and where a second goes.

Both train on one task with one network (separate 128 × 128 tanh actor and critic) and the same number of environments,
steps, epochs, minibatches and processors: ours plays in so many processes, theirs has so many threads of torch. They
run in turn, and each ratio compares the best of a few rounds. Ours also sees a history of windows, which makes its
first layer larger and counts against it. Theirs also runs with its own defaults (one environment, minibatches of 64,
ten epochs), since that is what a newcomer tries first.
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

import llmserve_sim.gym  # noqa: F401 - registers the environments
from llmserve_agents.executors import cpu_count
from llmserve_agents.learning.config import PPOConfig
from llmserve_agents.learning.trainer import Trainer

MIN_RATIO: Final = 4.0
"""The bar: our windows per second over theirs, for both of their settings."""
OURS, SAME, DEFAULTS = "ours", "stable-baselines3, the same settings", "stable-baselines3, its defaults"
ENVIRONMENTS: Final = 96
STEPS: Final = 120
EPOCHS: Final = 3
MINIBATCHES: Final = 6
HIDDEN: Final = 128
IDS: Final = {
    "static_workload": "LLMServe/StaticWorkload-v0",
    "bursty_workload": "LLMServe/BurstyWorkload-v0",
    "adversarial_multitenant": "LLMServe/AdversarialMultitenant-v0",
}
INSIDE_AN_UPDATE: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("update: backward pass", ("run_backward", "autograd")),
    ("update: optimiser", ("optim", "_foreach", "clip_grad")),
    ("update: forward pass and losses", ("torch",)),
)
"""Parts of an update: a function belongs to the first part with a word in its file or name."""


class Ours:
    """Our training, one update of whole episodes after the other."""

    def __init__(self, task: str, threads: int) -> None:
        self.task = task
        config = PPOConfig(
            task=task,
            steps=1_000 * ENVIRONMENTS * STEPS,
            num_envs=ENVIRONMENTS,
            epochs=EPOCHS,
            minibatches=MINIBATCHES,
            hidden=HIDDEN,
            validate_every=10**6,
            threads=threads,
        )
        self.trainer = Trainer(config)

    def __call__(self, batches: int) -> int:
        """Train on some batches and return how many windows they were."""
        before = self.trainer.steps
        for _ in range(batches):
            self.trainer.update()
        return self.trainer.steps - before

    def profile(self, batches: int) -> dict[str, float]:
        """Return the share of time of each part of some batches: the trainer's timer, with its updates in parts."""
        before = dict(self.trainer.timer.seconds)
        self(batches)
        spent = {what: total - before.get(what, 0.0) for what, total in self.trainer.timer.seconds.items()}
        inside = self._inside()
        update = spent.pop("update")
        spent |= {part: update * seconds / sum(inside.values()) for part, seconds in inside.items()}
        total = sum(spent.values())
        return {part: seconds / total for part, seconds in sorted(spent.items(), key=lambda pair: -pair[1])}

    def _inside(self) -> dict[str, float]:
        """Return the seconds of the parts of an update, on one thread: a profiler sees no other."""
        alone = Ours(self.task, 1)
        alone(1)
        profiler = cProfile.Profile()
        profiler.runcall(alone, 1)
        alone.close()
        inside: dict[str, float] = {}
        statistics: Any = pstats.Stats(profiler)
        for (file, _line, name), row in statistics.stats.items():
            for part, words in INSIDE_AN_UPDATE:
                if any(word in f"{file} {name}" for word in words):
                    inside[part] = inside.get(part, 0.0) + row[2]
                    break
        return inside

    def close(self) -> None:
        """End the processes."""
        self.trainer.close()


def theirs(task: str, envs: int = ENVIRONMENTS, **settings: Any) -> Callable[[int], int]:
    """Return a function that trains stable-baselines3's PPO for some rollouts and returns how many windows they were.

    `settings` are arguments of its `PPO`.
    """
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv

    vector = DummyVecEnv([lambda: gymnasium.make(IDS[task], observation="extended") for _ in range(envs)])
    network = {"net_arch": {"pi": [HIDDEN, HIDDEN], "vf": [HIDDEN, HIDDEN]}, "activation_fn": torch.nn.Tanh}
    model = PPO("MlpPolicy", vector, gamma=0.97, seed=0, device="cpu", policy_kwargs=network, **settings)

    def run(rollouts: int) -> int:
        windows: int = rollouts * envs * model.n_steps
        model.learn(windows)
        return windows

    return run


def rate(run: Callable[[int], int], batches: int) -> float:
    """Return windows per second."""
    start = time.perf_counter()
    windows = run(batches)
    return windows / (time.perf_counter() - start)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 1 if a ratio misses its bar."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_speed", description=__doc__)
    parser.add_argument("--task", default="adversarial_multitenant", choices=IDS, help="(default: %(default)s)")
    parser.add_argument(
        "--batches", type=int, default=4, help="rollouts per measurement of ours (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=4, help="measurements of each (default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, default=min(2, cpu_count()), help="processors, for all (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    options = parser.parse_args(arguments)
    own = Ours(options.task, options.threads)
    same = {"n_steps": STEPS, "batch_size": ENVIRONMENTS * STEPS // MINIBATCHES, "n_epochs": EPOCHS}
    runs: dict[str, tuple[Callable[[int], int], int]] = {
        OURS: (own, options.batches),
        SAME: (theirs(options.task, **same), 1),
        DEFAULTS: (theirs(options.task, 1), 3),
    }
    for run, _ in runs.values():
        run(1)  # compiles and warms up
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(options.rounds):
        for name, (run, batches) in runs.items():
            # More threads of torch are not always faster: theirs has one in every other round.
            torch.set_num_threads(1 if turn % 2 else options.threads)
            rates[name].append(rate(run, batches))
    best = {name: max(some) for name, some in rates.items()}
    ratios = {name: best[OURS] / best[name] for name in (SAME, DEFAULTS)}
    shares = own.profile(options.batches)
    own.close()
    passed = min(ratios.values()) >= MIN_RATIO
    print(f"{options.task}, {ENVIRONMENTS} environments, {options.threads} processors")
    for name, fastest in best.items():
        print(f"  {name:38} {fastest:10,.0f} windows/s")
    for name, ratio in ratios.items():
        print(f"{'PASS' if ratio >= MIN_RATIO else 'FAIL'}  {ratio:.1f} times {name}, at least {MIN_RATIO:g}")
    print("where a second of our training goes:")
    for part, share in shares.items():
        print(f"  {share:6.1%}  {part}")
    if options.out is not None:
        content = {
            "task": options.task,
            "threads": options.threads,
            "windows_per_s": rates,
            "ratios": ratios,
        }
        options.out.write_text(json.dumps(content | {"profile": shares}, indent=2) + "\n", encoding="utf-8")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
