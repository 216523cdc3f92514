"""The plain scheduler: requests and replicas as objects, one iteration at a time, with vLLM's terms.

This is the executable specification of the engine. `engine/kernel/` computes the same episodes faster and is tested
against this package to the last integer. If the two disagree, this one is right.

A replica repeats one cycle: schedule an iteration (`Replica.start`), let its time pass, deliver its tokens
(`Replica.complete`). Decoding requests come first; what is left of the token budget goes to prefill chunks. When KV
blocks run out, the newest request is preempted and recomputed later. `Replica.allocate` and `Replica.free` are the only
places where KV blocks change hands. `ReferenceEngine` routes arrivals, hands requests over from prefill to decode
replicas and applies the agent's plan at the start of a window.

Events at the same time happen in this order: iterations complete, hand-overs join, requests arrive, iterations start.
Windows are half-open: what arrives, joins or starts exactly at the end of a window belongs to the next one.

Nothing here depends on tasks, rewards, observations or hardware.
"""

from __future__ import annotations

from llmserve_sim.engine.reference.engine import ReferenceEngine

__all__ = ["ReferenceEngine"]
