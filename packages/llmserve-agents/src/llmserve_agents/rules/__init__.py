"""Agents that follow written rules: the heuristic, its thresholds, and what tunes them. Start at `heuristic.py`."""
