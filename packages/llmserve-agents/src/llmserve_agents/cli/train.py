"""`llmserve train`: from options to a trained policy in a folder, with progress on the way."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from llmserve_agents.cli.options import as_options, output_folder, progress_bar
from llmserve_agents.errors import MissingExtraError
from llmserve_agents.learning.config import PPOConfig
from llmserve_agents.weights import CARD, POLICY
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.tasks import load_task

__all__ = ["train"]

_OPTIONS: Final = {
    name: f"--{name.replace('_', '-')}"
    for name in (
        "task", "task_id", "steps", "seed", "num_envs", "twins", "learning_rate", "gamma", "gae_lambda", "clip", "epochs",
        "minibatches", "entropy", "value_weight", "max_grad_norm", "hidden", "keep_bias", "trials", "trial_weight",
        "validate_every", "validation_episodes", "clone_from", "clone_steps", "threads", "resume", "output",
    )
} | {"task_id": "--task", "agent": "--clone-from"}  # fmt: skip
_ALGORITHM: Final = "The algorithm"


def _algorithm(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel=_ALGORITHM)


def train(
    *,
    task: Annotated[str, typer.Option(help="The task to train on: an id, or the path of a task file.")],
    steps: Annotated[int, typer.Option(help="Windows to train on, rounded up to whole updates.")] = 3_000_000,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn; the run repeats itself.")] = 0,
    output: Annotated[
        Path | None, typer.Option(help="Folder for policy, card, state, curve; by default runs/TASK/seedN.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            help="Go on with the run that is kept in the folder of --output; with the same options, --threads aside."
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            help="Replace a run in the folder of --output that is unfinished, or another one; a finished one is repeated without."
        ),
    ] = False,
    tensorboard: Annotated[bool, typer.Option(help="Write TensorBoard's files below --output.")] = True,
    num_envs: Annotated[
        int,
        _algorithm("Episodes side by side; 0: 96, or fewer where that would give under 100 updates (at least 8)."),
    ] = 0,
    twins: Annotated[int, _algorithm("Episodes among these that face the same traffic, to be compared.")] = 1,
    learning_rate: Annotated[float, _algorithm("Adam's step size at the start; falls linearly to 0.")] = 1e-3,
    gamma: Annotated[float, _algorithm("Discount per window.")] = 0.97,
    gae_lambda: Annotated[float, _algorithm("Weight of longer returns in the advantage.")] = 0.95,
    clip: Annotated[float, _algorithm("Bound on how far an update moves a probability, as a ratio.")] = 0.2,
    epochs: Annotated[int, _algorithm("Passes over the data of an update.")] = 3,
    minibatches: Annotated[int, _algorithm("Parts that a pass is cut into.")] = 6,
    entropy: Annotated[float, _algorithm("Weight of the entropy bonus at the start; falls linearly to 0.")] = 0.006,
    value_weight: Annotated[float, _algorithm("Weight of the value loss.")] = 0.5,
    max_grad_norm: Annotated[float, _algorithm("The gradient is scaled down to this norm.")] = 0.5,
    hidden: Annotated[int, _algorithm("Units of each tanh layer.")] = 128,
    keep_bias: Annotated[float, _algorithm("Initial logit of leaving tier and split as they are.")] = 3.0,
    trials: Annotated[
        float, _algorithm("Share of windows at the start in which another tier or split is tried; falls to 0.")
    ] = 0.0,
    trial_weight: Annotated[float, _algorithm("Weight of imitating trials that did better than expected.")] = 5.0,
    validate_every: Annotated[int, _algorithm("Updates between two validations.")] = 10,
    validation_episodes: Annotated[int, _algorithm("Validation seeds.")] = 24,
    clone_from: Annotated[str | None, _algorithm("An agent to imitate before training; by default none.")] = None,
    clone_steps: Annotated[int, _algorithm("Windows of that agent to learn from, on top of --steps.")] = 60_000,
    threads: Annotated[
        int, _algorithm("Processors to use; with 2, about 1.8 times as fast as with 1. They change no number.")
    ] = 1,
) -> int:
    """Train a PPO policy on a task, on CPU, and keep the one that does best on validation seeds.

    Needs the extra train. A run repeats itself for a seed, and one that was interrupted goes on with --resume as if it had not
    been.
    """
    given: dict[str, Any] = {
        "task": task, "steps": steps, "seed": seed, "num_envs": num_envs, "twins": twins,
        "learning_rate": learning_rate, "gamma": gamma, "gae_lambda": gae_lambda, "clip": clip, "epochs": epochs, "minibatches": minibatches,
        "entropy": entropy, "value_weight": value_weight, "max_grad_norm": max_grad_norm, "hidden": hidden,
        "keep_bias": keep_bias, "trials": trials, "trial_weight": trial_weight,
        "validate_every": validate_every, "validation_episodes": validation_episodes,
        "clone_from": clone_from, "clone_steps": clone_steps, "threads": threads,
    }  # fmt: skip
    with as_options(_OPTIONS):
        try:
            from llmserve_agents.learning import training
            from llmserve_agents.learning.ppo import Update
        except ModuleNotFoundError as error:
            raise MissingExtraError("train", "llmserve train") from error
        loaded = load_task(task)
        config = PPOConfig(**given)
        folder = output or Path("runs") / loaded.id / f"seed{seed}"
        if resume and not (folder / training.STATE).is_file():
            raise InvalidInputError(
                "resume", f"needs a run to go on with, and there is no {training.STATE}", got=str(folder)
            )
        output_folder(folder, [training.STATE, POLICY, CARD, training.CURVE])
        shown = sys.stderr.isatty()
        with progress_bar("windows") as advance:

            def tell(update: Update) -> None:
                best = "" if update.best is None else f", best on validation {update.best:.4f}"
                advance(f"reward {update.episodic_return:.4f}{best}", update.steps, config.steps)
                if not shown and update.validation is not None:
                    line = f"{update.steps:>10,} windows: reward {update.episodic_return:.4f}, "
                    print(f"{line}validation {update.validation:.4f}{best}", flush=True)

            result = training.run(
                config, folder, resume=resume, overwrite=overwrite, tensorboard=tensorboard, progress=tell
            )
        found = training.compare(loaded, result)
    table = Table("on validation seeds", "mean reward per window", "score", box=None, pad_edge=False)
    rows = [("ppo", found.policy, found.score), ("random", found.random, found.random_score)]
    if found.best_static is not None:
        rows.insert(1, ("best fixed configuration", found.best_static, None))
    for name, value, score in rows:
        table.add_row(name, f"{value:.4f}", "-" if score is None else f"{score:.3f}")
    console = Console()
    console.print(table)
    total = sum(result.seconds.values()) or 1.0
    parts = ", ".join(f"{name} {100 * spent / total:.0f} %" for name, spent in result.seconds.items())
    print(f"{result.steps:,} windows, best after {result.best_steps:,}; time went to {parts}")
    print(f"policy, card, state and curve: {folder}")
    return 0
