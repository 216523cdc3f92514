"""The kernel tables of six GPUs (ai-dynamo/aiconfigurator, vLLM 0.24; A100: 0.14), one reader for all of them.

Every table times a kernel again and again on the same few buffers. What fits into the L2 cache is then read from there,
which a server never sees, as its layers follow each other; `fits_cache` marks such rows, and no fit uses them.
"""

from __future__ import annotations

import csv
import gzip

import numpy as np
from common import Array, data_dir
from shapes import A100, B200, H100, H200, L40S, RTX_PRO_6000

from llmserve_sim.hardware import ENGINES, GpuSpec

Columns = dict[str, Array]

NAMES = {
    A100.name: "a100_sxm",
    H100.name: "h100_sxm",
    H200.name: "h200_sxm",
    B200.name: "b200_sxm",
    L40S.name: "l40s",
    RTX_PRO_6000.name: "rtx_pro_6000_server",
}
GPUS = (A100, H100, H200, B200, L40S, RTX_PRO_6000)
COPIES = 6
"""Weight matrices that the collector takes in turn, judged by the size at which L40S's and RTX PRO 6000's rates jump."""


def token_budget(gpu: GpuSpec) -> int:
    """Tokens of the largest iteration of the tables' version."""
    return ENGINES["vllm-0.24"].token_budget(gpu)


def read(gpu: GpuSpec, kind: str, **where: str) -> Columns | None:
    """Columns of a table, numbers as floats; None if the GPU has no such rows."""
    (path,) = (data_dir() / "kernels").glob(f"{NAMES[gpu.name]}_{kind}_vllm*")
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle) if all(row[key] == value for key, value in where.items())]
    if not rows:
        return None
    text = {"gemm_dtype", "moe_dtype", "kv_cache_dtype", "distribution", "backend"}
    return {key: np.array([row[key] if key in text else float(row[key]) for row in rows]) for key in rows[0]}


def where(columns: Columns, keep: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Columns:
    """The rows for which `keep` holds."""
    return {key: column[keep] for key, column in columns.items()}


def fits_cache(gpu: GpuSpec, size: Array, copies: int = 1) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Whether `copies` buffers of `size` bytes stay in the L2 cache between two timings."""
    return np.asarray(copies * size <= gpu.l2_bytes)
