"""`llmserve tune`: from options to thresholds tuned for a task, written where the tuned-heuristic looks for them."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from llmserve_agents.cli_options import as_options, output_folder, progress_bar
from llmserve_agents.tuned import identity_of, write_thresholds
from llmserve_agents.tuning import Position, TuneConfig, TuneResult, tune
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
        Path, typer.Option(help="Folder of all tasks' weights: TASK/heuristic.json is written below it.")
    ] = Path("weights"),
) -> int:
    """Tune the heuristic's thresholds for a task by CMA-ES, from the best fixed configuration (extra: tune).

    That configuration is the references'; for a task that has none it is searched first, which takes minutes.
    """
    with as_options(_OPTIONS):
        chosen = catalogue_task(task)
        config = TuneConfig(steps=steps, seed=seed, population=population, episodes=episodes, sigma=sigma)
        folder = output_folder(output / chosen.id)
        with progress_bar("windows") as advance:

            def tell(at: Position) -> None:
                advance(chosen.id if isnan(at.value) else f"{chosen.id}, {at.value:.4f}", at.done, at.steps)

            found = tune(chosen, config, progress=tell)
    path = write_thresholds(folder, found.thresholds, _card(chosen, config, found))
    row = ", ".join(f"{name} {value:.4f}" for name, value in found.validation.items())
    print(f"{chosen.id}, mean reward per window on {found.validation_seeds[1]} validation seeds: {row}")
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
        **identity_of(task),
        "command": f"llmserve tune --task {task.id} --steps {config.steps} --seed {config.seed}{''.join(changed)}",
        "seed": config.seed,
        "steps": found.windows,
        "generations": found.generations,
        "started_at": found.started_at.model_dump(),
        "validation": {"first_seed": first, "seeds": count, **found.validation},
    }
