"""CPU time of each engine version: (per iteration, per sequence) that best reproduce its end-to-end runs.

A part of each version's runs is replayed through the engine, and the other part only checks (`nox -s fidelity`): 0.19
is fitted on RTX PRO 6000 and checked on RTX 4090, 0.12 on closed loops of 128 and 1,024 output tokens and checked on
those of 512, TensorRT-LLM on every other length, and 0.15 on the two rates of one of three loads. The objective is the
root mean square of every figure's error over the figure's bound. It is flat around its minimum (the two parameters trade
against each other), so the check compares what the committed pair reaches with what the refit reaches, not the
parameters. 0.12's come with H100's sustained share of its compute rate, 0.15's with the time of its front end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from common import data_dir
from scipy.optimize import minimize  # type: ignore[import-untyped]

from llmserve_sim.fidelity.bars import HELD_OUT_OUTPUT, VLLM_RUNS, Row, blis_rows, trtllm_rows, vllm_rows, vllm_tp_rows
from llmserve_sim.fidelity.data import read_requests
from llmserve_sim.fidelity.replay import replay_log
from llmserve_sim.hardware import ENGINES, GPUS, EngineVersion, GpuSpec

UNBOUNDED_PERCENT = 8.0  # the bound of the medians, for rows that have none of their own
START_US = (500.0, 15.0)
UNIT_US = (1000.0, 30.0)
TOLERANCE = 0.03


def vllm_019_rows(engine: EngineVersion) -> list[Row]:
    """The recorded run on RTX PRO 6000."""
    ((run, stem),) = ((run, stem) for run, stem in VLLM_RUNS if "RTX PRO 6000" in run.name)
    log = read_requests(data_dir() / f"{stem}.csv")
    run = replace(run, deployment=replace(run.deployment, engine=engine))
    return [row for row in vllm_rows(run.name, log, replay_log(run, log)) if row.bound]


def vllm_012_rows(engine: EngineVersion, gpu: GpuSpec = GPUS["H100-SXM"]) -> list[Row]:
    """The closed loops that are not held out, without the rows that sum them up."""
    path = data_dir() / "aic_silicon_qwen3-32b_h100_vllm0.12_isl1024.csv"
    held_out = f"/{HELD_OUT_OUTPUT},"
    return [row for row in vllm_tp_rows(path, engine, gpu) if not np.isnan(row.measured) and held_out not in row.figure]


def vllm_015_rows(engine: EngineVersion) -> list[Row]:
    """TPOT and TTFT of the load "general" at two rates."""
    rows = blis_rows(data_dir() / "blis_h100_vllm0.15_served.csv", engine)
    return [row for row in rows if row.figure.startswith("general") and "E2E" not in row.figure]


def fit_frontend() -> None:
    """Print the time of vLLM 0.15's front end: what its median TTFT holds besides the engine's."""
    engine = ENGINES["vllm-0.15"]
    rows = [row for row in vllm_015_rows(replace(engine, frontend_us=0.0)) if "TTFT" in row.figure]
    left = np.mean([row.measured - row.predicted for row in rows])
    print(f"\nvLLM 0.15: front end {1e3 * left:.0f} us (committed {engine.frontend_us:.0f})")


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
    "vllm-0.15": lambda engine: [row for row in vllm_015_rows(engine) if "TPOT" in row.figure],
    "vllm-0.12": vllm_012_rows,
    "tensorrt-llm-0.14": lambda engine: list(trtllm_rows(data_dir() / "trtllm_v0.14_throughput.csv", engine))[:-1:2],
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
    fit_frontend()
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
