"""A workload through vLLM's own scheduler: a runner without a model, on the simulator's clock.

The runner computes nothing. A step takes the time that the simulator's cost tables give its batch, and yields as many
tokens as the simulator expects: one for each decoding request, or with speculation the tenant's rate, in lock-step.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from tests.vllm.history import MAX_LEN, History, Step, fleet_of, rates_of

from llmserve_sim.engine.interface import BLOCK_TOKENS, FP, TENANTS
from llmserve_sim.engine.reference.costs import IterationCosts

if TYPE_CHECKING:
    from tests.vllm.workloads import Workload

__all__ = ["VllmRun", "load_vllm"]

TOKEN, STOP = 7, 2
"""The token that the runner samples where requests have no texts, and the one that ends an output where its length is
not known."""


class _Stub(ModuleType):
    """A module whose names are all empty classes: vLLM imports them for grammars, which no workload asks for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def load_vllm() -> None:
    """Import what the harness needs of vLLM; xgrammar, a gigabyte with its CUDA build, is replaced by a stub."""
    logging.disable(logging.ERROR)
    for name in ("xgrammar", "xgrammar.structural_tag", "xgrammar.openai_tool_call_schema"):
        stub = _Stub(name)
        stub.__path__ = []
        sys.modules[name] = stub
    for name in ("v1.core.sched.scheduler", "v1.core.sched.async_scheduler", "v1.structured_output"):
        import_module(f"vllm.{name}")
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import init_none_hash

    init_none_hash(sha256)


class _Settings(SimpleNamespace):
    """A part of vLLM's configuration that the scheduler asks for but that is off here: every other field is None."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


class _Chunk:
    """The runner's view of a prompt that is computed in part."""

    def __init__(self, computed: int, target: int) -> None:
        self.computed = computed
        self.target = target


@dataclass
class _Planned:
    """A step as vLLM has scheduled it."""

    output: Any
    decoding: list[Any]
    chunks: list[tuple[_Chunk, int]]
    completing: list[Any]
    """Requests whose chunk is the last of their prompt."""
    end_ps: int = 0


class VllmRun:
    """One workload in one of vLLM's schedulers."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.costs = IterationCosts(fleet_of(workload.budget).tiers[0])
        self.rates = [row[workload.depth] for row in rates_of(workload.acceptance)]
        self.counters = [0] * TENANTS
        self.history = History()
        self.scheduler = _make_scheduler(workload)
        self.arrivals = list(enumerate(workload.requests))
        self.requests: dict[str, Any] = {}
        """Unfinished ones, by name."""
        self.texts: dict[str, list[int]] = {}
        """Their prompts and outputs; empty where the workload has no texts."""
        self.scheduled_ps: dict[str, int] = {}
        self.first_ps: dict[str, int] = {}
        self.preemptions: dict[str, int] = {}
        self.targets: dict[str, int] = {}
        """Tokens of a prompt that is scheduled in part; a request without an entry decodes."""
        self.decodes: set[str] = set()
        """Running requests that had their first token since they were last admitted."""
        self.admitted: set[str] = set()
        """Running requests."""

    def run(self) -> History:
        """Run to the last token of the last request."""
        now, idle, running = 0, 0, None
        while self.arrivals or self.requests or running:
            planned = self._plan(now)
            if running is None and planned is None:
                idle += 1
                if not self.requests and self.arrivals:
                    now, idle = self.arrivals[0][1].arrival_ps, 0
                if idle > 3:
                    raise RuntimeError("vLLM schedules nothing although requests wait")
                continue
            idle = 0
            if running is None:
                running, planned = planned, None
                self._start(now, running)
                if self.workload.asynchronous:
                    continue
            now = running.end_ps
            self._complete(running)
            running = planned
            if running is not None:
                self._start(now, running)
        return self.history

    def _plan(self, now: int) -> _Planned | None:
        """Let vLLM schedule a step, if it does not decline, after the arrivals until now."""
        while self.arrivals and self.arrivals[0][1].arrival_ps <= now:
            self._add(*self.arrivals.pop(0))
        self._set_cap(now)
        output = self.scheduler.schedule()
        for name in output.preempted_req_ids or ():
            self.preemptions[name] += 1
            self.decodes.discard(name)
            self.admitted.discard(name)
        if not output.total_num_scheduled_tokens:
            self._update(output, {})
            return None
        planned = _Planned(output, [], [], [])
        for name, new in output.num_scheduled_tokens.items():
            request = self.requests[name]
            self.scheduled_ps.setdefault(name, now)
            before = request.num_computed_tokens - new
            if name not in self.admitted:
                self.admitted.add(name)
                self.targets[name] = request.num_tokens
            if name not in self.targets:
                planned.decoding.append(request)
                continue
            planned.chunks.append((_Chunk(before, self.targets[name]), new))
            if before + new >= self.targets[name]:  # more: placeholders for drafts
                del self.targets[name]
                planned.completing.append(request)
        return planned

    def _add(self, index: int, row: Any) -> None:
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        name = f"{index:06d}"
        if self.workload.length_known:
            parameters = SamplingParams(max_tokens=row.output, ignore_eos=True)
        else:
            parameters = SamplingParams(max_tokens=MAX_LEN, ignore_eos=True, stop_token_ids=[STOP])
        arguments = {
            "request_id": name,
            "prompt_token_ids": row.tokens()[: row.prompt] or [1] * row.prompt,
            "sampling_params": parameters,
            "pooling_params": None,
            "eos_token_id": None,
            "arrival_time": float(row.arrival_ps),
            "priority": row.priority,
            "block_hasher": _block_hasher(self.workload),
        }
        known = signature(Request.__init__).parameters
        request = Request(**{key: value for key, value in arguments.items() if key in known})
        self.requests[name] = request
        self.preemptions[name] = 0
        self.texts[name] = row.tokens()
        self.scheduler.add_request(request)

    def _set_cap(self, now: int) -> None:
        """Set the batch cap; running requests beyond a lowered one go on, and none is admitted beside them."""
        cap = next(cap for start, cap in reversed(self.workload.caps) if start <= now)
        self.scheduler.max_num_running_reqs = max(cap, len(self.scheduler.running))
        if hasattr(self.scheduler, "max_num_active_reqs"):
            self.scheduler.max_num_active_reqs = self.scheduler.max_num_running_reqs

    def _tenant(self, request: Any) -> int:
        return self.workload.requests[int(request.request_id)].tenant

    def _start(self, now: int, step: _Planned) -> None:
        """Price a step and write it down."""
        context_fp = sum(FP * r.num_tokens + self.counters[self._tenant(r)] % FP for r in step.decoding)
        took = self.costs.iteration_ps(len(step.decoding), self.workload.depth, context_fp, step.chunks)  # type: ignore[arg-type]
        step.end_ps = now + took
        tokens = {int(name): new for name, new in step.output.num_scheduled_tokens.items()}
        self.history.steps.append(Step(now, step.end_ps, tokens))

    def _complete(self, step: _Planned) -> None:
        """Deliver a step's tokens. A request that ended while the step was scheduled already gets none."""
        stepped = [r for r in step.decoding if not r.is_finished()]
        gains = [(c + r) // FP - c // FP for c, r in zip(self.counters, self.rates, strict=True)]
        for tenant in {self._tenant(r) for r in stepped}:
            self.counters[tenant] += self.rates[tenant]
        tokens = {r.request_id: min(gains[self._tenant(r)], self._left(r)) for r in stepped}
        tokens |= {r.request_id: 1 for r in step.completing}
        for name in tokens:
            self.first_ps.setdefault(name, step.end_ps)
        self._update(step.output, tokens)
        for name in tokens:
            if self.requests[name].is_finished():
                del self.requests[name]
                self.decodes.discard(name)
                self.admitted.discard(name)
                times = (self.scheduled_ps[name], self.first_ps[name], step.end_ps)
                self.history.requests[int(name)] = (*times, self.preemptions[name])
        entered = [r for r in step.completing if r.status == r.status.RUNNING]
        # A tenant's lock-step starts anew with requests that decode where none of the tenant's did.
        for tenant in {self._tenant(r) for r in entered} - {self._tenant(self.requests[name]) for name in self.decodes}:
            self.counters[tenant] = 0
        self.decodes |= {r.request_id for r in entered}

    def _left(self, request: Any) -> int:
        return self.workload.requests[int(request.request_id)].output - request.num_output_tokens

    def _update(self, output: Any, tokens: dict[str, int]) -> None:
        """Give the scheduler the step's tokens, and where it speculates the next draft."""
        from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput

        names = list(output.num_scheduled_tokens)
        known = signature(ModelRunnerOutput).parameters
        arguments = {
            "req_ids": names,
            "req_id_to_index": {name: i for i, name in enumerate(names)},
            "sampled_token_ids": [self._sampled(name, tokens.get(name, 0)) for name in names],
            "logprobs": None,
            "prompt_logprobs_dict": {},
            "pooler_output": [],
        }
        result = ModelRunnerOutput(**{key: value for key, value in arguments.items() if key in known})
        self.scheduler.update_from_output(output, result)
        if self.workload.depth and names and not self.workload.asynchronous:
            # The worker drafts nothing behind a prompt of which a part is still to be computed.
            drafts = DraftTokenIds(names, [[TOKEN] * self.workload.depth if name in tokens else [] for name in names])
            self.scheduler.update_draft_token_ids(drafts)

    def _sampled(self, name: str, count: int) -> list[int]:
        """Return a request's new tokens, the last of its output as the stop token."""
        if count == 0:
            return []
        request = self.requests[name]
        ends = count == self._left(request)
        at = request.num_prompt_tokens + request.num_output_tokens
        told = self.texts[name][at : at + count] if self.texts[name] else [TOKEN] * count
        return told[: count - ends] + [STOP] * ends


def _block_hasher(workload: Workload) -> Any:
    """Return what names a request's blocks; None without prefix caching."""
    if not workload.caching:
        return None
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher

    ahead = _hash_lookahead(workload)
    if ahead and "num_hash_lookahead_tokens" in signature(get_request_block_hasher).parameters:
        return get_request_block_hasher(BLOCK_TOKENS, sha256, ahead)
    return get_request_block_hasher(BLOCK_TOKENS, sha256)


def _hash_lookahead(workload: Workload) -> int:
    """Return the tokens behind a block that its hash covers with EAGLE, as 0.33's configuration has it."""
    return int(workload.caching and workload.depth > 0)


def _make_scheduler(workload: Workload) -> Any:
    """Return vLLM's scheduler for one full-attention model."""
    import torch

    from vllm.config import CacheConfig, SchedulerConfig
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

    most = max(cap for _, cap in workload.caps)
    blocks = workload.blocks + 1  # vLLM keeps one block for padding
    cache = CacheConfig(block_size=BLOCK_TOKENS, gpu_memory_utilization=0.9, enable_prefix_caching=workload.caching)
    cache.num_gpu_blocks = blocks
    config = SchedulerConfig(
        max_num_seqs=most,
        max_num_batched_tokens=workload.budget,
        max_model_len=MAX_LEN,
        enable_chunked_prefill=True,
        is_encoder_decoder=False,
        policy="priority" if workload.priority else "fcfs",
        async_scheduling=workload.asynchronous,
    )
    speculation = None
    if workload.depth:
        speculation = _Settings(
            num_speculative_tokens=workload.depth,
            use_eagle=lambda: True,
            use_eagle_block_drop=lambda: True,
            needs_eagle_block_drop=lambda: True,
            disable_eagle_block_drop=False,
            use_dflash=lambda: False,
            use_dspark=lambda: False,
            use_multi_module_mtp=lambda: False,
            uses_draft_model=lambda: False,
            max_num_new_slots_for_drafting=0,
            method="eagle3",
        )
    parallel = _Settings(
        pipeline_parallel_size=1,
        decode_context_parallel_size=1,
        prefill_context_parallel_size=1,
        data_parallel_size=1,
        data_parallel_rank=0,
        data_parallel_index=0,
    )
    settings = _Settings(
        scheduler_config=config,
        cache_config=cache,
        model_config=_Settings(max_model_len=MAX_LEN, is_encoder_decoder=False, is_diffusion=False),
        parallel_config=parallel,
        speculative_config=speculation,
        observability_config=_Settings(kv_cache_metrics_sample=0.01),
        ec_manager_config=_Settings(get_encoder_cache_manager_obj=lambda: None),
        aux_output_config=_Settings(),
        num_speculative_tokens=workload.depth,
        num_lookahead_tokens=workload.depth,
        num_prefill_lookahead_tokens=int(workload.depth > 0),
        num_hash_lookahead_tokens=_hash_lookahead(workload),
        max_concurrent_batches=2 if workload.asynchronous else 1,
        max_in_flight_tokens=workload.budget * (2 if workload.asynchronous else 1),
    )
    spec = FullAttentionSpec(block_size=BLOCK_TOKENS, num_kv_heads=1, head_size=1, dtype=torch.float32)
    grammars = _Settings(
        should_advance=lambda *_: False, accept_tokens=lambda *_: True, validate_tokens=lambda _, tokens: tokens
    )
    arguments = {
        "vllm_config": settings,
        "kv_cache_config": KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], spec)]),
        "structured_output_manager": grammars,
        "block_size": BLOCK_TOKENS,
        "hash_block_size": BLOCK_TOKENS,
        "mm_registry": SimpleNamespace(supports_multimodal_inputs=lambda *_: False),
        "log_stats": False,
    }
    known = signature(Scheduler.__init__).parameters
    scheduler = AsyncScheduler if workload.asynchronous else Scheduler
    return scheduler(**{key: value for key, value in arguments.items() if key in known})
