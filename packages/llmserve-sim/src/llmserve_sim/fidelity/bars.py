"""The comparisons and their bounds: one `Row` per figure, from every measurement there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.fidelity.data import columns, data_dir, read_accepted_lengths, read_requests, read_series
from llmserve_sim.fidelity.replay import RecordedRun, Replay, replay, replay_log
from llmserve_sim.fidelity.rows import Row, relative, with_median
from llmserve_sim.fidelity.served import blis_rows, fp8_rows
from llmserve_sim.hardware import ENGINES, GPUS, LLAMA_3_1_8B, QWEN3_32B, Deployment, EngineVersion, GpuSpec
from llmserve_sim.memory import MemoryModel
from llmserve_sim.performance.roofline import Iteration, Roofline
from llmserve_sim.performance.speculation import EAGLE3_ACCEPTANCE, accepted_length

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.fidelity.data import RequestLog, SeriesLog

    Floats = NDArray[np.float64]

__all__ = [
    "HELD_OUT_OUTPUT",
    "VLLM_RUNS",
    "Row",
    "blis_rows",
    "check",
    "eagle_rows",
    "fp8_rows",
    "series_errors",
    "trtllm_rows",
    "vllm_rows",
    "vllm_tp_rows",
]

# Run facts: the data's README. `max_num_seqs` is what those servers were started with; KV blocks are the memory model's.
VLLM_RUNS: tuple[tuple[RecordedRun, str], ...] = (
    (
        RecordedRun(
            "vLLM 0.19, RTX 4090, Llama-3.1-8B, KV-starved",
            Deployment("replay", GPUS["RTX-4090"], LLAMA_3_1_8B, ENGINES["vllm-0.19"]),
            max_num_seqs=256,
        ),
        "llmss_vllm0.19_RTX4090_Llama-3.1-8B",
    ),
    (
        RecordedRun(
            "vLLM 0.19, RTX PRO 6000, Llama-3.1-8B",
            Deployment("replay", GPUS["RTX-PRO-6000"], LLAMA_3_1_8B, ENGINES["vllm-0.19"], max_num_batched_tokens=2048),
            max_num_seqs=128,
        ),
        "llmss_vllm0.19_RTXPRO6000_Llama-3.1-8B",
    ),
)
_KV_STARVED = VLLM_RUNS[0][0].name

_MEAN_PERCENT = 2.0
_PERCENTILE_PERCENT = 4.0
_SERIES = (("running", 3.0, "requests"), ("waiting", 5.0, "requests"), ("KV usage", 5.0, "points"))
_ACCEPTED_PERCENT = 1.0

# TensorRT-LLM's documented benchmark: every request at once, 95 % of free memory for KV, the builder's default of 8,192
# tokens per iteration; requests never evicted, so as many run as fit at full length (ours: at most 512).
_TRTLLM_KV_SHARE = 0.95
_TRTLLM_TOKENS = 8192
_SEQS_MAX = 512
HELD_OUT_OUTPUT = 512
"""Output tokens of the closed loops that fit nothing (fit/overhead.py); those of 128 and 1,024 fit vLLM 0.12."""
_TP_PERCENT = (2.5, 5.0)
"""Median and 90th percentile of the closed loops' TPOT errors."""
# The closed loops: `batch_size` clients, each sending its next request when the last one ended; five requests per
# client.
_CLOSED_LOOP_ROUNDS = 5
_TP_TOKENS = 2048  # fits all 45 loops within 4 %; 8,192 leaves 9 % at 128 clients


def check(folder: Path | None = None) -> list[Row]:
    """Every comparison.

    Args:
        folder: where the measurements are; by default `data_dir()`.

    Raises:
        InvalidInputError: there is no such folder.
    """
    folder = folder or data_dir()
    if folder is None:
        raise InvalidInputError(
            "LLMSERVE_DATA", "must name the folder of measured runs; there is none beside the repository"
        )
    rows: list[Row] = []
    for run, stem in VLLM_RUNS:
        log = read_requests(folder / f"{stem}.csv")
        result = replay_log(run, log)
        rows += vllm_rows(run.name, log, result)
        if run.name == _KV_STARVED:
            rows += series_rows(run.name, read_series(folder / f"{stem}_timeseries.csv"), result)
    rows += trtllm_rows(folder / "trtllm_v0.14_throughput.csv")
    rows += vllm_tp_rows(folder / "aic_silicon_qwen3-32b_h100_vllm0.12_isl1024.csv")
    rows += blis_rows(folder / "blis_h100_vllm0.15_served.csv")
    rows += fp8_rows(folder / "aic_silicon_fp8_moe_h200_vllm0.12.csv")
    rows += eagle_rows(folder / "speculative_decoding_eagle_h100.json")
    return rows


def vllm_rows(name: str, log: RequestLog, result: Replay) -> Iterator[Row]:
    """Latency means and percentiles and the throughput of a request-level run."""
    measured = _latencies(log, log.first_token_s, log.last_token_s)
    predicted = _latencies(log, result.first_s, result.last_s)
    for metric in measured:
        yield relative(name, f"{metric} mean, s", measured[metric].mean(), predicted[metric].mean(), _MEAN_PERCENT)
    for metric in measured:
        for q in (50, 90, 99):
            seen, made = (float(np.percentile(side[metric], q)) for side in (measured, predicted))
            yield relative(name, f"{metric} p{q}, s", seen, made, _PERCENTILE_PERCENT)
    seen, made = (log.output.sum() / (last.max() - log.arrival_s.min()) for last in (log.last_token_s, result.last_s))
    yield relative(name, "throughput, tokens/s", seen, made, _MEAN_PERCENT)


def series_errors(log: SeriesLog, result: Replay) -> list[tuple[float, float, float]]:
    """(mean measured, mean predicted, mean absolute error) of running, waiting and KV percent."""
    index = np.minimum(np.round(log.t_s).astype(int) - 1, len(result.running) - 1)
    pairs = ((log.running, result.running), (log.waiting, result.waiting), (log.kv_percent, result.kv_percent))
    return [
        (float(seen.mean()), float(made[index].mean()), float(np.abs(seen - made[index]).mean()))
        for seen, made in pairs
    ]


def series_rows(name: str, log: SeriesLog, result: Replay) -> Iterator[Row]:
    """Mean absolute error of the one-second series."""
    for (what, bound, unit), (measured, predicted, error) in zip(_SERIES, series_errors(log, result), strict=True):
        yield Row(name, f"{what} series", measured, predicted, error, f"{unit} MAE", bound)


def trtllm_rows(path: Path, engine: EngineVersion = ENGINES["tensorrt-llm-0.14"]) -> Iterator[Row]:
    """Published maximum throughput of Llama-3-8B on A100, nine input and output lengths."""
    deployment = Deployment(
        "replay",
        GPUS["A100-80G-SXM"],
        LLAMA_3_1_8B,
        engine,
        max_num_batched_tokens=_TRTLLM_TOKENS,
        gpu_memory_utilization=1.0,
    )
    table = columns(path)
    rows = []
    for isl, osl, count, measured in zip(
        *(map(float, table[key]) for key in ("isl", "osl", "num_requests", "output_tok_s")), strict=True
    ):
        blocks = int(_TRTLLM_KV_SHARE * _whole_gpu_blocks(deployment, int(isl + osl)))
        fitting = min(_SEQS_MAX, blocks // -(-int(isl + osl) // 16))
        size = np.ones(int(count))
        result = replay(RecordedRun("TensorRT-LLM", deployment, fitting, blocks), 0.0 * size, isl * size, osl * size)
        predicted = count * osl / result.last_s.max()
        rows.append(
            relative("TensorRT-LLM 0.14, A100, Llama-3-8B", f"{isl:.0f}/{osl:.0f}, tokens/s", measured, predicted)
        )
    yield from with_median(rows)


def vllm_tp_rows(
    path: Path, engine: EngineVersion = ENGINES["vllm-0.12"], gpu: GpuSpec = GPUS["H100-SXM"]
) -> Iterator[Row]:
    """TPOT of Qwen3-32B on H100 at TP 2, 4 and 8, closed loops of 8 to 128 clients."""
    table = columns(path)
    rows = []
    for tp, clients, isl, osl, measured in zip(
        *(map(float, table[key]) for key in ("tp_size", "batch_size", "isl", "osl", "silicon_tpot_ms")), strict=True
    ):
        deployment = Deployment(
            "replay", gpu, QWEN3_32B, engine, tensor_parallel=int(tp), max_num_batched_tokens=_TP_TOKENS
        )
        size = np.ones(int(clients) * _CLOSED_LOOP_ROUNDS)
        # A queue that is never empty behind a cap of `clients` is a closed loop: one starts when one ends
        result = replay(RecordedRun("vLLM 0.12", deployment, int(clients)), 0.0 * size, isl * size, osl * size)
        predicted = 1e3 * float(np.mean(result.last_s - result.first_s)) / (osl - 1)
        what = f"TP {tp:.0f}, {clients:.0f} clients, {isl:.0f}/{osl:.0f}, TPOT ms"
        rows.append(relative("vLLM 0.12, H100, Qwen3-32B", what, measured, predicted))
    yield from with_median(rows, _TP_PERCENT[0])
    errors = np.abs([row.error for row in rows])
    nan = float("nan")
    high = float(np.percentile(errors, 90))
    yield Row(rows[0].run, f"p90 of {len(rows)}", nan, nan, high, bound=_TP_PERCENT[1])
    held_out = [row for row in rows if f"/{HELD_OUT_OUTPUT}," in row.figure]
    worst = float(np.max(np.abs([row.error for row in held_out])))
    yield Row(rows[0].run, f"worst of the {len(held_out)} held out", nan, nan, worst, bound=_TP_PERCENT[1])


def eagle_rows(path: Path) -> Iterator[Row]:
    """Accepted length and TPOT against draft depth, EAGLE-3, Llama-3.1-8B on H100, batch 1."""
    lengths, tpot_ms, vanilla_ms = read_accepted_lengths(path)
    name = "EAGLE-3, H100, Llama-3.1-8B, batch 1"
    for depth, measured in sorted(lengths.items()):
        predicted = accepted_length(EAGLE3_ACCEPTANCE, depth)
        yield relative(name, f"accepted length at depth {depth}", measured, predicted, _ACCEPTED_PERCENT)
    # Relative to the run's own speed without drafting: its engine version is not one of ours
    roofline = Roofline(Deployment("replay", GPUS["H100-SXM"], LLAMA_3_1_8B, ENGINES["vllm-0.19"]))
    plain = roofline.iteration_s(Iteration(1, 512.0))
    for depth, measured in sorted(tpot_ms.items()):
        step = roofline.iteration_s(Iteration(1, 512.0, depth=depth)) + vanilla_ms * 1e-3 - plain
        predicted = 1e3 * step / accepted_length(EAGLE3_ACCEPTANCE, depth)
        yield relative(name, f"TPOT at depth {depth}, ms", measured, predicted)


def _latencies(log: RequestLog, first: Floats, last: Floats) -> Mapping[str, Floats]:
    return {
        "TTFT": first - log.arrival_s,
        "TPOT": (last - first) / np.maximum(log.output - 1.0, 1.0),
        "E2E": last - log.arrival_s,
    }


def _whole_gpu_blocks(deployment: Deployment, max_len: int) -> int:
    return MemoryModel(deployment, max_len).requirement("FP16", 1.0, speculating=False).wanted_blocks
