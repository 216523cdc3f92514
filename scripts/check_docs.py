"""Checks the repository's Markdown files.

Relative links point to files that exist, and their anchors to headings. `nox -s NAME` names a session. Generated tables
are fresh. Names of code that CONTRIBUTING.md quotes exist in the code.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from llmserve_sim.documentation import fill

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s#]*)(?:#([^)\s]+))?[^)]*\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE_NAME = re.compile(r"`(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*)`")
"""A class, function or constant in backticks, without the names before its last dot."""
SESSION = re.compile(r"`[^`\n]*nox -s ([a-z-]+)|^(?:\$ )?(?:.*&& )?nox -s ([a-z-]+)", re.MULTILINE)


def sessions() -> set[str]:
    """Return the names of the noxfile's sessions, without importing it."""
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and any("nox.session" in ast.unparse(d) for d in node.decorator_list)
    }


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them: lower case, no punctuation, hyphens for spaces."""
    headings = HEADING.findall(FENCED.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def link_faults(page: Path, text: str) -> list[str]:
    """Return a sentence for each relative link of the page that leads nowhere."""
    found = []
    for target, anchor in LINK.findall(text):
        if "://" in target or target.startswith("mailto:"):
            continue
        linked = page.parent / target if target else page
        if not linked.exists():
            found.append(f"link to {target}, which is not there")
        elif anchor and linked.suffix == ".md" and anchor not in anchors(linked):
            found.append(f"link to {target}#{anchor}, but the page has no such heading")
    return found


def unknown_names(text: str) -> list[str]:
    """Return a sentence for each name of code in a text that no source file contains."""
    sources = [*ROOT.glob("packages/*/src/**/*.py"), *ROOT.glob("packages/*/tests/**/*.py")]
    words = set(re.findall(r"\w+", "\n".join(path.read_text(encoding="utf-8") for path in sources)))
    return [f"names {name}, which the code has not" for name in sorted(set(CODE_NAME.findall(text)) - words)]


def faults(page: Path, known: set[str]) -> list[str]:
    """Return a sentence for each fault of one page."""
    text = page.read_text(encoding="utf-8")
    found = link_faults(page, text)
    if fill(text) != text:
        found.append("has an old table: python -m llmserve_sim.documentation rewrites it")
    if page.name == "CONTRIBUTING.md":
        found += unknown_names(FENCED.sub("", text))
    named = {a or b for a, b in SESSION.findall(text)}
    return found + [f"names the session {name}, which the noxfile has not" for name in sorted(named - known)]


def main() -> int:
    """Print every fault; return 1 if there is one."""
    pages = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("packages/*/*.md")})
    known = sessions()
    wrong = [f"{page.relative_to(ROOT)}: {fault}" for page in pages for fault in faults(page, known)]
    print(
        "\n".join(
            wrong
            or [f"{len(pages)} pages: every link, heading and session they name exists, every generated table is fresh"]
        )
    )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
