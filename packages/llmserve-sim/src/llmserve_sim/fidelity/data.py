"""Finds and reads the files of the measured runs."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmserve_sim.errors import InvalidInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = [
    "ENVIRONMENT_VARIABLE",
    "RequestLog",
    "SeriesLog",
    "columns",
    "data_dir",
    "read_accepted_lengths",
    "read_requests",
    "read_series",
]

ENVIRONMENT_VARIABLE = "LLMSERVE_DATA"


@dataclass(frozen=True, eq=False)
class RequestLog:
    """A run request by request, sorted by arrival; times in seconds since the run's start."""

    arrival_s: Floats
    prompt: Floats
    output: Floats
    first_token_s: Floats
    last_token_s: Floats


@dataclass(frozen=True, eq=False)
class SeriesLog:
    """What the engine reported every second."""

    t_s: Floats
    running: Floats
    waiting: Floats
    kv_percent: Floats


def data_dir() -> Path | None:
    """Return the folder of the measured runs: `$LLMSERVE_DATA`, else `shared/data` beside the repository, or None."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        path = Path(named)
        if not path.is_dir():
            raise InvalidInputError(ENVIRONMENT_VARIABLE, "must name a folder that exists", got=named)
        return path
    for parent in (Path.cwd(), *Path(__file__).resolve().parents):
        beside = parent.parent / "shared" / "data"
        if (parent / "packages" / "llmserve-sim").is_dir() and beside.is_dir():
            return beside
    return None


def columns(path: Path) -> dict[str, list[str]]:
    """A CSV file's columns as text.

    Raises:
        InvalidInputError: the file is missing, empty, or no CSV text with as many fields in each row as in the first.
    """
    if not path.is_file():
        raise InvalidInputError("data", "a file of measurements", got=str(path))
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, strict=True)
            rows = list(reader)
            names = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError("data", f"a readable CSV file in UTF-8 ({error})", got=str(path)) from error
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise InvalidInputError("data", f"{len(names)} fields in each row; row {number} differs", got=str(path))
    if not rows:
        raise InvalidInputError("data", "at least one row of measurements", got=str(path))
    return {name: [row[name] for row in rows] for name in names}


def read_requests(path: Path) -> RequestLog:
    """Columns arrival_s, input_toks, output_toks, first_token_s, last_token_s of a request-level run.

    Raises:
        InvalidInputError: the file or a column is missing, or a value is not a finite number of at least 0.
    """
    names = ("arrival_s", "input_toks", "output_toks", "first_token_s", "last_token_s")
    table = _floats(path, names)
    for name, column in zip(names, table, strict=True):
        if not (np.isfinite(column) & (column >= 0)).all():
            raise InvalidInputError(f"data.{name}", f"finite numbers of at least 0 in every row of {path.name}")
    order = np.argsort(table[0], kind="stable")
    return RequestLog(*(column[order] for column in table))


def read_series(path: Path) -> SeriesLog:
    """Columns t, running, waiting, kv_cache_pct of a run's one-second series.

    Raises:
        InvalidInputError: as in `read_requests`.
    """
    return SeriesLog(*_floats(path, ("t", "running", "waiting", "kv_cache_pct")))


def read_accepted_lengths(path: Path, method: str = "eagle3") -> tuple[dict[int, float], dict[int, float], float]:
    """(accepted length by depth, TPOT in ms by depth, TPOT in ms without speculation) of a drafting method."""
    sweep = json.loads(path.read_text(encoding="utf-8"))["eagle_sweep"]
    lengths = {int(depth): float(value) for depth, value in sweep[method]["AL"].items()}
    tpot = {int(depth): float(value) for depth, value in sweep[method]["tpot_ms"].items()}
    return lengths, tpot, float(sweep["vanilla_tpot_ms"])


def _floats(path: Path, names: tuple[str, ...]) -> list[Floats]:
    table = columns(path)
    result = []
    for name in names:
        if name not in table:
            raise InvalidInputError(f"data.{name}", f"a column of {path.name}")
        try:
            result.append(np.array([float(value) for value in table[name]]))
        except ValueError as error:
            raise InvalidInputError(f"data.{name}", f"numbers in every row of {path.name}") from error
    return result
