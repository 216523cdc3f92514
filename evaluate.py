"""The documented evaluation command; everything is in llmserve-agents.

python evaluate.py --agent ppo --task all --episodes 20
"""

from __future__ import annotations

import sys

from llmserve_agents.cli import main

if __name__ == "__main__":
    sys.exit(main(only="evaluate"))
