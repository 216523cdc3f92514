"""Checks, from inside an environment that holds only llmserve-sim, what it brought and what its schema imports."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

MOST_DISTRIBUTIONS = 6
HEAVY = ("numpy", "numba", "gymnasium", "typer", "rich", "matplotlib")
#: What the environment's own maker puts there (`venv`, not uv), brought by nobody.
OWN = {"pip", "setuptools", "wheel", "llmserve-sim"}

PROBE = """
import sys
import llmserve_sim.schema
print(len(sys.modules), *sorted({name.split(".")[0] for name in sys.modules}))
"""

REFUSAL = "llmserve-sim[cli]"


def main() -> int:
    """Print what was found; the exit code says whether it is light."""
    names = {distribution.metadata["Name"].lower().replace("_", "-") for distribution in metadata.distributions()}
    brought = sorted(names - OWN)
    print(f"llmserve-sim brings {len(brought)} distributions (at most {MOST_DISTRIBUTIONS}): {', '.join(brought)}")
    count, *modules = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, check=True
    ).stdout.split()
    loaded = [name for name in HEAVY if name in modules]
    print(f"import llmserve_sim.schema loads {count} modules, of the heavy ones: {', '.join(loaded) or 'none'}")
    bare = subprocess.run([sys.executable, "-m", "llmserve_sim", "tasks"], capture_output=True, text=True, check=False)
    says = bare.returncode == 2 and REFUSAL in bare.stderr and "Traceback" not in bare.stderr
    print(f"without the extra the command says: {bare.stderr.strip()}")
    return int(len(brought) > MOST_DISTRIBUTIONS or bool(loaded) or not says)


if __name__ == "__main__":
    sys.exit(main())
