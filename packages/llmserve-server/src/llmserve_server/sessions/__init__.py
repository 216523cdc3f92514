"""The sessions: each one episode after another, in memory and in the store. Start reading at `registry.py`."""
