"""A step of a replica: what the scheduler has chosen for it, and then the iteration that computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmserve_sim.engine.reference.request import Request

__all__ = ["Batch", "Iteration"]


@dataclass(slots=True, eq=False)
class Batch:
    """What one step computes."""

    depth: int
    """Speculation depth."""
    tokens_per_step: list[int]
    """By tenant, fixed-point."""
    chunks: list[tuple[Request, int]]
    """(request, new tokens) of prompts."""
    decoding: list[Request]

    def __bool__(self) -> bool:
        return bool(self.chunks or self.decoding)

    def tokens(self) -> dict[Request, int]:
        """Return the tokens computed for each request."""
        return dict(self.chunks) | dict.fromkeys(self.decoding, self.depth + 1)

    def drop(self, request: Request) -> None:
        """Leave out a request; what an iteration in flight computes for it is lost."""
        self.chunks = [chunk for chunk in self.chunks if chunk[0] is not request]
        self.decoding = [r for r in self.decoding if r is not request]


@dataclass(slots=True, eq=False)
class Iteration(Batch):
    """A batch in flight."""

    end_ps: int
    duration_ps: int
    completing: list[Request]
    """Requests whose chunk is the last of their prompt."""
