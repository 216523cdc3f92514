"""Checks what an image holds and no endpoint shows: the folder of weights, and no torch. Runs inside the image.

`python scripts/image_contents.py` fails if the folder is missing from the working directory, where agents look for
it, or if torch is installed. It needs only Python.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path


def problems(folder: Path) -> list[str]:
    """Return what is wrong with an image whose working directory is `folder`."""
    found = []
    if not (folder / "weights").is_dir():
        found.append("there is no folder of weights in the working directory")
    if find_spec("torch") is not None:
        found.append("torch is installed: 2 GB that nothing here imports")
    return found


if __name__ == "__main__":
    wrong = problems(Path.cwd())
    for problem in wrong:
        print(f"FAILED: {problem}")
    if wrong:
        sys.exit(1)
    files = [path for path in Path("weights").rglob("*") if path.is_file()]
    print(f"{len(files)} files in weights, {sum(path.stat().st_size for path in files):,} bytes; no torch")
