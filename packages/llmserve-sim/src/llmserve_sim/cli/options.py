"""The options that several commands share, and how an error names an option.

Knows nothing about what is simulated.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from llmserve_sim.commandline import outputs
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import ACTION_FIELDS

__all__ = [
    "CotenantOption",
    "DrainOption",
    "DurationOption",
    "FormatOption",
    "LimitOption",
    "MaxModelLenOption",
    "MaxUnfinishedOption",
    "ModelOption",
    "OutputColumnOption",
    "PatienceOption",
    "PrefixReuseOption",
    "PromptColumnOption",
    "RateScaleOption",
    "SkipBadOption",
    "SortOption",
    "StartOption",
    "TimeColumnOption",
    "TimeUnitOption",
    "TraceOption",
    "as_options",
    "require_with_trace",
]

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Model to serve, in place of the deployment's: a known name, or the path of a Hugging Face config.json.",
    ),
]
_PANEL = "Recorded traffic"
TraceOption = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        help="Replay this trace file (- for standard input), alone on the deployment, under the task's rules.",
        rich_help_panel=_PANEL,
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Its format: auto (the default: what its columns say) or one of: plain, azure, burstgpt, bailian, aiperf, "
        "mooncake, guidellm, servegen, llmservingsim, vidur, vllm, aiperf-records, results.",
        rich_help_panel=_PANEL,
    ),
]
StartOption = Annotated[
    float | None, typer.Option("--start-s", help="Skip this many seconds of it.", rich_help_panel=_PANEL)
]
DurationOption = Annotated[
    float | None,
    typer.Option("--duration-s", help="Take this many seconds of it; by default all.", rich_help_panel=_PANEL),
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", help="Take at most this many requests of it.", rich_help_panel=_PANEL)
]
RateScaleOption = Annotated[
    float | None, typer.Option("--rate-scale", help="Replay it this many times as fast.", rich_help_panel=_PANEL)
]
SortOption = Annotated[
    bool, typer.Option("--sort", help="Order it by time: it is not ordered.", rich_help_panel=_PANEL)
]
SkipBadOption = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out and count rows that cannot be read.", rich_help_panel=_PANEL)
]
TimeUnitOption = Annotated[
    str | None,
    typer.Option(
        "--time-unit", help="Unit of its times: s, ms, us, ns or date; by default its format's.", rich_help_panel=_PANEL
    ),
]
TimeColumnOption = Annotated[
    str | None, typer.Option("--time-column", help="Its column of arrival times.", rich_help_panel=_PANEL)
]
PromptColumnOption = Annotated[
    str | None, typer.Option("--prompt-column", help="Its column of prompt tokens.", rich_help_panel=_PANEL)
]
OutputColumnOption = Annotated[
    str | None, typer.Option("--output-column", help="Its column of output tokens.", rich_help_panel=_PANEL)
]
DrainOption = Annotated[
    float | None,
    typer.Option(
        "--drain-s",
        help="Seconds without arrivals after its end, in which requests finish; 60 by default.",
        rich_help_panel=_PANEL,
    ),
]
PatienceOption = Annotated[
    float | None,
    typer.Option(
        "--patience-s",
        help="A request that waits this long for its first token is abandoned; 0, the default: never.",
        rich_help_panel=_PANEL,
    ),
]
MaxUnfinishedOption = Annotated[
    int | None,
    typer.Option(
        "--max-unfinished",
        help="Reject a request that finds this many unfinished; by default none is.",
        rich_help_panel=_PANEL,
    ),
]
MaxModelLenOption = Annotated[
    int | None,
    typer.Option(
        "--max-model-len",
        help="Reject a request of more prompt and output tokens; by default what the deployment cannot serve.",
        rich_help_panel=_PANEL,
    ),
]
CotenantOption = Annotated[
    bool,
    typer.Option("--cotenant", help="Keep the task's co-tenant, which takes GPU memory.", rich_help_panel=_PANEL),
]
PrefixReuseOption = Annotated[
    bool, typer.Option("--prefix-reuse", help="Keep the task's reuse of prompt prefixes.", rich_help_panel=_PANEL)
]

_OPTIONS = {name: f"--{name.replace('_', '-')}" for name in ACTION_FIELDS} | {
    "policy": "--agent",
    "png": "--png",
    "seed": "--seed",
    "deployment": "--deployment",
    "model": "--model",
    "format": "--format",
    "start_s": "--start-s",
    "duration_s": "--duration-s",
    "limit": "--limit",
    "rate_scale": "--rate-scale",
    "drain_s": "--drain-s",
    "patience_s": "--patience-s",
    "max_unfinished": "--max-unfinished",
    "max_model_len": "--max-model-len",
    "requests": "--requests",
    "time_unit": "--time-unit",
    "time_column": "--time-column",
    "prompt_column": "--prompt-column",
    "output_column": "--output-column",
}
_ADVICE = {
    "start_s": "--start-s",
    "duration_s": "--duration-s",
    "limit": "--limit",
    "sort=True": "--sort",
    "time_unit": "--time-unit",
    "time_column": "--time-column",
    "prompt_column": "--prompt-column",
    "output_column": "--output-column",
}


def as_options() -> AbstractContextManager[None]:
    """Within it, an error about an argument that was given as an option names the option."""
    return outputs.as_options(_OPTIONS, in_bounds=_ADVICE)


def require_with_trace(trace: Path | None, options: Mapping[str, object]) -> None:
    """Refuse the first of `options` that was given (is neither None nor False) where there is no trace."""
    given = next((name for name, value in options.items() if value is not None and value is not False), None)
    if trace is None and given is not None:
        raise InvalidInputError(given, "needs --trace FILE")
