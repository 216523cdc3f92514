"""A training run with its files: what `ppo.py` learns, kept where it can be resumed, watched and shipped.

    OUTPUT/policy.safetensors, card.json    the best policy by validation, after every validation
    OUTPUT/state.pt                         everything that `--resume` needs
    OUTPUT/learning.png, learning.json      the learning curve
    OUTPUT/tensorboard/                     the keys that everybody's dashboards know

The module knows nothing about terminals.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from llmserve_agents.errors import MissingExtraError
from llmserve_agents.learning.checkpoint import identity, write
from llmserve_agents.learning.config import PPOConfig
from llmserve_agents.learning.curves import Curve, draw_learning_curves
from llmserve_agents.learning.network import SPLIT
from llmserve_agents.learning.ppo import Trainer, TrainResult, Update, validation_seeds
from llmserve_agents.search import rollout, static_values
from llmserve_agents.weights import CARD, POLICY
from llmserve_sim.batch import ServingBatch
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.grader import score_of
from llmserve_sim.grid import GRID_SIZES, to_indices
from llmserve_sim.references import load_references
from llmserve_sim.tasks import list_tasks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.env import Outcome
    from llmserve_sim.tasks import Task

__all__ = ["CURVE", "STATE", "Compared", "compare", "run"]

STATE: Final = "state.pt"
"""Name of the file that a run is resumed from."""
CURVE: Final = "learning.json"
"""Name of the learning curve's file, which only a finished run has."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What a trained policy earns on validation seeds, beside what it should beat there."""

    episodes: int
    policy: float
    """Mean reward per window."""
    random: float
    best_static: float | None
    """None for a task without references, and so are the scores."""
    score: float | None
    random_score: float | None


def run(
    config: PPOConfig,
    output: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = True,
    progress: Callable[[Update], object] | None = None,
) -> TrainResult:
    """Train and keep everything in `output`; `resume` goes on with the run that is kept there.

    A resumed run ends as it would have if it had never been interrupted; its threads may be others than before. A run that is
    kept there and was not finished, or has another configuration, is replaced only where `overwrite` says so; a finished one
    may be repeated. Raises `InvalidInputError` for a state that is none or that of another run, for a task that has a built-in
    one's id and other contents, and `MissingExtraError` without the extra `train`.
    """
    trainer = Trainer.resume(output / STATE, threads=config.threads) if resume else Trainer(config)
    if any(task.id == trainer.task.id and task.digest != trainer.task.digest for task in list_tasks()):
        raise InvalidInputError("task", "must have an id of its own, not a built-in task's", got=trainer.task.id)
    for name, value in asdict(config).items():
        if getattr(trainer.config, name) != value:
            kept = getattr(trainer.config, name)
            raise InvalidInputError(name, f"must be {kept}, as in the run that is resumed", got=value)
    if not resume:
        _clear(output, config, overwrite=overwrite)
    output.mkdir(parents=True, exist_ok=True)
    writer = _writer(output) if tensorboard else None

    def tell(update: Update) -> None:
        if writer is not None:
            _log(writer, update)
        if update.validation is not None:
            trainer.save(output / STATE)
            if trainer.best is not None and trainer.best[1] == update.steps:
                write(output, trainer.best[2], _card(trainer))
        if progress is not None:
            progress(update)

    try:
        result = trainer.run(tell)
    finally:
        if writer is not None:
            writer.close()
    assert trainer.best is not None
    write(output, trainer.best[2], _card(trainer))  # once more: an interruption may have come between state and policy
    _draw(trainer.task, result, output)
    return result


def _clear(output: Path, config: PPOConfig, *, overwrite: bool) -> None:
    """Remove what an earlier run left in a folder; raises `InvalidInputError` where that would lose it."""
    if (output / STATE).exists() and not overwrite:
        if not (output / CURVE).exists():
            raise InvalidInputError(
                "output", "holds a run that was interrupted: go on with --resume, or --overwrite it", got=str(output)
            )
        try:
            kept = dict(json.loads((output / CARD).read_text(encoding="utf-8"))["config"])
        except (OSError, ValueError, KeyError, TypeError):
            kept = {}
        given = asdict(config) | {"threads": kept.get("threads")}
        if other := [name for name, value in given.items() if kept.get(name) != value]:
            raise InvalidInputError(
                "output",
                f"holds a run with another {', '.join(other)}: name another folder, or --overwrite it",
                got=str(output),
            )
    for name in (STATE, POLICY, CARD, CURVE, "learning.png"):
        (output / name).unlink(missing_ok=True)
    if (output / "tensorboard").is_dir():
        shutil.rmtree(output / "tensorboard")


def compare(task: Task, result: TrainResult) -> Compared:
    """Return the policy's value beside the random policy's and the best fixed configuration's, on the same seeds."""
    seeds = validation_seeds(task, result.config.validation_episodes)
    references = load_references(task.id, task.digest)
    chance = _random(task, seeds)
    fixed = None
    if references is not None:
        fixed = float(static_values(task, np.array([to_indices(references.best_static_action)]), seeds).mean())
    return Compared(
        episodes=len(seeds),
        policy=result.validation,
        random=chance,
        best_static=fixed,
        score=None if references is None else score_of(result.validation, references),
        random_score=None if references is None else score_of(chance, references),
    )


def _random(task: Task, seeds: list[int]) -> float:
    batch, rng, total = ServingBatch(task, len(seeds)), np.random.default_rng(0), 0.0
    batch.start(seeds)

    def act(_window: int, _outcome: Outcome | None) -> NDArray[np.int64]:
        choices = rng.integers(0, GRID_SIZES, (len(seeds), len(GRID_SIZES)))
        choices[:, SPLIT] *= batch.can_split
        return choices

    for outcome in rollout(batch, act):
        total += float(np.mean(outcome.reward))
    return total / batch.episode_length


def _card(trainer: Trainer) -> dict[str, Any]:
    """What weights are for and how they came to be; nothing in it depends on the clock."""
    assert trainer.best is not None
    value, steps, _ = trainer.best
    config, task = trainer.config, trainer.task
    train = task.seeds.train
    seeds = validation_seeds(task, config.validation_episodes)
    return {
        **identity(task),
        "agent": "ppo",
        "can_split": trainer.can_split,
        "seed": config.seed,
        "steps": trainer.steps,
        "best_at_steps": steps,
        "train_seeds": [train.start, train.stop],
        "validation_seeds": [seeds[0], seeds[-1] + 1],
        "validation_mean_reward": value,
        "config": asdict(config),
        "command": command(config),
    }


def command(config: PPOConfig) -> str:
    """Return the command that repeats a run, with everything that is not the default spelt out."""
    words = ["llmserve", "train"]
    defaults = PPOConfig()
    for name, value in asdict(config).items():
        if name in {"task", "steps", "seed"} or value != getattr(defaults, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _draw(task: Task, result: TrainResult, output: Path) -> None:
    points = [(update.steps, update.validation) for update in result.updates if update.validation is not None]
    content = {"task": task.id, "seed": result.config.seed, "points": points}
    (output / CURVE).write_text(json.dumps(content) + "\n", encoding="utf-8")
    curve = Curve(f"seed {result.config.seed}", [steps for steps, _ in points], [value for _, value in points])
    references = load_references(task.id, task.digest)
    levels = {}
    if references is not None:
        levels = {task.id: {"best fixed configuration": references.best_static, "clairvoyant": references.clairvoyant}}
    with suppress(MissingExtraError):  # a run without matplotlib has its numbers in learning.json
        draw_learning_curves({task.id: [curve]}, output / "learning.png", levels=levels)


def _writer(output: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise MissingExtraError("train", "TensorBoard's files (or train without them: --no-tensorboard)") from error
    return SummaryWriter(str(output / "tensorboard"))


def _log(writer: Any, update: Update) -> None:
    writer.add_scalar("charts/episodic_return", update.episodic_return, update.steps)
    writer.add_scalar("charts/learning_rate", update.learning_rate, update.steps)
    writer.add_scalar("charts/SPS", update.steps / update.seconds if update.seconds else 0.0, update.steps)
    for name, value in update.losses.items():
        writer.add_scalar(f"losses/{name}", value, update.steps)
    if update.validation is not None:
        writer.add_scalar("charts/validation_return", update.validation, update.steps)
