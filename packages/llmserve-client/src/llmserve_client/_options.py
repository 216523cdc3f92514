"""`Timeouts` and `Retries`: the caller's time limits and retry settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from math import isfinite
from typing import Final, Literal

from llmserve_client._exceptions import InvalidFieldError

__all__ = ["MAX_ANSWER_BYTES", "Retries", "Timeouts", "TransportChoice", "TransportKind", "check_answer_bytes"]

TransportKind = Literal["http", "websocket"]
"""A client's transport."""
TransportChoice = Literal["auto", "http", "websocket"]
"""A caller's choice; "auto" is WebSocket if the server offers one."""
MAX_ANSWER_BYTES: Final = 64 * 2**20
"""Default of `max_answer_bytes`: a log of 40,000 steps."""
_LEAST_ANSWER_BYTES: Final = 4096
_MOST_ANSWER_BYTES: Final = 2**31


def check_answer_bytes(value: object) -> int:
    """Return the bound on an answer's size; raises `InvalidFieldError` (field ``max_answer_bytes``)."""
    if type(value) is not int or not _LEAST_ANSWER_BYTES <= value <= _MOST_ANSWER_BYTES:
        bound = f"must be an integer in {_LEAST_ANSWER_BYTES}..{_MOST_ANSWER_BYTES}"
        message = f"max_answer_bytes: {bound}, got {value!r}"
        raise InvalidFieldError(message, code="invalid_field", field="max_answer_bytes", bound=bound)
    return value


def _check(options: Timeouts | Retries) -> None:
    for item in fields(options):
        value = getattr(options, item.name)
        good = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
        if item.name.endswith("attempts"):
            good = type(value) is int and value >= 0
            bound = "must be an integer, 0 or more"
        elif item.name.startswith("wait"):
            good = isinstance(value, bool)
            bound = "must be true or false"
        elif item.name.startswith("pause"):
            good = good and value >= 0
            bound = "must be a finite number of seconds, 0 or more"
        else:
            good = good and value > 0
            bound = "must be a finite number of seconds above 0"
        if not good:
            raise InvalidFieldError(
                f"{item.name}: {bound}, got {value!r}", code="invalid_field", field=item.name, bound=bound
            )


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time limits in seconds, each for a whole call and not for a single read of it.

    Raises `InvalidFieldError` for a limit that is not a positive number.
    """

    connect_s: float = 10.0
    """For a connection, including the WebSocket handshake."""
    answer_s: float = 120.0
    """For an answer, from its first byte to its last. It is long because a step in real mode sends
    requests and waits for them. It also bounds the wait for a place on a full server (`Retries.wait_for_place`)."""
    baseline_s: float = 1800.0
    """For `baseline()`, which runs whole episodes and can call a language model."""

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True, slots=True)
class Retries:
    """How often to repeat what is safe to repeat: connecting, reading, and steps (which carry their index).

    The pause doubles from `pause_s` up to `pause_max_s`. With the defaults the pauses add up to 46 s; a server restarts
    in about 10 s. They add up to 6 s while nothing has ever answered, since the address may be mistyped.
    """

    attempts: int = 14
    """Tries after the first; 0 turns retries off."""
    pause_s: float = 0.1
    pause_max_s: float = 5.0
    first_attempts: int = 6
    """Tries after the first while nothing has ever answered; at most `attempts`."""
    wait_for_place: bool = True
    """Whether a call that the server refuses for want of a place (429) waits as long as the server says
    (`retry_after_s`) and tries again, for `Timeouts.answer_s` in all."""

    def __post_init__(self) -> None:
        _check(self)

    def pauses(self) -> Iterator[float]:
        """Yield the pause in s before each further try."""
        pause = self.pause_s
        for _ in range(self.attempts):
            yield min(pause, self.pause_max_s)
            pause *= 2
