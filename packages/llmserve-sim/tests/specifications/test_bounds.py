"""Every public dataclass refuses what is out of bounds, by field, bound and unit."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import numpy as np
import pytest

import llmserve_sim
from llmserve_sim.bounds import Between, Checked, Column, annotations_of
from llmserve_sim.engine import Traffic
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.hardware import DEPLOYMENTS, ENGINES, GPUS, LLAMA_3_1_8B
from llmserve_sim.performance.tables import build_fleet
from llmserve_sim.tasks.model import MAX_UNFINISHED

_path = Path(__file__).with_name("hostile.py")
_spec = importlib.util.spec_from_file_location("hostile_specifications", _path)
assert _spec is not None
assert _spec.loader is not None
hostile = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hostile)

GPU = GPUS["A100-80G-SXM"]
FLEET = build_fleet(DEPLOYMENTS["a100-llama3.1-8b"], max_len=8192, max_unfinished=64)
SOURCE = Path(llmserve_sim.__file__).parent
RESULTS = {
    "bounds": {"Between", "Column"},
    "bench.report": {"Result"},
    "cli.run": {"Choice", "Recording", "World"},
    "cli.summary": {"Row"},
    "configuration": {"Setting"},
    "engine.interface": {"Progress", "RequestRecord", "WindowStats"},
    "engine.reference.blocks": {"Hit"},
    "engine.reference.engine": {"Handover"},
    "engine.reference.replica": {"Replica"},
    "engine.reference.request": {"Request"},
    "engine.reference.steps": {"Batch", "Iteration"},
    "env": {"Outcome", "Snapshot"},
    "fidelity.rows": {"Row"},
    "fidelity.data": {"RequestLog", "SeriesLog"},
    "fidelity.replay": {"Replay"},
    "memory": {"MemoryGrant", "MemoryRequirement"},
    "metrics": {"Feature", "Measurement", "Meter", "WindowFacts"},
    "policies": {"RandomPolicy"},
    "replay.requests": {"RequestTable"},
    "replay.summary": {"Distribution", "RequestSummary"},
    "reward": {"CountedTerms", "RewardCounts", "RewardMeter", "RewardTerms"},
    "schema": {"ActionField", "ObservationField"},
    "workload.conditions": {"Conditions", "Seen"},
    "workload.formats.detection": {"Naming"},
    "workload.formats.style": {"Format"},
}
"""By module: dataclasses that the package makes itself, of values that were checked where they came in."""


def public_dataclasses() -> dict[str, set[str]]:
    """The names of the dataclasses in each module, read from the source."""
    found: dict[str, set[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for node in ast.parse(path.read_text("utf-8")).body:
            public = isinstance(node, ast.ClassDef) and not node.name.startswith("_")
            if public and any("dataclass" in ast.unparse(mark) for mark in node.decorator_list):
                found.setdefault(module, set()).add(node.name)
    return found


DATACLASSES = [
    getattr(importlib.import_module(f"llmserve_sim.{module}"), name)
    for module, names in public_dataclasses().items()
    for name in sorted(names - RESULTS.get(module, set()))
]


@dataclass(frozen=True, slots=True)
class Link(Checked):
    """A dataclass with one field of each kind."""

    lanes: Annotated[int, Between(1, 16, "lanes")]
    share: Annotated[float, Between(0, 1, above=True)]
    name: str = "link"
    pair: tuple[Annotated[int, Between(0, 9)], int] = (0, 0)
    limit: Annotated[int, Between(0, 9)] | None = None


@pytest.mark.parametrize(
    ("changes", "field", "bound"),
    [
        ({"lanes": 17}, "link.lanes", "1..16 lanes"),
        ({"lanes": 2.0}, "link.lanes", "integer"),
        ({"lanes": True}, "link.lanes", "integer"),
        ({"share": 0.0}, "link.share", "(0, 1]"),
        ({"share": math.nan}, "link.share", "(0, 1]"),
        ({"share": "half"}, "link.share", "number"),
        ({"name": ""}, "link.name", "1 to 200 characters"),
        ({"pair": (0, 10)}, "link.pair.1", "0..9"),
        ({"pair": (0,)}, "link.pair", "tuple of 2"),
        ({"limit": -1}, "link.limit", "0..9"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_field_bound_and_value(
    changes: dict[str, Any], field: str, bound: str
) -> None:
    """Types count: an integer is no flag and no float."""
    with pytest.raises(InvalidInputError) as caught:
        replace(Link(4, 0.5), **changes)
    assert caught.value.field == field
    assert bound in caught.value.bound
    assert repr(next(iter(changes.values())))[-3:] in str(caught.value) or field.endswith(".1")


def test_values_at_the_ends_of_the_bounds_are_taken() -> None:
    """Also numpy's numbers, and None where it is allowed."""
    assert Link(1, 1.0).limit is None
    assert Link(np.int64(16), np.float64(1e-9), limit=9).lanes == 16  # type: ignore[arg-type]


def test_numbers_of_numpy_are_kept_as_pythons() -> None:
    """int64 products of bounds that all hold would overflow, and pass."""
    link = Link(np.int8(16), np.float32(0.5), pair=(np.int64(9), 0))  # type: ignore[arg-type]
    assert [type(value) for value in (link.lanes, link.share, *link.pair)] == [int, float, int, int]
    with pytest.raises(InvalidInputError, match="link_ps_per_token"):
        replace(FLEET, max_unfinished=np.int64(1 << 19), max_len=np.int64(1 << 20), link_ps_per_token=np.int64(1 << 40))


def test_arrays_are_kept_as_copies_that_cannot_be_written() -> None:
    """What was checked stays true, whatever happens to the array that was given."""
    given = np.array([1, 2])
    masked = np.ma.masked_array([1, 1 << 40], mask=[False, True])
    zeros = np.zeros(2, np.int64)
    traffic = Traffic(zeros, given, given, zeros, zeros)
    given[0] = -1
    assert traffic.prompt.tolist() == [1, 2]
    with pytest.raises(ValueError, match="read-only"):
        traffic.output[0] = -1
    with pytest.raises(InvalidInputError, match=r"traffic\.prompt"):
        replace(traffic, prompt=masked)
    assert replace(traffic).prompt is traffic.prompt


@pytest.mark.parametrize("kind", DATACLASSES, ids=lambda kind: kind.__name__)
def test_every_number_of_a_public_dataclass_declares_its_bounds(kind: type) -> None:
    """A dataclass that is added unchecked fails here, and a field without bounds."""
    assert issubclass(kind, Checked)
    for name, hint in annotations_of(kind).items():
        assert _bounded(hint), name


def test_the_dataclasses_left_unchecked_are_those_listed() -> None:
    """A name that is gone leaves the list."""
    found = public_dataclasses()
    assert all(names <= found[module] for module, names in RESULTS.items())


def _bounded(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return any(isinstance(mark, (Between, Column)) for mark in get_args(hint)[1:])
    if get_origin(hint) is not None:
        return _bounded(get_args(hint)[0])
    return hint not in {int, float}


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        (ENGINES["vllm-0.19"], "iteration_us", -1e7),
        (GPU, "hbm_bytes_per_s", 2039.0),
        (GPU, "sm_count", 0),
        (LLAMA_3_1_8B, "heads", 0),
        (LLAMA_3_1_8B, "kv_heads", 3),
        (GPU.kernels.gemm, "p", 0.0),
        (GPU.kernels.decode, "bandwidth_efficiency", math.inf),
        (FLEET, "max_len", 1 << 30),
        (FLEET, "link_ps_per_token", 1 << 41),
        (FLEET, "split_ps", 1 << 60),
        (FLEET.tiers[0], "gemm", np.zeros(2049, np.int64)),
        (FLEET.tiers[0], "head", np.zeros(3, np.int64)),
        (FLEET.tiers[0], "dec_s", np.zeros(3, np.int64)),
        (FLEET.tiers[0], "cpu_seq", -1),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_what_used_to_crash_or_pass_unseen_is_refused(part: Any, field: str, value: Any) -> None:
    """Among them a segmentation fault, an OverflowError and times that run backwards."""
    with pytest.raises(InvalidInputError) as caught:
        replace(part, **{field: value})
    assert caught.value.field.endswith("." + field)


def test_a_fleet_takes_as_many_unfinished_requests_as_a_task_may_ask_for() -> None:
    """Beyond, the offsets of the kernel's slots would overflow."""
    assert replace(FLEET, max_unfinished=MAX_UNFINISHED).max_unfinished == MAX_UNFINISHED
    with pytest.raises(InvalidInputError, match=r"fleet_spec\.max_unfinished"):
        replace(FLEET, max_unfinished=MAX_UNFINISHED + 1)


def test_iterations_too_long_for_the_engines_clock_are_refused() -> None:
    """Where every figure is in bounds, and only all of them together are not."""
    slow = replace(GPU, hbm_bytes_per_s=1e6, peak_bf16_flops=1e9, peak_int8_ops=1e9)
    with pytest.raises(InvalidInputError):
        build_fleet(replace(DEPLOYMENTS["a100-llama3.1-8b"], gpu=slow), max_len=1 << 17, max_unfinished=64)


@pytest.mark.parametrize(("ranks", "held"), [(1, 8), (2, 4), (8, 1), (16, 1), (32, 1)])
def test_more_ranks_than_kv_heads_hold_copies(ranks: int, held: int) -> None:
    """As in vLLM; weights and KV count the copies, wherever they are counted."""
    assert LLAMA_3_1_8B.kv_heads_per_gpu(ranks) == held
    qkv = LLAMA_3_1_8B.layer_matrices(ranks)[0][0]
    assert qkv == (32 // ranks + 2 * held) * 128


@pytest.mark.parametrize("ranks", [3, 6])
def test_ranks_that_neither_divide_the_kv_heads_nor_are_a_multiple_are_refused(ranks: int) -> None:
    """24 heads and 4 KV heads: 3 divides the heads, 6 as well."""
    model = replace(LLAMA_3_1_8B, heads=24, kv_heads=4)
    with pytest.raises(InvalidInputError, match="KV heads"):
        replace(DEPLOYMENTS["a100-llama3.1-8b"], model=model, tensor_parallel=ranks)


def test_hostile_specifications_end_in_a_typed_error_or_a_run_that_ends() -> None:
    """And some of each kind in either; `hostile.py` tries as many as it is told."""
    outcomes = {hostile.attempt(seed) for seed in range(400)}
    kinds = ("describe_a_deployment", "describe_a_fleet", "describe_an_episode")
    ends = {f"{kind}: {end}" for kind in kinds for end in ("ran", "refused")}
    rest = {"describe_the_rest: made", "describe_the_rest: refused"}
    assert ends | rest <= outcomes <= ends | rest | {f"{kind}: made" for kind in kinds}
