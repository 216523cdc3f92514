"""The plain scheduler: requests and replicas as objects, one iteration at a time, in vLLM's vocabulary.

This is the executable specification of the engine. `kernel.py` computes the same episodes several hundred times faster
and is tested against this module to the last integer, so when the two disagree, this one says what was meant.

A replica repeats one cycle: pick what runs (`Replica.start`), let the iteration's time pass, hand out its tokens
(`Replica.complete`). Decoding requests come first; what is left of the token budget goes to chunks of prompts. When KV
blocks run out, the newest request is preempted and later recomputed. Around the replicas, `ReferenceEngine` routes
arrivals, carries KV from prefill to decode replicas and applies the agent's plan at the start of a window.

At one instant, things happen in this order: iterations complete, hand-overs join, requests arrive, iterations start.
Windows are half-open: what arrives, joins or starts at the very end of a window belongs to the next one.

It knows nothing of tasks, rewards, observations or hardware.
"""

from __future__ import annotations

from llmserve_sim.engine.reference.engine import ReferenceEngine

__all__ = ["ReferenceEngine"]
