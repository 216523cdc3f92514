"""`SchedulerRules`: the scheduler of one vLLM version, as data. The sets of rules are in `hardware.py`."""

from __future__ import annotations

from dataclasses import dataclass

from llmserve_sim.bounds import Checked

__all__ = ["SchedulerRules"]


@dataclass(frozen=True)
class SchedulerRules(Checked):
    """What differs between the schedulers of vLLM's versions; `nox -s vllm` compares each set with vLLM's own code.

    All sets share vLLM's loop: running requests in order of admission, a prompt's blocks taken chunk by chunk, K more
    slots looked ahead for a drafter of depth K, and of requests that arrived together the first admitted as victim.
    """

    whole_prompt: bool
    """A prompt is admitted only if all its blocks are free (vLLM's `scheduler_reserve_full_isl`, not in 0.12)."""
    admission_lookahead: bool
    """The slots looked ahead are also needed at admission (0.33); before, from the next step on."""
    resumes_after_self_preemption: bool
    """With priorities, a request that preempts itself leaves the step to those behind it (0.33); before, it ends it."""
    asynchronous: bool
    """A step is scheduled when the one before it starts, as if that one had ended with every draft accepted (vLLM's
    `async_scheduling`, the default from 0.14 on): an arrival waits for two steps to end, not for one."""
    length_known: bool = False
    """Requests end by their `max_tokens`, as in benchmarks that ignore the end-of-sequence token: an asynchronous
    scheduler then leaves a request out of the step after its last token. False: it learns of the end too late for that."""
