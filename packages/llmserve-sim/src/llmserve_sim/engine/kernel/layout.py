"""The layout of an engine's arena: one flat row of int64 per environment.

A row is replicas | groups | header | statistics | histograms | members | slots | scratch. A fork copies the row; the
hash of a state is the hash of its row. Every unfinished request has a slot, identified by its offset in the row; offset
0 means "no slot". All lists (waiting queues, running requests, hand-overs, free slots) are linked through the slots.

Replicas and groups come first because CPython caches the integers up to 256: small offsets cost no allocation.

The names are offsets. The kernel imports them one by one, so that numba sees constants: `R_` replica, `G_` group of a
replica, `H_` header, `P_` plan, `PLAN_` the plan in force (inside the header), `W_` window statistics, `S_` slot,
`TB_` cost table, `REC_` request record.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from llmserve_sim.engine.histogram import BINS
from llmserve_sim.engine.interface import (
    BLOCK_TOKENS,
    DEPTHS,
    REPLICAS_MAX,
    SEQS_MAX,
    TENANTS,
    TOTALS,
    WindowPlan,
    WindowStats,
)

if TYPE_CHECKING:

    def __getattr__(name: str) -> int:
        """Give the names that are made from fields their type; an import of a name that is not there fails at once."""


NEVER = 1 << 62
"""A time after everything, ps."""
# ---- replicas
REPLICAS = 1
R_UNTIL = 0  # end of the leap in flight, or -1
R_NOW = 1  # end of the last iteration, or when an idle replica was given work
R_READY = 2  # no iteration starts before this
R_START = 3  # start of the leap in flight
R_STEPS = 4  # its iterations; they take first + i·rise
R_FIRST = 5
R_RISE = 6
R_LAST_END = 7  # last completion: when every continuing sequence got its last token
R_DEPTH = 8  # depth of the leap in flight
R_RATED = 9  # depth whose rates the groups have; −1: those of an older plan
R_PIECE = 10  # piece of the decode table used last, where the next look-up starts
R_POOL = 11
R_BLOCKS = 12  # blocks held by prefilling sequences, and by decoding ones if every clock were 0
R_SPARE = 13  # at least so many blocks stay free while the leap in flight lasts
R_CACHED = 14  # blocks with text of finished requests, as far as they are free
R_DECODING = 15
R_RUNNING = 16
R_WAITING = 17  # [2] by class
R_CONTEXT = 19  # sum of the decoding sequences' contexts, fixed-point tokens
R_GROWTH = 20  # what an iteration adds to it: sum of the rates of the decoding sequences
R_GIVE_UP = 21  # nobody waiting here gives up before this
R_LINK_FREE = 22
R_INDEX = 23
R_RESUMED = 24  # [2] queues by class
R_FRESH = 28  # [2] queues by class
R_HANDOVERS = 32  # queue of requests on their way to a decode replica
R_PREFILLS = 34  # queue by S_CHAIN
R_JOINERS = 36  # stack by S_CHAIN of those handed over into the iteration in flight
R_ACTIVE = 38  # [2] rings of running requests by class, oldest first
R_GROUPS_END = 42  # offset after the last group in use
R_GROUPS = 43  # offset of its groups
REPLICA_SIZE = 44
# ---- groups, [TENANTS] per replica, behind the last replica: a tenant's decoding sequences, which advance in lock-step
G_COUNT = 0
G_CLOCK = 1  # tokens gained by every sequence, fixed point
G_RATE = 2  # fixed-point tokens per step of the leap in flight
G_BIN = 3  # where the last gap was counted, and the gaps (ps) that are counted there: low..high−1
G_LOW = 4
G_HIGH = 5
G_PHASE = 6  # offset of its PHASES
G_HEAP = 7  # offset of its HEAP
GROUP_SIZE = 8
HEADER = REPLICAS + REPLICAS_MAX * (REPLICA_SIZE + TENANTS * GROUP_SIZE)
ENDS = 2
"""Queues and rings are a first and a last slot."""
# ---- header: progress
H_NOW = HEADER + 0  # start of the coming window, ps
H_NEXT = HEADER + 1  # index of the next arrival
H_ARRIVALS = HEADER + 2  # number of requests in the traffic
H_GROUPS = HEADER + 3  # size of the groups in use, those of tenants 0..highest
H_SEQ = HEADER + 4  # last sequence number given out
H_UNFINISHED = HEADER + 5
H_FREE = HEADER + 6  # head of the free slots
H_STARTED = HEADER + 7  # 0 before the first plan
H_RECORDING = HEADER + 8
H_RECORDS = HEADER + 9  # records written in this window
# ---- header: fixed for the episode
H_TABLE = HEADER + 10  # offset of the table of the tier in force
H_REPLICAS_END = HEADER + 11  # offset after the last replica
H_DECODERS = HEADER + 12  # offset of the first replica that only decodes; H_REPLICAS_END unless split
H_SCRATCH = HEADER + 13  # offset of the scratch area
H_SWAP = HEADER + 14  # 3 ps
H_SPLIT = HEADER + 17
H_RESIZE = HEADER + 18
H_EVICT = HEADER + 19
H_HANDOVER = HEADER + 20
H_LINK = HEADER + 21
H_MAX_LEN = HEADER + 22
H_MAX_UNFINISHED = HEADER + 23
H_PATIENCE = HEADER + 24
H_TTFT = HEADER + 25  # 2 ps, by class
H_TTFT_TOKEN = HEADER + 27
H_TPOT = HEADER + 28  # 2 ps, by class
# ---- header: the plan in force. The field `batch_cap` of `WindowPlan` is at P_BATCH_CAP in a plan, PLAN_BATCH_CAP in a row
H_PLAN = HEADER + 30
_PLAN_FIELDS = [field.name.upper() for field in fields(WindowPlan)]
globals().update({f"P_{name}": at for at, name in enumerate(_PLAN_FIELDS)})
globals().update({f"PLAN_{name}": H_PLAN + at for at, name in enumerate(_PLAN_FIELDS)})
PLAN_SIZE = len(_PLAN_FIELDS) - 1 + TENANTS * DEPTHS  # only the last, `tokens_per_step`, has several entries
# ---- statistics. The field `due` of `WindowStats` is at W_DUE in a row; the histograms have a place of their own
STATS = H_PLAN + PLAN_SIZE
STATS_SIZE = 0
STAT_COLUMNS: dict[str, int | slice] = {}
"""Where each statistic stands behind STATS: an index, or a slice where it has several entries."""
for _name, _zero in vars(WindowStats()).items():
    _width = len(_zero) if isinstance(_zero, list) else 1
    if _width > 0:
        globals()[f"W_{_name.upper()}"] = STATS + STATS_SIZE
        STAT_COLUMNS[_name] = slice(STATS_SIZE, STATS_SIZE + _width) if isinstance(_zero, list) else STATS_SIZE
        STATS_SIZE += _width
WINDOW_STATS = STATS + len(TOTALS)  # those that start anew with every window
WINDOW_STATS_SIZE = STATS_SIZE - len(TOTALS)
# ---- histograms, each preceded by the range of bins in use (low, high)
HIST_TTFT = STATS + STATS_SIZE
HIST_ITL = HIST_TTFT + 2 + BINS
ZEROS = HIST_ITL + 2 + BINS  # [BINS] zeros, to clear the above with
# ---- phases and heaps of the groups, [replicas][TENANTS]
PHASES = 0  # [BLOCK_TOKENS] sequences by the room they have used of their last block at clock 0
HEAP = PHASES + BLOCK_TOKENS  # [1..SEQS_MAX + 1] heap of finish clock << SLOT_BITS | slot; unused entries are NEVER
MEMBERS_SIZE = HEAP + SEQS_MAX + 2
MEMBERS = ZEROS + BINS
SLOT_BITS = 24
SLOT_MASK = (1 << SLOT_BITS) - 1
# ---- slots
S_NEXT = 0
S_PREV = 1
S_CHAIN = 2  # next in the same iteration
S_ID = 3
S_SEQ = 4
S_ARRIVAL = 5
S_PROMPT = 6
S_OUTPUT = 7
S_CLASS = 8
S_TENANT = 9
S_PRODUCED = 10  # tokens produced; while decoding: when it joined
S_BASE = 11  # context (tokens) minus its group's clock, while decoding
S_FIRST = 12  # first token, -1 before
S_LAST = 13  # last token before a hand-over or a preemption
S_COMPUTED = 14
S_TARGET = 15  # tokens to prefill, 0 when not prefilling
S_CHUNK = 16
S_STORED = 17  # 1: handed over, its KV is at hand
S_SCHEDULED = 18
S_PREEMPTIONS = 19
S_READY = 20  # when its hand-over is done
SLOT_SIZE = 21
# ---- tables: [3] offsets, then per tier
TB_BUDGET = 0
TB_CPU_SEQ = 1
TB_DEC_T0 = 2
TB_PF_T0 = 3
TB_PF_TILE = 4
TB_PF_OFF = 5
TB_PF_COEF = 6
TB_PF_CRIT = 7
TB_MIX_SEQ = 8
TB_MIX_CTX = 9
TB_MIX_AMP = 10
TB_DRAFT_STEP = 11
TB_SPEC_SEQ = 12
TB_GEMM = 13  # offsets of the arrays
TB_HEAD = 14
TB_PIECES = 15
TB_SIZE = 16
PIECE_EDGE, PIECE_VALUE, PIECE_SLOPE = 0, 1, 2
PIECE_SIZE = 3  # after the last piece stands one more edge, which no context reaches
# ---- traffic: arrival ps, then prompt | output << 24 | class << 48 | tenant << 49
TRAFFIC_WIDTH = 2
TOKEN_BITS = 24
TOKEN_MASK = (1 << TOKEN_BITS) - 1
CLASS_SHIFT = 48
TENANT_SHIFT = 49
# ---- records
REC_ID = 0
REC_STATUS = 1
REC_SCHEDULED = 2
REC_FIRST = 3
REC_LAST = 4
REC_PREEMPTIONS = 5
REC_REPLICA = 6
RECORD_SIZE = 7
STATUSES = ("finished", "abandoned", "rejected")
FINISHED, ABANDONED, REJECTED = 0, 1, 2


def row_size(replicas: int, max_unfinished: int) -> int:
    """Length of a row, in int64."""
    return MEMBERS + replicas * TENANTS * MEMBERS_SIZE + max_unfinished * SLOT_SIZE + max_unfinished
