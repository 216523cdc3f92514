"""The documented training command; everything is in llmserve-agents.

python train.py --task adversarial_multitenant --steps 120000 --seed 0
"""

from __future__ import annotations

import sys

from llmserve_agents.cli import main

if __name__ == "__main__":
    sys.exit(main(only="train"))
