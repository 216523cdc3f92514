"""`Answer`: an endpoint's reply to one request, with the arrival time of every piece of text, and the ways it can fail.

Times are seconds on the running event loop's clock, which is monotonic.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["Answer", "Failure"]


class Failure(StrEnum):
    """Why a request has no complete answer. A failed request misses its targets, and is counted under this name."""

    TIMEOUT = "timeout"
    """No complete answer within the time limit."""
    CONNECTION = "connection"
    """No connection, or it broke before any text."""
    RATE_LIMITED = "rate_limited"
    """HTTP 429."""
    UNAUTHORIZED = "unauthorized"
    """HTTP 401 or 403: the key is wrong."""
    REFUSED = "refused"
    """Any other HTTP 4xx: the endpoint does not accept the request, for example because of an unknown model. Or a
    redirect, which is not followed."""
    SERVER_ERROR = "server_error"
    """HTTP 5xx."""
    STREAM_ERROR = "stream_error"
    """The endpoint reported an error within its stream."""
    TRUNCATED = "truncated"
    """The stream ended before the answer was complete."""
    MALFORMED = "malformed"
    """The reply is not a stream of chat completion chunks, or it is compressed, which was not asked for."""
    EMPTY = "empty"
    """A complete answer without any text."""
    OVERLONG = "overlong"
    """The endpoint sent far more than the token limit and was cut off."""


@dataclass(slots=True)
class Answer:
    """The reply to one request, filled in while it arrives."""

    times: list[float] = field(default_factory=list)
    """Arrival time of each piece of text."""
    complete: bool = False
    """Whether the endpoint reported the end of the answer."""
    failure: Failure | None = None
    retry_after_s: float | None = None
    """The Retry-After of a refusal; None if it had none."""
    prompt_tokens: int | None = None
    """The endpoint's count; None if it sent none."""
    cached_tokens: int = 0
    """Prompt tokens that the endpoint took from its prefix cache."""
    completion_tokens: int | None = None

    @property
    def tokens(self) -> int:
        """Output tokens: the endpoint's count, else the number of pieces of text, an estimate."""
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
        """Return (inter-token latency, weight) of each gap. A gap before several tokens is spread over them."""
        gaps = len(self.times) - 1
        if gaps < 1 or self.tokens < 2:
            return []
        per_gap = (self.tokens - 1) / gaps
        return [(gap / per_gap, per_gap) for gap in map(float.__sub__, self.times[1:], self.times[:-1])]
