"""The command `llmserve tune`: tunes the heuristic's thresholds for a task and writes them for evaluations to read."""

from __future__ import annotations

import json
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from llmserve_agents.rules.tuned import FILE, write_thresholds
from llmserve_agents.rules.tuning import TuneConfig, TuneProgress, TuneResult, tune
from llmserve_agents.weights import identity
from llmserve_sim.commandline.outputs import as_options, output_folder, writing
from llmserve_sim.commandline.terminal import progress_bar
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.tasks import Task
from llmserve_sim.tasks.registry import catalogue_task

__all__ = ["tune_command"]

_DEFAULTS: Final = TuneConfig()
_OPTIONS: Final = {
    "episodes": "--episodes",
    "population": "--population",
    "seed": "--seed",
    "sigma": "--sigma",
    "steps": "--steps",
    "task_id": "--task",
}


def tune_command(
    *,
    task: Annotated[str, typer.Option(help="A built-in task.")],
    steps: Annotated[
        int, typer.Option(help="Simulated windows in all: give it as many as a policy is trained on.")
    ] = _DEFAULTS.steps,
    seed: Annotated[int, typer.Option(help="Of candidates and training episodes.")] = _DEFAULTS.seed,
    population: Annotated[int, typer.Option(help="Candidates in a generation.")] = _DEFAULTS.population,
    episodes: Annotated[
        int, typer.Option(help="Training episodes that each candidate of a first generation plays.")
    ] = _DEFAULTS.episodes,
    sigma: Annotated[
        float, typer.Option(help="First standard deviation of every threshold, as a share of its range.")
    ] = _DEFAULTS.sigma,
    output: Annotated[
        Path,
        typer.Option(
            help="TASK/heuristic.json is written below this folder; "
            "tuned-heuristic:FOLDER/TASK is an agent that reads it."
        ),
    ] = Path("runs"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace thresholds that are there.")] = False,
) -> int:
    """Tune the heuristic's thresholds for a task by CMA-ES, from the best fixed configuration (extra: tune).

    That configuration is the references'; for a task that has none it is searched first, which takes minutes.
    """
    with as_options(_OPTIONS):
        chosen = catalogue_task(task)
        config = TuneConfig(steps=steps, seed=seed, population=population, episodes=episodes, sigma=sigma)
        folder = output_folder(output / chosen.id, [FILE])
        if (folder / FILE).exists() and not overwrite:
            raise InvalidInputError(
                "--output",
                f"holds thresholds for {chosen.id}: name another folder, or --overwrite them",
                got=str(output),
            )
        with progress_bar("windows") as advance:

            def move(at: TuneProgress) -> None:
                advance(chosen.id if isnan(at.value) else f"{chosen.id}, {at.value:.4f}", at.done, at.steps)

            found = tune(chosen, config, progress=move)
    row = ", ".join(f"{name} {value:.4f}" for name, value in found.validation.items())
    print(f"{chosen.id}, mean reward per window on {found.validation_seeds[1]} validation seeds: {row}")
    try:
        with writing(folder):
            path = write_thresholds(folder, found.thresholds, _card(chosen, config, found))
    except InvalidInputError:
        print(json.dumps(asdict(found.thresholds)))  # a full disk must not lose the result
        raise
    print(f"thresholds: {path}")
    return 0


def _card(task: Task, config: TuneConfig, found: TuneResult) -> dict[str, Any]:
    first, count = found.validation_seeds
    changed = [
        f" --{name} {getattr(config, name)}"
        for name in ("population", "episodes", "sigma")
        if getattr(config, name) != getattr(_DEFAULTS, name)
    ]
    return {
        **identity(task),
        "command": f"llmserve tune --task {task.id} --steps {config.steps} --seed {config.seed}{''.join(changed)}",
        "seed": config.seed,
        "steps": found.windows,
        "generations": found.generations,
        "started_at": found.started_at.model_dump(),
        "validation": {"first_seed": first, "seeds": count, **found.validation},
    }
