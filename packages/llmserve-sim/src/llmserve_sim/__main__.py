"""`python -m llmserve_sim` is the `llmserve-sim` command."""

from __future__ import annotations

import sys

from llmserve_sim.cli import main

if __name__ == "__main__":
    sys.exit(main())
