"""`python -m llmserve_sim.fidelity`: the table of measured against predicted; exit code 1 if a bound is broken.

`--out FOLDER` also draws the one-second series of the recorded runs (needs matplotlib). A run of one's own, in the
columns of `data.read_requests`, is compared with `--requests FILE --gpu RTX-PRO-6000 --model Qwen3-32B --tp 2 --engine
vllm-0.19`.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.fidelity.bars import VLLM_RUNS, Row, check, vllm_rows
from llmserve_sim.fidelity.data import data_dir, read_requests, read_series
from llmserve_sim.fidelity.replay import RecordedRun, replay_log
from llmserve_sim.hardware import ENGINES, GPUS, Deployment, get_model

__all__ = ["main"]

_WIDTHS = (46, 44, 11, 11, 10, 14, 7)
_HEADINGS = ("run", "figure", "measured", "predicted", "error", "unit", "bound")


def main(arguments: Sequence[str] = ()) -> int:
    """Run the comparison; returns the process's exit code (0 all within bounds, 1 not, 2 wrong call or no data)."""
    options = _parser().parse_args(arguments)
    try:
        rows = _own_run(options) if options.requests else check()
        print_rows(rows)
        if options.out:
            _draw(options.out)
    except InvalidInputError as error:
        print(f"fidelity: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"fidelity: {error.filename or 'output'}: cannot be written ({error.strerror})", file=sys.stderr)
        return 2
    bounded = [row for row in rows if row.bound is not None]
    failed = [row for row in bounded if not row.passed]
    print(f"{len(bounded) - len(failed)} of {len(bounded)} bounds hold")
    return int(bool(failed))


def print_rows(rows: Sequence[Row]) -> None:
    """A table, by rich where it is installed."""
    if importlib.util.find_spec("rich") is not None:
        from rich.console import Console
        from rich.table import Table

        table = Table(title="Measured runs against the simulator")
        for index, heading in enumerate(_HEADINGS):
            table.add_column(heading, justify="right" if index in {2, 3, 4, 6} else "left", no_wrap=index > 1)
        for row in rows:
            table.add_row(*_cells(row), style=None if row.passed else "bold red")
        Console(width=None if sys.stdout.isatty() else sum(_WIDTHS) + 24).print(table)
        return
    for cells in (_HEADINGS, *map(_cells, rows)):
        print("".join(cell[: width - 1].ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True)))


def _cells(row: Row) -> tuple[str, ...]:
    bound = "" if row.bound is None else f"{row.bound:g}" + ("" if row.passed else " !")
    measured, predicted = ("" if math.isnan(value) else f"{value:.4g}" for value in (row.measured, row.predicted))
    return (row.run, row.figure, measured, predicted, f"{row.error:+.2f}", row.unit, bound)


def _own_run(options: argparse.Namespace) -> list[Row]:
    for name, table in (("gpu", GPUS), ("engine", ENGINES)):
        if getattr(options, name) not in table:
            raise InvalidInputError(f"--{name}", f"one of {', '.join(table)}", got=getattr(options, name))
    deployment = Deployment(
        "own run",
        GPUS[options.gpu],
        get_model(options.model),
        ENGINES[options.engine],
        tensor_parallel=options.tp,
        max_num_batched_tokens=options.max_num_batched_tokens,
    )
    run = RecordedRun(options.requests.name, deployment, options.max_num_seqs, options.kv_blocks)
    log = read_requests(options.requests)
    return list(vllm_rows(run.name, log, replay_log(run, log)))


def _draw(folder: Path) -> None:
    from llmserve_sim.fidelity.plot import draw_series

    source = data_dir()
    if source is None:
        raise InvalidInputError("--out", "measured runs to draw: set LLMSERVE_DATA")
    folder.mkdir(parents=True, exist_ok=True)
    for run, stem in VLLM_RUNS:
        result = replay_log(run, read_requests(source / f"{stem}.csv"))
        path = folder / f"fidelity_{stem}.png"
        draw_series(run.name, read_series(source / f"{stem}_timeseries.csv"), result, path)
        print(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llmserve_sim.fidelity", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="folder for the pictures of the one-second series")
    parser.add_argument("--requests", type=Path, help="CSV of a measured run to compare instead of the known ones")
    parser.add_argument("--gpu", default="RTX-PRO-6000", help="GPU of that run")
    parser.add_argument(
        "--model", default="Llama-3.1-8B", help="model of that run: a known name, or the path of its config.json"
    )
    parser.add_argument("--engine", default="vllm-0.19", help="engine version of that run")
    parser.add_argument("--tp", type=int, default=1, help="tensor parallelism")
    parser.add_argument("--max-num-seqs", type=int, default=256)
    parser.add_argument("--max-num-batched-tokens", type=int, default=2048)
    parser.add_argument("--kv-blocks", type=int, help="16-token KV blocks; by default what fits")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
