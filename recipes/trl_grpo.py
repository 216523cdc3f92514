"""TRL's GRPO on a running server: a language model learns to operate the fleet by calling tools.

    python recipes/trl_grpo.py --task bursty_workload
    python recipes/trl_grpo.py --task bursty_workload --model MODEL --steps 200

The first command shows what a model is given: the tools and an episode's first message. The second trains. Both need a
server (`--base-url`), `pip install trl` (1.16 or later, with torch) and llmserve-agents. Training needs a model whose
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

from llmserve_agents.tools import RemoteEpisode, Toolbox, definitions
from llmserve_client import LLMServeEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import GradeReport, QuantizationTier


class ServingEnvironment:
    """An episode that is played through the tools of `llmserve_agents.tools`, which are those of the server's MCP.

    A call with a wrong argument raises and changes nothing; TRL shows the error's text to the model and counts it. If
    the server cannot be reached, the next call reports the windows that have run. It may be the same call: no window
    runs twice. A tool's docstring, from which TRL makes its schema, is made from the tool's own description below.

    Args:
        base_url: the server's address.
        task_id: the task of rows that name none.
        token: the server's API token; by default ``$LLMSERVE_API_TOKEN``.
    """

    def __init__(
        self, base_url: str = "http://localhost:7860", task_id: str = "static_workload", *, token: str | None = None
    ) -> None:
        token = token or os.environ.get("LLMSERVE_API_TOKEN")
        self._env = LLMServeEnv.from_url(base_url, token=token)
        self._toolbox = Toolbox(RemoteEpisode(self._env, token=token))
        self._task_id = task_id
        self._length = 0
        self._report: GradeReport | None = None

    def reset(self, task_id: str | None = None, seed: int | None = None, **row: object) -> str:
        """Begin an episode and return what TRL appends to the prompt: job, task, figures, and the first observation.

        `row` is the rest of the data set's row. Without a seed the server chooses a training seed. Rollouts that are
        compared with one another need the same seed: give the data set a column ``seed``.
        """
        chosen = {} if seed is None else {"seed": seed}
        begun = self._toolbox.call("reset", {"task_id": task_id or self._task_id} | chosen)
        self._length, self._report = begun.data["windows_left"], None
        return begun.text

    def set_knobs(
        self,
        batch_cap: int | None = None,
        kv_budget_fraction: float | None = None,
        speculation_depth: int | None = None,
        quantization_tier: QuantizationTier | None = None,
        prefill_decode_split: bool | None = None,
        priority_routing: bool | None = None,
    ) -> str:
        """Choose the next configuration; `document` writes what TRL reads."""
        return self._call(
            "set_knobs",
            batch_cap=batch_cap,
            kv_budget_fraction=kv_budget_fraction,
            speculation_depth=speculation_depth,
            quantization_tier=quantization_tier,
            prefill_decode_split=prefill_decode_split,
            priority_routing=priority_routing,
        )

    def advance(self, windows: int) -> str:
        """Run windows; as above."""
        return self._call("advance", windows=windows)

    def observe(self) -> str:
        """Show the last window again; as above."""
        return self._call("observe")

    def forecast(self, plan: list[dict[str, Any]], windows: int) -> str:
        """Show what a plan would bring; as above."""
        return self._call("forecast", plan=plan, windows=windows)

    def history(self, windows: int) -> str:
        """Show the last windows; as above."""
        return self._call("history", windows=windows)

    @property
    def report(self) -> GradeReport:
        """The server's grade of the episode so far, asked for once for each number of windows."""
        observation = self._toolbox.episode.observation()
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

    def _call(self, name: str, **arguments: object) -> str:
        try:
            return self._toolbox.call(name, {key: value for key, value in arguments.items() if value is not None}).text
        except Exception as error:
            notes = getattr(error, "__notes__", ())
            if not notes:
                raise
            raise RuntimeError(" ".join([*notes, str(error)])) from error


def document(environment: type[ServingEnvironment]) -> None:
    """Give every tool of `environment` a docstring as TRL reads it, with the description, units and bounds."""
    for tool in definitions():
        method = getattr(environment, tool.name, None)
        if method is not None and tool.name != "reset":
            arguments = "".join(f"\n    {name}: {explained(spec)}" for name, spec in tool.schema["properties"].items())
            method.__doc__ = (
                f"{tool.description}\n"
                + (f"\nArgs:{arguments}\n" if arguments else "")
                + "\nReturns:\n    A text with a row for each window that it shows."
            )


def explained(spec: Mapping[str, Any]) -> str:
    """Return an argument's meaning, with its bounds and its unit."""
    bounds = ""
    if "enum" in spec:
        bounds = ", one of " + ", ".join(spec["enum"])
    elif "minimum" in spec:
        bounds = f", {spec['minimum']}..{spec['maximum']}"
    unit = f" (unit: {spec['unit']})" if "unit" in spec else ""
    return f"{spec['description'].rstrip('.')}{bounds}{unit}."


document(ServingEnvironment)


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
