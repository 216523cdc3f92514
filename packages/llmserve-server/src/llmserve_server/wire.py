"""The types on the wire: the simulator's own, dressed as OpenEnv's, and the bodies of the HTTP routes.

A wire type adds what OpenEnv's base class asks for and nothing else; bounds and meanings stay where they are written,
in `llmserve_sim.schema`. The module knows nothing of sessions or transports.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final, Self

from openenv.core.env_server.types import Action, Observation, State
from pydantic import BaseModel, ConfigDict, Field

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
)

__all__ = [
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
"""Where a socket's guard finds why the call it carried was refused: OpenEnv passes on the sentence alone."""


def refusal(error: Exception) -> ServiceError:
    """Return `error` as a typed refusal, noted for the socket that is being served, if one is."""
    refused = to_service_error(error)
    noted = last_refusal.get()
    if noted is not None:
        noted.append(refused)
    return refused


class WireAction(ServeAction, Action):
    """A `ServeAction` as OpenEnv carries it."""

    model_config = _MESSAGE

    metadata: dict[str, Any] = Field(
        default_factory=dict,
        description="OpenEnv's free field. `step_index`: the `step_index` of the observation that this action answers; "
        "a step that carries it can be repeated without being applied twice.",
    )

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Return `obj` as an action; the refusal names the field and its bound.

        OpenEnv's server answers pydantic's own error with the words "Invalid message", so ours is raised instead.
        """
        if not isinstance(obj, Mapping):
            return super().model_validate(obj, **options)
        metadata = obj.get("metadata", {})
        if not isinstance(metadata, Mapping):
            raise refusal(InvalidInputError("metadata", "must be an object", got=metadata))
        try:
            action = parse_action({name: value for name, value in obj.items() if name != "metadata"})
        except InvalidInputError as error:
            raise refusal(error) from None
        return made(cls, action.__dict__ | {"metadata": dict(metadata)})

    def to_action(self) -> ServeAction:
        """Return the action without what OpenEnv added."""
        values = self.__dict__
        return made(ServeAction, {name: values[name] for name in ACTION_FIELDS})


class WireObservation(ServeObservation, Observation):
    """A `ServeObservation` as OpenEnv carries it: `reward` and `done` travel beside it, not inside."""

    model_config = _MESSAGE

    def model_dump(self, *, exclude: Any = None, **options: Any) -> dict[str, Any]:
        """Return the fields; every value is plain already, so without further options none is converted.

        OpenEnv asks for it once a step and encodes what it gets: a second walk through it costs more than the message.
        """
        if options or not isinstance(exclude, set | None):
            return super().model_dump(exclude=exclude, **options)
        return {name: value for name, value in self.__dict__.items() if not exclude or name not in exclude}


class WireState(ServeState, State):
    """A `ServeState` as OpenEnv carries it, with the key to its session."""

    model_config = _MESSAGE

    session_id: str = Field(description="The session: with it the episode goes on over any transport.")


def to_wire(observation: ServeObservation) -> WireObservation:
    """Return `observation` as OpenEnv's kind; it was validated when it was made."""
    return made(WireObservation, observation.__dict__.copy())


def to_wire_state(state: ServeState, session_id: str) -> WireState:
    """Return `state` as OpenEnv's kind."""
    return WireState.model_construct(**state.__dict__, session_id=session_id)


def step_index_of(action: WireAction) -> int | None:
    """Return the step that the action says it answers, if it says so."""
    index = action.metadata.get("step_index")
    if index is not None and (type(index) is not int or index < 0):
        raise InvalidInputError("metadata.step_index", "must be an integer from 0 on", got=index)
    return index


class _Body(BaseModel):
    """Base of every body of ours: exact types, no unknown keys, no NaN or infinity."""

    model_config = _MESSAGE


_SESSION = "The session that is meant; else the header X-Session-Id, the cookie, the caller's last reset."
_TASK_INDEX = "With `index`: choose the task and the seed as the Task API lists them."


class ResetRequest(_Body):
    """What `POST /reset` takes; every field may be left out."""

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
    """What `POST /step` takes."""

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
    """What `POST /fork` takes."""

    session_id: str | None = Field(default=None, max_length=200, description=_SESSION)


class GradeRequest(_Body):
    """What `POST /grader` takes: nothing (the session's current episode), one episode by its id, or a log."""

    episode_id: str | None = Field(default=None, min_length=1, max_length=200, description="An episode of this server.")
    episode_log: EpisodeLog | None = Field(default=None, description="A log from anywhere: it is replayed.")
    session_id: str | None = Field(default=None, max_length=200, description=_SESSION)


class SessionReply(_Body):
    """What `POST /reset`, `/step` and `/fork` answer."""

    session_id: str = Field(description="The only key to the session: keep it.")
    observation: ServeObservation = Field(description="What the window showed.")
    reward: float = Field(description="Reward of the window: the observation's, again.")
    done: bool = Field(description="Whether the episode is over: the observation's, again.")
    metadata: dict[str, Any] = Field(description="The observation's metadata, again.")

    @classmethod
    def of(cls, session_id: str, observation: ServeObservation) -> SessionReply:
        """Return the reply that carries `observation`."""
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
    """What `GET /tasks` answers."""

    tasks: list[dict[str, Any]] = Field(description="The catalogue, the three validator-facing tasks first.")
    action_schema: dict[str, Any] = Field(description="JSON schema of `ServeAction`.")


class _Problem(_Body):
    """What went wrong, for a program and for a person."""

    code: str = Field(description="Stable name of the problem.")
    message: str = Field(description="A sentence that says what to do.")
    field: str | None = Field(description="The field that was refused, if one was.")
    bound: str | None = Field(description="What would have been accepted.")
    retry_after_s: int | None = Field(default=None, description="Seconds after which another try makes sense.")


class ErrorBody(_Body):
    """The body of every answer that is not a success."""

    error: _Problem
    detail: str = Field(description="The message again, where FastAPI's clients look for it.")
