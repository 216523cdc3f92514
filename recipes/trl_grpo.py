"""TRL's GRPO on a running server: a language model learns to operate the fleet by calling tools.

    python recipes/trl_grpo.py --task bursty_workload
    python recipes/trl_grpo.py --task bursty_workload --model MODEL --steps 200

The first command shows what a model is given: the tools and an episode's first message. The second trains. Both need a
server (`--base-url`), `pip install trl` (1.16 or later, with torch) and llmserve-client. Training needs a model whose
chat template knows tools (Qwen3 does) and, for any but a tiny one, a GPU. `ServingEnvironment` is what
`GRPOTrainer(environment_factory=...)` takes: one instance for each rollout, with a session of its own at the server.
Its public methods are the tools, since that is TRL's rule.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from llmserve_client import ClientError, LLMServeEnv
from llmserve_sim.errors import EpisodeStateError, InvalidInputError
from llmserve_sim.metrics import EXTENDED
from llmserve_sim.schema import GradeReport, QuantizationTier, ServeAction, ServeObservation, parse_action

MAX_WINDOWS = 20
"""Windows that one call of `advance` may run."""
MEASURED = (
    "request_arrival_rate", "priority_arrival_rate", "mean_prompt_length", "queue_depth", "queue_priority",
    "oldest_wait_s", "active_requests", "abandoned_requests", "p99_ttft_ms", "p50_itl_ms", "slo_compliance_rate",
    "goodput_tps", "kv_cache_occupancy", "eviction_events", "spec_acceptance_rate", "cotenant_gb", "memory_pressure",
    "stall_s",
)  # fmt: skip
"""What a model is told of each window; those that only the simulator knows are left out where a real backend serves."""


class ServingEnvironment:
    """An episode that is played through tools: choose a configuration with `set_*`, then run windows with `advance`.

    A call with a wrong argument raises and changes nothing; TRL shows the error's text to the model and counts it. If
    the server cannot be reached, the next call reports the windows that have run. It may be the same call: no window
    runs twice.

    Args:
        base_url: the server's address.
        task_id: the task of rows that name none.
        token: the server's API token; by default ``$LLMSERVE_API_TOKEN``.
    """

    def __init__(
        self, base_url: str = "http://localhost:7860", task_id: str = "static_workload", *, token: str | None = None
    ) -> None:
        self._env = LLMServeEnv.from_url(base_url, token=token or os.environ.get("LLMSERVE_API_TOKEN"))
        self._task_id = task_id
        self._action = ServeAction()
        self._observation: ServeObservation | None = None
        self._unreported: list[ServeObservation] = []
        self._length = 0
        self._report: GradeReport | None = None

    def reset(self, task_id: str | None = None, seed: int | None = None, **row: object) -> str:
        """Begin an episode and return what TRL appends to the prompt: job, task, figures, and the first observation.

        `row` is the rest of the data set's row. Without a seed the server chooses a training seed. Rollouts that are
        compared with one another need the same seed: give the data set a column ``seed``.
        """
        task = task_id or self._task_id
        self._observation = self._env.reset(task, seed)
        self._action, self._report = ServeAction(), None
        self._length = self._env.state().episode_length
        self._unreported = [self._observation]
        entry = next((entry for entry in self._env.tasks() if entry["id"] == task), {"id": task})
        return f"{_briefing(entry, self._length)}\n\n{self._summary()}"

    def set_batching(self, batch_cap: int, prefill_decode_split: bool) -> str:
        """Choose how requests are batched, from the next window on.

        Args:
            batch_cap: Most requests that are batched at once on each replica, 1..512 (unit: requests).
            prefill_decode_split: Whether prompts and answers are computed on separate halves of the fleet, true or
                false (unit: flag). A change stops the fleet for half a second.

        Returns:
            The whole configuration that the next window will run with, as JSON.
        """
        return self._choose(batch_cap=batch_cap, prefill_decode_split=prefill_decode_split)

    def set_memory(self, kv_budget_fraction: float, quantization_tier: QuantizationTier) -> str:
        """Choose how the GPUs' memory is used, from the next window on.

        Args:
            kv_budget_fraction: Share of the memory left by weights and activations that the KV cache gets, 0.1..1.0
                (unit: share). A change stops the fleet briefly; memory over what the co-tenant leaves costs reward.
            quantization_tier: Precision of the weights, one of FP16, INT8, INT4 (unit: tier): lower is smaller and
                faster, and its answers count less. A change stops the fleet for seconds.

        Returns:
            The whole configuration that the next window will run with, as JSON.
        """
        return self._choose(kv_budget_fraction=kv_budget_fraction, quantization_tier=quantization_tier)

    def set_speculation(self, speculation_depth: int) -> str:
        """Choose how many tokens a draft model proposes at a time, from the next window on.

        Args:
            speculation_depth: Tokens proposed at a time, 0..8 (unit: tokens); 0 turns speculative decoding off. Pays
                where many are accepted and batches are small.

        Returns:
            The whole configuration that the next window will run with, as JSON.
        """
        return self._choose(speculation_depth=speculation_depth)

    def set_routing(self, priority_routing: bool) -> str:
        """Choose whether priority requests go first, from the next window on.

        Args:
            priority_routing: Whether priority requests are admitted first and preempted last, true or false
                (unit: flag).

        Returns:
            The whole configuration that the next window will run with, as JSON.
        """
        return self._choose(priority_routing=priority_routing)

    def advance(self, windows: int) -> str:
        """Run the chosen configuration for some windows and see what each of them showed; time passes in no other way.

        Args:
            windows: Windows to run, 1..20 (unit: windows). Fewer are run where the episode ends before.

        Returns:
            As JSON: where the episode stands, the configuration, and for each window that has run since the last call
            its figures and its reward, each a list with the oldest window first.
        """
        if type(windows) is not int or not 1 <= windows <= MAX_WINDOWS:
            raise InvalidInputError("windows", f"must be an integer in 1..{MAX_WINDOWS}", got=windows)
        if self._last_observation().done:
            raise EpisodeStateError("the episode is over: there are no windows left to run")
        try:
            for ran in range(windows):  # noqa: B007 - the error below names it
                self._observation = self._env.step(self._action).observation
                self._unreported.append(self._observation)
                if self._observation.done:
                    break
        except ClientError as error:
            raise RuntimeError(
                f"{ran} of {windows} windows have run, and the next call shows them; then: {error}"
            ) from error
        return self._summary()

    def observe(self) -> str:
        """Look at the last window again, and at the configuration of the next; no time passes.

        Returns:
            The same as `advance` returns, for the last window.
        """
        self._unreported = self._unreported or [self._last_observation()]
        return self._summary()

    @property
    def report(self) -> GradeReport:
        """The server's grade of the episode so far, asked for once for each number of windows."""
        observation = self._last_observation()
        if self._report is None or self._report.steps != observation.step_index:
            self._report = self._env.grade()
        return self._report

    def get_reward(self) -> float:
        """Return the mean reward per window of the whole episode: what TRL trains on, and no tool.

        A window that was not run counts as one of the random policy, as in the score, so that stopping early does not
        pay. It counts -1, the lowest reward, if no window was run at all or the task has no references.
        """
        report = self.report
        missing = -1.0 if report.references is None else report.references.random
        return (report.total_reward + missing * (self._length - report.steps)) / self._length

    def _last_observation(self) -> ServeObservation:
        if self._observation is None:
            raise EpisodeStateError("there is no episode yet: reset first")
        return self._observation

    def _choose(self, **knobs: object) -> str:
        if self._last_observation().done:
            raise EpisodeStateError("the episode is over: there is no next window")
        self._action = parse_action(self._action.model_dump() | knobs)
        return json.dumps({"next_configuration": self._action.model_dump()})

    def _summary(self) -> str:
        observation = self._last_observation()
        columns = {name: [_figure(window, name) for window in self._unreported] for name in MEASURED}
        summary = {
            "window": observation.step_index,
            "windows_left": self._length - observation.step_index,
            "next_configuration": None if observation.done else self._action.model_dump(),
            "measured": {name: values for name, values in columns.items() if None not in values}
            | {"reward": [_rounded(window.reward) for window in self._unreported]},
        }
        self._unreported = []
        return json.dumps(summary)


def score(environments: Sequence[ServingEnvironment], **_: object) -> list[float | None]:
    """Return each rollout's score in [0, 1], None where there is none. A reward function that is only logged."""
    return [environment.report.score for environment in environments]


def tools(environment: object) -> list[Callable[..., Any]]:
    """Return an environment's tools, as TRL finds them: its public methods without those that TRL calls itself."""
    named = inspect.getmembers(type(environment), predicate=inspect.isfunction)
    return [
        getattr(environment, name)
        for name, _ in named
        if not name.startswith("_") and name not in {"get_reward", "reset"}
    ]


def _figure(observation: ServeObservation, name: str) -> Any:
    if name in ServeObservation.model_fields:
        return _rounded(getattr(observation, name))
    window = observation.metadata.get("window")
    value = window.get(name) if isinstance(window, Mapping) else None
    return None if value is None else _rounded(value)


def _rounded(value: Any) -> Any:
    """Four significant digits: a third of the tokens."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _briefing(task: Mapping[str, Any], windows: int) -> str:
    """What a model is told before its first window."""
    figures = "\n".join(f"- {row.name} ({row.unit}): {row.meaning}" for row in EXTENDED if row.name in MEASURED)
    job = (
        "You operate a fleet of GPUs that serves a large language model, through tools. Time passes in windows, "
        f"and only while advance runs. There are {windows}: run them all, and look at what they show before you "
        "choose again. Your aim is the largest sum of rewards. A window's reward is a weighted sum: tokens of "
        "requests that met their targets over tokens offered, plus the share of requests that met their targets "
        "(priority requests count more), minus memory pressure, minus cost."
    )
    lines = [job, f"The task is {task.get('name', task['id'])}. {task.get('description', '')}".rstrip()]
    if "slo" in task:
        slo = task["slo"]
        limits = "; ".join(
            f"{kind} {slo[kind]['ttft_s']:g} s and {slo[kind]['tpot_ms']:g} ms" for kind in ("standard", "priority")
        )
        lines.append(
            f"A window is {task['window_s']:g} s. Targets for the time to the first token (longer by prompt length / "
            f"{slo['ttft_prompt_tokens_per_s']:g} s) and per further token: {limits}."
        )
    return "\n".join([*lines, f"The figures:\n{figures}"])


def rows(base_url: str, task_id: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Return rows of a data set: a prompt, the task, and one of the task's training seeds, which a group shares."""
    with LLMServeEnv.from_url(base_url, token=os.environ.get("LLMSERVE_API_TOKEN")) as env:
        splits = {entry["id"]: entry["splits"]["train"] for entry in env.tasks()}
    if task_id not in splits:
        raise InvalidInputError("task", "must be one of " + ", ".join(splits), got=task_id)
    start, stop = splits[task_id]["start"], splits[task_id]["stop"]
    seeds = np.random.default_rng(seed).choice(stop - start, count, replace=False) + start
    return [{"prompt": [{"role": "user", "content": ""}], "task_id": task_id, "seed": int(one)} for one in seeds]


def make_trainer(options: argparse.Namespace) -> Any:
    """Return TRL's trainer, ready to train; `options` as `main` parses them."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        output_dir=options.output,
        max_steps=options.steps,
        learning_rate=options.learning_rate,
        num_generations=options.generations,
        per_device_train_batch_size=options.generations,
        gradient_accumulation_steps=options.prompts,
        max_completion_length=options.max_completion,
        max_tool_calling_iterations=options.turns,
        chat_template_kwargs={"enable_thinking": False},
        use_vllm=options.vllm,
        vllm_mode="colocate",
        # The score is only logged: it is clipped, and a clipped reward teaches nothing at its ends.
        reward_weights=[0.0],
        logging_steps=1,
        report_to="none",
        seed=options.seed,
        use_cpu=options.cpu,
        bf16=not options.cpu,
    )
    return GRPOTrainer(
        model=options.model,
        reward_funcs=[score],
        args=config,
        train_dataset=Dataset.from_list(
            rows(options.base_url, options.task, options.steps * options.prompts, options.seed)
        ),
        environment_factory=partial(ServingEnvironment, options.base_url, options.task),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse; show the tools, or train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a causal language model, by name or folder; without it nothing is trained")
    parser.add_argument("--task", default="bursty_workload")
    parser.add_argument(
        "--base-url", default="http://localhost:7860", help="the server's address (http://localhost:7860)"
    )
    parser.add_argument("--steps", type=int, default=200, help="updates (200)")
    parser.add_argument(
        "--generations", type=int, default=8, help="rollouts of one episode, compared with one another (8)"
    )
    parser.add_argument(
        "--prompts", type=int, default=1, help="episodes per update (1); the server needs a session for each rollout"
    )
    parser.add_argument(
        "--max-completion", type=int, default=16384, help="tokens of a rollout, tools' answers included (16384)"
    )
    parser.add_argument("--turns", type=int, default=60, help="rounds of tool calls in a rollout (60)")
    parser.add_argument("--learning-rate", type=float, default=1e-6)
    parser.add_argument("--seed", type=int, default=0, help="of the episodes and of sampling (0)")
    parser.add_argument(
        "--vllm", action="store_true", help="generate with vLLM on the same GPUs, which must be installed"
    )
    parser.add_argument("--cpu", action="store_true", help="train on the CPU, in single precision")
    parser.add_argument("--output", default="runs/trl", help="folder of the trained model (runs/trl)")
    options = parser.parse_args(arguments)
    if options.model is None:
        from transformers.utils import get_json_schema

        environment = ServingEnvironment(options.base_url, options.task)
        first = environment.reset(**rows(options.base_url, options.task, 1, options.seed)[0])
        print(json.dumps([get_json_schema(tool) for tool in tools(environment)], indent=2))
        print(first)
        return
    trainer = make_trainer(options)
    trainer.train()
    trainer.save_model(options.output)
    print(f"saved {options.output}")


if __name__ == "__main__":
    main()
