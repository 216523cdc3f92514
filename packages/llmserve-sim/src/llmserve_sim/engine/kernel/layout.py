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
    STATUSES,
    TENANTS,
    TOTALS,
    WindowPlan,
    WindowStats,
)

if TYPE_CHECKING:

    def __getattr__(name: str) -> int:
        """Tell the type checker that the generated names are integers. A wrong name still fails when it is imported."""


NEVER = 1 << 62
"""A time later than any event, ps."""
# ---- replicas
REPLICAS = 1
R_UNTIL = 0  # end of the leap in flight, or -1
R_NOW = 1  # end of the last iteration, or when an idle replica was given work
R_READY = 2  # no iteration starts before this
R_START = 3  # start of the leap in flight
R_STEPS = 4  # number of its iterations; iteration i takes first + i·rise ps
R_FIRST = 5
R_RISE = 6
R_LAST_END = 7  # last completion: when every continuing sequence got its last token
R_DEPTH = 8  # depth of the leap in flight
R_RATED = 9  # depth that the groups' rates are for; −1: the rates are of an older plan
R_PIECE = 10  # piece of the decode table used last; the next look-up starts there
R_POOL = 11  # KV blocks of the replica
R_BLOCKS = 12  # blocks held by prefilling sequences, and by decoding ones if every clock were 0
R_SPARE = 13  # at least this many blocks stay free during the leap in flight
R_CACHED = 14  # blocks freed with a reusable prefix in them; those reallocated since are deducted when it is read
R_DECODING = 15
R_RUNNING = 16
R_WAITING = 17  # [2] by class
R_CONTEXT = 19  # sum of the decoding sequences' contexts, fixed-point tokens
R_GROWTH = 20  # what an iteration adds to it: sum of the rates of the decoding sequences
R_GIVE_UP = 21  # no request waiting here gives up before this time
R_LINK_FREE = 22  # the link to the decode replicas is busy until then
R_INDEX = 23
R_RESUMED = 24  # [2] waiting queues by class: requests with a first token (preempted or handed over)
R_FRESH = 28  # [2] waiting queues by class: requests without a first token
R_HANDOVERS = 32  # queue of requests on their way to a decode replica
R_PREFILLS = 34  # queue, linked by S_CHAIN, of requests being prefilled
R_JOINERS = 36  # queue, linked by S_CHAIN, of handed-over requests that joined in the iteration in flight
R_ACTIVE = 38  # [2] rings of running requests by class, oldest first
R_GROUPS_END = 42  # offset after the last group in use
R_GROUPS = 43  # offset of its groups
REPLICA_SIZE = 44
# ---- groups, [TENANTS] per replica, after the last replica: a tenant's decoding sequences, advancing in lock-step
G_COUNT = 0
G_CLOCK = 1  # tokens gained by every sequence, fixed point
G_RATE = 2  # fixed-point tokens per step of the leap in flight
G_BIN = 3  # offset of the histogram bin used last; it counts the gaps low..high−1, ps
G_LOW = 4
G_HIGH = 5
G_PHASE = 6  # offset of its PHASES
G_HEAP = 7  # offset of its HEAP
GROUP_SIZE = 8
HEADER = REPLICAS + REPLICAS_MAX * (REPLICA_SIZE + TENANTS * GROUP_SIZE)
ENDS = 2
"""Length of a queue or ring: the offsets of its first and last slot."""
# ---- header: progress
H_NOW = HEADER + 0  # start of the coming window, ps
H_NEXT = HEADER + 1  # index of the next arrival
H_ARRIVALS = HEADER + 2  # number of requests in the traffic
# HEADER + 3 is unused; to close the gap would change the hash of every state
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
# ---- header: the plan in force. `WindowPlan.batch_cap` is at P_BATCH_CAP in a plan and at PLAN_BATCH_CAP in a row
H_PLAN = HEADER + 30
_PLAN_FIELDS = [field.name.upper() for field in fields(WindowPlan)]
globals().update({f"P_{name}": at for at, name in enumerate(_PLAN_FIELDS)})
globals().update({f"PLAN_{name}": H_PLAN + at for at, name in enumerate(_PLAN_FIELDS)})
PLAN_SIZE = len(_PLAN_FIELDS) - 1 + TENANTS * DEPTHS  # only the last, `tokens_per_step`, has several entries
# ---- statistics. The field `due` of `WindowStats` is at W_DUE in a row; the histograms are stored behind
STATS = H_PLAN + PLAN_SIZE
STATS_SIZE = 0
STAT_COLUMNS: dict[str, int | slice] = {}
"""Index of each statistic relative to STATS; a slice where it has several entries."""
for _name, _zero in vars(WindowStats()).items():
    _width = len(_zero) if isinstance(_zero, list) else 1
    if _width > 0:
        globals()[f"W_{_name.upper()}"] = STATS + STATS_SIZE
        STAT_COLUMNS[_name] = slice(STATS_SIZE, STATS_SIZE + _width) if isinstance(_zero, list) else STATS_SIZE
        STATS_SIZE += _width
WINDOW_STATS = STATS + len(TOTALS)  # the statistics that are reset in every window
WINDOW_STATS_SIZE = STATS_SIZE - len(TOTALS)
# ---- histograms, each preceded by the range of bins in use (low, high)
HIST_TTFT = STATS + STATS_SIZE
HIST_ITL = HIST_TTFT + 2 + BINS
ZEROS = HIST_ITL + 2 + BINS  # [BINS] zeros: a slice copy clears the histograms and statistics fastest
# ---- phases and heaps of the groups, [replicas][TENANTS]
PHASES = 0  # [BLOCK_TOKENS] number of sequences by the tokens used of their last block at clock 0
HEAP = PHASES + BLOCK_TOKENS  # [1..SEQS_MAX + 1] heap of (finish clock << SLOT_BITS | slot); unused entries are NEVER
MEMBERS_SIZE = HEAP + SEQS_MAX + 2
MEMBERS = ZEROS + BINS
SLOT_BITS = 24
SLOT_MASK = (1 << SLOT_BITS) - 1
# ---- slots
S_NEXT = 0
S_PREV = 1
S_CHAIN = 2  # next slot in R_PREFILLS or R_JOINERS
S_ID = 3
S_SEQ = 4  # order of joining a replica; kept through preemption
S_ARRIVAL = 5
S_PROMPT = 6
S_OUTPUT = 7
S_CLASS = 8
S_TENANT = 9
S_PRODUCED = 10  # tokens produced; while decoding: those produced before it joined its group
S_BASE = 11  # context (tokens) minus its group's clock, while decoding
S_FIRST = 12  # first token, -1 before
S_LAST = 13  # last token before a hand-over or a preemption
S_COMPUTED = 14  # of S_TARGET, tokens whose KV is computed
S_TARGET = 15  # tokens to prefill, 0 when not prefilling
S_CHUNK = 16  # prompt tokens computed in the iteration in flight
S_STORED = 17  # 1: handed over with its KV, so it decodes without a prefill
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
PIECE_SIZE = 3  # the last piece is followed by one more edge, which no context reaches
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
FINISHED, ABANDONED, REJECTED = range(len(STATUSES))


def row_size(replicas: int, max_unfinished: int) -> int:
    """Length of a row, in int64."""
    return MEMBERS + replicas * TENANTS * MEMBERS_SIZE + max_unfinished * SLOT_SIZE + max_unfinished
