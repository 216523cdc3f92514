"""The task under which recorded traffic is replayed: the task's targets and fleet, without its limits.

A recording is of other users than a task's. How long they wait, how many may queue and how long a request may be are
limits of the replay, and off unless they are set. What the deployment cannot do stays: a request that no pool holds,
or that is longer than the cost tables reach, is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.hardware import Deployment, get_deployment
from llmserve_sim.memory import MemoryModel
from llmserve_sim.performance.tables import MAX_CONTEXT_TOKENS
from llmserve_sim.tasks import Task
from llmserve_sim.tasks.model import MAX_UNFINISHED

if TYPE_CHECKING:
    from llmserve_sim.workload.traces import Trace

__all__ = ["longest_request", "replay_rules"]

_LEAST_LEN = 32
_MAX_PATIENCE_S = 86_400


def longest_request(deployment: Deployment) -> int:
    """Return the longest prompt plus output that a deployment can serve, tokens."""
    return min(MAX_CONTEXT_TOKENS, MemoryModel.longest_request(deployment))


def replay_rules(
    task: Task,
    trace: Trace,
    *,
    deployment: str | Deployment | None = None,
    patience_s: float = 0.0,
    max_unfinished: int | None = None,
    max_model_len: int | None = None,
    cotenant: bool = False,
    prefix_reuse: bool = False,
) -> Task:
    """Return `task` with the limits of a replay of `trace`.

    Args:
        task: targets, classes, window length and, unless `deployment` is given, the deployment.
        trace: the recorded requests.
        deployment: what serves, in place of the task's own.
        patience_s: a request that waits longer for its first token is abandoned, s; 0: never.
        max_unfinished: an arrival that finds as many unfinished requests is rejected; None: no limit (524,288).
        max_model_len: vLLM's option: a request of more tokens, prompt and output together, is rejected. None: as long
            as the trace's longest, or as the deployment can serve.
        cotenant: keep the task's co-tenant; by default the traffic is alone.
        prefix_reuse: keep the task's prefix cache: a recording does not say what its prompts share.

    Raises:
        InvalidInputError: a limit is out of range, or longer than the deployment can serve.
    """
    server = deployment if isinstance(deployment, Deployment) else get_deployment(deployment or task.deployment)
    most = longest_request(server)
    if max_model_len is None:
        max_model_len = min(max(_LEAST_LEN, int((trace.prompt + trace.output).max())), most)
    else:
        _require_integer("max_model_len", max_model_len, _LEAST_LEN, most, f", what {server.name} can serve")
    if max_unfinished is None:
        max_unfinished = min(len(trace), MAX_UNFINISHED)
    else:
        _require_integer("max_unfinished", max_unfinished, 1, MAX_UNFINISHED)
    _require_patience(patience_s)
    limits: dict[str, object] = {
        "patience_s": float(patience_s),
        "max_unfinished": max_unfinished,
        "max_len_tokens": max_model_len,
    }
    limits |= {} if cotenant else {"cotenant": None}
    limits |= {} if prefix_reuse else {"prefix_cache": None}
    # Validated again: `model_copy` would keep the digest of the original.
    return Task.model_validate(task.model_dump() | limits)


def _require_integer(field: str, value: object, least: int, most: int, why: str = "") -> None:
    if type(value) is not int or not least <= value <= most:
        raise InvalidInputError(field, f"must be an integer in {least}..{most}{why}", got=value)


def _require_patience(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_PATIENCE_S:
        raise InvalidInputError("patience_s", f"must be a number in 0..{_MAX_PATIENCE_S} (0: never)", got=value)
