"""A training run with its files, from which it can be resumed, watched and shipped.

    OUTPUT/policy.safetensors, card.json    the best policy by validation, after every validation
    OUTPUT/state.pt                         everything that `--resume` needs
    OUTPUT/learning.png, learning.json      the learning curve
    OUTPUT/tensorboard/                     CleanRL's keys

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
from llmserve_agents.learning.config import PPOConfig, option_of, with_current_names
from llmserve_agents.learning.curves import Curve, draw_learning_curves
from llmserve_agents.learning.trainer import Trainer, TrainResult, Update, validation_seeds
from llmserve_agents.search import evaluate_actions, rollout
from llmserve_agents.weights import CARD, POLICY
from llmserve_sim.batch import ServingBatch
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.grader import score_of
from llmserve_sim.grid import GRID_SIZES, PREFILL_DECODE_SPLIT
from llmserve_sim.references import load_references
from llmserve_sim.tasks import list_tasks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.env import Outcome
    from llmserve_sim.schema import ReferenceScores
    from llmserve_sim.tasks import Task

__all__ = ["CURVE", "STATE", "Comparison", "compare", "run"]

STATE: Final = "state.pt"
"""File that a run is resumed from."""
CURVE: Final = "learning.json"
"""File of the learning curve; only a finished run has it."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Mean rewards per window on validation seeds: of a trained policy, and of what it should beat."""

    episodes: int
    policy: float
    random: float
    best_static: float | None
    """The best fixed configuration's. It and the scores are None for a task without references."""
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
    """Train and keep everything in `output`; with `resume`, go on with the run in it.

    A resumed run ends as if it had not been interrupted; only `threads` may differ from before. If `output` holds an
    unfinished run, or one with another configuration, it is replaced only with `overwrite`. A finished run with the
    same configuration is repeated. Raises `InvalidInputError` for a state that is damaged or of another run, and for a
    task with the id of a built-in one but other contents; `MissingExtraError` without the extra `train`.
    """
    trainer = Trainer.resume(output / STATE, threads=config.threads) if resume else Trainer(config)
    if any(task.id == trainer.task.id and task.digest != trainer.task.digest for task in list_tasks()):
        raise InvalidInputError("task", "must have an id of its own, not a built-in task's", got=trainer.task.id)
    for name, value in asdict(config).items():
        if getattr(trainer.config, name) != value:
            kept = getattr(trainer.config, name)
            raise InvalidInputError(name, f"must be {kept}, as in the run that is resumed", got=value)
    if not resume:
        _clear_output(output, config, overwrite=overwrite)
    output.mkdir(parents=True, exist_ok=True)
    writer = _writer(output) if tensorboard else None

    def on_update(update: Update) -> None:
        if writer is not None:
            _log(writer, update)
        if update.validation is not None:
            # The state comes first, since policy and card can be written again from it.
            trainer.save(output / STATE)
            if trainer.best is not None and trainer.best[1] == update.steps:
                write(output, trainer.best[2], _card(trainer))
        if progress is not None:
            progress(update)

    try:
        result = trainer.run(on_update)
    finally:
        if writer is not None:
            writer.close()
    assert trainer.best is not None
    # Again, since a run that was interrupted between state and policy has only the state.
    write(output, trainer.best[2], _card(trainer))
    _draw(trainer.task, result, output)
    return result


def _clear_output(output: Path, config: PPOConfig, *, overwrite: bool) -> None:
    """Remove the files of an earlier run.

    Without `overwrite`, raises `InvalidInputError` if that run is unfinished or has another configuration.
    """
    if (output / STATE).exists() and not overwrite:
        if not (output / CURVE).exists():
            raise InvalidInputError(
                "output", "holds a run that was interrupted: go on with --resume, or --overwrite it", got=str(output)
            )
        try:
            kept = with_current_names(json.loads((output / CARD).read_text(encoding="utf-8"))["config"])
        except (AttributeError, OSError, ValueError, KeyError, TypeError):
            kept = {}
        given = asdict(config) | {"threads": kept.get("threads")}  # threads do not change the result
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


def compare(task: Task, result: TrainResult) -> Comparison:
    """Return the values of the policy, the random policy and the best fixed configuration on the same seeds."""
    seeds = validation_seeds(task, result.config.validation_episodes)
    references = load_references(task.id, task.digest)
    random = _random(task, seeds)
    best_static = _best_static(task, references, seeds)
    return Comparison(
        episodes=len(seeds),
        policy=result.validation,
        random=random,
        best_static=best_static,
        score=None if references is None else score_of(result.validation, references, best_static),
        random_score=None if references is None else score_of(random, references, best_static),
    )


def _best_static(task: Task, references: ReferenceScores | None, seeds: list[int]) -> float | None:
    """Return the mean reward per window of the best fixed configuration on `seeds`; None without references."""
    if references is None:
        return None
    return float(evaluate_actions(task, [references.best_static_action], seeds).mean())


def _random(task: Task, seeds: list[int]) -> float:
    batch, rng, total = ServingBatch(task, len(seeds)), np.random.default_rng(0), 0.0
    batch.start(seeds)

    def act(_window: int, _outcome: Outcome | None) -> NDArray[np.int64]:
        choices = rng.integers(0, GRID_SIZES, (len(seeds), len(GRID_SIZES)))
        choices[:, PREFILL_DECODE_SPLIT] *= batch.can_split
        return choices

    for outcome in rollout(batch, act):
        total += float(np.mean(outcome.reward))
    return total / batch.episode_length


def _card(trainer: Trainer) -> dict[str, Any]:
    """Return what the weights are for and how they were made; nothing in it depends on the time."""
    assert trainer.best is not None
    value, steps, _ = trainer.best
    config, task = trainer.config, trainer.task
    train = task.seeds.train
    seeds = validation_seeds(task, config.validation_episodes)
    return {
        **identity(task),
        "agent": "ppo",
        "can_split": trainer.learner.can_split,
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
    """Return the command that repeats a run, with every option that is not the default."""
    words = ["llmserve", "train"]
    defaults = PPOConfig()
    for name, value in asdict(config).items():
        if name in {"task", "steps", "seed"} or value != getattr(defaults, name):
            words += [option_of(name), str(value)]
    return shlex.join(words)


def _draw(task: Task, result: TrainResult, output: Path) -> None:
    points = [(update.steps, update.validation) for update in result.updates if update.validation is not None]
    content = {"task": task.id, "seed": result.config.seed, "points": points}
    (output / CURVE).write_text(json.dumps(content) + "\n", encoding="utf-8")
    curve = Curve(f"seed {result.config.seed}", [steps for steps, _ in points], [value for _, value in points])
    with suppress(MissingExtraError):  # without matplotlib, the numbers are in learning.json
        draw_learning_curves({task.id: [curve]}, output / "learning.png", levels={task.id: _levels(task, result)})


def _levels(task: Task, result: TrainResult) -> dict[str, float]:
    """Return what to compare the curve with, measured on the seeds that the curve is over.

    The references of the score are means over other seeds, and means over a few dozen seeds differ by more than what
    training gains. The clairvoyant search takes too long to be run here.
    """
    seeds = validation_seeds(task, result.config.validation_episodes)
    best_static = _best_static(task, load_references(task.id, task.digest), seeds)
    levels = {} if best_static is None else {"best fixed configuration": best_static}
    return levels | {"random policy": _random(task, seeds)}


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
