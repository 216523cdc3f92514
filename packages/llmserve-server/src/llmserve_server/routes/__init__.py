"""Our HTTP routes, with what they parse and how they refuse. Start reading at `episodes.py`."""
