"""PPO in a single file, in CleanRL's manner, on the native vector environment: read it from top to bottom, then change it.

    python recipes/cleanrl_ppo.py --task bursty_workload --total-timesteps 200000

Needs torch, tensorboard and llmserve-sim[fast,gym]. No history of windows, no validation, no checkpoints: that is what
`llmserve train` adds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from gymnasium.spaces import MultiDiscrete
from numpy.typing import NDArray
from scoring import count, report
from torch import nn
from torch.distributions import Categorical
from torch.utils.tensorboard import SummaryWriter

from llmserve_sim.tasks import list_tasks
from llmserve_sim.vector import LLMServeVectorEnv


def layer(inputs: int, outputs: int, gain: float = 2**0.5) -> nn.Linear:
    """A linear layer with orthogonal weights."""
    made = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(made.weight, gain)
    nn.init.zeros_(made.bias)
    return made


class Agent(nn.Module):
    """Actor with one head per knob, and critic."""

    def __init__(self, inputs: int, choices: list[int]) -> None:
        super().__init__()
        self.choices = choices
        self.actor = nn.Sequential(
            layer(inputs, 128), nn.Tanh(), layer(128, 128), nn.Tanh(), layer(128, sum(choices), 0.01)
        )
        self.critic = nn.Sequential(layer(inputs, 128), nn.Tanh(), layer(128, 128), nn.Tanh(), layer(128, 1, 1.0))

    def heads(self, x: torch.Tensor) -> list[Categorical]:
        """The distribution of every knob."""
        return [Categorical(logits=logits) for logits in self.actor(x).split(self.choices, dim=1)]

    def act(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Drawn actions [n, 6] and their log-probability [n]."""
        heads = self.heads(x)
        actions = torch.stack([head.sample() for head in heads], dim=1)
        return actions, sum(head.log_prob(a) for head, a in zip(heads, actions.T, strict=True))

    def likeliest(self, observations: NDArray[np.float32]) -> NDArray[np.int64]:
        """The likeliest action of every head, for evaluation."""
        with torch.no_grad():
            heads = self.heads(torch.from_numpy(observations))
        choices: NDArray[np.int64] = torch.stack([head.probs.argmax(dim=1) for head in heads], dim=1).numpy()
        return choices


def main() -> None:
    """Parse, train, evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="bursty_workload", choices=[task.id for task in list_tasks()])
    parser.add_argument("--total-timesteps", type=count, default=200_000)
    parser.add_argument("--num-envs", type=count, default=16)
    parser.add_argument("--num-steps", type=count, default=120, help="windows per rollout: an episode")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--gamma", type=float, default=0.97)
    parser.add_argument("--gae-lambda", type=float, default=0.95)
    parser.add_argument("--update-epochs", type=count, default=3)
    parser.add_argument("--num-minibatches", type=count, default=6)
    parser.add_argument("--clip-coef", type=float, default=0.2)
    parser.add_argument("--ent-coef", type=float, default=0.006)
    parser.add_argument("--vf-coef", type=float, default=0.5)
    parser.add_argument("--max-grad-norm", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=count, default=20, help="test seeds to evaluate on")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/cleanrl"), help="folder for TensorBoard and the agent"
    )
    args = parser.parse_args()
    if args.num_envs * args.num_steps < 2 * args.num_minibatches:
        parser.error("--num-minibatches: at most half as many as a rollout has windows (--num-envs times --num-steps)")

    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    writer = SummaryWriter(str(args.output))
    envs = LLMServeVectorEnv(args.num_envs, args.task, observation="extended")
    assert isinstance(envs.single_action_space, MultiDiscrete)
    choices = envs.single_action_space.nvec.tolist()
    observations, _ = envs.reset(seed=args.seed)
    width = observations.shape[1]
    agent = Agent(width, choices)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
    shape = (args.num_steps, args.num_envs)
    obs, actions = torch.zeros((*shape, width)), torch.zeros((*shape, len(choices)), dtype=torch.int64)
    logprobs, rewards, values, dones = (torch.zeros(shape) for _ in range(4))
    updates = max(1, args.total_timesteps // (args.num_envs * args.num_steps))
    start_time, step = time.time(), 0
    for update in range(1, updates + 1):
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1.0 - (update - 1.0) / updates)
        for t in range(args.num_steps):
            step += args.num_envs
            obs[t] = torch.from_numpy(observations)
            with torch.no_grad():
                actions[t], logprobs[t] = agent.act(obs[t])
                values[t] = agent.critic(obs[t])[:, 0]
            observations, reward, _, truncated, infos = envs.step(actions[t].numpy())
            rewards[t] = torch.from_numpy(reward).float()
            dones[t] = torch.from_numpy(truncated).float()
            if truncated.any():  # a time limit is no terminal state: bootstrap the value of the last observation
                last = torch.from_numpy(np.stack(infos["final_obs"]))
                with torch.no_grad():
                    rewards[t] += args.gamma * agent.critic(last)[:, 0] * dones[t]
        with torch.no_grad():
            next_value = agent.critic(torch.from_numpy(observations))[:, 0]
            advantages, lastgaelam = torch.zeros(shape), torch.zeros(args.num_envs)
            for t in reversed(range(args.num_steps)):
                nextnonterminal = 1.0 - dones[t]
                delta = rewards[t] + args.gamma * next_value * nextnonterminal - values[t]
                lastgaelam = delta + args.gamma * args.gae_lambda * nextnonterminal * lastgaelam
                advantages[t], next_value = lastgaelam, values[t]
            returns = advantages + values
        flat = [x.flatten(0, 1) for x in (obs, actions, logprobs, advantages, returns, values)]
        b_obs, b_actions, b_logprobs, b_advantages, b_returns, b_values = flat
        minibatch_size = -(-len(b_obs) // args.num_minibatches)
        for _ in range(args.update_epochs):
            for mb_inds in torch.randperm(len(b_obs)).split(minibatch_size):
                heads = agent.heads(b_obs[mb_inds])
                newlogprob = sum(head.log_prob(a) for head, a in zip(heads, b_actions[mb_inds].T, strict=True))
                entropy = sum(head.entropy() for head in heads).mean()
                ratio = (newlogprob - b_logprobs[mb_inds]).exp()
                mb_advantages = b_advantages[mb_inds]
                mb_advantages = (mb_advantages - mb_advantages.mean()) / (mb_advantages.std() + 1e-8)
                pg_loss1 = -mb_advantages * ratio
                pg_loss2 = -mb_advantages * ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
                pg_loss = torch.max(pg_loss1, pg_loss2).mean()
                v_loss = 0.5 * (agent.critic(b_obs[mb_inds])[:, 0] - b_returns[mb_inds]).square().mean()
                loss = pg_loss - args.ent_coef * entropy + args.vf_coef * v_loss
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
                optimizer.step()
        writer.add_scalar("charts/episodic_return", (rewards.sum() / args.num_envs).item(), step)
        writer.add_scalar("charts/learning_rate", optimizer.param_groups[0]["lr"], step)
        writer.add_scalar("charts/SPS", step / (time.time() - start_time), step)
        writer.add_scalar("losses/policy_loss", pg_loss.item(), step)
        writer.add_scalar("losses/value_loss", v_loss.item(), step)
        writer.add_scalar("losses/entropy", entropy.item(), step)
        explained_variance = 1 - (b_returns - b_values).var() / b_returns.var()
        writer.add_scalar("losses/explained_variance", explained_variance.item(), step)
        if update % 10 == 0 or update == updates:
            print(f"{step:,} windows, mean reward per window {rewards.mean().item():.4f}")
    writer.close()
    envs.close()
    torch.save(agent.state_dict(), args.output / "agent.pt")
    print(f"saved {args.output / 'agent.pt'}")
    report(args.task, agent.likeliest, args.episodes)


if __name__ == "__main__":
    main()
