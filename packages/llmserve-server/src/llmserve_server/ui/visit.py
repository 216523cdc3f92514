"""`Visit`: what the page keeps about one visitor, which is session ids, and who drives.

It goes through the browser (its storage, so that a reload or a restart of the server loses nothing), so what comes back is
checked and not trusted: ids are unguessable, and a foreign or garbled visit is an empty one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final, Self

__all__ = ["Visit"]

_ID_LENGTH: Final = 200
_NAME_LENGTH: Final = 100
_MAX_WINDOW: Final = 100_000


@dataclass(frozen=True, slots=True)
class Visit:
    """The sessions that a visitor holds: the own episode, a second agent's on the same traffic, a branch."""

    main: str | None = None
    rival: str | None = None
    rival_name: str = ""
    branch: str | None = None
    branch_name: str = ""
    branch_window: int = 0
    """Windows that the branch shares with the own episode."""
    driver: str = ""
    """The agent at the wheel of the own episode, and its pace: what a page that is loaded again has lost."""
    pace: str = ""

    @property
    def sessions(self) -> tuple[str, ...]:
        """The ids that are held, own episode first."""
        return tuple(session for session in (self.main, self.rival, self.branch) if session)

    def as_json(self) -> dict[str, str | int | None]:
        """A plain mapping, for a browser to keep."""
        return asdict(self)

    @classmethod
    def of(cls, value: object) -> Self:
        """The visit in what a browser kept; an empty one where it is none."""
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
