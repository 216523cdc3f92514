"""Agents that follow written rules: the heuristic, its thresholds, and their tuning. Start at `heuristic.py`."""
