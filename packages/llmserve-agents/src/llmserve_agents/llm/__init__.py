"""The agent that asks a language model: prompt, request, answer, cost. Start at `agent.py`. Needs the extra ``llm``."""
