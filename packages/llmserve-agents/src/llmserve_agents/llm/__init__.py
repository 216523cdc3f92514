"""A language model as an agent: prompt, request, answer, cost. `agent.py` is the policy; needs the extra ``llm``."""
