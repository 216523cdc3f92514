"""Checks what a package installs and what importing it costs. Run it in an environment that holds only that package.

python scripts/check_light.py sim|client
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata

MOST_DISTRIBUTIONS = {"sim": 6, "client": 15}
"""The simulator's number leaves itself out; the client's counts itself and the simulator."""
#: Installed by `venv` itself (not by uv), not by a package.
MAKER = {"pip", "setuptools", "wheel"}

HEAVY = {
    "sim": ("numpy", "numba", "gymnasium", "typer", "rich", "matplotlib"),
    "client": ("numpy", "numba", "gymnasium", "openenv", "fastapi", "uvicorn", "websockets"),
}
LOADS = {"sim": "import llmserve_sim.schema", "client": "from llmserve_client import AsyncLLMServeEnv, LLMServeEnv"}
PROBE = """
import sys
{statement}
print(len(sys.modules), *sorted({{name.split(".")[0] for name in sys.modules}}))
"""
CLOCK = """
import time
start = time.process_time()
{statement}
print(time.process_time() - start)
"""
IMPORTS = ("import llmserve_client", "from llmserve_client import LLMServeEnv", "from llmserve_env import LLMServeEnv")
"""The first imports names only. The others load the client without pydantic and the types."""

REFUSAL = "llmserve-sim[cli]"
MOST_TIMES_HTTPX = 3.0
ROUNDS = 15


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def _distributions(package: str) -> bool:
    names = {distribution.metadata["Name"].lower().replace("_", "-") for distribution in metadata.distributions()}
    counted = sorted(names - MAKER - ({"llmserve-sim"} if package == "sim" else set()))
    most = MOST_DISTRIBUTIONS[package]
    print(f"llmserve-{package}: {len(counted)} distributions (at most {most}): {', '.join(counted)}")
    return len(counted) <= most


def _modules(package: str) -> bool:
    count, *loaded = _run(PROBE.format(statement=LOADS[package])).split()
    heavy = [name for name in HEAVY[package] if name in loaded]
    print(f"{LOADS[package]} loads {count} modules, of the heavy ones: {', '.join(heavy) or 'none'}")
    return not heavy


def _says_which_extra(package: str) -> bool:
    bare = subprocess.run([sys.executable, "-m", "llmserve_sim", "tasks"], capture_output=True, text=True, check=False)
    print(f"without the extra llmserve-{package}'s command says: {bare.stderr.strip()}")
    return bare.returncode == 2 and REFUSAL in bare.stderr and "Traceback" not in bare.stderr


def _import_time(package: str) -> bool:
    """Print the package's import times over httpx's, and return whether each is within its bound.

    The ratio is the median over rounds, in processor time. The two imports take turns, so that other work on the
    machine affects both alike.
    """
    held = True
    for statement in IMPORTS:
        ratios = sorted(_seconds(statement) / _seconds("import httpx") for _ in range(ROUNDS))
        middle = statistics.median(ratios)
        held = held and middle <= MOST_TIMES_HTTPX
        print(
            f"llmserve-{package}, {statement}: {middle:.2f} times as long as import httpx "
            f"(median of {ROUNDS}, {ratios[0]:.2f} to {ratios[-1]:.2f}; at most {MOST_TIMES_HTTPX:g})"
        )
    return held


def _seconds(statement: str) -> float:
    return float(_run(CLOCK.format(statement=statement)))


CHECKS: dict[str, tuple[Callable[[str], bool], ...]] = {
    "sim": (_distributions, _modules, _says_which_extra),
    "client": (_distributions, _modules, _import_time),
}


def main() -> int:
    """Print the findings; return 1 if the package is too heavy."""
    package = sys.argv[1] if len(sys.argv) == 2 else ""
    if package not in CHECKS:
        print(f"say which package: {' or '.join(CHECKS)}", file=sys.stderr)
        return 2
    held = [check(package) for check in CHECKS[package]]  # each has its say, though one has failed
    return int(not all(held))


if __name__ == "__main__":
    sys.exit(main())
