"""A request and what the plain scheduler knows of it. Knows nothing of replicas."""

from __future__ import annotations

from dataclasses import dataclass

from llmserve_sim.engine.interface import BLOCK_TOKENS

__all__ = ["Request", "blocks_of"]


def blocks_of(tokens: int) -> int:
    """KV blocks that hold so many tokens."""
    return -(-tokens // BLOCK_TOKENS)


@dataclass(slots=True, eq=False)
class Request:
    """One request, from its arrival to its end."""

    id: int
    arrival_ps: int
    prompt: int
    output: int
    """True length. Read only to find that a request is finished, never to schedule it."""
    priority: int
    tenant: int
    seq: int = -1
    """Order of joining a replica; kept through preemption."""
    produced: int = 0
    """Output tokens delivered."""
    target: int = 0
    """Tokens to prefill: the prompt, and after a preemption what was produced as well."""
    computed: int = 0
    """Tokens of the target whose KV is there."""
    blocks: int = 0
    has_kv: bool = False
    """Waits with its KV, which a prefill replica has sent along."""
    scheduled_ps: int = -1
    first_ps: int = -1
    last_ps: int = -1
    preemptions: int = 0

    @property
    def stored(self) -> int:
        """Tokens whose KV a decoding request holds: all but the newest, whose KV the next step computes."""
        return self.prompt + self.produced - 1
