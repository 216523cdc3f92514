"""The schema refuses everything that is out of bounds, by name, and costs nothing to import."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve_sim import grid
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.grid import ACTION_GRID, GRID_SIZES, from_indices, to_indices
from llmserve_sim.schema import (
    ACTION_FIELDS,
    QUANTIZATION_TIERS,
    EpisodeLog,
    ServeAction,
    ServeObservation,
    StepRecord,
    json_schema,
    parse_action,
    parse_log,
    schema_hash,
)

VALID = {
    "batch_cap": st.integers(1, 512),
    "kv_budget_fraction": st.floats(0.1, 1.0),
    "speculation_depth": st.integers(0, 8),
    "quantization_tier": st.sampled_from(QUANTIZATION_TIERS),
    "prefill_decode_split": st.booleans(),
    "priority_routing": st.booleans(),
}
JUNK = st.one_of(
    st.none(),
    st.text(),
    st.binary(),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(), st.integers(), max_size=2),
    st.complex_numbers(),
    st.sampled_from([math.nan, math.inf, -math.inf, -1, 10**30, -0.5, 5120, 10.0]),
)

OBSERVATION = {
    "queue_depth": 1,
    "active_requests": 2,
    "kv_cache_occupancy": 0.5,
    "mean_prompt_length": 512.0,
    "p50_ttft_ms": 100.0,
    "p99_ttft_ms": 900.0,
    "p50_itl_ms": 12.5,
    "throughput_tps": 4000.0,
    "slo_compliance_rate": 0.9,
    "gpu_memory_used_gb": 30.0,
    "estimated_cost_per_1k": 0.0004,
    "request_arrival_rate": 20.0,
    "spec_acceptance_rate": 0.6,
    "eviction_events": 0,
    "step_index": 1,
    "task_id": "static_workload",
    "reward": 0.5,
    "done": False,
    "metadata": {"a": [1, 2.5, "x"]},
}


def _log() -> dict[str, Any]:
    return {
        "simulator_version": "0.1.0",
        "schema_hash": schema_hash(),
        "task_id": "static_workload",
        "task_digest": "0" * 64,
        "seed": 7,
        "episode_id": "an-episode",
        "initial_observation": OBSERVATION,
        "steps": [{"action": ServeAction().model_dump(), "observation": OBSERVATION}],
    }


def test_importing_the_schema_loads_neither_numpy_nor_numba() -> None:
    code = "import sys, llmserve_sim.schema; print(sorted({'numpy', 'numba'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_defaults_are_the_documented_ones() -> None:
    assert ServeAction().model_dump() == {
        "batch_cap": 32,
        "kv_budget_fraction": 1.0,
        "speculation_depth": 0,
        "quantization_tier": "FP16",
        "prefill_decode_split": False,
        "priority_routing": False,
    }


def test_the_action_table_reads_bounds_units_and_meanings_off_the_schema() -> None:
    assert {name: field.bounds for name, field in ACTION_FIELDS.items()} == {
        "batch_cap": "1..512",
        "kv_budget_fraction": "0.1..1.0",
        "speculation_depth": "0..8",
        "quantization_tier": "FP16, INT8, INT4",
        "prefill_decode_split": "true, false",
        "priority_routing": "true, false",
    }
    assert all(field.unit and field.meaning.endswith(".") for field in ACTION_FIELDS.values())


def test_the_observation_has_the_specified_fields_in_their_order() -> None:
    assert list(ServeObservation.model_fields) == list(OBSERVATION)


@given(st.fixed_dictionaries({}, optional=VALID))
def test_every_valid_action_is_accepted_and_omitted_fields_take_their_defaults(fields: Any) -> None:
    action = parse_action(fields)
    assert action.model_dump() == ServeAction().model_dump() | fields
    assert ServeAction.model_validate_json(action.model_dump_json()) == action
    assert parse_action(action) is action


@pytest.mark.parametrize("name", list(ACTION_FIELDS))
@given(junk=JUNK)
def test_a_wrong_value_in_any_field_is_refused_by_name_and_bound(name: Any, junk: Any) -> None:
    if name == "quantization_tier" and junk in QUANTIZATION_TIERS:
        return
    with pytest.raises(InvalidInputError) as refused:
        parse_action({name: junk})
    assert refused.value.field == name
    assert ACTION_FIELDS[name].bounds in refused.value.bound


@pytest.mark.parametrize(
    "fields",
    [
        {"batch_cap": True},
        {"batch_cap": 32.0},
        {"batch_cap": "32"},
        {"kv_budget_fraction": True},
        {"kv_budget_fraction": "0.5"},
        {"speculation_depth": 9},
        {"quantization_tier": "fp16"},
        {"quantization_tier": 0},
        {"prefill_decode_split": 1},
        {"priority_routing": "true"},
    ],
)
def test_nothing_is_converted_or_clamped(fields: Any) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_action(fields)
    assert refused.value.field == next(iter(fields))


@pytest.mark.parametrize("value", [None, 3, "FP16", [1, 2], object(), {1: 2}])
def test_what_is_no_action_at_all_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInputError):
        parse_action(value)


def test_an_unknown_field_is_refused_and_the_known_ones_are_listed() -> None:
    with pytest.raises(InvalidInputError, match="batch_size: unknown field; the fields are batch_cap") as refused:
        parse_action({"batch_size": 3})
    assert refused.value.field == "batch_size"


def test_a_subclass_of_the_action_is_taken_as_the_action() -> None:
    class Wire(ServeAction):
        extra: int = 0

    assert parse_action(Wire(batch_cap=7)) == ServeAction(batch_cap=7)


def test_a_log_survives_the_round_trip_through_json() -> None:
    log = parse_log(_log())
    assert parse_log(log) is log
    assert parse_log(log.model_dump_json()) == log
    assert parse_log(log.model_dump_json().encode()) == log


def test_a_log_truncated_anywhere_is_refused() -> None:
    text = json.dumps(_log())
    for cut in range(0, len(text), 37):
        with pytest.raises(InvalidInputError, match="log: must be one complete JSON document"):
            parse_log(text[:cut])


def _paths(node: object, prefix: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(node, dict):
        return [p for key, item in node.items() if key != "metadata" for p in _paths(item, (*prefix, key))]
    if isinstance(node, list):
        return [p for i, item in enumerate(node) for p in _paths(item, (*prefix, i))]
    return [prefix]


def _set(node: Any, path: Any, value: Any) -> None:
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value


@pytest.mark.parametrize("path", _paths(_log()), ids=lambda path: ".".join(map(str, path)))
@pytest.mark.parametrize("junk", [None, math.nan, math.inf, -math.inf, {"x": 1}, [1], -1, b"x"], ids=repr)
def test_a_wrong_value_anywhere_in_a_log_is_refused_by_its_path(path: Any, junk: Any) -> None:
    # A reward may be -1: replay, not the schema, finds that it is not genuine.
    if path[-1] == "reward" and junk == -1:
        return
    log = json.loads(json.dumps(_log()))
    _set(log, path, junk)
    with pytest.raises(InvalidInputError) as refused:
        parse_log(log)
    assert refused.value.field == ".".join(map(str, path))


@pytest.mark.parametrize("where", [(), ("initial_observation",), ("steps", 0), ("steps", 0, "action")])
def test_an_unknown_key_anywhere_in_a_log_is_refused_by_its_path(where: Any) -> None:
    log = json.loads(json.dumps(_log()))
    _set(log, (*where, "surprise"), 1)
    with pytest.raises(InvalidInputError, match="unknown field") as refused:
        parse_log(log)
    assert refused.value.field == ".".join([*map(str, where), "surprise"])


@pytest.mark.parametrize("name", list(_log()))
def test_a_missing_field_of_a_log_is_refused_by_name(name: Any) -> None:
    log = _log()
    del log[name]
    with pytest.raises(InvalidInputError, match="is required") as refused:
        parse_log(log)
    assert refused.value.field == name


@pytest.mark.parametrize("text", ["", "null", "[]", "3", '"x"', "[NaN]", '{"seed": NaN}', b"\xff\xfe", "{}{}"])
def test_a_document_that_is_no_log_is_refused(text: Any) -> None:
    with pytest.raises(InvalidInputError):
        parse_log(text)


def test_the_number_of_steps_in_a_log_is_bounded() -> None:
    step = StepRecord.model_validate(_log()["steps"][0])
    with pytest.raises(InvalidInputError, match="steps") as refused:
        parse_log({**_log(), "steps": [step] * 100_001})
    assert refused.value.field == "steps"


def test_the_json_schema_carries_bounds_units_and_meanings() -> None:
    cap = json_schema()["ServeAction"]["properties"]["batch_cap"]
    assert (cap["minimum"], cap["maximum"], cap["unit"], cap["default"]) == (1, 512, "requests", 32)
    assert json_schema()["ServeAction"]["additionalProperties"] is False
    assert set(json_schema()) >= {"ServeAction", "ServeObservation", "ServeState", "EpisodeLog", "GradeReport"}


def test_the_schema_hash_is_stable() -> None:
    assert schema_hash() == "c7c7442d431357781f2e0041cd51be348097095b9668c5974a5b259a435855e1"
    assert EpisodeLog.model_fields["schema_hash"].metadata


@given(st.tuples(*(st.integers(0, n - 1) for n in GRID_SIZES)))
def test_grid_indices_and_actions_are_one_to_one(indices: Any) -> None:
    action = from_indices(indices)
    assert to_indices(action) == indices
    assert all(getattr(action, name) in choices for name, choices in ACTION_GRID.items())


def test_the_grid_spans_every_bound_but_the_smallest_cap() -> None:
    for name, field in ACTION_FIELDS.items():
        if field.high is not None:
            assert max(ACTION_GRID[name]) == field.high
            assert min(ACTION_GRID[name]) == (4 if name == "batch_cap" else field.low)
        if field.choices:
            assert ACTION_GRID[name] == field.choices


@pytest.mark.parametrize(
    ("indices", "field"),
    [
        ((10, 0, 0, 0, 0, 0), "batch_cap"),
        ((0, -1, 0, 0, 0, 0), "kv_budget_fraction"),
        ((0, 0, 9, 0, 0, 0), "speculation_depth"),
        ((0, 0, 0, 0, 0), "action"),
        ((0.0, 0, 0, 0, 0, 0), "action"),
        (None, "action"),
    ],
)
def test_indices_off_the_grid_are_refused(indices: Any, field: Any) -> None:
    with pytest.raises(InvalidInputError) as refused:
        from_indices(indices)
    assert refused.value.field == field


def test_an_action_between_the_grid_points_has_no_indices() -> None:
    with pytest.raises(InvalidInputError, match="batch_cap: must be on the grid"):
        to_indices(ServeAction(batch_cap=33))


def test_the_grid_names_the_position_of_every_field() -> None:
    for name in ACTION_GRID:
        assert getattr(grid, name.upper()) == grid.GRID_INDEX[name] == list(ACTION_GRID).index(name)


def test_the_grid_of_a_single_replica_offers_no_split_and_keeps_the_indices() -> None:
    assert grid.action_grid(can_split=True) == ACTION_GRID
    assert grid.grid_sizes(can_split=True) == GRID_SIZES
    assert grid.grid_sizes(can_split=False) == (*GRID_SIZES[:4], 1, GRID_SIZES[5])
    alone = grid.action_grid(can_split=False)
    assert all(ACTION_GRID[name][: len(choices)] == choices for name, choices in alone.items())
