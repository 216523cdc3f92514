"""Real mode: an episode on an OpenAI-compatible endpoint. `backend.py` is the entry point.

In the order of a window: `sampling.py` chooses the requests, `load_generator.py` sends them through `endpoint.py` and
waits for them, `measure.py` turns the results into an observation, `pricing.py` adds the cost.
"""
