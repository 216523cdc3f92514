"""The types of the public interface: action, observation, state, log, grade. Pydantic only.

This is the one table of bounds, units and meanings: JSON schema, Gym spaces, policy heads, prompts and documentation
derive from `ACTION_FIELDS` and from the field descriptions below. The module knows nothing about simulation, and
imports neither numpy nor numba, so that a remote client can use it at no cost.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from operator import index
from typing import Annotated, Any, Final, Literal, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError
from pydantic_core import from_json

from llmserve_sim.errors import InvalidInputError

__all__ = [
    "ACTION_FIELDS",
    "MAX_LOG_BYTES",
    "MAX_LOG_STEPS",
    "OBSERVATION_FIELDS",
    "QUANTIZATION_TIERS",
    "ActionField",
    "EpisodeLog",
    "GradeReport",
    "ObservationField",
    "QuantizationTier",
    "ReferenceScores",
    "ServeAction",
    "ServeObservation",
    "ServeState",
    "StepRecord",
    "json_schema",
    "made",
    "parse_action",
    "parse_log",
    "plain_integer",
    "plain_scalar",
    "schema_hash",
    "translate",
]

QuantizationTier = Literal["FP16", "INT8", "INT4"]
QUANTIZATION_TIERS: Final[tuple[QuantizationTier, ...]] = get_args(QuantizationTier)
"""Tiers in the order of their integer codes (0, 1, 2)."""

MAX_LOG_STEPS: Final = 100_000
"""Longest log that is read: six days of 5-second windows, 800 times the built-in tasks' episodes."""
MAX_LOG_BYTES: Final = 256 * 2**20
"""Largest log document that is parsed; a step takes about 1.5 KB."""

_Share = Annotated[float, Field(ge=0.0, le=1.0)]
_Amount = Annotated[float, Field(ge=0.0)]
_Count = Annotated[int, Field(ge=0)]
_Seed = Annotated[int, Field(ge=0, lt=2**63)]
_TASK_ID: Final = r"^[a-z][a-z0-9_]{0,63}$"
_DIGEST: Final = r"^[0-9a-f]{64}$"


class _Message(BaseModel):
    """Base of every type here: immutable, exact types, no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class ServeAction(_Message):
    """The full serving configuration that is applied to the next simulation window."""

    batch_cap: int = Field(
        default=32,
        ge=1,
        le=512,
        description="Maximum requests batched at once, per replica (vLLM's max_num_seqs).",
        json_schema_extra={"unit": "requests"},
    )
    kv_budget_fraction: float = Field(
        default=1.0,
        ge=0.1,
        le=1.0,
        description="Relative KV cache budget: share of the GPU memory left after weights and activations.",
        json_schema_extra={"unit": "share"},
    )
    speculation_depth: int = Field(
        default=0,
        ge=0,
        le=8,
        description="Draft-token depth for speculation; 0 turns speculative decoding off.",
        json_schema_extra={"unit": "tokens"},
    )
    quantization_tier: QuantizationTier = Field(
        default="FP16",
        description="Serving precision tier: FP16, INT8 (W8A8) or INT4 (W4A16).",
        json_schema_extra={"unit": "tier"},
    )
    prefill_decode_split: bool = Field(
        default=False,
        description="Whether prefill/decode are disaggregated onto separate halves of the fleet.",
        json_schema_extra={"unit": "flag"},
    )
    priority_routing: bool = Field(
        default=False,
        description="Whether priority traffic routing is enabled: priority requests admitted first, preempted last.",
        json_schema_extra={"unit": "flag"},
    )


@dataclass(frozen=True, slots=True)
class ActionField:
    """One row of the action table, read off `ServeAction` (the only place where it is written)."""

    name: str
    kind: Literal["int", "float", "enum", "bool"]
    default: int | float | str | bool
    unit: str
    meaning: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def bounds(self) -> str:
        """What is accepted, as a person would say it: ``1..512``, ``FP16, INT8, INT4`` or ``true, false``."""
        if self.kind == "bool":
            return "true, false"
        if self.choices:
            return ", ".join(self.choices)
        low, high = (self.low, self.high) if self.kind == "float" else (int(self.low or 0), int(self.high or 0))
        return f"{low}..{high}"


def _action_fields() -> dict[str, ActionField]:
    properties = ServeAction.model_json_schema()["properties"]
    kinds: dict[str, Literal["int", "float", "enum", "bool"]] = {
        "integer": "int",
        "number": "float",
        "string": "enum",
        "boolean": "bool",
    }
    return {
        name: ActionField(
            name=name,
            kind=kinds[spec["type"]],
            default=spec["default"],
            unit=spec["unit"],
            meaning=spec["description"],
            low=spec.get("minimum"),
            high=spec.get("maximum"),
            choices=tuple(spec.get("enum", ())),
        )
        for name, spec in properties.items()
    }


ACTION_FIELDS: Final[Mapping[str, ActionField]] = _action_fields()


def _measured(unit: str, description: str) -> Any:
    return Field(description=description, json_schema_extra={"unit": unit})


class ServeObservation(_Message):
    """What one window showed. Percentiles and ratios of an empty window repeat the last ones (0 before any)."""

    queue_depth: _Count = _measured("requests", "Requests waiting at the window's end, hand-overs in flight included.")
    active_requests: _Count = _measured("requests", "Requests running (prefilling or decoding) at the window's end.")
    kv_cache_occupancy: _Share = _measured("share", "KV blocks in use over KV blocks granted, at the window's end.")
    mean_prompt_length: _Amount = _measured("tokens", "Mean prompt length of the window's arrivals.")
    p50_ttft_ms: _Amount = _measured("ms", "Median time to first token of the first tokens in the window.")
    p99_ttft_ms: _Amount = _measured("ms", "99th percentile of the time to first token.")
    p50_itl_ms: _Amount = _measured("ms", "Median inter-token latency of the tokens delivered in the window.")
    throughput_tps: _Amount = _measured("tokens/s", "Output tokens delivered per second.")
    slo_compliance_rate: _Share = _measured(
        "share", "Share of the requests due in the window that met their TTFT and TPOT targets; 1 when none was due."
    )
    gpu_memory_used_gb: _Amount = _measured(
        "GB", "Memory in use per GPU: weights, draft, activations and KV blocks in use; 0 before anything is loaded."
    )
    estimated_cost_per_1k: _Amount = _measured("USD", "Fleet cost per 1,000 output tokens delivered.")
    request_arrival_rate: _Amount = _measured("requests/s", "Arrivals per second in the window.")
    spec_acceptance_rate: _Share = _measured("share", "Draft tokens accepted over draft tokens proposed.")
    eviction_events: _Count = _measured("events", "Requests preempted plus requests evicted by force in the window.")
    step_index: _Count = _measured("windows", "Windows simulated so far in this episode.")
    task_id: str = Field(min_length=1, max_length=200, description="The task that this episode runs.")
    reward: float = Field(
        default=0.0,
        description="Reward of the window; 0 on the first observation, which follows no action. In -1..1 in the built-in "
        "tasks; without bounds where the task's reward counts requests.",
    )
    done: bool = Field(default=False, description="Whether the episode's time limit is reached.")
    metadata: dict[str, Any] = Field(
        default_factory=dict,
        description="Reward terms, per-class figures, co-tenant demand, the configuration in force.",
    )


@dataclass(frozen=True, slots=True)
class ObservationField:
    """Unit and meaning of one measured field, read from `ServeObservation` (the only place where they are written)."""

    name: str
    unit: str
    meaning: str


def _observation_fields() -> dict[str, ObservationField]:
    return {
        name: ObservationField(name, str(field.json_schema_extra["unit"]), field.description or "")
        for name, field in ServeObservation.model_fields.items()
        if isinstance(field.json_schema_extra, dict)
    }


OBSERVATION_FIELDS: Final[Mapping[str, ObservationField]] = _observation_fields()
"""The measured fields of an observation, in its order."""


class ServeState(_Message):
    """Where an episode stands. `step_count` is the exact number of accepted steps."""

    episode_id: str = Field(min_length=1, max_length=200, description="Identifies the episode; never reused.")
    step_count: _Count = Field(description="Steps accepted so far; a refused action does not count.")
    task_id: str = Field(min_length=1, max_length=200, description="The task that this episode runs.")
    task_digest: str = Field(description="Digest of the task's definition.")
    seed: _Seed = Field(description="Episode seed: with the task and the actions it determines everything.")
    simulator_version: str = Field(description="Version of llmserve-sim that runs the episode.")
    deployment: str = Field(description="Name of the deployment that is served on.")
    episode_length: Annotated[int, Field(ge=1)] = Field(description="Windows in a complete episode.")
    window_s: Annotated[float, Field(gt=0.0)] = Field(description="Simulated seconds per window.")
    done: bool = Field(description="Whether the episode's time limit is reached.")
    total_reward: float = Field(description="Sum of the rewards so far.")
    last_action: ServeAction | None = Field(default=None, description="The configuration now in force, if any.")
    arrived: _Count = Field(description="Requests arrived so far = queued + running + finished + abandoned + rejected.")
    queued: _Count = Field(description="Requests waiting now.")
    running: _Count = Field(description="Requests running now.")
    finished: _Count = Field(description="Requests finished so far.")
    abandoned: _Count = Field(description="Requests that gave up waiting so far.")
    rejected: _Count = Field(description="Requests refused on arrival so far.")


class StepRecord(_Message):
    """One accepted step: the action and the observation (reward and done inside) that answered it."""

    action: ServeAction
    observation: ServeObservation


class EpisodeLog(_Message):
    """An episode as evidence: enough to replay it, and what it is claimed to have shown."""

    simulator_version: str = Field(
        min_length=1, max_length=100, description="Version of llmserve-sim that made the log."
    )
    schema_hash: str = Field(pattern=_DIGEST, description="`schema_hash()` of the maker.")
    task_id: str = Field(pattern=_TASK_ID, description="The task that was run; a name and never a path.")
    task_digest: str = Field(
        pattern=_DIGEST, description="Digest of the task's definition, of the deployment and of a given scenario."
    )
    deployment: str | None = Field(
        default=None, min_length=1, max_length=200, description="Name of the deployment that was served on."
    )
    scenario_digest: str | None = Field(
        default=None,
        pattern=_DIGEST,
        description="Digest of the scenario (a replayed trace, say) that was given; null: the task's own.",
    )
    seed: _Seed = Field(description="Episode seed.")
    episode_id: str = Field(
        min_length=1, max_length=200, description="Identifies the episode; plays no part in grading."
    )
    initial_observation: ServeObservation = Field(description="What `reset` returned.")
    steps: Annotated[list[StepRecord], FailFast()] = Field(
        max_length=MAX_LOG_STEPS, description="Accepted steps in order."
    )


class ReferenceScores(_Message):
    """Mean reward per window of the policies that a task's score is measured against, and where they come from."""

    random: float = Field(description="Mean reward per window of the random policy: score 0.")
    best_static: float = Field(description="The same of the best fixed configuration: score 0.5.")
    clairvoyant: float = Field(description="The same of the clairvoyant search: score 1.")
    heuristic: float | None = Field(default=None, description="The threshold heuristic's, for comparison.")
    ppo: float | None = Field(default=None, description="The shipped PPO's, for comparison.")
    provisional: bool = Field(description="Whether a later computation with a larger budget will replace these.")
    simulator_version: str = Field(description="Version of llmserve-sim that they were computed with.")
    task_digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="Digest of the task that they were computed on.")
    seeds: list[int] = Field(min_length=1, description="Episode seeds that the means are over.")
    budget: str = Field(description="Search budget spent on each reference.")
    command: str = Field(description="Command that recomputes them.")
    best_static_action: ServeAction = Field(description="The fixed configuration behind `best_static`.")
    paired: bool = Field(
        default=False,
        description="Whether an episode is scored by its difference to `best_static_action` on the same seed.",
    )


class GradeReport(_Message):
    """A graded episode. `verified` is true only when a replay reproduced every observation and reward."""

    task_id: str
    seed: _Seed
    split: Literal["train", "validation", "test", "reference"] | None = Field(
        default=None, description="The task's range that the seed is in; null: none, or a scenario was given."
    )
    score: _Share | None = Field(
        description="Score in [0, 1], missing windows counted at the random reference; null without references or "
        "when not verified."
    )
    verified: bool | None = Field(description="Whether the replay agreed; null where no replay is possible.")
    reason: str | None = Field(default=None, description="Why the log is not verified, or why there is no score.")
    complete: bool = Field(description="Whether the episode reached its time limit.")
    steps: _Count = Field(description="Windows graded.")
    episode_length: _Count = Field(description="Windows in a complete episode; 0 where the task is unknown.")
    total_reward: float = Field(description="Sum of the logged rewards.")
    mean_reward: float = Field(description="Mean logged reward per window; 0 for an empty log.")
    components: dict[str, float] = Field(
        description="Of the episode: throughput, slo, memory, cost, quality; each in 0..1."
    )
    references: ReferenceScores | None = Field(
        default=None, description="What the score is measured against; null where there is no score."
    )
    simulator_version: str = Field(description="Version of llmserve-sim that graded.")
    foresight: bool | None = Field(
        default=None,
        description="Whether the server showed the episode's future before it was played, in a true fork for example; "
        "null where nobody can know, as for a log on its own.",
    )
    unclipped_score: float | None = Field(
        default=None, description="The score before it is clipped to [0, 1]; null unless the references are paired."
    )
    clipped: bool | None = Field(
        default=None, description="Whether the score was clipped; null unless the references are paired."
    )


_Model = TypeVar("_Model", bound=_Message)
_Made = TypeVar("_Made", bound=BaseModel)


def made(model: type[_Made], values: dict[str, Any]) -> _Made:
    """Return a `model` with these values without validating them; `values` must hold every field.

    Does what pydantic's `model_construct` does, without its loop over the fields, which takes a tenth of the time of a
    window's simulation.
    """
    message = model.__new__(model)
    object.__setattr__(message, "__dict__", values)
    object.__setattr__(message, "__pydantic_fields_set__", set(values))
    object.__setattr__(message, "__pydantic_extra__", None)
    object.__setattr__(message, "__pydantic_private__", None)
    return message


def parse_action(value: object) -> ServeAction:
    """Return `value` (a `ServeAction`, or a mapping of its fields) as a `ServeAction`; omitted fields take defaults.

    Raises `InvalidInputError` naming the first wrong field and its bound. Nothing is converted or clamped, except
    that another library's integers and bools (numpy's) are accepted.
    """
    if type(value) is ServeAction:
        return value
    if isinstance(value, ServeAction):
        value = {name: getattr(value, name) for name in ACTION_FIELDS}
    if not isinstance(value, Mapping):
        raise InvalidInputError("action", "must be a ServeAction or a mapping of its fields", got=value)
    return _validate(ServeAction, {name: plain_scalar(item) for name, item in value.items()}, "")


def plain_scalar(value: object) -> object:
    """Return another library's integer or bool (numpy's) as Python's; anything else as it is."""
    return bool(value) if _is_foreign_bool(value) else plain_integer(value)


def _is_foreign_bool(value: object) -> bool:
    """Whether it is one bool of another library: a numpy scalar, or an array without dimensions."""
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    return kind == "b" and getattr(value, "shape", None) == ()


def plain_integer(value: object) -> object:
    """Return another library's integer (numpy's) as Python's; anything else as it is."""
    if isinstance(value, bool | int | float | str) or not hasattr(value, "__index__"):
        return value
    if getattr(getattr(value, "dtype", None), "kind", None) == "b":  # older numpy lets its bools pass for integers
        return value
    try:
        return index(value)
    except TypeError:  # an array of several, or a numpy bool
        return value


def parse_log(value: str | bytes | Mapping[str, Any] | EpisodeLog) -> EpisodeLog:
    """Return an `EpisodeLog` from JSON text, from a mapping or as it is.

    Raises `InvalidInputError` naming the field: broken or truncated JSON and over-large documents are field ``log``.
    """
    if isinstance(value, EpisodeLog):
        return value
    if isinstance(value, str | bytes):
        if len(value) > MAX_LOG_BYTES:
            raise InvalidInputError("log", f"must be at most {MAX_LOG_BYTES} bytes of JSON, is {len(value)}")
        try:
            value = from_json(value, allow_inf_nan=False)
        except (ValueError, TypeError) as error:  # a TypeError: text that is not Unicode
            raise InvalidInputError("log", f"must be one complete JSON document ({error})") from error
    if not isinstance(value, Mapping):
        raise InvalidInputError("log", "must be a JSON object with the fields of EpisodeLog", got=value)
    return _validate(EpisodeLog, dict(value), "")


_MANY_FIELDS: Final = 100
"""More fields than any type here has. Each unknown one would become an error, at a thousand times its size."""


def _validate(model: type[_Model], value: object, prefix: str) -> _Model:
    if isinstance(value, Mapping) and len(value) > _MANY_FIELDS:
        value = dict.fromkeys([next(name for name in value if name not in model.model_fields)])
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise translate(error, model, prefix=prefix) from None


def translate(error: ValidationError, model: type[BaseModel], *, prefix: str = "") -> InvalidInputError:
    """Turn the first problem of a pydantic error on `model` into an `InvalidInputError` (dotted field, bound).

    An unknown field is reported before a missing one: it is most likely the missing one, misspelt.
    """
    problem, *others = error.errors(include_url=False, include_context=True)
    if problem["type"] == "missing":
        problem = next((other for other in others if other["type"] == "extra_forbidden"), problem)
    path = [str(part) for part in problem["loc"]]
    field = ".".join([prefix, *path] if prefix else path) or model.__name__
    leaf = path[-1] if path else ""
    kind, got = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        known = ACTION_FIELDS if model is ServeAction or "action" in path[:-1] else model.model_fields
        where = "; the fields are " + ", ".join(known) if len(path) == 1 or known is ACTION_FIELDS else ""
        return InvalidInputError(field, f"unknown field{where}")
    if kind == "missing":
        return InvalidInputError(field, "is required")
    if kind == "relation":  # between fields of a task; the whole table would say nothing about it
        where = ".".join([*([prefix] if prefix else []), *path, problem["ctx"]["field"]])
        return InvalidInputError(where, problem["ctx"]["bound"])
    if leaf in ACTION_FIELDS and (model is ServeAction or "action" in path[:-1]):
        spec = ACTION_FIELDS[leaf]
        sort = {"int": "an integer in", "float": "a finite number in", "enum": "one of", "bool": "one of"}[spec.kind]
        return InvalidInputError(field, f"must be {sort} {spec.bounds}", got=got)
    numeric = _numeric_bound(model, leaf) if len(path) == 1 else None
    return InvalidInputError(field, problem["msg"] if numeric is None else numeric, got=got)


_NUMBERS: Final = ("integer", "number")


def _numeric_bound(model: type[BaseModel], field: str) -> str | None:
    """Return both bounds of a numeric field; pydantic's message names only one."""
    given: dict[str, Any] = model.model_json_schema()["properties"].get(field, {})
    kinds: list[dict[str, Any]] = [part for part in given.get("anyOf", [given]) if part.get("type") in _NUMBERS]
    spec: dict[str, Any] = kinds[0] if kinds else {}
    if "minimum" not in spec or not {"maximum", "exclusiveMaximum"} & spec.keys():
        return None
    whole = spec["type"] == "integer"
    low, high = spec["minimum"], spec.get("maximum")
    if high is None:
        high = spec["exclusiveMaximum"] - 1 if whole else f"{spec['exclusiveMaximum']} (not included)"
    return f"must be {'an integer' if whole else 'a finite number'} in {low}..{high}"


@cache
def _schemas() -> dict[str, dict[str, Any]]:
    models = (ServeAction, ServeObservation, ServeState, StepRecord, EpisodeLog, GradeReport)
    return {model.__name__: model.model_json_schema() for model in models}


def json_schema() -> dict[str, dict[str, Any]]:
    """JSON schema of every type here, by name, with units (``unit``), bounds, defaults and meanings."""
    return cast("dict[str, dict[str, Any]]", json.loads(json.dumps(_schemas())))


_HASHED: Final[Mapping[str, dict[str, Any]]] = {"reward": {"minimum": -1.0, "maximum": 1.0}}
"""Bounds that a field had when the shipped weights were made, in the hash until the hash changes for another reason.

A reward that counts requests has no bounds, and what a policy reads and sets is the same with and without them.
"""


@cache
def schema_hash() -> str:
    """SHA-256 (hex) of what action and observation accept: names, types, bounds, units, defaults; not the prose."""
    keys = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "default", "unit")
    # Only these keys: a later pydantic that words its schema differently must not change the hash.
    canonical = [
        [
            name,
            [
                [field, [[key, spec[key]] for key in keys if key in spec]]
                for field, spec in ((field, spec | _HASHED.get(field, {})) for field, spec in _properties(name))
            ],
        ]
        for name in ("ServeAction", "ServeObservation")
    ]
    return hashlib.sha256(json.dumps(canonical, separators=(",", ":")).encode()).hexdigest()


def _properties(name: str) -> list[tuple[str, dict[str, Any]]]:
    return list(_schemas()[name]["properties"].items())
