"""Proximal policy optimisation on CPU: one update of the network, in torch, from one rollout.

`PPO.update` goes through a rollout a few times in minibatches; `PPO._losses` holds the losses. Episodes come from `rollout.py`, the
loop around the updates is in `trainer.py`.

Schulman et al., "Proximal Policy Optimization Algorithms", 2017; generalised advantages: Schulman et al., 2016. Names are those of
CleanRL's `ppo.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from llmserve_agents.errors import MissingExtraError

try:
    import torch
    from threadpoolctl import threadpool_limits
    from torch import nn

    from llmserve_agents.learning.actor_critic import ActorCritic, log_prob_and_entropy
except ModuleNotFoundError as error:
    raise MissingExtraError("train", "llmserve_agents.learning.ppo") from error

from llmserve_agents.learning.features import FEATURES
from llmserve_agents.learning.network import HEAD_SIZES, INPUT_CLIP, KEEP_KNOBS, MLPPolicy, mask_logits
from llmserve_agents.learning.normalization import InputNormalizer, RewardNormalizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_agents.learning.config import PPOConfig
    from llmserve_agents.learning.rollout import Rollout

    Ints = NDArray[np.int64]
    Singles = NDArray[np.float32]

__all__ = ["LOSSES", "PPO", "Batch", "gae", "one_thread"]

LOSSES: Final = ("policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac")
"""What is measured on every minibatch, in this order."""
GRADIENT_SHARDS: Final = 2
"""Shards that the gradient of a minibatch is computed in. The number is fixed, so that threads change no number."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A rollout with its windows in one row, or a minibatch of it."""

    inputs: torch.Tensor
    """[n, features], normalised."""
    action_mask: torch.Tensor
    """[n, sum(HEAD_SIZES)], added to the logits: 0, or -1e9 for a masked choice."""
    actions: torch.Tensor
    """int64[n, heads]"""
    logprobs: torch.Tensor
    """[n, heads], under the policy that acted."""
    on_policy: torch.Tensor
    """[n, heads]: 1 where the policy chose the action, 0 where a trial did."""
    trial_knob: torch.Tensor
    """int64[n]: the knob that a trial changed; -1: none."""
    advantages: torch.Tensor
    """[n]"""
    returns: torch.Tensor
    """[n], in the critic's units."""

    def __len__(self) -> int:
        return len(self.inputs)

    def rows(self, indices: torch.Tensor) -> Batch:
        """Return a copy of the rows of indices int64[n], in their order."""
        return Batch(*(getattr(self, column.name).index_select(0, indices) for column in fields(self)))

    def split(self, size: int) -> list[Batch]:
        """Return consecutive parts of `size` rows, the last may be smaller; they share memory with this batch."""
        columns = (getattr(self, column.name).split(size) for column in fields(self))
        return [Batch(*part) for part in zip(*columns, strict=True)]


class PPO:
    """The learner: actor-critic, optimizer and running statistics. Everything random comes from the config's seed."""

    def __init__(self, config: PPOConfig, *, can_split: bool) -> None:
        self.config = config
        self.can_split = can_split
        # A new thread starts with as many threads of torch as there are processors, whatever the others were told.
        settings = {"initializer": torch.set_num_threads, "initargs": (1,)}
        self._pool = ThreadPoolExecutor(GRADIENT_SHARDS - 1, **settings) if config.threads > 1 else None
        self.generator = torch.Generator().manual_seed(config.seed)
        with one_thread(), torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.model = ActorCritic(config.hidden, config.keep_bias)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate, eps=1e-5, fused=True)
        self.input_normalizer = InputNormalizer()
        self.reward_normalizer = RewardNormalizer()

    def close(self) -> None:
        """End the thread, if there is one."""
        if self._pool is not None:
            self._pool.shutdown()

    def tensors(self) -> dict[str, Singles]:
        """Return what a checkpoint of the present actor holds."""
        found = {
            f"actor.{name}": value.detach().numpy().copy() for name, value in self.model.actor.state_dict().items()
        }
        found["normalizer.mean"] = self.input_normalizer.mean.astype(np.float32)
        found["normalizer.std"] = self.input_normalizer.std.astype(np.float32)
        return found

    def policy(self) -> MLPPolicy:
        """Return the present actor in numpy, to act with."""
        return MLPPolicy.from_tensors(self.tensors(), can_split=self.can_split)

    def update(self, rollout: Rollout, *, learning_rate: float, ent_coef: float) -> dict[str, float]:
        """Learn from one rollout; return the mean of each of `LOSSES` over the minibatches, and `explained_variance`."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        # The policy acted with the present statistics of the inputs. They change only after the update.
        batch, explained_variance = self._make_batch(rollout)
        sums, count = torch.zeros(len(LOSSES)), 0
        for _ in range(self.config.epochs):
            shuffled = batch.rows(torch.randperm(len(batch), generator=self.generator))
            for minibatch in shuffled.split(-(-len(batch) // self.config.minibatches)):
                sums += self._step(minibatch, ent_coef)
                count += 1
        self.input_normalizer.update(rollout.inputs.reshape(-1, len(FEATURES)))
        means = dict(zip(LOSSES, (sums / count).tolist(), strict=True))
        return means | {"explained_variance": explained_variance}

    def imitate(self, inputs: Singles, actions: Ints) -> None:
        """Train the actor to predict an agent's actions int64[n, heads] from inputs float32[n, features]."""
        self.input_normalizer.update(inputs)
        x, targets, action_mask = self._normalize(inputs), torch.from_numpy(actions), self._action_mask(inputs)
        for _ in range(self.config.epochs * 4):
            for rows in torch.randperm(len(x), generator=self.generator).split(512):
                logprob, _ = log_prob_and_entropy(self.model.logits(x[rows]) + action_mask[rows], targets[rows])
                self.optimizer.zero_grad(set_to_none=True)
                (-logprob.sum(dim=1).mean()).backward()
                self.optimizer.step()

    def _make_batch(self, rollout: Rollout) -> tuple[Batch, float]:
        """Return a rollout with its advantages and returns, and the share of the returns' variance that the critic explains."""
        inputs = rollout.inputs.reshape(-1, len(FEATURES))
        x = self._normalize(inputs)
        shards = self._map(self._values, x.split(-(-len(x) // GRADIENT_SHARDS)))
        values = np.concatenate(shards).reshape(rollout.rewards.shape)
        next_value = self._values(self._normalize(rollout.next_inputs))
        advantages, returns = self._advantages(rollout, values, next_value)
        on_policy = torch.ones(len(x), len(HEAD_SIZES))
        on_policy[:, list(KEEP_KNOBS)] -= torch.from_numpy(rollout.in_trial.reshape(-1, 1)).float()
        batch = Batch(
            inputs=x,
            action_mask=self._action_mask(inputs),
            actions=torch.from_numpy(rollout.actions.reshape(-1, len(HEAD_SIZES))),
            logprobs=torch.from_numpy(rollout.logprobs.reshape(-1, len(HEAD_SIZES))),
            on_policy=on_policy,
            trial_knob=torch.from_numpy(rollout.trial_knob.reshape(-1)),
            advantages=torch.from_numpy(advantages.reshape(-1)),
            returns=torch.from_numpy(returns.reshape(-1)),
        )
        return batch, float(1.0 - np.var(returns - values) / max(np.var(returns), 1e-12))

    def _values(self, x: torch.Tensor) -> Singles:
        """Return the critic's values [n] for normalised inputs."""
        with torch.no_grad():
            values: Singles = self.model.value(x).numpy()
        return values

    def _advantages(self, rollout: Rollout, values: Singles, next_value: Singles) -> tuple[Singles, Singles]:
        """Return generalised advantages and returns [windows, envs], in the critic's units.

        An episode ends by a time limit, so the critic's value of its last inputs, `next_value`, is bootstrapped.
        """
        gamma, gae_lambda = self.config.gamma, self.config.gae_lambda
        self.reward_normalizer.update(rollout.rewards, gamma)
        next_values = np.concatenate((values[1:], next_value[None]))
        deltas = self.reward_normalizer.normalize(rollout.rewards) + gamma * next_values - values
        # A trial's change is no consequence of the actions before it: their sums stop there, and the critic's value stands in.
        trial_starts = rollout.trial_knob >= 0
        returns = gae(deltas, gamma * gae_lambda, trial_starts) + values
        group_size = self.config.group_size
        if group_size > 1:
            groups = deltas.reshape(len(deltas), -1, group_size)
            others = (groups.sum(axis=2, keepdims=True) - groups) / (group_size - 1)
            deltas = (groups - others).reshape(deltas.shape)
        return gae(deltas, gamma * gae_lambda, trial_starts), returns

    def _step(self, minibatch: Batch, ent_coef: float) -> torch.Tensor:
        """Take one gradient step on a minibatch; return its `LOSSES`."""
        if len(minibatch) > 1:  # the standard deviation of one row is NaN
            mb_advantages = minibatch.advantages
            mb_advantages = (mb_advantages - mb_advantages.mean()) / (mb_advantages.std() + 1e-8)
            minibatch = replace(minibatch, advantages=mb_advantages)
        shards = minibatch.split(-(-len(minibatch) // GRADIENT_SHARDS))
        found = self._map(lambda shard: self._gradients(shard, len(shard) / len(minibatch), ent_coef), shards)
        losses = torch.stack([shard_losses for shard_losses, _ in found]).sum(dim=0)
        for parameter, *parts in zip(self.model.parameters(), *(gradients for _, gradients in found), strict=True):
            parameter.grad = torch.stack(parts).sum(dim=0)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        return losses

    def _gradients(self, shard: Batch, weight: float, ent_coef: float) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Return the `LOSSES` of a shard of a minibatch and the gradient of its loss, both times `weight`."""
        loss, losses = self._losses(shard, ent_coef)
        gradients = torch.autograd.grad(weight * loss, list(self.model.parameters()))
        return weight * losses, gradients

    def _losses(self, minibatch: Batch, ent_coef: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss to minimise, and its `LOSSES` without a gradient."""
        config, mb_advantages = self.config, minibatch.advantages
        logits = self.model.logits(minibatch.inputs) + minibatch.action_mask
        newlogprob, entropy = log_prob_and_entropy(logits, minibatch.actions)
        logratio = ((newlogprob - minibatch.logprobs) * minibatch.on_policy).sum(dim=1)
        ratio = logratio.exp()

        pg_loss1 = -mb_advantages * ratio
        pg_loss2 = -mb_advantages * ratio.clamp(1 - config.clip, 1 + config.clip)
        # Self-imitation: raise the probability of a trial's change where it did better than expected.
        trial_logprob = newlogprob.gather(1, minibatch.trial_knob[:, None].clamp(min=0))[:, 0]
        trial_logprob = trial_logprob * (minibatch.trial_knob >= 0)
        trial_bonus = config.trial_weight * mb_advantages.clamp(min=0) * trial_logprob
        pg_loss = (torch.max(pg_loss1, pg_loss2) - trial_bonus).mean()

        newvalue = self.model.value(minibatch.inputs)
        v_loss = 0.5 * (newvalue - minibatch.returns).square().mean()
        entropy_loss = (minibatch.on_policy * entropy).sum(dim=1).mean()
        loss = pg_loss + config.value_weight * v_loss - ent_coef * entropy_loss

        with torch.no_grad():
            approx_kl = (ratio - 1 - logratio).mean()
            clipfrac = ((ratio - 1).abs() > config.clip).float().mean()
            return loss, torch.stack((pg_loss, v_loss, entropy_loss, approx_kl, clipfrac))

    def _map(self, function: Callable[[Any], Any], parts: Sequence[Any]) -> list[Any]:
        """Return the function's result for each part, on as many threads as there are."""
        if self._pool is None:
            return list(map(function, parts))
        first, *others = parts
        submitted = [self._pool.submit(function, part) for part in others]
        return [function(first), *(future.result() for future in submitted)]

    def _normalize(self, inputs: Singles) -> torch.Tensor:
        mean = torch.from_numpy(self.input_normalizer.mean.astype(np.float32))
        std = torch.from_numpy(self.input_normalizer.std.astype(np.float32))
        return (torch.from_numpy(inputs) - mean).div_(std).clamp_(-INPUT_CLIP, INPUT_CLIP)

    def _action_mask(self, inputs: Singles) -> torch.Tensor:
        """Return [n, sum(HEAD_SIZES)], to be added to the logits: 0, or -1e9 for a masked choice."""
        zeros = np.zeros((len(inputs), sum(HEAD_SIZES)), dtype=np.float32)
        return torch.from_numpy(mask_logits(zeros, inputs, can_split=self.can_split))

    def state_dict(self) -> dict[str, Any]:
        """Return everything that learning needs to go on, as `torch.save` takes it."""
        inputs, rewards = self.input_normalizer, self.reward_normalizer
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "normalizer": {
                "count": inputs.count,
                "mean": torch.from_numpy(inputs.mean),
                "variance": torch.from_numpy(inputs.variance),
            },
            "returns": [rewards.mean, rewards.std, rewards.updates],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; other keys are ignored."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        inputs, rewards = self.input_normalizer, self.reward_normalizer
        inputs.count = state["normalizer"]["count"]
        inputs.mean, inputs.variance = (state["normalizer"][name].numpy() for name in ("mean", "variance"))
        rewards.mean, rewards.std, rewards.updates = state["returns"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it, torch and numpy's matrix products use one thread each.

    The number of threads changes the last digits of a product, and threads that wait for small products cost more than they save.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


def gae(deltas: Singles, discount: float, trial_starts: NDArray[np.bool_]) -> Singles:
    """Return the discounted sums of the TD errors [windows, envs] from each window on, up to the start of the next trial.

    `discount` is gamma times lambda. The sum of a window includes its own TD error.
    """
    advantages, lastgaelam = np.empty_like(deltas), np.zeros(deltas.shape[1], dtype=np.float32)
    for window in range(len(deltas) - 1, -1, -1):
        lastgaelam = advantages[window] = deltas[window] + np.float32(discount) * lastgaelam
        lastgaelam = np.where(trial_starts[window], np.float32(0.0), lastgaelam)
    return advantages
