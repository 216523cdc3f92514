"""The fast path of a socket: it answers a plain `step` with the same bytes as OpenEnv's handler.

OpenEnv's handler copies and validates a message several times, which takes longer than a step of the compiled
simulator. The fast path handles a frame of the usual form if its session is in memory and free. Everything else,
refusals included, goes to OpenEnv's handler, and the fast path has changed nothing then.
"""

from __future__ import annotations

from contextvars import ContextVar
from time import monotonic
from typing import Any, Final, Protocol

from pydantic_core import from_json, to_json

from llmserve_server.errors import ServiceError
from llmserve_sim.errors import LLMServeError
from llmserve_sim.schema import ServeAction, ServeObservation, parse_action

__all__ = ["FastPath", "Stepper", "current_fast_path"]

_HEAD: Final = 40
"""Characters in which a frame without data names its type."""
_STEPS: Final = ('{"type":"step"', '{"type": "step"')
"""The usual beginnings of a step's frame; frames spelt otherwise go to OpenEnv's handler."""
_REPORT_EVERY_S: Final = 20.0
"""Every so many seconds a step goes to OpenEnv's handler, which closes sessions that seem idle (a minute or more)."""


class Stepper(Protocol):
    """What the fast path needs of a socket's environment."""

    async def step_now(self, action: ServeAction, step_index: int | None) -> ServeObservation | None:
        """Step if that would not wait, else return None. Raises a `ServiceError` if the step is refused."""
        ...

    async def bring_back(self) -> None:
        """Load the session's episode if it has left memory, since OpenEnv's handler reads the state in the loop."""
        ...

    def close(self) -> None:
        """Release the session without waiting; closing twice is allowed."""
        ...


class FastPath:
    """The fast path of one socket. The socket's environment registers itself here when it is reset."""

    def __init__(self, address: str | None = None) -> None:
        self.address = address
        """The address whose share of the places the socket's session takes; None for this machine."""
        self.environment: Stepper | None = None
        self._reported = monotonic()

    def close(self) -> None:
        """Release the session after the socket has closed."""
        if self.environment is not None:
            self.environment.close()

    async def answer(self, text: str) -> str | None:
        """Return the answer to a frame, or None if OpenEnv's handler must answer it."""
        if self.environment is None:
            return None
        if not text.startswith(_STEPS):
            if '"state"' in text[:_HEAD]:
                await self.environment.bring_back()
            return None
        now = monotonic()
        if now - self._reported >= _REPORT_EVERY_S:
            self._reported = now
            return None
        found = _step_of(text)
        if found is None:
            return None
        try:
            observation = await self.environment.step_now(*found)
        except (ServiceError, LLMServeError):
            return None  # OpenEnv's handler refuses it again, in its own format
        return None if observation is None else _frame(observation)


current_fast_path: Final[ContextVar[FastPath | None]] = ContextVar("current_fast_path", default=None)
"""The fast path of the socket whose message is being handled."""


def _step_of(text: str) -> tuple[ServeAction, int | None] | None:
    """Return the action and the step index of a well-formed step; None for anything unusual."""
    try:
        frame = from_json(text, allow_inf_nan=False)
    except ValueError:
        return None
    data = frame.get("data")
    if type(data) is not dict or len(frame) != 2 or frame["type"] != "step":
        return None
    metadata = data.pop("metadata", {})
    if type(metadata) is not dict or not metadata.keys() <= {"step_index"}:
        return None
    index = metadata.get("step_index")
    if index is not None and (type(index) is not int or index < 0):
        return None
    try:
        return parse_action(data), index
    except LLMServeError:
        return None


def _frame(observation: ServeObservation) -> str:
    """Return OpenEnv's message: reward and done beside the observation, its metadata both inside and beside it."""
    inside = observation.__dict__.copy()
    data: dict[str, Any] = {"observation": inside, "reward": inside.pop("reward"), "done": inside.pop("done")}
    if observation.metadata:
        data["metadata"] = observation.metadata
    return to_json({"type": "observation", "data": data}).decode()
