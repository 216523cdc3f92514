"""Who takes part: names, arguments and labels."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any, ClassVar

import pytest

from llmserve_agents.evaluation.roster import agent_specs, known_agents, parse_agent, weights_of
from llmserve_agents.policy import AGENTS, StaticPolicy
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import ServeAction


def test_every_agent_can_be_named() -> None:
    assert set(AGENTS) <= set(known_agents())
    spec = parse_agent("heuristic")
    assert (spec.label, spec.spec) == ("heuristic", "heuristic")
    assert type(spec.make()) is type(AGENTS["heuristic"]())


def test_a_static_agent_takes_its_action_as_json() -> None:
    agent = parse_agent('static:{"batch_cap": 64, "quantization_tier": "INT8"}').make()
    assert isinstance(agent, StaticPolicy)
    assert agent.action == ServeAction(batch_cap=64, quantization_tier="INT8")


def test_a_label_stands_before_an_equals_sign() -> None:
    spec = parse_agent('cap-64=static:{"batch_cap": 64}')
    assert spec.label == "cap-64"
    assert spec.spec == 'static:{"batch_cap": 64}'


def test_an_equals_sign_in_an_argument_is_no_label() -> None:
    with pytest.raises(InvalidInputError, match="as JSON"):
        parse_agent("static:a=b")


def test_a_spec_crosses_to_another_process() -> None:
    spec = pickle.loads(pickle.dumps(parse_agent('static:{"batch_cap": 64}')))  # noqa: S301 - our own bytes
    assert spec.make().action.batch_cap == 64


@pytest.mark.parametrize("text", ["", "nobody", "random:1", "static:{", "=random", "a b=random"])
def test_what_is_no_agent_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_agent(text)
    assert refused.value.field == "agent"


def test_a_bad_action_names_its_field() -> None:
    with pytest.raises(InvalidInputError, match="batch_cap"):
        parse_agent('static:{"batch_cap": 0}')


def test_labels_may_not_repeat_and_somebody_must_take_part() -> None:
    with pytest.raises(InvalidInputError, match="repeat"):
        agent_specs(["random", "random"])
    with pytest.raises(InvalidInputError, match="at least one"):
        agent_specs([])
    assert [spec.label for spec in agent_specs(["random", "other=random"])] == ["random", "other"]


def test_weights_are_named_with_their_digest_and_what_their_card_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Trained(StaticPolicy):
        weights_path = tmp_path / "weights" / "policy.safetensors"
        card: ClassVar = {"seed": 3, "steps": 120_000, "command": "python train.py", "other": 1}

    Trained.weights_path.parent.mkdir()
    Trained.weights_path.write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    used = weights_of(Trained())
    assert used is not None
    assert (used.path, used.seed, used.steps) == (str(Path("weights/policy.safetensors")), 3, 120_000)
    assert used.sha256 == hashlib.sha256(b"weights").hexdigest()
    monkeypatch.chdir("/")
    assert weights_of(Trained()) is not None
    assert weights_of(StaticPolicy()) is None


class Loaded(StaticPolicy):
    """Loads a folder, as trained agents do."""

    weights_path: Path
    card: ClassVar = {"seed": 7}

    @classmethod
    def from_folder(cls, folder: Path) -> Loaded:
        agent = object.__new__(cls)
        StaticPolicy.__init__(agent, ServeAction(batch_cap=64))
        agent.weights_path = folder / "policy.safetensors"
        return agent


def test_weights_of_another_folder_are_loaded_for_each_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AGENTS, "loaded", Loaded)
    spec = parse_agent("seed-7=loaded:sweep/{task}/seeds/7")
    agent: Any = spec.make()
    for task in ("bursty_workload", "static_workload"):
        agent.reset(task, 1)
        assert agent.weights_path == Path("sweep") / task / "seeds" / "7" / "policy.safetensors"
        assert agent.card["seed"] == 7
        assert agent.act(ServingEnv(task).reset(1)).batch_cap == 64
    with pytest.raises(InvalidInputError, match="loaded:FOLDER"):
        parse_agent("heuristic:folder")
