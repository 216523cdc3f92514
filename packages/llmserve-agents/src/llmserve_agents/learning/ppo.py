"""Proximal policy optimisation on CPU: updates in torch, on rollouts of whole episodes that `players.py` plays in numpy.

One update plays `num_envs` whole episodes of the task's training seeds in lock step and learns from them for a few epochs. An
episode's end is a time limit: the value of its last observation stands for what would have come. The policy that is kept is the
one that did best on validation seeds. Everything is drawn from `seed`, so a run repeats itself on the same machine, and one
that was interrupted goes on as if it had not been.

Schulman et al., "Proximal Policy Optimization Algorithms", 2017; generalised advantages: Schulman et al., 2016.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from llmserve_agents.errors import MissingExtraError

try:
    import torch
    from threadpoolctl import threadpool_limits
    from torch import nn
except ModuleNotFoundError as error:
    raise MissingExtraError("train", "llmserve_agents.learning.ppo") from error

from llmserve_agents.learning.agent import play
from llmserve_agents.learning.config import PPOConfig
from llmserve_agents.learning.features import FEATURES
from llmserve_agents.learning.network import (
    CLIP,
    HEADS,
    KEEP_KNOBS,
    KEEP_LOGITS,
    PLACES,
    WIDEST,
    MLPPolicy,
    masked,
)
from llmserve_agents.learning.rollout import Clock, Players, Rollout
from llmserve_sim.configuration import Configurator
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.tasks import Task, load_task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Singles = NDArray[np.float32]

__all__ = ["TrainResult", "Trainer", "Update", "train", "validation_seeds"]

LOSSES: Final = ("policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac")
"""What every minibatch shows."""
SHARES: Final = 2
"""Parts that a minibatch's gradient is computed in, one for each thread. Always so many, so that threads change no number."""
_MASKED_OFF: Final = -1e9
"""Logit of a choice that there is not, as in `network.py`."""
_PLACES: Final = torch.from_numpy(PLACES)


@dataclass(frozen=True, slots=True)
class Update:
    """What one update showed. Losses are means over its minibatches."""

    number: int
    """From 1."""
    updates: int
    """In the whole run."""
    steps: int
    """Windows so far."""
    episodic_return: float
    """Mean reward per window of the episodes just played, with exploration."""
    validation: float | None
    """Mean reward per window on the validation seeds without exploration; None: not measured after this update."""
    best: float | None
    """The best of these so far."""
    losses: dict[str, float]
    """policy_loss, value_loss, entropy, approx_kl, clipfrac, explained_variance."""
    learning_rate: float
    seconds: float
    """Since training began; a pause before a run was resumed does not count."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The best policy by validation, and how the run went."""

    config: PPOConfig
    tensors: dict[str, Singles]
    """As a checkpoint holds them."""
    validation: float
    """Its mean reward per window on the validation seeds."""
    steps: int
    """Windows of the whole run."""
    best_steps: int
    """Windows after which this policy was reached."""
    updates: list[Update]
    seconds: dict[str, float]
    """Where the time went: generate, simulate, features, act, update, validate."""


class Normalizer:
    """Running mean and variance of the inputs, which the policy divides by; frozen in a checkpoint."""

    def __init__(self) -> None:
        self.count = 1e-4
        self.mean = np.zeros(len(FEATURES))
        self.variance = np.ones(len(FEATURES))

    def update(self, inputs: Singles) -> None:
        """Take in inputs float32[n, features]."""
        mean, count = inputs.mean(axis=0, dtype=np.float64), len(inputs)
        variance = np.square(inputs - mean.astype(np.float32)).mean(axis=0, dtype=np.float64)
        total = self.count + count
        delta = mean - self.mean
        spread = self.variance * self.count + variance * count + delta**2 * self.count * count / total
        self.mean, self.variance, self.count = self.mean + delta * count / total, spread / total, total

    @property
    def deviation(self) -> Floats:
        """Standard deviations, never so small that a feature which hardly ever moves would be blown up."""
        return np.sqrt(self.variance + 1e-4)


class ReturnScale:
    """The size of discounted returns, in which the critic learns: rewards less their mean, over the returns' deviation."""

    def __init__(self) -> None:
        self.mean = 0.0
        self.deviation = 1.0
        self.updates = 0

    def update(self, rewards: Singles, gamma: float) -> None:
        """Take in the rewards [windows, envs] of whole episodes; newer ones weigh a tenth, or more at the beginning."""
        self.updates += 1
        weight = max(0.1, 1.0 / self.updates)
        self.mean += weight * (float(rewards.mean()) - self.mean)
        running, returns = np.zeros(rewards.shape[1]), np.empty(rewards.shape)
        for window, row in enumerate(rewards):
            running = returns[window] = gamma * running + row - self.mean
        self.deviation += weight * (max(float(returns.std()), 1e-3) - self.deviation)


class ActorCritic(nn.Module):
    """Two separate tanh networks on the normalised inputs."""

    def __init__(self, hidden: int, keep_bias: float) -> None:
        super().__init__()
        width = len(FEATURES)
        self.actor = nn.ModuleList(
            [_linear(width, hidden, 2**0.5), _linear(hidden, hidden, 2**0.5), _linear(hidden, sum(HEADS), 0.01)]
        )
        self.critic = nn.ModuleList(
            [_linear(width, hidden, 2**0.5), _linear(hidden, hidden, 2**0.5), _linear(hidden, 1, 1.0)]
        )
        with torch.no_grad():
            self.actor[-1].bias[list(KEEP_LOGITS)] = keep_bias

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return the actor's [n, sum(HEADS)] for normalised inputs."""
        return _forward(self.actor, x)

    def value(self, x: torch.Tensor) -> torch.Tensor:
        """Return the critic's [n], in the units of `ReturnScale`."""
        return _forward(self.critic, x)[:, 0]


def _linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def _forward(layers: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
    for layer in layers[:-1]:
        x = Tanh.apply(layer(x))
    result: torch.Tensor = layers[-1](x)
    return result


class Tanh(torch.autograd.Function):
    """tanh(x) as 2 s(2x) - 1 of the logistic function s, the same to 2e-7: on CPU, torch computes this one in half the time."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """Return tanh of each entry."""
        y = (2.0 * x).sigmoid_().mul_(2.0).sub_(1.0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the input."""
        [y] = ctx.saved_tensors
        result: torch.Tensor = torch.ops.aten.tanh_backward(gradient, y)
        return result


@dataclass(frozen=True, slots=True)
class Lesson:
    """A rollout as the update takes it, a row per window; `own` is 1 where the choice was the policy's, and not a trial's."""

    inputs: torch.Tensor
    """Normalised."""
    mask: torch.Tensor
    """What is added to the logits: 0, or next to minus infinity for a choice that there is not."""
    choices: torch.Tensor
    logp: torch.Tensor
    own: torch.Tensor
    drawn: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def rows(self, at: torch.Tensor) -> Lesson:
        """Return the rows of indices int64[n], in their order."""
        return Lesson(*(getattr(self, part.name).index_select(0, at) for part in fields(self)))

    def split(self, size: int) -> list[Lesson]:
        """Return the rows in parts of `size`, the last may be smaller; they share memory with the whole."""
        columns = (getattr(self, part.name).split(size) for part in fields(self))
        return [Lesson(*part) for part in zip(*columns, strict=True)]


def validation_seeds(task: Task, count: int) -> list[int]:
    """Return the first validation seeds of a task."""
    seeds = task.seeds.validation
    return list(range(seeds.start, seeds.start + min(count, len(seeds))))


class Trainer:
    """A run that can be stopped after any update, saved, and taken up again."""

    def __init__(self, config: PPOConfig) -> None:
        self.config = config
        self.task = load_task(config.task)
        # A new thread has as many threads of the libraries as there are processors, whatever the others were told.
        alone = {"initializer": torch.set_num_threads, "initargs": (1,)}
        self._pool = ThreadPoolExecutor(SHARES - 1, **alone) if config.threads > 1 else None
        self.envs = config.envs(self.task.windows)
        self.updates = -(-config.steps // (self.envs * self.task.windows))
        self.players = Players(self.task, self.envs, twins=config.twins, threads=config.threads)
        self.can_split = Configurator.build(self.task, None).deployment.can_split
        self.rng = np.random.default_rng(config.seed)
        self.generator = torch.Generator().manual_seed(config.seed)
        with _one_thread(), torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.model = ActorCritic(config.hidden, config.keep_bias)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate, eps=1e-5, fused=True)
        self.normalizer = Normalizer()
        self.returns = ReturnScale()
        self.clock = Clock()
        self.done = 0
        self.best: tuple[float, int, dict[str, Singles]] | None = None
        self.history: list[Update] = []
        self._began = time.perf_counter()

    @property
    def steps(self) -> int:
        """Windows so far."""
        return self.done * self.envs * self.task.windows

    def run(self, progress: Callable[[Update], object] | None = None) -> TrainResult:
        """Train to the end, or until `progress` raises; return the best policy. Nothing can be trained on afterwards."""
        try:
            if self.done == 0 and self.config.clone_from is not None:
                with _one_thread():
                    self._clone(self.config.clone_from)
            while self.done < self.updates:
                update = self.update()
                if progress is not None:
                    progress(update)
        finally:
            self.close()
        return self.result()

    def close(self) -> None:
        """End the processes and threads, if there are any."""
        self.players.close()
        if self._pool is not None:
            self._pool.shutdown()

    def result(self) -> TrainResult:
        """Return the best policy so far; raises `InvalidInputError` before the first validation."""
        if self.best is None:
            raise InvalidInputError("steps", "must be enough for an update", got=self.config.steps)
        value, steps, tensors = self.best
        return TrainResult(self.config, tensors, value, self.steps, steps, self.history, dict(self.clock.seconds))

    def update(self) -> Update:
        """Play one batch of episodes, learn from it, and validate where it is time to."""
        with _one_thread():
            return self._update()

    def _update(self) -> Update:
        config, left = self.config, 1.0 - self.done / self.updates
        rate = config.learning_rate * left
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        rollout = self._play(config.trials * left)
        with self.clock.on("update"):
            losses = self._learn(rollout, config.entropy * left)
        self.done += 1
        validation = None
        if self.done % config.validate_every == 0 or self.done == self.updates:
            with self.clock.on("validate"):
                validation = self.validate()
            if self.best is None or validation > self.best[0]:
                self.best = (validation, self.steps, self.tensors())
        self.history.append(
            Update(
                number=self.done,
                updates=self.updates,
                steps=self.steps,
                episodic_return=float(rollout.rewards.mean()),
                validation=validation,
                best=None if self.best is None else self.best[0],
                losses=losses,
                learning_rate=rate,
                seconds=time.perf_counter() - self._began,
            )
        )
        return self.history[-1]

    def policy(self) -> MLPPolicy:
        """Return the present actor, for numpy."""
        return MLPPolicy.of(self.tensors(), can_split=self.can_split)

    def tensors(self) -> dict[str, Singles]:
        """Return what a checkpoint of the present actor holds."""
        found = {
            f"actor.{name}": value.detach().numpy().copy() for name, value in self.model.actor.state_dict().items()
        }
        found["normalizer.mean"] = self.normalizer.mean.astype(np.float32)
        found["normalizer.std"] = self.normalizer.deviation.astype(np.float32)
        return found

    def validate(self) -> float:
        """Return the mean reward per window of the present policy, without exploration, on the validation seeds."""
        return float(
            play(
                self.policy(),
                self.task,
                validation_seeds(self.task, self.config.validation_episodes),
                threads=self.config.threads,
            ).mean()
        )

    def state(self) -> dict[str, Any]:
        """Return everything that the run needs to go on, as `torch.save` takes it."""
        return {
            "config": asdict(self.config),
            "task_digest": self.task.digest,
            "done": self.done,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": self.rng.bit_generator.state,
            "generator": self.generator.get_state(),
            "normalizer": {
                "count": self.normalizer.count,
                "mean": torch.from_numpy(self.normalizer.mean),
                "variance": torch.from_numpy(self.normalizer.variance),
            },
            "returns": [self.returns.mean, self.returns.deviation, self.returns.updates],
            "best": None
            if self.best is None
            else {
                "value": self.best[0],
                "steps": self.best[1],
                "tensors": {name: torch.from_numpy(value) for name, value in self.best[2].items()},
            },
            "history": [asdict(update) for update in self.history],
            "seconds": dict(self.clock.seconds),
        }

    def save(self, path: Path) -> None:
        """Write the run's state, whole or not at all."""
        new = path.with_suffix(".new")
        torch.save(self.state(), new)
        new.replace(path)

    @classmethod
    def resume(cls, path: Path, *, threads: int | None = None) -> Self:
        """Return the run of a state file, to be gone on with; on as many threads as before, or as said.

        Raises `InvalidInputError` for a file that is none, and where the task is no longer what the run began with.
        """
        try:
            state = torch.load(path, weights_only=True)
            config, digest = PPOConfig(**state["config"]), state["task_digest"]
            trainer = cls(config if threads is None else replace(config, threads=threads))
            trainer.done = state["done"]
            trainer.model.load_state_dict(state["model"])
            trainer.optimizer.load_state_dict(state["optimizer"])
            trainer.rng.bit_generator.state = state["rng"]
            trainer.generator.set_state(state["generator"])
            kept = state["normalizer"]
            trainer.normalizer.count = kept["count"]
            trainer.normalizer.mean, trainer.normalizer.variance = kept["mean"].numpy(), kept["variance"].numpy()
            trainer.returns.mean, trainer.returns.deviation, trainer.returns.updates = state["returns"]
            if state["best"] is not None:
                best = state["best"]
                tensors = {name: value.numpy() for name, value in best["tensors"].items()}
                trainer.best = (best["value"], best["steps"], tensors)
            trainer.history = [Update(**update) for update in state["history"]]
            trainer.clock.seconds.update(state["seconds"])
            if trainer.history:
                trainer._began -= trainer.history[-1].seconds
        except (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise InvalidInputError(
                "resume", f"must be the state of a training run, whole ({type(error).__name__})", got=str(path)
            ) from error
        if digest != trainer.task.digest:
            raise InvalidInputError(
                "task", f"must be what the run in {path} began with, of digest {digest}", got=trainer.task.digest
            )
        return trainer

    def _play(self, share: float) -> Rollout:
        """Play whole episodes of drawn training seeds; a share of the windows lies in trials."""
        train, twins = self.task.seeds.train, self.config.twins
        seeds = self.rng.integers(train.start, train.stop, self.envs // twins).repeat(twins).tolist()
        rollout, seconds = self.players.play(self.policy(), seeds, share, self.rng)
        for what, spent in seconds.items():
            self.clock.seconds[what] += spent
        return rollout

    def _learn(self, rollout: Rollout, entropy_weight: float) -> dict[str, float]:
        """Learn from one rollout; return the mean losses."""
        config = self.config
        # The policy that acted saw the old normaliser; learning goes on with it, the next rollout sees the new one.
        lesson, explained = self._lesson(rollout)
        sums, parts = torch.zeros(len(LOSSES)), 0
        for _ in range(config.epochs):
            shuffled = lesson.rows(torch.randperm(len(lesson), generator=self.generator))
            for part in shuffled.split(-(-len(lesson) // config.minibatches)):
                sums += self._descend(part, entropy_weight)
                parts += 1
        self.normalizer.update(rollout.inputs.reshape(-1, len(FEATURES)))
        return dict(zip(LOSSES, (sums / parts).tolist(), strict=True)) | {"explained_variance": explained}

    def _lesson(self, rollout: Rollout) -> tuple[Lesson, float]:
        """Return what there is to learn from a rollout, and the share of the returns' variance that the critic foresaw."""
        inputs = rollout.inputs.reshape(-1, len(FEATURES))
        x = self._normalized(torch.from_numpy(inputs))
        values = np.concatenate(self._map(self._values, x.split(-(-len(x) // SHARES)))).reshape(rollout.rewards.shape)
        last = self._values(self._normalized(torch.from_numpy(rollout.last_inputs)))
        advantages, returns = self._advantages(rollout, values, last)
        own = torch.ones(len(x), len(HEADS))
        own[:, list(KEEP_KNOBS)] -= torch.from_numpy(rollout.held.reshape(-1, 1)).float()
        lesson = Lesson(
            inputs=x,
            mask=self._mask(inputs),
            choices=torch.from_numpy(rollout.choices.reshape(-1, len(HEADS))),
            logp=torch.from_numpy(rollout.logp.reshape(-1, len(HEADS))),
            own=own,
            drawn=torch.from_numpy(rollout.drawn.reshape(-1)),
            advantages=torch.from_numpy(advantages.reshape(-1)),
            returns=torch.from_numpy(returns.reshape(-1)),
        )
        return lesson, float(1.0 - np.var(returns - values) / max(np.var(returns), 1e-12))

    def _values(self, x: torch.Tensor) -> Singles:
        """Return the critic's word on normalised inputs."""
        with torch.no_grad():
            found: Singles = self.model.value(x).numpy()
        return found

    def _descend(self, part: Lesson, entropy_weight: float) -> torch.Tensor:
        """Take one step down the gradient of a minibatch; return its losses, in the order of `LOSSES`."""
        if len(part) > 1:  # one has no spread
            gain = (part.advantages - part.advantages.mean()) / (part.advantages.std() + 1e-8)
            part = replace(part, advantages=gain)
        shares = part.split(-(-len(part) // SHARES))
        found = self._map(lambda share: self._gradient(share, len(share) / len(part), entropy_weight), shares)
        losses = torch.stack([shown for shown, _ in found]).sum(dim=0)
        for parameter, *some in zip(self.model.parameters(), *(gradients for _, gradients in found), strict=True):
            parameter.grad = torch.stack(some).sum(dim=0)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        return losses

    def _gradient(
        self, share: Lesson, weight: float, entropy_weight: float
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Return the losses of some rows and the gradient of their sum, both times `weight`."""
        config, gain = self.config, share.advantages
        each, entropies = log_probability(self.model.logits(share.inputs) + share.mask, share.choices)
        change = ((each - share.logp) * share.own).sum(dim=1)
        ratio = change.exp()
        bounded = torch.min(gain * ratio, gain * ratio.clamp(1 - config.clip, 1 + config.clip))
        tried = each.gather(1, share.drawn[:, None].clamp(min=0))[:, 0] * (share.drawn >= 0)
        policy_loss = -(bounded + config.trial_weight * gain.clamp(min=0) * tried).mean()
        value_loss = 0.5 * (self.model.value(share.inputs) - share.returns).square().mean()
        bonus = (share.own * entropies).sum(dim=1).mean()
        loss = policy_loss + config.value_weight * value_loss - entropy_weight * bonus
        gradients = torch.autograd.grad(weight * loss, list(self.model.parameters()))
        with torch.no_grad():
            kl = (ratio - 1 - change).mean()
            clipped = ((ratio - 1).abs() > config.clip).float().mean()
            return weight * torch.stack((policy_loss, value_loss, bonus, kl, clipped)), gradients

    def _map(self, function: Callable[[Any], Any], parts: Sequence[Any]) -> list[Any]:
        """Return what a function makes of each part, on as many threads as there are."""
        if self._pool is None:
            return list(map(function, parts))
        mine, *others = parts
        begun = [self._pool.submit(function, part) for part in others]
        return [function(mine), *(one.result() for one in begun)]

    def _normalized(self, inputs: torch.Tensor) -> torch.Tensor:
        mean = torch.from_numpy(self.normalizer.mean.astype(np.float32))
        std = torch.from_numpy(self.normalizer.deviation.astype(np.float32))
        return (inputs - mean).div_(std).clamp_(-CLIP, CLIP)

    def _mask(self, inputs: Singles) -> torch.Tensor:
        """What is added to the logits: 0, or next to minus infinity for a choice that there is not."""
        blank = masked(np.zeros((len(inputs), sum(HEADS)), dtype=np.float32), inputs, can_split=self.can_split)
        return torch.from_numpy(blank)

    def _advantages(self, rollout: Rollout, values: Singles, last: Singles) -> tuple[Singles, Singles]:
        """Return generalised advantages and returns [windows, envs], in the units of `ReturnScale`.

        What was drawn tells nothing about the choices before it: there the critic's word stands for what follows.
        """
        gamma, lam, rewards = self.config.gamma, self.config.gae_lambda, rollout.rewards
        self.returns.update(rewards, gamma)
        scaled = ((rewards - self.returns.mean) / self.returns.deviation).astype(np.float32)
        following = np.concatenate((values[1:], last[None]))
        surprises = scaled + gamma * following - values
        returns = _discounted(surprises, gamma * lam, rollout.drawn >= 0) + values
        twins = self.config.twins
        if twins > 1:
            groups = surprises.reshape(len(surprises), -1, twins)
            others = (groups.sum(axis=2, keepdims=True) - groups) / (twins - 1)
            surprises = (groups - others).reshape(surprises.shape)
        return _discounted(surprises, gamma * lam, rollout.drawn >= 0), returns

    def _clone(self, name: str) -> None:
        """Imitate an agent: its actions on training seeds, put on the grid, as classes to predict."""
        from llmserve_agents.learning.imitation import demonstrations

        inputs, choices = demonstrations(self.task, name, self.config.clone_steps, self.rng)
        self.normalizer.update(inputs)
        x, labels = self._normalized(torch.from_numpy(inputs)), torch.from_numpy(choices)
        mask = self._mask(inputs)
        for _ in range(self.config.epochs * 4):
            for at in torch.randperm(len(x), generator=self.generator).split(512):
                each, _ = log_probability(self.model.logits(x[at]) + mask[at], labels[at])
                self.optimizer.zero_grad(set_to_none=True)
                (-each.sum(dim=1).mean()).backward()
                self.optimizer.step()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Within it, torch and numpy's products keep to one thread each, as many as there may be: their number changes last digits.

    The threads are ours: those of the libraries take longer to wait for one another than their small products take.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


def _discounted(surprises: Singles, discount: float, drawn: NDArray[np.bool_]) -> Singles:
    """Return the discounted sums of what follows each window, itself included, up to the next trial's beginning."""
    sums, running = np.empty_like(surprises), np.zeros(surprises.shape[1], dtype=np.float32)
    for window in range(len(surprises) - 1, -1, -1):
        running = sums[window] = surprises[window] + np.float32(discount) * running
        running = np.where(drawn[window], np.float32(0.0), running)
    return sums


def log_probability(logits: torch.Tensor, choices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probabilities [n, heads] of choices int64[n, heads], and the entropies [n, heads]."""
    table = logits.new_full((len(logits), len(HEADS) * WIDEST), _MASKED_OFF).index_copy(1, _PLACES, logits)
    table = table.view(-1, len(HEADS), WIDEST)
    rows = torch.log_softmax(table, dim=2)
    # Not exp(rows), which is three times as slow where it has to underflow.
    shares = torch.softmax(table, dim=2)
    return rows.gather(2, choices[:, :, None])[:, :, 0], -(shares * rows).sum(dim=2)


def train(config: PPOConfig, progress: Callable[[Update], object] | None = None) -> TrainResult:
    """Train a policy from a configuration; `progress` hears of every update."""
    return Trainer(config).run(progress)
