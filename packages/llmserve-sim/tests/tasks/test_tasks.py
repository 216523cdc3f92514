"""Tasks are data: complete, bounded, disjoint in seeds, and every mistake in one is named with its bound."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from llmserve_sim.errors import InvalidInputError, UnknownTaskError
from llmserve_sim.tasks import Task, list_tasks, load_task, registry
from llmserve_sim.tasks.description import describe
from llmserve_sim.tasks.registry import MAX_TASK_BYTES, parse_task

CORE = ["static_workload", "bursty_workload", "adversarial_multitenant"]
FOLDER = Path(str(registry.__file__)).parent


def source(task_id: str) -> str:
    return (FOLDER / f"{task_id}.toml").read_text(encoding="utf-8")


def mutated(task_id: str, path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    """Return a task's document with one value replaced (or added)."""
    content = tomllib.loads(source(task_id))
    node: Any = content
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return content


def to_toml(content: dict[str, Any]) -> str:
    """Write a document as TOML, everything but the top level inline."""
    return "\n".join(f"{key} = {inline(value)}" for key, value in content.items())


def inline(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {inline(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(inline, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)


def test_the_validators_tasks_come_first_and_in_order() -> None:
    tasks = list_tasks()
    assert [t.id for t in tasks if not t.extended] == CORE
    assert [t.id for t in tasks][:3] == CORE
    assert [t.id for t in list_tasks(extended=False)] == CORE
    assert [t.difficulty for t in tasks[:3]] == ["easy", "medium", "hard"]
    assert len({t.id for t in tasks}) == len({t.digest for t in tasks}) == len(tasks)


@pytest.mark.parametrize("task", list_tasks(), ids=lambda t: t.id)
def test_seed_ranges_are_disjoint_and_fit_for_their_use(task: Task) -> None:
    ranges = dict(task.seeds.items())
    assert list(ranges) == ["train", "validation", "test", "reference"]
    for name, own in ranges.items():
        assert own.start in own
        assert own.stop - 1 in own
        assert own.stop not in own
        for other, theirs in ranges.items():
            assert name == other or own.stop <= theirs.start or theirs.stop <= own.start
    assert len(task.seeds.train) >= 100_000
    assert len(task.seeds.test) >= 60
    assert len(task.seeds.reference) >= 50


@pytest.mark.parametrize("task", list_tasks(), ids=lambda t: t.id)
def test_a_task_survives_a_round_trip_through_toml_and_json(task: Task, tmp_path: Path) -> None:
    content = task.model_dump(mode="json", exclude_none=True)
    path = tmp_path / "copy.toml"
    path.write_text(to_toml(content), encoding="utf-8")
    for given_ in (path, str(path)):
        again = load_task(given_)
        assert again == task
        assert again.digest == task.digest
    assert Task.model_validate_json(task.model_dump_json()) == task


def test_a_digest_follows_the_content_and_not_the_prose() -> None:
    base = parse_task(source("bursty_workload"))
    assert len(base.digest) == 64
    for prose, text in (("name", "Other"), ("description", "Other."), ("difficulty", "easy")):
        assert parse_task(to_toml(mutated("bursty_workload", (prose,), text))).digest == base.digest
    changes: list[tuple[tuple[str | int, ...], object]] = [
        (("traffic", "rate_rps"), 9.5),
        (("tenants", 0, "quality_stake"), 7.0),
        (("seeds", "test", "stop"), 2_000_500),
        (("reward", "cost"), 0.06),
        (("deployment",), "h100x2-qwen3-32b"),
    ]
    for path, value in changes:
        assert parse_task(to_toml(mutated("bursty_workload", path, value))).digest != base.digest


def numeric_fields(
    model: type[BaseModel], content: Any, path: tuple[str | int, ...] = ()
) -> list[tuple[str | int, ...]]:
    found: list[tuple[str | int, ...]] = []
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        if isinstance(value, dict | list):
            found += numeric_fields(model, value, (*path, key))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((*path, key))
    return found


NUMERIC = sorted(
    {
        (task.id, path)
        for task in list_tasks()
        for path in numeric_fields(Task, tomllib.loads(source(task.id)))
        if task.id in {"adversarial_multitenant", "phase_shift", "azure_code", "diurnal_workload"}
    },
    key=str,
)


@pytest.mark.parametrize(("task_id", "path"), NUMERIC, ids=lambda x: x if isinstance(x, str) else ".".join(map(str, x)))
def test_every_number_is_bounded_typed_and_named(task_id: str, path: tuple[str | int, ...]) -> None:
    for bad in (float("nan"), float("inf"), -1e12, 1e30, 10**40, "5", True, [1]):
        with pytest.raises(InvalidInputError) as caught:
            parse_task(to_toml(mutated(task_id, path, bad)))
        assert caught.value.field == ".".join(map(str, path)), bad
        assert caught.value.bound.startswith(("Input should be", "must be")), caught.value.bound


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("unknown",), 1, "unknown"),
        (("traffic", "rate"), 1.0, "traffic.rate"),
        (("tenants", 0, "colour"), "red", "tenants.0.colour"),
        (("id",), "Bad Id", "id"),
        (("id",), 5, "id"),
        (("difficulty",), "trivial", "difficulty"),
        (("tenants",), [], "tenants"),
        (("tenants",), "chat", "tenants"),
        (("slo", "standard"), 3, "slo.standard"),
        (("extended",), "no", "extended"),
        (("windows",), 120.0, "windows"),
        (("lengths", "prompt", "mean_tokens"), 4000.0, "lengths.prompt.mean_tokens"),
        (("lengths", "prompt", "min_tokens"), 450, "lengths.prompt.mean_tokens"),
        (("lengths", "mega", "max_tokens"), 3999, "lengths.mega.max_tokens"),
        (("cotenant", "high_gb"), 10.0, "cotenant.high_gb"),
        (("traffic", "burst", "length_windows"), 39, "traffic.burst.length_windows"),
        (("tenants", 0, "share"), 0.6, "tenants"),
        (("tenants", 0, "share_burst"), 0.6, "tenants"),
        (("tenants", 0, "id"), "code", "tenants"),
        (("seeds", "test", "start"), 1_000_500, "seeds.test"),
        (("seeds", "test", "stop"), 2_000_000, "seeds.test.stop"),
        (("window_s",), 3600.0, "traffic"),
        (("windows",), 100_000, "traffic"),
        (("traffic", "rate_rps"), 10_000.0, "traffic"),
    ],
)
def test_mistakes_of_every_kind_are_named(path: tuple[str | int, ...], value: object, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_task(to_toml(mutated("adversarial_multitenant", path, value)))
    assert caught.value.field == field
    assert caught.value.bound


@pytest.mark.parametrize("key", list(tomllib.loads(source("static_workload"))))
def test_a_missing_table_is_named_unless_it_is_optional(key: str) -> None:
    content = tomllib.loads(source("static_workload"))
    del content[key]
    if key in {"cotenant", "prefix_cache"}:
        assert getattr(parse_task(to_toml(content)), key) is None
    else:
        with pytest.raises(InvalidInputError) as caught:
            parse_task(to_toml(content))
        assert (caught.value.field, caught.value.bound) == (key, "is required")


def test_a_misspelt_key_is_named_rather_than_the_one_that_it_should_have_been() -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_task(source("static_workload").replace("windows = 120", "windws = 120"))
    assert caught.value.field == "windws"
    assert "windows" in caught.value.bound


@pytest.mark.parametrize("bad", ["nope", "", "static", 5, None, ["static_workload"], "../static_workload"])
def test_an_unknown_id_lists_the_known_ones(bad: object) -> None:
    with pytest.raises(UnknownTaskError) as caught:
        load_task(bad)
    assert caught.value.field == "task_id"
    assert all(task.id in caught.value.bound for task in list_tasks())


def test_a_file_that_is_no_task_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    cases: list[tuple[bytes, str]] = [
        (b"", "is required"),
        (source("static_workload")[:-30].encode(), "TOML"),
        (b"\xff\xfe", "UTF-8"),
        (b"a = 1\n" * 20_000, f"at most {MAX_TASK_BYTES} bytes"),
        (b"a = [" * 3000, "TOML"),
    ]
    for raw, bound in cases:
        path.write_bytes(raw)
        with pytest.raises(InvalidInputError, match=bound):
            load_task(path)
    with pytest.raises(InvalidInputError, match="readable"):
        load_task(tmp_path / "absent.toml")
    with pytest.raises(InvalidInputError, match="readable"):
        load_task(tmp_path)


def test_a_byte_order_mark_is_no_part_of_a_task(tmp_path: Path) -> None:
    path = tmp_path / "task.toml"
    source = Path(registry.__file__).with_name("static_workload.toml")
    path.write_bytes(b"\xef\xbb\xbf" + source.read_bytes())
    assert load_task(path) == load_task("static_workload")


@given(st.text(max_size=200))
@settings(deadline=None)
def test_no_text_raises_anything_but_the_typed_error(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_task(text)


def models(model: type[BaseModel], seen: set[type[BaseModel]]) -> set[type[BaseModel]]:
    seen.add(model)
    for info in model.model_fields.values():
        for candidate in (info.annotation, *getattr(info.annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel) and candidate not in seen:
                models(candidate, seen)
    return seen


@pytest.mark.parametrize("given", ["requests_per_s", "output_tokens_per_s"])
def test_the_expected_load_is_given_whole_or_not_at_all(given: str) -> None:
    missing = ({"requests_per_s", "output_tokens_per_s"} - {given}).pop()
    with pytest.raises(InvalidInputError, match=f"must be given with {given}") as refused:
        parse_task(to_toml(mutated("bursty_workload", ("reward", given), 20.0)))
    assert refused.value.field.endswith(f"reward.{missing}")


def test_an_expected_load_changes_the_digest_and_its_absence_does_not() -> None:
    task = load_task("bursty_workload")
    assert task.digest == "a709eb55bf14c874f1dd66105ce26af2168ccc24e2f8068791dcfe64596b0423"
    load = {"requests_per_s": 20.0, "output_tokens_per_s": 4000.0}
    counted = load_task(task.model_copy(update={"reward": task.reward.model_copy(update=load)}))
    assert counted.reward.counted
    assert not task.reward.counted
    assert counted.digest != task.digest


def test_every_field_says_what_it_is() -> None:
    for model in models(Task, set()):
        assert model.__doc__
        for name, info in model.model_fields.items():
            assert info.description, f"{model.__name__}.{name}"


@pytest.mark.parametrize(
    ("update", "field"),
    [
        ({"windows": 10**9}, "windows"),
        ({"windows": -5}, "windows"),
        ({"traffic": None}, "traffic"),
        ({"surprise": 1}, "surprise"),
        ({"id": "../x"}, "id"),
        ({"id": ["x"]}, "id"),
        ({"reward": load_task("static_workload").reward.model_copy(update={"cost": 2.0})}, "reward.cost"),
    ],
)
def test_a_task_that_was_edited_in_memory_is_checked_anew(update: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        load_task(load_task("static_workload").model_copy(update=update))
    assert caught.value.field == field


def test_an_edited_task_has_the_digest_of_its_content() -> None:
    task = load_task("static_workload")
    assert load_task(task) is task
    own = task.digest
    edited = task.model_copy(update={"patience_s": task.patience_s + 1.0})
    assert load_task(edited).digest != own


@pytest.mark.parametrize("task", list_tasks(), ids=lambda task: task.id)
def test_a_task_is_described_in_plain_json_without_its_traffic(task: Task) -> None:
    told = describe(task)
    assert json.loads(json.dumps(told)) == told
    assert (told["id"], told["episode_length"], told["digest"]) == (task.id, task.windows, task.digest)
    assert set(told["splits"]) == {name for name, _ in task.seeds.items()}
    assert not {"traffic", "tenants", "events"} & set(told)
