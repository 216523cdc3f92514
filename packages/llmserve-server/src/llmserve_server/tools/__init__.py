"""The environment's tools on the server: over MCP's streamable HTTP, and in OpenEnv's ways (`/mcp`, `/ws`).

What a tool does and says is in `llmserve_agents.tools`. Here are the episode that it works on (`episode.py`), the call
without blocking others (`session.py`), and the two transports (`streamable.py`, `openenv.py`).
"""
