"""The express lane of a socket: a plain `step` is answered here, with the bytes that OpenEnv's handler would send.

OpenEnv's handler copies and validates a message several times on its way; a step of the compiled simulator takes less time
than that. Only what is sure to succeed in the event loop goes this way: a frame of the usual form, for a session that is in
memory and free. Everything else, refusals included, is left to OpenEnv's handler, and nothing has changed then.
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

_STEPS: Final = ('{"type":"step"', '{"type": "step"')
"""How a step's frame begins, as clients write it; any other spelling takes the long way."""
_REPORT_EVERY_S: Final = 20.0
"""OpenEnv closes what seems idle, so now and then a step passes through its handler; the shortest idle time is a minute."""


class Stepper(Protocol):
    """The environment of a socket, as far as this lane needs it."""

    async def step_now(self, action: ServeAction, step_index: int | None) -> ServeObservation | None:
        """Step if nothing can make it wait; None otherwise. Raises a `ServiceError` where the step is refused."""
        ...

    def close(self) -> None:
        """Let go of the session without waiting for anything; closing twice is allowed."""
        ...


class FastPath:
    """One socket's lane, and whose it is. Its environment registers itself when it is reset."""

    def __init__(self, address: str | None = None) -> None:
        self.address = address
        """The caller's network address, where it is known."""
        self.environment: Stepper | None = None
        self._reported = monotonic()

    def close(self) -> None:
        """Let the session go, now that the socket is gone."""
        if self.environment is not None:
            self.environment.close()

    async def answer(self, text: str) -> str | None:
        """Return the answer to a frame, or None where OpenEnv's handler is to answer it."""
        if self.environment is None or not text.startswith(_STEPS):
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
            return None  # it is refused again in the other lane, in OpenEnv's words
        return None if observation is None else _frame(observation)


current_fast_path: Final[ContextVar[FastPath | None]] = ContextVar("current_fast_path", default=None)
"""The lane of the socket whose message is being handled."""


def _step_of(text: str) -> tuple[ServeAction, int | None] | None:
    """The action of a well-formed step, and the index that it answers; None for anything unusual."""
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
    """OpenEnv's message: reward and done beside the observation, its metadata both inside and beside it."""
    inside = observation.__dict__.copy()
    data: dict[str, Any] = {"observation": inside, "reward": inside.pop("reward"), "done": inside.pop("done")}
    if observation.metadata:
        data["metadata"] = observation.metadata
    return to_json({"type": "observation", "data": data}).decode()
