"""The root of the staged Space: `openenv push` asks for this file and for `client.py` beside it."""
