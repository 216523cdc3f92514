"""The parts of real mode: which requests are sent, how they are sent, what was measured, what it cost.

`dispatch.py` is the heart: it replays a window's requests against an endpoint. Nothing here knows of sessions, HTTP
routes or stores.
"""
