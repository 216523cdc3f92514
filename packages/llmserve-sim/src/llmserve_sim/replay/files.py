"""The request table as a file: CSV, or parquet with the extra `files`. One row per request, in order of arrival.

Times are seconds since the start, durations milliseconds; a cell is empty (null) where nothing happened or is known.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import numpy as np

from llmserve_sim.errors import InvalidInputError, MissingExtraError
from llmserve_sim.replay.requests import OUTCOMES, REASONS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llmserve_sim.replay.requests import RequestTable

__all__ = ["COLUMNS", "require_table_file", "write_requests"]

COLUMNS = (
    "id",
    "arrival_s",
    "prompt_tokens",
    "output_tokens",
    "delivered_tokens",
    "class",
    "tenant",
    "scheduled_s",
    "first_token_s",
    "last_token_s",
    "ttft_ms",
    "tpot_ms",
    "e2e_ms",
    "preemptions",
    "replica",
    "outcome",
    "reason",
    "met_slo",
)
"""The columns, in order."""
_SUFFIXES = (".csv", ".parquet")


def require_table_file(path: Path, field: str = "requests") -> None:
    """Raise an error if no table can be written there: of its ending, or because an extra is missing."""
    if path.suffix not in _SUFFIXES:
        raise InvalidInputError(field, f"must end in one of {', '.join(_SUFFIXES)}", got=str(path))
    if path.suffix == ".parquet":
        _arrow()


def write_requests(table: RequestTable, path: Path, *, tenants: Sequence[str]) -> None:
    """Write the table; `tenants` are the names of the tenant classes.

    Raises:
        InvalidInputError: the file's ending is neither .csv nor .parquet.
        MissingExtraError: a parquet file needs the extra `files`.
        OSError: the file cannot be written.
    """
    require_table_file(path)
    columns = dict(zip(COLUMNS, _columns(table, tenants), strict=True))
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(zip(*columns.values(), strict=True))
        return
    arrow, parquet = _arrow()
    strings, flags = {"class", "tenant", "outcome", "reason"}, {"met_slo"}
    types = {
        name: arrow.string()
        if name in strings
        else arrow.bool_()
        if name in flags
        else arrow.float64()
        if name.endswith(("_s", "_ms"))
        else arrow.int64()
        for name in COLUMNS
    }
    with path.open("wb") as file:
        parquet.write_table(arrow.table(columns, schema=arrow.schema(types)), file)


def _columns(table: RequestTable, tenants: Sequence[str]) -> list[list[Any]]:
    ended_at_all = table.outcome != OUTCOMES.index("unfinished")
    return [
        list(range(len(table))),
        (table.arrival_ps / 1e12).tolist(),
        table.prompt.tolist(),
        table.output.tolist(),
        table.delivered.tolist(),
        [("priority", "standard")[value] for value in table.priority.tolist()],
        [tenants[value] for value in table.tenant.tolist()],
        *(_seconds(times) for times in (table.scheduled_ps, table.first_ps, table.last_ps)),
        *(_known(durations * 1000.0) for durations in (table.ttft_s, table.tpot_s, table.e2e_s)),
        table.preemptions.tolist(),
        [value if value >= 0 else None for value in table.replica.tolist()],
        [OUTCOMES[value] for value in table.outcome.tolist()],
        [REASONS[value] or None for value in table.reason.tolist()],
        [bool(met) if ended else None for met, ended in zip(table.met.tolist(), ended_at_all.tolist(), strict=True)],
    ]


def _seconds(times_ps: Any) -> list[float | None]:
    return [value / 1e12 if value >= 0 else None for value in times_ps.tolist()]


def _known(values: Any) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise MissingExtraError("files", "a parquet file") from error
    return pa, pq
