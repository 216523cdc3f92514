"""Reads the documentation: its fenced blocks, the commands in its text, and the two tables of docs/reproduce.md.

Knows Markdown and enough of a shell's grammar to tell where a command ends; runs nothing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["ROOT", "Example", "Tables", "commands", "examples", "one_line", "tables"]

ROOT: Final = Path(__file__).resolve().parents[2]
_PAGES: Final = ("README.md", "CONTRIBUTING.md", "docs/*.md", "packages/*/README.md")
_OPENING: Final = re.compile(r" *(`{3,}|~{3,}) *([\w-]*)")
_SPAN: Final = re.compile(r"`([^`\n]+)`")
_PROGRAM: Final = re.compile(
    r"(?:\w+=\S+ +)*(?:curl|docker|llmserve|llmserve-server|llmserve-sim|nox|openenv|pip|pytest|python|uv|uvicorn) +\S"
)
_COMMENT: Final = re.compile(r"(?:^|\s+)#")
_TABLES: Final = "docs/reproduce.md"
_RESULTS: Final = ("<!-- results:begin -->", "<!-- results:end -->")
"""What stands between them is written by `benchmarks/results.py`: blocks of text there say how figures came about."""


@dataclass(frozen=True)
class Example:
    """One example: a fenced block, or all commands in a page's text together (`language` is then ``inline``)."""

    page: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """What pytest calls it: page, line and how it begins."""
        if self.language == "inline":
            return f"{self.page}: commands in its text"
        first = self.text.strip().splitlines()[0] if self.text.strip() else "empty"
        return f"{self.page}:{self.line}: {re.sub(r'[^ -~]', '?', first)[:50]}"

    @property
    def is_shell(self) -> bool:
        """Whether it is made of commands."""
        return self.language in {"bash", "console", "inline", "sh", "shell"}


@dataclass(frozen=True)
class Tables:
    """What docs/reproduce.md says: commands with the form in which they are run here, and those that cannot be run."""

    otherwise: dict[str, str]
    needs: dict[str, str]


def examples(root: Path = ROOT) -> list[Example]:
    """Return every example of the repository's pages, in their order; the tables' own cells are none."""
    return [
        example
        for pattern in _PAGES
        for page in sorted(root.glob(pattern))
        for example in _of_page(page.relative_to(root).as_posix(), page.read_text(encoding="utf-8"))
    ]


def _of_page(page: str, text: str) -> Iterator[Example]:
    fence, language, start, block = "", "", 0, list[str]()
    inline, first = list[str](), 0
    generated = False
    for number, line in enumerate(text.splitlines(), 1):
        if fence:
            if line.strip() == fence:
                if not (generated and language == "text"):
                    yield Example(page, start, language, "\n".join(block) + "\n")
                fence, block = "", []
            else:
                block.append(line)
        elif line in _RESULTS:
            generated = line == _RESULTS[0]
        elif opening := _OPENING.match(line):
            fence, language, start = opening[1], opening[2], number
        elif not (page == _TABLES and line.startswith("|")):
            inline += filter(_PROGRAM.match, _SPAN.findall(line))
            first = first or (number if inline else 0)
    if fence:
        yield Example(page, start, "unclosed", "\n".join(block))
    if inline:
        yield Example(page, first, "inline", "\n".join(dict.fromkeys(inline)))


def commands(text: str) -> list[str]:
    """Split shell text into its commands: continued lines and open quotes belong together, ``&&`` separates."""
    found, waiting = list[str](), ""
    for line in text.splitlines():
        waiting += _without_comment(waiting, line)
        if waiting.endswith("\\") or _is_open(waiting):
            waiting += "\n"
        elif waiting.strip():
            found += [part.strip().removeprefix("$ ") for part in waiting.split(" && ")]
            waiting = ""
        else:
            waiting = ""
    return found + ([waiting] if waiting.strip() else [])


def _without_comment(before: str, line: str) -> str:
    for mark in _COMMENT.finditer(line):
        if not _is_open(before + line[: mark.start()]):
            return line[: mark.start()]
    return line


def _is_open(text: str) -> bool:
    try:
        shlex.split(text.removesuffix("\\"))
    except ValueError:
        return True
    return False


def one_line(command: str) -> str:
    """Return the command as a table has it: on one line, single spaces."""
    return " ".join(command.replace("\\\n", " ").split())


def tables(root: Path = ROOT) -> Tables:
    """Read the two tables: below the heading that says `another form`, and below the one that says `cannot`."""
    otherwise, needs = dict[str, str](), dict[str, str]()
    heading = ""
    for line in (root / _TABLES).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line
        elif line.startswith("| `"):
            first, second = line.strip("| ").split(" | ")[:2]
            for command in _SPAN.findall(first):
                into, what = (needs, second) if "cannot" in heading else (otherwise, second.strip("`"))
                if command in otherwise or command in needs:
                    raise ValueError(f"{_TABLES} lists {command} twice")
                into[command] = what
    return Tables(otherwise, needs)
