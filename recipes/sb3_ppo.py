"""Stable-Baselines3's PPO on the simulator: train, save, evaluate on test seeds.

    python recipes/sb3_ppo.py --task bursty_workload --steps 200000

Needs `pip install stable-baselines3` and llmserve-sim[fast,sb3]. It trains on the task's training seeds, and scores on
its test seeds, which training never sees. All episodes are stepped in one call by the native vector environment.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from scoring import count, report

try:
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecMonitor
except ModuleNotFoundError as error:
    raise SystemExit("this recipe needs Stable-Baselines3: pip install stable-baselines3") from error

from llmserve_sim.sb3 import ServingVecEnv
from llmserve_sim.tasks import list_tasks


def main() -> None:
    """Parse, train, evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="bursty_workload", choices=[task.id for task in list_tasks()])
    parser.add_argument("--steps", type=count, default=200_000, help="windows to train on (200000)")
    parser.add_argument("--envs", type=count, default=16, help="environments side by side (16)")
    parser.add_argument("--episodes", type=count, default=20, help="test seeds (20)")
    parser.add_argument("--seed", type=int, default=0, help="of episodes, actions and weights (0)")
    parser.add_argument("--output", type=Path, default=Path("runs/sb3/policy.zip"), help="where the policy is saved")
    options = parser.parse_args()

    windows = 120  # a rollout is an episode: nothing is cut in the middle
    envs = VecMonitor(ServingVecEnv(options.envs, options.task, observation="extended"))
    model = PPO(
        "MlpPolicy",
        envs,
        n_steps=windows,
        batch_size=options.envs * windows // 6,
        n_epochs=3,
        learning_rate=1e-3,
        gamma=0.97,
        ent_coef=0.006,
        seed=options.seed,
        device="cpu",
        policy_kwargs={"net_arch": {"pi": [128, 128], "vf": [128, 128]}, "activation_fn": torch.nn.Tanh},
        verbose=1,
    )
    model.learn(options.steps)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    model.save(options.output)
    print(f"saved {options.output}")
    report(options.task, lambda observations: model.predict(observations, deterministic=True)[0], options.episodes)


if __name__ == "__main__":
    main()
