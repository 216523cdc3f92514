"""CPU time of each engine version: (per iteration, per sequence) that best reproduce its end-to-end runs.

Each version's runs are replayed through the engine; the objective is the root mean square of every figure's error
over the figure's bound; 0.12's come with H100's sustained share of its compute rate. It is flat around its minimum (the two parameters trade against each other), so the check
compares what the committed pair reaches with what the refit reaches, not the parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from common import data_dir
from scipy.optimize import minimize  # type: ignore[import-untyped]

from llmserve_sim.fidelity.bars import VLLM_RUNS, Row, trtllm_rows, vllm_rows, vllm_tp_rows
from llmserve_sim.fidelity.data import read_requests
from llmserve_sim.fidelity.replay import replay_log
from llmserve_sim.hardware import ENGINES, GPUS, EngineVersion, GpuSpec

UNBOUNDED_PERCENT = 8.0  # the bound of the medians, for rows that have none of their own
START_US = (500.0, 15.0)
UNIT_US = (1000.0, 30.0)
TOLERANCE = 0.03


def vllm_019_rows(engine: EngineVersion) -> list[Row]:
    """Both recorded runs."""
    rows: list[Row] = []
    for run, stem in VLLM_RUNS:
        log = read_requests(data_dir() / f"{stem}.csv")
        run_ = replace(run, deployment=replace(run.deployment, engine=engine))
        rows += [row for row in vllm_rows(run.name, log, replay_log(run_, log)) if row.bound]
    return rows


def vllm_012_rows(engine: EngineVersion, gpu: GpuSpec = GPUS["H100-SXM"]) -> list[Row]:
    """The 45 closed loops, without the rows that sum them up."""
    path = data_dir() / "aic_silicon_qwen3-32b_h100_vllm0.12_isl1024.csv"
    return [row for row in vllm_tp_rows(path, engine, gpu) if not np.isnan(row.measured)]


def fit_sustained() -> None:
    """Print the compute share that H100 keeps under load, fitted together with vLLM 0.12's two times.

    A batch's prefill share tells the three apart: the loops range from 128 to 1,024 output tokens at 1,024 input ones.
    """
    gpu, engine = GPUS["H100-SXM"], ENGINES["vllm-0.12"]

    def errors(p: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        kept = replace(gpu, kernels=replace(gpu.kernels, sustained=float(p[0])))
        timed = replace(engine, iteration_us=float(p[1] * 1000.0), sequence_us=float(p[2] * 30.0))
        return np.array([row.error for row in vllm_012_rows(timed, kept)])

    best = minimize(
        lambda p: float(np.mean(np.sqrt(1.0 + (errors(p) / 2.0) ** 2) - 1.0)),
        (0.8, 1.5, 1.7),
        method="Nelder-Mead",
        options={"xatol": 0.01, "fatol": 0.01, "maxfev": 45},
    ).x
    size = np.abs(errors(best))
    print(
        f"\nH100 under vLLM 0.12: sustained {best[0]:.3f} (committed {gpu.kernels.sustained}), iteration {best[1] * 1e3:.0f} "
        f"us, sequence {best[2] * 30:.0f} us; median {np.median(size):.1f} %, p90 {np.percentile(size, 90):.1f} %"
    )


SOURCES: dict[str, Callable[[EngineVersion], list[Row]]] = {
    "vllm-0.19": vllm_019_rows,
    "vllm-0.12": vllm_012_rows,
    "tensorrt-llm-0.14": lambda engine: list(trtllm_rows(data_dir() / "trtllm_v0.14_throughput.csv", engine))[:-1],
}


def objective(engine: EngineVersion) -> float:
    """Root mean square error, in units of the bounds."""
    rows = SOURCES[engine.name](engine)
    return float(np.sqrt(np.mean([(row.error / (row.bound or UNBOUNDED_PERCENT)) ** 2 for row in rows])))


def run() -> list[str]:
    """Refit every version and print it; returns a line for each committed pair that a refit beats by `TOLERANCE`."""
    worse = []
    print(f"\n{'engine':20s}{'iteration us':>14s}{'sequence us':>14s}{'rms of error / bound':>24s}")
    fit_sustained()
    for name in SOURCES:
        committed = ENGINES[name]

        def loss(p: np.ndarray[tuple[int, ...], np.dtype[np.float64]], engine: EngineVersion = committed) -> float:
            iteration_us, sequence_us = np.abs(p * UNIT_US)
            return objective(replace(engine, iteration_us=float(iteration_us), sequence_us=float(sequence_us)))

        best = minimize(
            loss,
            np.divide(START_US, UNIT_US),
            method="Nelder-Mead",
            options={"xatol": 0.02, "fatol": 2e-3, "maxfev": 40},
        )
        now = objective(committed)
        iteration_us, sequence_us = np.abs(best.x * UNIT_US)
        print(f"{name:20s}{iteration_us:14.0f}{sequence_us:14.1f}{best.fun:24.3f}   refit")
        print(f"{'':20s}{committed.iteration_us:14.0f}{committed.sequence_us:14.1f}{now:24.3f}   committed")
        if now > best.fun + TOLERANCE:
            worse.append(f"{name}: committed overheads reach {now:.3f} of the bounds, a refit {best.fun:.3f}")
    return worse
