"""What counts as a fault in an answer or a log, and the list in which faults are kept."""

from __future__ import annotations

import itertools
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT = 40
#: What uvicorn logs as an error whenever a socket's handshake is refused with an HTTP answer, which arrives.
UVICORNS = "ASGI callable returned without completing handshake."


@dataclass
class Findings:
    """Faults, each with how to see it again; safe to share between threads."""

    secrets: tuple[str, ...]
    """Texts that may appear nowhere: the API key, the server's token."""
    faults: list[str] = field(default_factory=list)
    count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: str) -> None:
        """Keep a fault (the first few of them; all are counted)."""
        with self._lock:
            self.count += 1
            if len(self.faults) < KEPT:
                self.faults.append(fault[:1500])

    def look(self, answer: str, sent: str) -> None:
        """Look for what no answer may hold: a secret, a path of this machine, a piece of a stack trace."""
        for what, pattern in self._patterns():
            match = pattern.search(answer)
            if match and match.group() not in sent:
                around = answer[max(0, match.start() - 100) : match.end() + 100]
                self.add(f"{what} in an answer: ...{around}...\n    to {sent[:600]}")

    def look_at_log(self, log: str) -> None:
        """Look for what the log may not hold: a secret, or an exception that nobody foresaw."""
        for secret in self.secrets:
            if secret in log:
                self.add(f"the log holds a secret: {log[max(0, log.index(secret) - 200) :][:400]}")
        log = "\n".join(line for line in _without_gradios(log) if UVICORNS not in line)
        for match in list(re.finditer(r"Traceback \(most recent call last\)|\"level\": ?\"(error|critical)\"", log))[
            :5
        ]:
            self.add(f"the log holds an error: ...{log[max(0, match.start() - 300) : match.end() + 1200]}...")

    def _patterns(self) -> list[tuple[str, re.Pattern[str]]]:
        return _patterns(self.secrets)


def _without_gradios(log: str) -> Iterator[str]:
    """Yield the lines of the log but the traces that Gradio prints about requests that its own script never sends."""
    for is_ours, lines in itertools.groupby(log.splitlines(), key=lambda line: line.startswith("{")):
        block = list(lines)
        text = "\n".join(block)
        if is_ours or "/gradio/" not in text or "/llmserve_" in text:
            yield from block


def _patterns(secrets: tuple[str, ...]) -> list[tuple[str, re.Pattern[str]]]:
    if secrets not in _COMPILED:
        folders = {str(ROOT), sys.prefix, sys.base_prefix, str(Path.home())} - {"/"}
        _COMPILED[secrets] = [
            ("a secret", re.compile("|".join(map(re.escape, secrets)))),
            ("a path", re.compile("|".join([*map(re.escape, sorted(folders)), "site-packages", "/usr/lib", "/tmp/"]))),  # noqa: S108
            ("a stack trace", re.compile(r"Traceback \(most|File \\?\"[^\"]*\.py|\.py\\?\", line \d|object at 0x")),
        ]
    return _COMPILED[secrets]


_COMPILED: dict[tuple[str, ...], list[tuple[str, re.Pattern[str]]]] = {}
