"""`StoreFiles`: notice that the files of a SQLite store were deleted or replaced under the running server.

SQLite goes on writing to an open file that has no name any more, and answers every statement. All of it is gone when the
process ends. The write-ahead log and its index count as well: what was committed last is only there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Final

from llmserve_server.errors import StoreUnavailable

__all__ = ["StoreFiles"]

_LOGGER = logging.getLogger(__name__)
_SUFFIXES: Final = ("", "-wal", "-shm")
_EVERY_S: Final = 0.25
"""Seconds between two looks at the files. A look takes microseconds, on a network's file system perhaps more."""
_Identity = tuple[int, int] | None
"""Device and inode of a file; None if there is none."""


class StoreFiles:
    """The files of the SQLite database at `path`, as they are when this is created: call it after the first write."""

    def __init__(self, path: str, clock: Callable[[], float] = monotonic) -> None:
        self._paths = tuple(Path(path + suffix) for suffix in _SUFFIXES)
        self._clock = clock
        self._opened = self._look()
        self._next = 0.0
        self._is_lost = False
        self._lock = Lock()

    def check(self) -> None:
        """Raise `StoreUnavailable` if a file is no longer the one that was opened; look only every so often."""
        now = self._clock()
        if now < self._next and not self._is_lost:
            return
        with self._lock:
            self._next = now + _EVERY_S
            lost = [path for path, was, now in zip(self._paths, self._opened, self._look(), strict=True) if was != now]
            if bool(lost) != self._is_lost:
                self._is_lost = bool(lost)
                if lost:
                    _LOGGER.error(
                        "the episode store was deleted or replaced under the server (%s): nothing is stored until the "
                        "file is put back or the server is started again; steps of the last moment may be lost",
                        ", ".join(map(str, lost)),
                    )
                else:
                    _LOGGER.warning("the episode store's files are back")
        if lost:
            raise StoreUnavailable(
                "the episode store's file was deleted or replaced under the server: its operator must put it back, or "
                "start the server again",
                retry_after_s=60,
            )

    def _look(self) -> tuple[_Identity, ...]:
        return tuple(map(_identity, self._paths))


def _identity(path: Path) -> _Identity:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
