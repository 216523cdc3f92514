"""Weights on disk: what is written is read, and what does not fit is refused by name."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmserve_agents import weights
from llmserve_agents.errors import MissingWeightsError, WeightsMismatchError
from llmserve_agents.learning.checkpoint import identity, read, write
from llmserve_agents.learning.features import FEATURES
from llmserve_agents.learning.network import HEAD_SIZES
from llmserve_agents.weights import CARD, POLICY, check_card, find_weights
from llmserve_sim.errors import InvalidInputError, UnknownTaskError
from llmserve_sim.tasks import load_task

TASK = "bursty_workload"


def tensors() -> dict[str, Any]:
    """A small checkpoint that nobody trained."""
    rng = np.random.default_rng(0)
    shapes = {"0": (4, len(FEATURES)), "1": (4, 4), "2": (sum(HEAD_SIZES), 4)}
    found: dict[str, Any] = {f"actor.{i}.weight": rng.normal(size=shape) for i, shape in shapes.items()}
    found |= {f"actor.{i}.bias": rng.normal(size=shape[0]) for i, shape in shapes.items()}
    found |= {"normalizer.mean": rng.random(len(FEATURES)), "normalizer.std": 0.1 + rng.random(len(FEATURES))}
    return {name: value.astype(np.float32) for name, value in found.items()}


def card(**changes: Any) -> dict[str, Any]:
    return {**identity(load_task(TASK)), "can_split": True} | changes


def described(path: Path) -> Path:
    """Make the card say that the file is as it should be."""
    content = json.loads(path.with_name(CARD).read_text()) | {
        "policy_sha256": hashlib.sha256(path.read_bytes()).hexdigest()
    }
    path.with_name(CARD).write_text(json.dumps(content))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "new" / TASK, tensors(), card(seed=3))
    found = read(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.path, found.card) == (path, card(seed=3, policy_sha256=digest))
    assert path.name == POLICY
    assert found.policy.can_split
    np.testing.assert_array_equal(found.policy.mean, tensors()["normalizer.mean"])
    for layer, (weight, bias) in enumerate(found.policy.layers):
        np.testing.assert_array_equal(weight, tensors()[f"actor.{layer}.weight"])
        np.testing.assert_array_equal(bias, tensors()[f"actor.{layer}.bias"])


def test_equal_weights_are_equal_files(tmp_path: Path) -> None:
    backwards = dict(reversed(tensors().items()))
    one, other = write(tmp_path / "a", tensors(), card()), write(tmp_path / "b", backwards, card())
    assert one.read_bytes() == other.read_bytes()
    assert one.with_name(CARD).read_text() == other.with_name(CARD).read_text()


def test_a_card_that_says_nothing_of_the_split_allows_none(tmp_path: Path) -> None:
    content = card()
    del content["can_split"]
    assert not read(write(tmp_path, tensors(), content)).policy.can_split


@pytest.mark.parametrize("field", ["schema_hash", "features_hash", "simulator_version", "task_digest"])
@pytest.mark.parametrize("value", ["0" * 64, None])
def test_a_card_that_differs_is_refused_by_the_name_of_what_differs(
    tmp_path: Path, field: str, value: str | None
) -> None:
    with pytest.raises(WeightsMismatchError, match=f"{field}: the weights were made for {value}") as refused:
        read(write(tmp_path, tensors(), card(**{field: value})))
    assert refused.value.field == field


def test_without_strictness_only_the_interfaces_must_agree(tmp_path: Path) -> None:
    path = write(tmp_path, tensors(), card(simulator_version="0.0.1", task_digest="0" * 64))
    assert read(path, strict=False).card["simulator_version"] == "0.0.1"
    check_card(card(features_hash="other"))
    with pytest.raises(WeightsMismatchError, match="schema_hash"):
        check_card(card(schema_hash="other"), strict=False)


@pytest.mark.parametrize(
    ("name", "value"), [("task_id", None), ("task_id", 3), ("seed", "x"), ("steps", 1.5), ("command", [])]
)
def test_a_card_with_an_entry_of_another_type_is_refused_by_its_name(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=rf"card\.{name}: must be"):
        read(write(tmp_path, tensors(), card(**{name: value})))


def test_a_card_without_a_task_is_refused(tmp_path: Path) -> None:
    content = card()
    del content["task_id"]
    with pytest.raises(InvalidInputError, match=r"card\.task_id"):
        read(write(tmp_path, tensors(), content))


def test_weights_for_a_task_of_ones_own_are_known_by_its_id(tmp_path: Path) -> None:
    path = write(tmp_path, tensors(), card(task_id="my_task", task_digest="0" * 64))
    assert read(path).card["task_id"] == "my_task"
    with pytest.raises(WeightsMismatchError, match="simulator_version"):
        read(write(tmp_path, tensors(), card(task_id="my_task", simulator_version="0.0.1")))


def test_another_policy_than_the_cards_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a", tensors(), card())
    changed = tensors()
    changed["actor.0.bias"] += np.float32(1.0)
    path.write_bytes(write(tmp_path / "b", changed, card()).read_bytes())
    with pytest.raises(InvalidInputError, match="policy_sha256") as refused:
        read(path)
    assert refused.value.field == str(path)


def test_tensors_of_other_shapes_are_refused_by_name(tmp_path: Path) -> None:
    found = tensors()
    found["actor.1.weight"] = found["actor.1.weight"][:, :-1].copy()
    with pytest.raises(InvalidInputError, match=r"actor\.1\.weight: must have 4 columns"):
        read(write(tmp_path, found, card()))


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-8], lambda _: b"", lambda _: b"nonsense" * 40, lambda b: b[:40] + b"\xff" * 20 + b[60:]],
    ids=["cut", "empty", "other", "header"],
)
def test_a_damaged_file_is_refused_by_its_path(tmp_path: Path, damage: Any) -> None:
    path = write(tmp_path, tensors(), card())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InvalidInputError, match="policy_sha256") as refused:
        read(path)
    assert refused.value.field == str(path)
    with pytest.raises(InvalidInputError, match="must be weights as safetensors") as refused:
        read(described(path))
    assert refused.value.field == str(path)


@pytest.mark.parametrize("kind", ["BF16", "F8_E4M3", "F64", "I64", "Q7"])
def test_tensors_of_another_type_are_refused(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, tensors(), card())
    size = {"BF16": 2, "F8_E4M3": 1}.get(kind, 8)
    header = json.dumps({"normalizer.mean": {"dtype": kind, "shape": [4], "data_offsets": [0, 4 * size]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4 * size))
    with pytest.raises(InvalidInputError, match=r"safetensors|float32|must be in the checkpoint"):
        read(described(path))


@pytest.mark.parametrize("text", ["", "{", "[]", '"policy"', "\x00"])
def test_a_card_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, tensors(), card())
    path.with_name(CARD).write_text(text)
    with pytest.raises(InvalidInputError):
        read(path)


def test_a_card_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, tensors(), card())
    path.with_name(CARD).write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InvalidInputError):
        read(path)


@pytest.mark.parametrize("name", [POLICY, CARD])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, tensors(), card())
    (tmp_path / name).unlink()
    with pytest.raises(MissingWeightsError, match=name):
        read(path)


class _Trap:
    """Unpickled, it would leave a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = write(tmp_path, tensors(), card())
    path.write_bytes(pickle.dumps(_Trap(tmp_path / "trace")))
    with pytest.raises(InvalidInputError):
        read(described(path))
    assert not (tmp_path / "trace").exists()


def put(folder: Path) -> Path:
    """A file where a folder of all weights has the task's."""
    path = folder / TASK / POLICY
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def test_weights_are_looked_up_in_the_documented_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(weights.WEIGHTS_VARIABLE, raising=False)
    monkeypatch.setattr(weights, "_PACKAGED", tmp_path / "packaged")
    packaged = put(tmp_path / "packaged")
    assert find_weights(TASK) == packaged
    put(tmp_path / "weights")
    assert find_weights(TASK) == Path("weights") / TASK / POLICY
    named = put(tmp_path / "named")
    monkeypatch.setenv(weights.WEIGHTS_VARIABLE, str(tmp_path / "named"))
    assert find_weights(TASK) == named
    given = put(tmp_path / "given")
    assert find_weights(TASK, root=tmp_path / "given") == given


def test_a_folder_of_weights_without_this_file_does_not_hide_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(weights.WEIGHTS_VARIABLE, raising=False)
    monkeypatch.setattr(weights, "_PACKAGED", tmp_path / "packaged")
    packaged = put(tmp_path / "packaged")
    (tmp_path / "weights" / TASK).mkdir(parents=True)
    assert find_weights(TASK) == packaged
    packaged.unlink()
    with pytest.raises(MissingWeightsError, match=r"in weights or .*packaged"):
        find_weights(TASK)


def test_a_place_that_was_named_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who names a folder never acts with weights from elsewhere."""
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "weights")
    monkeypatch.setenv(weights.WEIGHTS_VARIABLE, str(tmp_path / "named"))
    with pytest.raises(MissingWeightsError, match="named"):
        find_weights(TASK)
    with pytest.raises(MissingWeightsError, match="given"):
        find_weights(TASK, root=tmp_path / "given")
    monkeypatch.setenv(weights.WEIGHTS_VARIABLE, "")
    assert find_weights(TASK) == Path("weights") / TASK / POLICY


def test_the_message_says_how_to_come_by_weights(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError) as refused:
        find_weights(TASK, root=tmp_path)
    for words in (POLICY, TASK, str(tmp_path), f"llmserve train --task {TASK}", "LLMSERVE_WEIGHTS"):
        assert words in str(refused.value)


def test_an_id_is_never_a_path(tmp_path: Path) -> None:
    put(tmp_path / "inside")
    with pytest.raises(UnknownTaskError):
        find_weights(f"../inside/{TASK}", root=tmp_path / "inside")
