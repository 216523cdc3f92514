"""A training run: play a rollout, update the policy, validate at times, and keep the policy with the best validation.

One update plays `num_envs` whole episodes of the task's training seeds in lock step. Everything random comes from the
config's seed: the same seed gives the same policy on the same machine, also if the run is interrupted and resumed.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from llmserve_agents.errors import MissingExtraError

try:
    import torch
except ModuleNotFoundError as error:
    raise MissingExtraError("train", "llmserve_agents.learning.trainer") from error

from llmserve_agents.learning.agent import play
from llmserve_agents.learning.config import PPOConfig, with_current_names
from llmserve_agents.learning.ppo import PPO, one_thread
from llmserve_agents.learning.rollout import Rollout, RolloutWorkers, Timer
from llmserve_sim.configuration import Configurator
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.tasks import Task, load_task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Singles = NDArray[np.float32]

__all__ = ["TrainResult", "Trainer", "Update", "train", "validation_seeds"]


@dataclass(frozen=True, slots=True)
class Update:
    """The figures of one update. Losses are means over its minibatches."""

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
    """The best validation so far."""
    losses: dict[str, float]
    """policy_loss, value_loss, entropy, approx_kl, clipfrac, explained_variance."""
    learning_rate: float
    seconds: float
    """Since training began, without pauses before the run was resumed."""


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
    """Time spent on each part: generate, simulate, features, act, update, validate."""


def validation_seeds(task: Task, count: int) -> list[int]:
    """Return the first validation seeds of a task."""
    seeds = task.seeds.validation
    return list(range(seeds.start, seeds.start + min(count, len(seeds))))


class Trainer:
    """A run that can be stopped after any update, saved, and resumed."""

    def __init__(self, config: PPOConfig) -> None:
        self.config = config
        self.task = load_task(config.task)
        self.num_envs = config.resolve_num_envs(self.task.windows)
        self.num_updates = -(-config.steps // (self.num_envs * self.task.windows))
        self.learner = PPO(config, can_split=Configurator.build(self.task, None).deployment.can_split)
        self.workers = RolloutWorkers(self.task, self.num_envs, group_size=config.group_size, threads=config.threads)
        self.rng = np.random.default_rng(config.seed)
        self.timer = Timer()
        self.updates_done = 0
        self.best: tuple[float, int, dict[str, Singles]] | None = None
        """Validation, windows and tensors of the best policy so far."""
        self.history: list[Update] = []
        self._start_time = time.perf_counter()

    @property
    def steps(self) -> int:
        """Windows so far."""
        return self.updates_done * self.num_envs * self.task.windows

    def run(self, progress: Callable[[Update], object] | None = None) -> TrainResult:
        """Train to the end, or until `progress` raises; return the best policy. The trainer is closed afterwards."""
        try:
            if self.updates_done == 0 and self.config.clone_from is not None:
                with one_thread():
                    self._clone(self.config.clone_from)
            while self.updates_done < self.num_updates:
                update = self.update()
                if progress is not None:
                    progress(update)
        finally:
            self.close()
        return self.result()

    def close(self) -> None:
        """End the processes and threads, if there are any."""
        self.workers.close()
        self.learner.close()

    def result(self) -> TrainResult:
        """Return the best policy so far; raises `InvalidInputError` before the first validation."""
        if self.best is None:
            raise InvalidInputError("steps", "must be enough for an update", got=self.config.steps)
        value, steps, tensors = self.best
        return TrainResult(self.config, tensors, value, self.steps, steps, self.history, dict(self.timer.seconds))

    def update(self) -> Update:
        """Play one rollout, learn from it, and validate if it is due."""
        with one_thread():
            return self._update()

    def _update(self) -> Update:
        config, remaining = self.config, 1.0 - self.updates_done / self.num_updates
        learning_rate = config.learning_rate * remaining
        rollout = self._collect(config.trials * remaining)
        with self.timer.measure("update"):
            losses = self.learner.update(rollout, learning_rate=learning_rate, ent_coef=config.entropy * remaining)
        self.updates_done += 1
        validation = None
        if self.updates_done % config.validate_every == 0 or self.updates_done == self.num_updates:
            with self.timer.measure("validate"):
                validation = self.validate()
            if self.best is None or validation > self.best[0]:
                self.best = (validation, self.steps, self.learner.tensors())
        self.history.append(
            Update(
                number=self.updates_done,
                updates=self.num_updates,
                steps=self.steps,
                episodic_return=float(rollout.rewards.mean()),
                validation=validation,
                best=None if self.best is None else self.best[0],
                losses=losses,
                learning_rate=learning_rate,
                seconds=time.perf_counter() - self._start_time,
            )
        )
        return self.history[-1]

    def _collect(self, trial_share: float) -> Rollout:
        """Play whole episodes of random training seeds, with this share of their windows in trials."""
        train, group_size = self.task.seeds.train, self.config.group_size
        # A group's episodes follow one another, as the advantages and the shards of the rollout expect.
        seeds = self.rng.integers(train.start, train.stop, self.num_envs // group_size).repeat(group_size).tolist()
        rollout, seconds = self.workers.collect(self.learner.policy(), seeds, trial_share, self.rng)
        for part, spent in seconds.items():
            self.timer.seconds[part] += spent
        return rollout

    def _clone(self, name: str) -> None:
        """Imitate an agent's actions on training seeds."""
        # Imported only here, since it brings in all other agents.
        from llmserve_agents.learning.imitation import demonstrations

        self.learner.imitate(*demonstrations(self.task, name, self.config.clone_steps, self.rng))

    def validate(self) -> float:
        """Return the mean reward per window of the present policy, without exploration, on the validation seeds."""
        return float(
            play(
                self.learner.policy(),
                self.task,
                validation_seeds(self.task, self.config.validation_episodes),
                threads=self.config.threads,
            ).mean()
        )

    def state(self) -> dict[str, Any]:
        """Return everything that the run needs to go on, as `torch.save` takes it."""
        best = None
        if self.best is not None:
            value, steps, tensors = self.best
            # As torch's tensors, since `torch.load` with weights_only reads no numpy arrays.
            numbers = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
            best = {"value": value, "steps": steps, "tensors": numbers}
        return {
            "config": asdict(self.config),
            "task_digest": self.task.digest,
            "done": self.updates_done,
            "rng": self.rng.bit_generator.state,
            **self.learner.state_dict(),
            "best": best,
            "history": [asdict(update) for update in self.history],
            "seconds": dict(self.timer.seconds),
        }

    def save(self, path: Path) -> None:
        """Write the run's state, whole or not at all."""
        # A rename replaces the file in one step: an interruption leaves the old state as it was.
        new = path.with_suffix(".new")
        torch.save(self.state(), new)
        new.replace(path)

    @classmethod
    def resume(cls, path: Path, *, threads: int | None = None) -> Self:
        """Return the run of a state file, ready to go on, with as many threads as before or as given.

        Raises `InvalidInputError` for a file that is not a whole state, or is one of an older version with another
        layout, and if the task has changed since the run began.
        """
        try:
            # With weights_only, a file from an unknown source cannot run code.
            state = torch.load(path, weights_only=True)
            config, digest = PPOConfig(**with_current_names(state["config"])), state["task_digest"]
            trainer = cls(config if threads is None else replace(config, threads=threads))
            trainer.updates_done = state["done"]
            trainer.rng.bit_generator.state = state["rng"]
            trainer.learner.load_state_dict(state)
            if state["best"] is not None:
                best = state["best"]
                tensors = {name: value.numpy() for name, value in best["tensors"].items()}
                trainer.best = (best["value"], best["steps"], tensors)
            trainer.history = [Update(**update) for update in state["history"]]
            trainer.timer.seconds.update(state["seconds"])
            if trainer.history:  # the time goes on from where the run stopped
                trainer._start_time -= trainer.history[-1].seconds
        except (
            AttributeError, OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError,
        ) as error:  # fmt: skip
            raise InvalidInputError(
                "resume", f"must be the state of a training run, whole ({type(error).__name__})", got=str(path)
            ) from error
        if digest != trainer.task.digest:
            raise InvalidInputError(
                "task", f"must be what the run in {path} began with, of digest {digest}", got=trainer.task.digest
            )
        return trainer


def train(config: PPOConfig, progress: Callable[[Update], object] | None = None) -> TrainResult:
    """Train a policy; `progress` is called after every update."""
    return Trainer(config).run(progress)
