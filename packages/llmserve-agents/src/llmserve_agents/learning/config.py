"""Every hyper-parameter of PPO, written once: default, bounds and help. `llmserve train` builds its options from it.

Needs no torch, so that the command can show its help without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from llmserve_sim.errors import InvalidInputError

__all__ = ["PPOConfig", "option_of", "with_current_names"]

_RENAMED: Final = {"twins": "group_size"}
"""Today's names of fields that older cards and states hold under another name."""


def _option(default: Any, text: str, bounds: tuple[float, float] | None = None) -> Any:
    return field(default=default, metadata={"help": text, "bounds": bounds})


@dataclass(frozen=True, slots=True)
class PPOConfig:
    """Every hyper-parameter. A step is one window of one environment.

    The metadata of a field holds its `help` and its `bounds` (low, high), both inclusive. Raises `InvalidInputError` for a
    value out of bounds.
    """

    task: str = _option("bursty_workload", "The task to train on: an id, or the path of a task file.")
    steps: int = _option(3_000_000, "Windows to train on, rounded up to whole updates.", (1, 10**10))
    seed: int = _option(0, "Seed of episodes, actions, initial weights and minibatches.", (0, 2**32 - 1))
    num_envs: int = _option(
        0,
        "Episodes per update, a multiple of --group-size; 0: 96, or fewer where that gives under 100 updates (at least 8).",
        (0, 4096),
    )
    # A baseline that knows the input: Mao et al., "Variance Reduction for RL in Input-Driven Environments", 2019.
    group_size: int = _option(
        1, "Episodes that face the same traffic; what they have in common is taken out of their advantages.", (1, 64)
    )
    learning_rate: float = _option(1e-3, "Adam's step size at the start; falls linearly to 0.", (0.0, 1.0))
    gamma: float = _option(
        0.97, "Discount per window; with 0.97, a reward two minutes ahead counts half.", (0.0, 0.9999)
    )
    gae_lambda: float = _option(0.95, "Weight of longer returns in the advantage.", (0.0, 1.0))
    clip: float = _option(0.2, "Bound on how far an update moves a probability, as a ratio.", (0.001, 1.0))
    epochs: int = _option(3, "Passes over the data of an update.", (1, 100))
    minibatches: int = _option(6, "Minibatches per pass.", (1, 1024))
    entropy: float = _option(0.006, "Weight of the entropy bonus at the start; falls linearly to 0.", (0.0, 1.0))
    value_weight: float = _option(0.5, "Weight of the value loss.", (0.0, 100.0))
    max_grad_norm: float = _option(0.5, "The gradient is scaled down to this norm.", (1e-6, 1e6))
    hidden: int = _option(128, "Units of each of the two tanh layers, of the actor and of the critic.", (1, 4096))
    # A change of tier or split costs seconds, so a policy that changes them at random earns next to nothing.
    keep_bias: float = _option(3.0, "Initial logit of leaving tier and split as they are.", (-100.0, 100.0))
    # A change of these two shows its worth windows later, under settings that suit it. Single random changes do not find it.
    trials: float = _option(
        0.0,
        "Share of windows at the start, falling linearly to 0, in which another tier or split is held on trial, "
        "while the policy sets the other knobs.",
        (0.0, 0.9),
    )
    # Oh et al., "Self-Imitation Learning", 2018.
    trial_weight: float = _option(5.0, "Weight of imitating trials that did better than expected.", (0.0, 1000.0))
    validate_every: int = _option(10, "Updates between two validations.", (1, 10**6))
    validation_episodes: int = _option(24, "Validation seeds, the first of the task's range.", (1, 1000))
    clone_from: str | None = _option(None, "An agent to imitate before training; by default none.")
    clone_steps: int = _option(60_000, "Windows of that agent to learn from, on top of --steps.", (1, 10**9))
    threads: int = _option(
        1, "Processors to use; with 2, about 1.8 times as fast as with 1. They change no number.", (1, 256)
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            bounds, value = each.metadata["bounds"], getattr(self, each.name)
            if bounds is not None and not bounds[0] <= value <= bounds[1]:
                raise InvalidInputError(each.name, f"must be in {bounds[0]}..{bounds[1]}", got=value)
        if self.num_envs % self.group_size:
            raise InvalidInputError(
                "num_envs", f"must be a multiple of group_size, {self.group_size}", got=self.num_envs
            )

    def resolve_num_envs(self, windows: int) -> int:
        """Return the number of environments for episodes of so many windows: a multiple of `group_size`."""
        num_envs = min(96, max(8, self.steps // (windows * 100)))
        return self.num_envs or max(1, num_envs // self.group_size) * self.group_size


def option_of(name: str) -> str:
    """Return the command's option for a field."""
    return f"--{name.replace('_', '-')}"


def with_current_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a card or a state under today's field names; older ones say `twins` for `group_size`."""
    return {_RENAMED.get(name, name): value for name, value in config.items()}
