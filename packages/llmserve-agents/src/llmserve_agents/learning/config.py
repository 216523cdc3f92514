"""Every hyper-parameter of PPO, with its default, its bounds and its meaning. Needs no torch: the command reads it too."""

from __future__ import annotations

from dataclasses import dataclass

from llmserve_sim.errors import InvalidInputError

__all__ = ["PPOConfig"]


@dataclass(frozen=True, slots=True)
class PPOConfig:
    """Every hyper-parameter. A step is one window of one environment."""

    task: str = "bursty_workload"
    """Task to train on: an id, or the path of a task file."""
    steps: int = 3_000_000
    """Windows to train on; rounded up to whole updates."""
    seed: int = 0
    """Of everything that is drawn: episodes, actions, initial weights, minibatches."""
    num_envs: int = 0
    """Episodes played side by side, a multiple of `twins`; 0: 96, or fewer where `steps` would otherwise give fewer than 100
    updates (at least 8)."""
    twins: int = 1
    """Episodes among these that face the same traffic. What happened to all of them was the traffic's doing: it is taken out of the
    advantages (a baseline that knows the input: Mao et al., "Variance Reduction for RL in Input-Driven Environments", 2019)."""
    learning_rate: float = 1e-3
    """Adam's step size at the start; it falls linearly to 0."""
    gamma: float = 0.97
    """Discount per window: a reward two minutes ahead counts half."""
    gae_lambda: float = 0.95
    """Weight of longer returns in the advantage."""
    clip: float = 0.2
    """Bound on how far an update may move a probability, as a ratio."""
    epochs: int = 3
    """Passes over the data of an update."""
    minibatches: int = 6
    """Parts that a pass is cut into."""
    entropy: float = 0.006
    """Weight of the entropy bonus at the start; it falls linearly to 0."""
    value_weight: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """The gradient is scaled down to this norm."""
    hidden: int = 128
    """Units of each of the two tanh layers, of the actor and of the critic."""
    keep_bias: float = 3.0
    """Initial logit of KEEP on the tier's and the split's heads: a change of these costs seconds, so random ones are ruinous."""
    trials: float = 0.0
    """Share of windows at the start, falling linearly to 0, that lie in trials: another tier, or the other split, is put in force
    and held, while the policy sets the other knobs. A change of these two costs seconds and shows its worth windows later, under
    settings that suit it: a policy that has never lived with one would not find it by single random changes."""
    trial_weight: float = 5.0
    """Weight of imitating the trials that did better than expected (Oh et al., "Self-Imitation Learning", 2018)."""
    validate_every: int = 10
    """Updates between two validations."""
    validation_episodes: int = 24
    """Validation seeds, the first of the task's range."""
    clone_from: str | None = None
    """Name of an agent whose actions are imitated before training; None: from scratch."""
    clone_steps: int = 60_000
    """Windows of that agent to learn from, on top of `steps`."""
    threads: int = 1
    """Processors to use. With two or more, episodes are played in two processes and updates computed on two threads; what
    is left over goes to the simulators. They change no number. A script that trains with more than one needs the usual
    ``if __name__ == "__main__"``: the processes import it anew."""

    def __post_init__(self) -> None:
        bounds = {
            "steps": (1, 10**10), "seed": (0, 2**32 - 1), "num_envs": (0, 4096), "twins": (1, 64), "learning_rate": (0.0, 1.0),
            "gamma": (0.0, 0.9999), "gae_lambda": (0.0, 1.0), "clip": (0.001, 1.0), "epochs": (1, 100),
            "minibatches": (1, 1024), "entropy": (0.0, 1.0), "value_weight": (0.0, 100.0), "max_grad_norm": (1e-6, 1e6),
            "hidden": (1, 4096), "keep_bias": (-100.0, 100.0), "trials": (0.0, 0.9), "trial_weight": (0.0, 1000.0),
            "validate_every": (1, 10**6), "validation_episodes": (1, 1000),
            "clone_steps": (1, 10**9), "threads": (1, 256),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise InvalidInputError(name, f"must be in {low}..{high}", got=getattr(self, name))
        if self.num_envs % self.twins:
            raise InvalidInputError("num_envs", f"must be a multiple of twins, {self.twins}", got=self.num_envs)

    def envs(self, windows: int) -> int:
        """Return the number of environments, for episodes of so many windows: a multiple of `twins`."""
        envs = min(96, max(8, self.steps // (windows * 100)))
        return self.num_envs or max(1, envs // self.twins) * self.twins
