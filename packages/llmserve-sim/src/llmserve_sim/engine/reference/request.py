"""A request, as the plain scheduler sees it."""

from __future__ import annotations

from dataclasses import dataclass

from llmserve_sim.engine.interface import BLOCK_TOKENS

__all__ = ["Request", "blocks_of"]


def blocks_of(tokens: int) -> int:
    """Return the number of KV blocks that `tokens` tokens need."""
    return -(-tokens // BLOCK_TOKENS)


@dataclass(slots=True, eq=False)
class Request:
    """One request and its progress."""

    id: int
    arrival_ps: int
    prompt: int
    output: int
    """True output length. Read only to see that a request is finished, never to schedule it."""
    priority: int
    tenant: int
    seq: int = -1
    """Order of joining a replica; kept through preemption."""
    admitted: int = -1
    """Order of the last admission to the running requests, under a vLLM version's rules."""
    produced: int = 0
    """Output tokens delivered."""
    target: int = 0
    """Tokens to prefill: the prompt, and after a preemption also the tokens produced so far."""
    computed: int = 0
    """Tokens of the target whose KV is computed."""
    blocks: int = 0
    """KV blocks held."""
    has_kv: bool = False
    """Whether it waits with its KV, which a prefill replica has sent."""
    scheduled_ps: int = -1
    first_ps: int = -1
    last_ps: int = -1
    preemptions: int = 0

    @property
    def stored(self) -> int:
        """Tokens whose KV a decoding request holds: all but the newest one, whose KV the next step computes."""
        return self.prompt + self.produced - 1

    @property
    def ended(self) -> bool:
        """Whether it has all its tokens, or was given up before the first."""
        return self.produced == self.output or self.first_ps < 0 <= self.last_ps
