"""`llmserve train`: trains a policy and writes it to a folder. Its options are the fields of `PPOConfig`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import Field, fields
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_type_hints

import typer
from rich.console import Console
from rich.table import Table

from llmserve_agents.errors import MissingExtraError
from llmserve_agents.learning.config import PPOConfig, option_of
from llmserve_agents.weights import CARD, POLICY
from llmserve_sim.commandline.outputs import as_options, output_folder
from llmserve_sim.commandline.terminal import progress_bar
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.tasks import load_task

__all__ = ["train"]

_OPTIONS: Final = {field.name: option_of(field.name) for field in fields(PPOConfig)} | {
    "agent": "--clone-from",
    "output": "--output",
    "resume": "--resume",
    "task_id": "--task",
}
_MAIN: Final = ("task", "steps", "seed")
"""Options that the help shows first; the other hyper-parameters have a panel of their own."""
_Command = TypeVar("_Command", bound=Callable[..., int])


def _with_hyper_parameters(command: _Command) -> _Command:
    """Give a command one option for each field of `PPOConfig`, in place of its `**options`."""
    hints = get_type_hints(PPOConfig)

    def parameter(field: Field[Any]) -> Parameter:
        panel = None if field.name in _MAIN else "The algorithm"
        option = typer.Option(help=field.metadata["help"], rich_help_panel=panel)
        default = Parameter.empty if field.name == "task" else field.default
        annotation: Any = Annotated[hints[field.name], option]
        return Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    own = [
        each for each in signature(command, eval_str=True).parameters.values() if each.kind is Parameter.KEYWORD_ONLY
    ]
    given = [parameter(field) for field in fields(PPOConfig)]
    parameters = [*given[: len(_MAIN)], *own, *given[len(_MAIN) :]]
    # Typer takes defaults from the signature, and types with their options from the annotations.
    command.__signature__ = Signature(parameters, return_annotation=int)  # type: ignore[attr-defined] # for `inspect`
    command.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": int}
    return command


@_with_hyper_parameters
def train(
    *,
    output: Annotated[
        Path | None, typer.Option(help="Folder for policy, card, state, curve; by default runs/TASK/seedN.")
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on with the run in the folder of --output; only --threads may differ from before.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            help="Replace a run in the folder of --output that is unfinished or has other options. "
            "A finished run with the same options is repeated without this."
        ),
    ] = False,
    tensorboard: Annotated[bool, typer.Option(help="Write TensorBoard's files below --output.")] = True,
    twins: Annotated[int | None, typer.Option(hidden=True, help="The old name of --group-size.")] = None,
    **options: Any,
) -> int:
    """Train a PPO policy on a task, on CPU, and keep the one that does best on validation seeds.

    Needs the extra train. The same seed gives the same policy, also where --resume continues an interrupted run.
    """
    with as_options(_OPTIONS):
        if twins is not None:  # commands in cards of the shipped weights hold it
            print("--twins is deprecated: use --group-size", file=sys.stderr)
            if options["group_size"] not in {PPOConfig().group_size, twins}:
                raise InvalidInputError("--twins", "must not be given beside --group-size, its new name", got=twins)
            options["group_size"] = twins
        try:  # here, so that the help needs no torch
            from llmserve_agents.learning import training
            from llmserve_agents.learning.trainer import Update
        except ModuleNotFoundError as error:
            raise MissingExtraError("train", "llmserve train") from error
        loaded = load_task(options["task"])
        config = PPOConfig(**options)
        folder = output or Path("runs") / loaded.id / f"seed{config.seed}"
        if resume and not (folder / training.STATE).is_file():
            raise InvalidInputError(
                "resume", f"needs a run to go on with, and there is no {training.STATE}", got=str(folder)
            )
        output_folder(folder, [training.STATE, POLICY, CARD, training.CURVE])
        has_bar = sys.stderr.isatty()
        with progress_bar("windows") as advance:

            def on_update(update: Update) -> None:
                best = "" if update.best is None else f", best on validation {update.best:.4f}"
                advance(f"reward {update.episodic_return:.4f}{best}", update.steps, config.steps)
                if not has_bar and update.validation is not None:
                    line = f"{update.steps:>10,} windows: reward {update.episodic_return:.4f}, "
                    print(f"{line}validation {update.validation:.4f}{best}", flush=True)

            result = training.run(
                config, folder, resume=resume, overwrite=overwrite, tensorboard=tensorboard, progress=on_update
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
