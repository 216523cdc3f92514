"""A JSONL file of questions and answers: one object per line, written immediately."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmserve_sim.errors import InvalidInputError

__all__ = ["Transcript"]


class Transcript:
    """Appends lines to `path`, after `redact`. Raises `InvalidInputError` if the file cannot be opened."""

    def __init__(self, path: Path, redact: Callable[[str], str]) -> None:
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise InvalidInputError(
                "transcript", f"must be a file that can be written ({error.strerror})", got=str(path)
            ) from error
        self._redact = redact

    def write(self, **entry: Any) -> None:
        """Write one line and flush it, so that it survives a crash of the run."""
        self._file.write(self._redact(json.dumps(entry)) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        self._file.close()
