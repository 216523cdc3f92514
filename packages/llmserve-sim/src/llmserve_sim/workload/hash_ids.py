"""The ``hash_ids`` of Mooncake's and Bailian's traces: which prompts begin alike.

Each id stands for a block of the prompt (512 tokens in Mooncake, 16 in Bailian) and all before it. They are read as
hashes of KV blocks of 16 tokens. A partly filled last block has an id of its own in the file, so the next turn of a
conversation seems to share up to one such block less than it does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmserve_sim.engine.interface import BLOCK_TOKENS
from llmserve_sim.engine.prefixes import HASH_MAX, Prefixes
from llmserve_sim.engine.units import Ints
from llmserve_sim.workload.formats.style import RowError

__all__ = ["HASH_IDS", "hash_ids_of", "prefixes_from"]

HASH_IDS = "hash_ids"


def hash_ids_of(ids: object, prompt: int, hash_tokens: int) -> tuple[int, ...]:
    """Return a row's ids, of which each stands for `hash_tokens` tokens of its prompt.

    The last block may be partly filled, and may be left out.

    Raises:
        RowError: no list of integers of the right length.
    """
    full = prompt // hash_tokens
    if not isinstance(ids, list) or not full <= len(ids) <= full + (prompt % hash_tokens > 0):
        raise RowError(HASH_IDS, f"must be a list with an integer for every {hash_tokens} prompt tokens", ids)
    most = HASH_MAX // (hash_tokens // BLOCK_TOKENS)
    for value in ids:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < most:
            raise RowError(HASH_IDS, f"must hold integers in 0..{most - 1}", value)
    return tuple(ids)


def prefixes_from(ids: Sequence[tuple[int, ...]], prompt: Ints, hash_tokens: int) -> Prefixes:
    """Return the requests' ids as hashes of KV blocks, of which one id covers several.

    Args:
        ids: of each request.
        prompt: [requests] prompt tokens.
        hash_tokens: tokens that an id stands for.
    """
    each = hash_tokens // BLOCK_TOKENS
    blocks = np.minimum(prompt // BLOCK_TOKENS, np.array([len(row) * each for row in ids], dtype=np.int64))
    within = np.arange(each, dtype=np.int64)
    parts = [
        (np.array(row, dtype=np.int64)[:, None] * each + within).ravel()[:count]
        for row, count in zip(ids, blocks.tolist(), strict=True)
    ]
    return Prefixes(np.concatenate(parts), np.cumsum(blocks) - blocks, blocks)
