"""The documented baseline command; everything is in llmserve-agents.

python -m server.baseline_inference --mode deterministic
python -m server.baseline_inference --mode openai --runtime in-process --model gpt-4.1-mini
"""

from __future__ import annotations

import sys

from llmserve_agents import cli


def main() -> int:
    """Run the command and return its exit code."""
    return cli.main(only="baseline")


if __name__ == "__main__":
    sys.exit(main())
