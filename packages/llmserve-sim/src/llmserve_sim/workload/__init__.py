"""Requests and everything else that happens to a fleet whatever its operator does: traffic, tenants, neighbours.

Start reading at `scenario.py`. Nothing here knows of actions, engines' state or rewards.
"""
