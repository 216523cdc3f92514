"""From the float roofline to the integer tables that the engine reads: picoseconds, built once per deployment.

Only decode attention needs approximating: it is n h(X / n) with a smooth h, cut into linear pieces on a geometric grid
of mean context. Everything else is a lookup by token count or linear, so the only other error is rounding.
`tests/test_tables.py` checks that all of it is within 0.1 % of the roofline's iteration time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmserve_sim.engine.interface import FP, PS_PER_S, FleetSpec, TierTables
from llmserve_sim.engine.units import MAX_ITERATION_PS
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.performance.disaggregation import HANDOVER_S, SPLIT_STALL_S, link_s_per_token
from llmserve_sim.performance.quantization import TIERS, swap_s
from llmserve_sim.performance.roofline import Roofline
from llmserve_sim.performance.speculation import DRAFT_SEQUENCE_S, draft_step_s
from llmserve_sim.specifications import Deployment
from llmserve_sim.tasks.model import MAX_UNFINISHED

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

__all__ = ["EVICT_STALL_S", "MAX_CONTEXT_TOKENS", "RESIZE_STALL_S", "build_fleet", "build_tier"]

MAX_CONTEXT_TOKENS = 131_072
"""Longest context that the tables cover; the last piece extends beyond it."""
RESIZE_STALL_S = 0.1
"""Stall of a KV pool resized by the operator: block tables are rewritten between two iterations. An assumption."""
EVICT_STALL_S = 0.3
"""Stall of an eviction that a co-tenant's demand forces; the design's figure."""

_FIRST_EDGE_TOKENS = 16
_LEAST_PIECES_PER_OCTAVE = 4
_MOST_PIECES_PER_OCTAVE = 1024  # rounding then costs at most 11 ns at the longest context
_SLOPE_ERROR = 6e-4  # share of decode attention that rounding a slope to whole picoseconds may cost
_SCALE = 1 << 10  # coefficients that the engine shifts right by ten bits


class Pieces(NamedTuple):
    """A piecewise linear function of mean context: edges (1/256 token), values (ps), slopes (ps per edge unit)."""

    edges: Ints
    heights: Ints
    slopes: Ints


def build_fleet(
    deployment: Deployment,
    *,
    max_len: int,
    max_unfinished: int,
    patience_s: float = 0.0,
    handover_s: float = HANDOVER_S,
    split_stall_s: float = SPLIT_STALL_S,
    resize_stall_s: float = RESIZE_STALL_S,
    evict_stall_s: float = EVICT_STALL_S,
) -> FleetSpec:
    """The engine's description of a deployment.

    Args:
        deployment: GPUs, model, engine version and replicas.
        max_len: longest prompt plus output, tokens.
        max_unfinished: requests in the fleet at which arrivals are rejected.
        patience_s: a request that waits longer for its first token is abandoned; 0 for never.
        handover_s: fixed latency of a prefill-to-decode hand-over.
        split_stall_s: stall of a change of roles.
        resize_stall_s: stall of a pool resized by the operator.
        evict_stall_s: stall of an eviction forced by the co-tenant.

    Raises:
        InvalidInputError: an argument is out of range.
    """
    for name, value, least, most in (
        ("max_len", max_len, 2, MAX_CONTEXT_TOKENS),
        ("max_unfinished", max_unfinished, 1, MAX_UNFINISHED),
        ("patience_s", patience_s, 0, 1e6),
        ("handover_s", handover_s, 0, 1e3),
        ("split_stall_s", split_stall_s, 0, 1e3),
        ("resize_stall_s", resize_stall_s, 0, 1e3),
        ("evict_stall_s", evict_stall_s, 0, 1e3),
    ):
        given: object = value  # annotations are not checked at run time
        if type(given) not in {int, float} or not least <= value <= most:
            raise InvalidInputError(name, f"must be in {least}..{most:g}", got=value)
    swaps = [_ps(swap_s(deployment.gpu, deployment.model, tier, deployment.tensor_parallel)) for tier in TIERS]
    tiers = [build_tier(Roofline(deployment, tier)) for tier in TIERS]
    return FleetSpec(
        replicas=deployment.replicas,
        tiers=(tiers[0], tiers[1], tiers[2]),
        swap_ps=(swaps[0], swaps[1], swaps[2]),
        split_ps=_ps(split_stall_s),
        resize_ps=_ps(resize_stall_s),
        evict_ps=_ps(evict_stall_s),
        handover_ps=_ps(handover_s),
        link_ps_per_token=_ps(link_s_per_token(deployment)),
        max_len=max_len,
        max_unfinished=max_unfinished,
        patience_ps=_ps(patience_s),
        rules=deployment.engine.rules,
    )


def build_tier(roofline: Roofline) -> TierTables:
    """Integer tables of one replica at one weight format."""
    deployment = roofline.deployment
    budget = deployment.max_num_batched_tokens
    counts = np.arange(budget + 1, dtype=np.float64)
    per_token = np.asarray(roofline.layers_s(counts)) + roofline.cpu_s(0)
    pieces = decode_pieces(lambda tokens: float(roofline.decode_attention_s(1.0, tokens)))
    prefill = roofline.prefill
    unpacked_seq_s, unpacked_token_s, amplified_token_s = mixed_coefficients(roofline)
    unit_s = roofline.prefill_unit_s
    return TierTables(
        budget=budget,
        gemm=_ps_array(per_token),
        head=_ps_array(np.asarray(roofline.head_s(counts))),
        cpu_seq=_ps(roofline.cpu_sequence_s),
        dec_t0=_ps(roofline.decode_start_s),
        dec_x=pieces.edges,
        dec_h=pieces.heights,
        dec_s=pieces.slopes,
        pf_t0=_ps(roofline.prefill_start_s),
        pf_tile=prefill.tile,
        pf_off=prefill.offset,
        pf_coef=_ps(unit_s * _SCALE),
        pf_crit=_ps(roofline.prefill_critical_s_per_token * _SCALE),
        mix_seq=_ps(unpacked_seq_s),
        mix_ctx=_ps(unpacked_token_s * _SCALE / FP),
        mix_amp=_ps(amplified_token_s * _SCALE / FP),
        draft_step=_ps(draft_step_s(deployment)),
        spec_seq=_ps(DRAFT_SEQUENCE_S),
    )


def mixed_coefficients(roofline: Roofline) -> tuple[float, float, float]:
    """Seconds per sequence, per context token, and per context token at the amplified floor, over all layers.

    All zero for an engine that runs decode attention in a kernel of its own: then decode attention alone is the
    maximum.
    """
    gpu, par = roofline.gpu, roofline.gpu.kernels.mixed
    if roofline.deployment.engine.separate_attention or par.separate:
        return 0.0, 0.0, 0.0
    blocks = roofline.kv_heads if par.packs_heads else roofline.heads
    per_head = roofline.model.layers * blocks / gpu.sm_count * 1e-6
    kv_bytes = roofline.model.layers * roofline.kv_heads * roofline.model.head_dim * 2.0 * roofline.kv_element_bytes
    return par.seq_us * per_head, par.token_us * per_head, par.amplification * kv_bytes / gpu.hbm_bytes_per_s


def decode_pieces(seconds: Callable[[float], float]) -> Pieces:
    """Cut `seconds` (one sequence's decode attention against its context in tokens) into integer linear pieces.

    Each slope is rounded so as to undo the rounding of those before it, so that the function is continuous and the
    error at an edge never exceeds half a slope unit times the last piece's width. Where slopes are small numbers of
    picoseconds (eight-way tensor parallelism), pieces are narrower for that reason.
    """
    per_octave = _LEAST_PIECES_PER_OCTAVE
    slope = seconds(MAX_CONTEXT_TOKENS) * PS_PER_S / (MAX_CONTEXT_TOKENS * FP)
    while per_octave < _MOST_PIECES_PER_OCTAVE and 0.5 * (1.0 - 2.0 ** (-1.0 / per_octave)) > _SLOPE_ERROR * slope:
        per_octave *= 2
    octaves = int(np.log2(MAX_CONTEXT_TOKENS / _FIRST_EDGE_TOKENS))
    grid = _FIRST_EDGE_TOKENS * 2.0 ** (np.arange(octaves * per_octave + 1) / per_octave)
    edges = np.concatenate([[0], np.unique(np.round(grid * FP))]).astype(np.int64)
    values = [seconds(edge / FP) * PS_PER_S for edge in edges.tolist()]
    heights, slopes = [round(values[0])], []
    for left, right, target in zip(edges[:-1].tolist(), edges[1:].tolist(), values[1:], strict=True):
        slope = max(0, round((target - heights[-1]) / (right - left)))  # below 0 after a wide piece rounded up
        slopes.append(slope)
        heights.append(heights[-1] + slope * (right - left))
    return Pieces(edges[:-1], np.array(heights[:-1], dtype=np.int64), np.array(slopes, dtype=np.int64))


def _ps(seconds: float) -> int:
    return int(_ps_array(np.asarray(seconds)))


def _ps_array(seconds: NDArray[np.float64]) -> Ints:
    scaled = np.round(seconds * PS_PER_S)
    if not np.all(scaled <= MAX_ITERATION_PS):
        longest = float(np.max(seconds))
        raise InvalidInputError("deployment", f"must take at most {MAX_ITERATION_PS / PS_PER_S:g} s", got=longest)
    return scaled.astype(np.int64)
