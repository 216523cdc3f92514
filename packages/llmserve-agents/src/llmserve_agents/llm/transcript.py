"""A JSONL file of what was asked and answered: one object per line, written at once. It knows nothing about either."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmserve_sim.errors import InvalidInputError

__all__ = ["Transcript"]


class Transcript:
    """Appends to `path`; every line passes through `redact` first. Raises `InvalidInputError` where it cannot be opened."""

    def __init__(self, path: Path, redact: Callable[[str], str]) -> None:
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise InvalidInputError(
                "transcript", f"must be a file that can be written ({error.strerror})", got=str(path)
            ) from error
        self._redact = redact

    def write(self, **entry: Any) -> None:
        """Write one line and let it reach the file: what was asked should survive a run that does not."""
        self._file.write(self._redact(json.dumps(entry)) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        self._file.close()
