"""A replay runs under the task's targets and, unless they are set, without the task's limits."""

from __future__ import annotations

import numpy as np
import pytest

from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.hardware import get_deployment
from llmserve_sim.memory import MemoryModel
from llmserve_sim.performance.tables import MAX_CONTEXT_TOKENS
from llmserve_sim.replay.rules import longest_request, replay_rules
from llmserve_sim.schema import ServeAction
from llmserve_sim.tasks import load_task
from llmserve_sim.workload.replay import scenario_from_trace, too_long
from llmserve_sim.workload.traces import Trace

TASK = load_task("azure_conversation")


def trace(prompt: list[int], output: list[int]) -> Trace:
    """Requests that arrive together."""
    columns = [np.array(column, dtype=np.int64) for column in ([0] * len(prompt), prompt, output)]
    return Trace("t", *columns, duration_ps=1)


def test_without_options_nothing_but_the_deployment_limits_a_request() -> None:
    rules = replay_rules(TASK, trace([8_000, 100], [2_000, 10]))
    assert (rules.patience_s, rules.max_unfinished, rules.max_len_tokens) == (0.0, 2, 10_000)
    assert rules.cotenant is rules.prefix_cache is None
    assert rules.slo == TASK.slo
    assert rules.digest != TASK.digest
    huge = replay_rules(TASK, trace([500_000], [1]))
    assert huge.max_len_tokens == longest_request(get_deployment(TASK.deployment)) < 131_073


def test_each_limit_can_be_set() -> None:
    rules = replay_rules(
        TASK,
        trace([10], [10]),
        patience_s=10,
        max_unfinished=1024,
        max_model_len=8192,
        cotenant=True,
        prefix_reuse=True,
    )
    assert rules == TASK


@pytest.mark.parametrize(
    ("limit", "bound"),
    [
        ({"patience_s": -1.0}, r"patience_s: must be a number in 0\.\.86400"),
        ({"patience_s": float("nan")}, r"patience_s: must be a number in 0\.\.86400"),
        ({"max_unfinished": 0}, r"max_unfinished: must be an integer in 1\.\.524288"),
        ({"max_unfinished": 1 << 20}, r"max_unfinished: must be an integer in 1\.\.524288"),
        ({"max_model_len": 31}, r"max_model_len: must be an integer in 32\.\."),
        ({"max_model_len": 131_073}, r"max_model_len: must be an integer in 32\.\..* what a100-llama3.1-8b can serve"),
        ({"max_model_len": True}, r"max_model_len: must be an integer in 32\.\."),
    ],
)
def test_a_limit_out_of_range_is_refused_by_name(limit: dict[str, object], bound: str) -> None:
    with pytest.raises(InvalidInputError, match=bound):
        replay_rules(TASK, trace([10], [10]), **limit)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a100-llama3.1-8b", "rtx4090-llama3.1-8b", "h100x2-qwen3-32b"])
def test_the_longest_request_is_the_longest_that_memory_holds(name: str) -> None:
    deployment = get_deployment(name)
    longest = MemoryModel.longest_request(deployment)
    assert longest_request(deployment) == min(longest, MAX_CONTEXT_TOKENS)
    assert MemoryModel(deployment, longest).refusals == {}
    assert "FP16" in MemoryModel(deployment, longest + 1).refusals


def test_a_request_beyond_the_longest_is_rejected_and_its_output_is_never_cut() -> None:
    asked = trace([100, 100, 7_000, 9_000], [100, 16_000, 1_193, 5])
    rules = replay_rules(TASK, asked, max_model_len=8192)
    assert too_long(asked, 8192).tolist() == [False, True, True, True]
    env = ServingEnv(rules)
    env.start(0, scenario=scenario_from_trace(asked, rules, drain_s=60))
    delivered = 0.0
    while not env.state().done:
        delivered += env.advance(ServeAction()).measurement.throughput_tps * rules.window_s
    state = env.state()
    assert (state.finished, state.rejected) == (1, 3)
    assert delivered == pytest.approx(100)


def test_a_request_of_exactly_the_longest_is_served() -> None:
    asked = trace([7_000], [1_192])
    env = ServingEnv(replay_rules(TASK, asked, max_model_len=8192))
    env.start(0, scenario=scenario_from_trace(asked, env.task))
    while not env.state().done:
        env.advance(ServeAction())
    assert env.state().finished == 1
