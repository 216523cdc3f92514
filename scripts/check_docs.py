"""Checks the repository's Markdown: relative links resolve, every `nox -s NAME` names a session, generated tables are fresh."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from llmserve_sim.documentation import fill

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s#]+)[^)]*\)")
SESSION = re.compile(r"`[^`\n]*nox -s ([a-z-]+)|^(?:\$ )?(?:.*&& )?nox -s ([a-z-]+)", re.MULTILINE)


def sessions() -> set[str]:
    """The names of the noxfile's sessions, read without importing it."""
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and any("nox.session" in ast.unparse(d) for d in node.decorator_list)
    }


def faults(page: Path, known: set[str]) -> list[str]:
    """What is wrong in one page, as sentences."""
    text = page.read_text(encoding="utf-8")
    found = [
        f"link to {target}, which is not there"
        for target in LINK.findall(text)
        if "://" not in target and not target.startswith("mailto:") and not (page.parent / target).exists()
    ]
    if fill(text) != text:
        found.append("has an old table: python -m llmserve_sim.documentation writes it anew")
    named = {a or b for a, b in SESSION.findall(text)}
    return found + [f"names the session {name}, which the noxfile has not" for name in sorted(named - known)]


def main() -> int:
    """Print every fault; the exit code says whether there was one."""
    pages = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("packages/*/*.md")})
    known = sessions()
    wrong = [f"{page.relative_to(ROOT)}: {fault}" for page in pages for fault in faults(page, known)]
    print(
        "\n".join(
            wrong or [f"{len(pages)} pages: every link and session they name exists, every generated table is fresh"]
        )
    )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
