"""`Answer`: what one request got from the endpoint, with a time on every piece of text; and the ways it can fail.

Times are those of the running event loop's clock, seconds, monotonic. The module knows nothing of HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["Answer", "Failure"]


class Failure(StrEnum):
    """Why a request has no complete answer. Each is a missed target, and each is counted under its name."""

    TIMEOUT = "timeout"
    """No complete answer within the time limit."""
    CONNECTION = "connection"
    """No connection, or it broke before the first piece of text."""
    RATE_LIMITED = "rate_limited"
    """HTTP 429."""
    UNAUTHORIZED = "unauthorized"
    """HTTP 401 or 403: the key."""
    REFUSED = "refused"
    """Any other HTTP 4xx: the endpoint does not take such a request (an unknown model, say)."""
    SERVER_ERROR = "server_error"
    """HTTP 5xx."""
    STREAM_ERROR = "stream_error"
    """The endpoint reported an error in the middle of its stream."""
    TRUNCATED = "truncated"
    """The stream ended before the answer did."""
    MALFORMED = "malformed"
    """What came is no stream of chat completion chunks."""
    EMPTY = "empty"
    """A complete answer without any text."""
    OVERLONG = "overlong"
    """The endpoint went on far beyond the token limit and was cut off."""


@dataclass(slots=True)
class Answer:
    """What came back, filled in while it comes."""

    times: list[float] = field(default_factory=list)
    """When each piece of text arrived."""
    complete: bool = False
    """Whether the endpoint said that it had finished."""
    failure: Failure | None = None
    retry_after_s: float | None = None
    """What a refusal asked for, if it did."""
    prompt_tokens: int | None = None
    """As the endpoint counted them; None: it did not say."""
    cached_tokens: int = 0
    """Those of them that it took from its prefix cache."""
    completion_tokens: int | None = None

    @property
    def tokens(self) -> int:
        """Output tokens: the endpoint's count, else the pieces of text that came (an estimate)."""
        return len(self.times) if self.completion_tokens is None else self.completion_tokens

    @property
    def estimated(self) -> bool:
        """Whether `tokens` is only an estimate."""
        return self.completion_tokens is None and bool(self.times)

    @property
    def tpot_s(self) -> float:
        """Mean time per output token after the first; 0 for a single token."""
        return 0.0 if self.tokens < 2 else (self.times[-1] - self.times[0]) / (self.tokens - 1)

    def itl_s(self) -> list[tuple[float, float]]:
        """Return (inter-token latency, weight) of each gap: a piece of several tokens spreads its gap over them."""
        gaps = len(self.times) - 1
        if gaps < 1 or self.tokens < 2:
            return []
        per_gap = (self.tokens - 1) / gaps
        return [(gap / per_gap, per_gap) for gap in map(float.__sub__, self.times[1:], self.times[:-1])]
