"""`python -m llmserve_agents` is the command `llmserve`."""

from __future__ import annotations

import sys

from llmserve_agents.cli import main

if __name__ == "__main__":
    sys.exit(main())
