"""The types on the wire: the simulator's types as OpenEnv's, and the bodies of the HTTP routes.

A wire type adds only what OpenEnv's base class requires; bounds and meanings come from `llmserve_sim.schema`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final, Literal, Self, cast

from openenv.core.env_server.mcp_types import CallToolAction, ListToolsAction
from openenv.core.env_server.types import Action, Observation, State
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmserve_server.errors import ServiceError, to_service_error
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import (
    ACTION_FIELDS,
    EpisodeLog,
    ServeAction,
    ServeObservation,
    ServeState,
    made,
    parse_action,
    translate,
)

__all__ = [
    "BaselineRequest",
    "EmptyState",
    "ErrorBody",
    "ForkRequest",
    "GradeRequest",
    "ResetRequest",
    "SessionReply",
    "StepRequest",
    "TasksReply",
    "WireAction",
    "WireObservation",
    "WireState",
    "last_refusal",
    "refusal",
    "step_index_of",
    "to_wire",
    "to_wire_state",
]

_MESSAGE = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

last_refusal: Final[ContextVar[list[ServiceError] | None]] = ContextVar("last_refusal", default=None)
"""The errors of the socket's current call, for `WebSocketMiddleware`: OpenEnv passes on only the message."""


def refusal(error: Exception) -> ServiceError:
    """Return `error` as a `ServiceError`, and record it for the current socket if there is one."""
    refused = to_service_error(error)
    noted = last_refusal.get()
    if noted is not None:
        noted.append(refused)
    return refused


_TOOL_ACTIONS: Final[dict[str, type[Action]]] = {"call_tool": CallToolAction, "list_tools": ListToolsAction}


def _as_tool_action(model: type[Action], given: Mapping[str, Any]) -> Action:
    """Return OpenEnv's action that lists or calls tools; the error names the field and its bound."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise refusal(translate(error, model)) from None


class WireAction(ServeAction, Action):
    """A `ServeAction` as a type of OpenEnv."""

    model_config = _MESSAGE

    metadata: dict[str, Any] = Field(
        default_factory=dict,
        description="OpenEnv's free field. `step_index`: the `step_index` of the observation that this action answers; "
        "a step that carries it can be repeated without being applied twice.",
    )

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Return `obj` as an action; the error names the field and its bound.

        A `list_tools` or `call_tool` gives that action of OpenEnv. It raises our own error, because OpenEnv's server answers pydantic's with only "Invalid message".
        """
        if not isinstance(obj, Mapping):
            return super().model_validate(obj, **options)
        tool_action = _TOOL_ACTIONS.get(kind) if isinstance(kind := obj.get("type"), str) else None
        if tool_action is not None:
            return cast("Self", _as_tool_action(tool_action, obj))
        metadata = obj.get("metadata", {})
        if not isinstance(metadata, Mapping):
            raise refusal(InvalidInputError("metadata", "must be an object", got=metadata))
        try:
            action = parse_action({name: value for name, value in obj.items() if name != "metadata"})
        except InvalidInputError as error:
            raise refusal(error) from None
        return made(cls, action.__dict__ | {"metadata": dict(metadata)})

    def to_action(self) -> ServeAction:
        """Return the action without OpenEnv's fields."""
        values = self.__dict__
        return made(ServeAction, {name: values[name] for name in ACTION_FIELDS})


class WireObservation(ServeObservation, Observation):
    """A `ServeObservation` as a type of OpenEnv, which sends `reward` and `done` beside it, not inside."""

    model_config = _MESSAGE

    def model_dump(self, *, exclude: Any = None, **options: Any) -> dict[str, Any]:
        """Return the fields. Without further options no value is converted, because all are plain already.

        OpenEnv calls it once a step and encodes the result; converting the values would take longer than the encoding.
        """
        if options or not isinstance(exclude, set | None):
            return super().model_dump(exclude=exclude, **options)
        return {name: value for name, value in self.__dict__.items() if not exclude or name not in exclude}


class WireState(ServeState, State):
    """A `ServeState` as a type of OpenEnv, with the id of its session."""

    model_config = _MESSAGE

    session_id: str = Field(description="The session: with it the episode goes on over any transport.")


class EmptyState(State):
    """The state before any reset, as OpenEnv's own servers answer it."""

    model_config = _MESSAGE

    episode_id: None = None
    step_count: Literal[0] = 0


def to_wire(observation: ServeObservation) -> WireObservation:
    """Return `observation` as a type of OpenEnv, without validating it again."""
    return made(WireObservation, observation.__dict__.copy())


def to_wire_state(state: ServeState, session_id: str) -> WireState:
    """Return `state` as a type of OpenEnv."""
    return WireState.model_construct(**state.__dict__, session_id=session_id)


def step_index_of(action: WireAction) -> int | None:
    """Return the step index that the action gives; None if it gives none."""
    index = action.metadata.get("step_index")
    if index is not None and (type(index) is not int or index < 0):
        raise InvalidInputError("metadata.step_index", "must be an integer from 0 on", got=index)
    return index


class _Body(BaseModel):
    """Base class of our bodies: exact types, no unknown keys, no NaN or infinity."""

    model_config = _MESSAGE


_SESSION = (
    "The session that is meant; else the header X-Session-Id, the cookie, or the only session of a caller on the "
    "server's machine."
)
_TASK_INDEX = "With `index`: choose the task and the seed as the Task API lists them."


class ResetRequest(_Body):
    """The body of `POST /reset`; every field is optional."""

    task_id: str | None = Field(default=None, max_length=200, description="Task; without one static_workload.")
    seed: int | None = Field(
        default=None, ge=0, lt=2**63, description="Episode seed; without one a training seed is drawn and reported."
    )
    episode_id: str | None = Field(
        default=None, min_length=1, max_length=200, description="Name of the episode; without one it gets its own."
    )
    session_id: str | None = Field(
        default=None, max_length=200, description="An existing session, which then starts a new episode."
    )
    resume: bool = Field(
        default=False, description="Start nothing: come back to `session_id` and return its last observation."
    )
    split: str | None = Field(default=None, max_length=40, description=_TASK_INDEX)
    index: int | None = Field(default=None, ge=0, lt=2**63, description="Place in `split`, from 0.")


class StepRequest(_Body):
    """The body of `POST /step`."""

    action: ServeAction = Field(description="The configuration of the next window; omitted fields take defaults.")
    session_id: str | None = Field(default=None, max_length=200, description=_SESSION)
    step_index: int | None = Field(
        default=None,
        ge=0,
        lt=2**63,
        description="The `step_index` of the observation that the action answers. A step that carries it can be "
        "repeated: it is applied once.",
    )


class ForkRequest(_Body):
    """The body of `POST /fork`."""

    session_id: str | None = Field(default=None, max_length=200, description=_SESSION)
    draw: int = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="Which of the possible futures is drawn, where the fork is a forecast: each number has its own, the "
        "same whenever it is asked for.",
    )


class GradeRequest(_Body):
    """The body of `POST /grader`: empty (the session's current episode), the id of an episode, or a log."""

    episode_id: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="An episode of this server; one with an id of your own choice is known by its session only.",
    )
    episode_log: EpisodeLog | None = Field(default=None, description="A log from anywhere: it is replayed.")
    session_id: str | None = Field(default=None, max_length=200, description=_SESSION)


class BaselineRequest(_Body):
    """The body of `POST /baseline`; every field is optional."""

    use_openai: bool = Field(default=False, description="Ask a language model; it spends the server's key.")
    task_id: str | None = Field(default=None, max_length=200, description="One task; else the validators' three.")
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="One seed; else the first test seeds.")
    model: str | None = Field(
        default=None, max_length=200, description="With `use_openai`: one of LLMSERVE_BASELINE_MODELS; else the first."
    )


class SessionReply(_Body):
    """The reply of `POST /reset`, `/step` and `/fork`."""

    session_id: str = Field(description="The only key to the session: keep it.")
    observation: ServeObservation = Field(description="What the window showed.")
    reward: float = Field(description="Reward of the window: the observation's, again.")
    done: bool = Field(description="Whether the episode is over: the observation's, again.")
    metadata: dict[str, Any] = Field(description="The observation's metadata, again.")

    @classmethod
    def of(cls, session_id: str, observation: ServeObservation) -> SessionReply:
        """Return the reply with `observation`."""
        return made(
            cls,
            {
                "session_id": session_id,
                "observation": observation,
                "reward": observation.reward,
                "done": observation.done,
                "metadata": observation.metadata,
            },
        )


class TasksReply(_Body):
    """The reply of `GET /tasks`."""

    tasks: list[dict[str, Any]] = Field(description="The catalogue, the three validator-facing tasks first.")
    action_schema: dict[str, Any] = Field(description="JSON schema of `ServeAction`.")


class _Problem(_Body):
    """The error, for a program and for a person."""

    code: str = Field(description="Stable name of the problem.")
    message: str = Field(description="A sentence that says what to do.")
    field: str | None = Field(description="The field that was refused, if one was.")
    bound: str | None = Field(description="What would have been accepted.")
    retry_after_s: int | None = Field(default=None, description="Seconds after which another try makes sense.")


class ErrorBody(_Body):
    """The body of every error reply."""

    error: _Problem
    detail: str = Field(description="The message again, where FastAPI's clients look for it.")
