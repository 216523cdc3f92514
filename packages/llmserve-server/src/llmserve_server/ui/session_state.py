"""`SessionState`: what the page keeps about one visitor: session ids, and which agent drives.

The browser stores it, so that a reload of the page or a restart of the server loses nothing. What the browser sends
back is checked: session ids cannot be guessed, and anything malformed is read as an empty state.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final, Self

__all__ = ["SessionState"]

_ID_LENGTH: Final = 200
_NAME_LENGTH: Final = 100
_MAX_WINDOW: Final = 100_000


@dataclass(frozen=True, slots=True)
class SessionState:
    """The visitor's sessions: their own episode, a second agent's on the same traffic, and a branch.

    The field names are the keys that browsers have stored: renaming one loses it for visitors who come back.
    """

    main: str | None = None
    rival: str | None = None
    rival_name: str = ""
    branch: str | None = None
    branch_name: str = ""
    branch_window: int = 0
    """Windows that the branch shares with the visitor's own episode."""
    driver: str = ""
    """The agent that drives the visitor's own episode, for a page that is loaded again."""
    pace: str = ""
    """That agent's pace."""

    @property
    def sessions(self) -> tuple[str, ...]:
        """The session ids, the visitor's own episode first."""
        return tuple(session for session in (self.main, self.rival, self.branch) if session)

    def to_json(self) -> dict[str, str | int | None]:
        """Return a plain mapping for the browser to store."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Return the state that a browser stored; an empty one for anything malformed."""
        if not isinstance(value, dict):
            return cls()
        window = value.get("branch_window")
        return cls(
            main=_text(value.get("main"), _ID_LENGTH) or None,
            rival=_text(value.get("rival"), _ID_LENGTH) or None,
            rival_name=_text(value.get("rival_name"), _NAME_LENGTH),
            branch=_text(value.get("branch"), _ID_LENGTH) or None,
            branch_name=_text(value.get("branch_name"), _NAME_LENGTH),
            branch_window=window if type(window) is int and 0 <= window <= _MAX_WINDOW else 0,
            driver=_text(value.get("driver"), _NAME_LENGTH),
            pace=_text(value.get("pace"), _NAME_LENGTH),
        )


def _text(value: object, most: int) -> str:
    return value if isinstance(value, str) and len(value) <= most else ""
