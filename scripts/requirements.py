"""Prints the foreign requirements of a package of this repository, those of its siblings included, one per line.

The image installs these first, so that a change of the source alone reuses that layer. The script reads the
pyproject.toml files under `packages/` and nothing else. It needs only Python.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PACKAGES = Path(__file__).resolve().parent.parent / "packages"
_SIBLING = re.compile(r"(llmserve-\w+)(?:\[([\w,\s-]*)\])?(?![\w-])")


def requirements(wanted: str) -> list[str]:
    """Return the requirements of `wanted` (for example ``llmserve-server[postgres]``), sorted.

    The packages of this repository are left out.

    Raises:
        ValueError: `wanted` is no package of this repository.
    """
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [wanted]
    while waiting:
        requirement = waiting.pop()
        sibling = _SIBLING.match(requirement)
        if sibling is None:
            found.add(requirement)
            continue
        name, extras = sibling[1], ["", *(extra.strip() for extra in (sibling[2] or "").split(",") if extra.strip())]
        project = tomllib.loads((PACKAGES / name / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for extra in extras:
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += project["optional-dependencies"][extra] if extra else project["dependencies"]
    if wanted in found:
        raise ValueError(f"{wanted} is no package of this repository")
    return sorted(found)


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for argument in sys.argv[1:] for line in requirements(argument))
