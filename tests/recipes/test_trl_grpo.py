"""The TRL recipe's environment follows TRL's protocol, loses nothing, and trains: first without a model, then with a tiny one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from llmserve_client import Retries
from llmserve_client.testing import LocalServer
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import EpisodeStateError, InvalidInputError
from llmserve_sim.grader import grade
from llmserve_sim.schema import ACTION_FIELDS
from local_server import Running

TOOLS = {"advance", "forecast", "history", "observe", "set_knobs"}
CHOSEN = {
    "batch_cap": 96,
    "kv_budget_fraction": 0.5,
    "speculation_depth": 2,
    "quantization_tier": "INT8",
    "prefill_decode_split": False,
    "priority_routing": True,
}
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("set_knobs", {"batch_cap": 96, "kv_budget_fraction": 0.5, "speculation_depth": 2}),
    ("set_knobs", {"quantization_tier": "INT8", "priority_routing": True}),
]
"""What a model would call to choose `CHOSEN`."""


@pytest.fixture(scope="module")
def trl_grpo(recipe: Callable[[str], ModuleType]) -> ModuleType:
    return recipe("trl_grpo")


@pytest.fixture
def environment(trl_grpo: ModuleType, server: Running) -> Any:
    return trl_grpo.ServingEnvironment(server.url)


@pytest.fixture
def nearby(trl_grpo: ModuleType) -> Iterator[tuple[Any, LocalServer]]:
    """An environment whose server can be told to misbehave."""
    local = LocalServer()
    environment = trl_grpo.ServingEnvironment("http://localhost:1")
    with local.client(transport="http", retries=Retries(attempts=0, first_attempts=0)) as client:
        environment._env = environment._toolbox.episode._client = client
        yield environment, local


def in_process(windows: int, seed: int) -> ServingEnv:
    env = ServingEnv()
    env.reset(seed, "static_workload")
    for _ in range(windows):
        env.step(CHOSEN)
    return env


def say(environment: Any, call: tuple[str, dict[str, Any]]) -> str:
    """Call a tool as its JSON says, as TRL does."""
    name, arguments = json.loads(json.dumps(call))
    told = getattr(environment, name)(**arguments)
    assert type(told) is str
    return told


def windows_of(told: str) -> list[int]:
    """Return the windows that an answer has a row for."""
    return [int(line.split(" | ")[0]) for line in told.splitlines() if line.split(" | ")[0].isdigit()]


def test_every_tool_has_a_json_schema_that_states_units_and_bounds(trl_grpo: ModuleType, environment: Any) -> None:
    schemas = pytest.importorskip("transformers.utils")
    found = [schemas.get_json_schema(tool)["function"] for tool in trl_grpo.tools(environment)]
    assert {function["name"] for function in found} == TOOLS
    for function in found:
        assert function["description"]
        assert function["return"]["type"] == "string"
        assert all(argument["description"] for argument in function["parameters"]["properties"].values())
    knobs = next(function for function in found if function["name"] == "set_knobs")["parameters"]["properties"]
    assert knobs.keys() == ACTION_FIELDS.keys()
    for name, field in ACTION_FIELDS.items():
        assert f"(unit: {field.unit})" in knobs[name]["description"]
        if field.kind != "bool":
            assert field.bounds in knobs[name]["description"]
        assert tuple(knobs[name].get("enum", ())) == field.choices


def test_a_scripted_model_plays_an_episode_and_earns_what_the_simulator_says(environment: Any) -> None:
    first = environment.reset(prompt=[{"role": "user", "content": ""}], task_id="static_workload", seed=11)
    assert "There are 120" in first
    assert windows_of(first) == [0]
    for call in CALLS:
        told = say(environment, call)
    assert "batch_cap 96, kv_budget_fraction 0.5, speculation_depth 2, quantization_tier INT8" in told
    shown: list[int] = []
    while "episode is over" not in told:
        told = say(environment, ("advance", {"windows": 20}))
        shown += windows_of(told)
    assert shown == list(range(1, 121))
    expected = in_process(120, seed=11)
    report = grade(expected.episode_log())
    assert environment.report.foresight is False, "nobody asked the server what would come"
    beside = {"references", "foresight"}
    assert environment.report.model_dump(exclude=beside) == report.model_dump(exclude=beside)
    assert environment.get_reward() == pytest.approx(report.mean_reward, abs=1e-12)
    with pytest.raises(EpisodeStateError, match="ended after 120"):
        environment.advance(1)


def test_windows_that_were_not_run_count_as_the_random_policys(trl_grpo: ModuleType, environment: Any) -> None:
    environment.reset(seed=11)
    assert environment.get_reward() == -1.0
    assert trl_grpo.score([environment]) == [None]
    for call in CALLS:
        say(environment, call)
    environment.advance(20)
    report = grade(in_process(20, seed=11).episode_log())
    random = -1.0 if report.references is None else report.references.random
    assert environment.get_reward() == pytest.approx((report.total_reward + 100 * random) / 120)
    assert trl_grpo.score([environment], completions=["..."]) == [report.score]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (("set_knobs", {"batch_cap": 4096}), "batch_cap.*1..512"),
        (("set_knobs", {"batch_cap": "many"}), "batch_cap"),
        (("set_knobs", {"kv_budget_fraction": 0.5, "quantization_tier": "FP8"}), "quantization_tier.*FP16"),
        (("set_knobs", {"speculation_depth": 2.5}), "speculation_depth"),
        (("set_knobs", {"priority_routing": "yes"}), "priority_routing"),
        (("advance", {"windows": 0}), "windows.*1..20"),
        (("advance", {"windows": True}), "windows.*1..20"),
        (("set_knobs", {"route": True}), "unexpected keyword"),
    ],
)
def test_a_wrong_argument_is_refused_in_words_and_changes_nothing(
    environment: Any, call: tuple[str, dict[str, Any]], says: str
) -> None:
    environment.reset(seed=3)
    before = environment.observe()
    with pytest.raises((InvalidInputError, TypeError), match=says):
        say(environment, call)
    assert environment.observe() == before


def test_a_forecast_is_the_servers_and_no_time_passes(environment: Any) -> None:
    """The server makes it behind its own tools, for the client's session."""
    environment.reset(seed=3)
    environment.advance(2)
    told = environment.forecast([{"batch_cap": 64}, {"batch_cap": 128}], 3)
    assert windows_of(told) == [3, 4, 5]
    assert "on 8 drawn futures" in told
    assert environment.report.steps == 2
    assert windows_of(environment.history(5)) == [1, 2]
    with pytest.raises(InvalidInputError, match=r"plan\.0\.batch_cap.*1\.\.512"):
        environment.forecast([{"batch_cap": 0}], 3)


def test_a_tool_before_the_first_reset_says_so(environment: Any) -> None:
    with pytest.raises(EpisodeStateError, match="reset"):
        environment.observe()


def test_windows_whose_answer_was_lost_are_told_by_the_next_call_and_run_once(nearby: tuple[Any, LocalServer]) -> None:
    environment, local = nearby
    environment.reset("static_workload", 5)
    step = environment._env.step

    def third_is_lost(action: object) -> object:
        if environment._env.observation.step_index == 2:
            environment._env.step = step
            local.lose_answer()
        return step(action)

    environment._env.step = third_is_lost
    with pytest.raises(RuntimeError, match="2 of 4 windows have run"):
        environment.advance(4)
    assert windows_of(environment.advance(2)) == [1, 2, 3, 4]
    assert environment.report.steps == 4


def test_a_new_episode_begins_with_the_default_configuration(environment: Any) -> None:
    first = environment.reset(seed=8)
    say(environment, CALLS[1])
    environment.advance(3)
    assert environment.reset(seed=8) == first


def test_two_environments_at_once_do_not_touch_each_other(trl_grpo: ModuleType, server: Running) -> None:
    chosen, left = (trl_grpo.ServingEnvironment(server.url) for _ in range(2))
    chosen.reset(seed=11)
    left.reset(seed=12)
    for call in CALLS:
        say(chosen, call)
    for _ in range(3):
        say(left, ("advance", {"windows": 1}))
        say(chosen, ("advance", {"windows": 2}))
    alone = ServingEnv()
    alone.reset(12, "static_workload")
    for _ in range(3):
        alone.step({})
    expected = [grade(in_process(6, seed=11).episode_log()), grade(alone.episode_log())]
    assert [one.report.seed for one in (chosen, left)] == [11, 12]
    assert [one.report.steps for one in (chosen, left)] == [6, 3]
    assert [one.report.total_reward for one in (chosen, left)] == [report.total_reward for report in expected]


def test_rows_draw_different_training_seeds_of_the_task(trl_grpo: ModuleType, server: Running) -> None:
    rows = trl_grpo.rows(server.url, "bursty_workload", 50, seed=1)
    assert len({row["seed"] for row in rows}) == 50
    assert all(0 <= row["seed"] < 1_000_000 for row in rows)
    assert rows == trl_grpo.rows(server.url, "bursty_workload", 50, seed=1)
    with pytest.raises(InvalidInputError, match="must be one of"):
        trl_grpo.rows(server.url, "no_such_task", 1, seed=1)


def test_without_a_model_the_program_shows_what_one_would_see(
    trl_grpo: ModuleType, server: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers.utils")
    trl_grpo.main(["--base-url", server.url, "--task", "static_workload"])
    said = capsys.readouterr().out
    assert '"name": "advance"' in said
    assert "You operate a fleet" in said


class Scripted:
    """In a trainer's place to generate: two rollouts that say what they are to say, in the tokens of the model."""

    def __init__(self, tokenizer: Any, lines: list[tuple[str, ...]]) -> None:
        self._tokenizer = tokenizer
        self._lines = iter(lines)
        self.prompts: list[str] = []

    def __call__(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        self.prompts = [self._tokenizer.decode(ids) for ids in prompt_ids]
        said = next(self._lines)
        return [self._tokenizer.encode(line + "<|im_end|>") for line in said[: len(prompt_ids)]], None


def called(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


@pytest.mark.filterwarnings("default")  # what the trainer's libraries deprecate is their own business
def test_trls_own_loop_plays_the_episode_and_trains_on_the_reward(
    trl_grpo: ModuleType, server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trl")
    make_tiny_model(tmp_path / "model")
    options = ["--model", str(tmp_path / "model"), "--base-url", server.url, "--task", "static_workload", "--cpu"]
    budget = ["--steps", "1", "--generations", "2", "--output", str(tmp_path / "out"), "--learning-rate", "1e-3"]
    kept: list[Any] = []

    def scripted(given: Any) -> Any:
        trainer = make_trainer(given)
        good, bad = (
            [called(name, **arguments) for name, arguments in CALLS],
            called("set_knobs", batch_cap=0),
        )
        lines = [
            ("\n".join(good), bad),
            *[(called("advance", windows=4),) * 2] * 2,
            ("It runs.", called("no_such_tool")),
            ("It runs.",),
        ]
        voice = Scripted(trainer.processing_class, lines)
        monkeypatch.setattr(trainer, "_generate_single_turn", voice)
        kept.extend((trainer, voice))
        return trainer

    make_trainer = trl_grpo.make_trainer
    monkeypatch.setattr(trl_grpo, "make_trainer", scripted)
    trl_grpo.main([*options, *budget])
    trainer, voice = kept
    logged = trainer.state.log_history[0]
    good, bad = trainer.environments
    assert {tool.__name__ for tool in trainer.tools} == TOOLS
    assert good._env.state().last_action.model_dump() == CHOSEN
    assert bad._env.state().last_action.batch_cap == 32
    assert good.report.seed == bad.report.seed
    assert [good.report.steps, bad.report.steps] == [8, 8]
    rewards = [good.get_reward(), bad.get_reward()]
    assert rewards[0] != rewards[1]
    assert logged["reward"] == pytest.approx(sum(rewards) / 2, rel=1e-5)
    assert logged["tools/call_frequency"] == pytest.approx((4 + 4) / 2)
    assert logged["tools/failure_frequency"] == pytest.approx(2 / 8)
    assert "Tool no_such_tool not found" in voice.prompts[0]
    assert "must be an integer in 1..512, got 0" in voice.prompts[0]
    assert logged["grad_norm"] > 0
    assert (tmp_path / "out" / "model.safetensors").exists()


def make_tiny_model(folder: Path) -> None:
    """Write a Qwen3 of a few thousand random weights in which every byte is a token, with TRL's copy of Qwen3's template."""
    from importlib.resources import files

    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE(vocab={sign: i for i, sign in enumerate(alphabet)}, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    plain.decoder = decoders.ByteLevel()
    words = PreTrainedTokenizerFast(tokenizer_object=plain, additional_special_tokens=["<|im_start|>"])
    words.add_special_tokens({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})
    words.chat_template = (files("trl") / "chat_templates" / "qwen3.jinja").read_text(encoding="utf-8")
    config = Qwen3Config(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=65536,
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
