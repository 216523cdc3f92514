"""The tools of one rollout as an MCP server, which verifiers starts as a process for every rollout.

`reset` and `tasks` are not offered: a rollout is one episode, which begins before the model's first turn. A refused call
is answered with the reason, because an exception could end the rollout.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

import verifiers.v1 as vf
from pydantic import Field

from llmserve_agents.tools import LocalEpisode, Toolbox, refused
from llmserve_sim.errors import LLMServeError

__all__ = ["ServingState", "ServingToolset", "offered"]

_NOT_OFFERED: Final = ("reset", "tasks", "grade")
_TYPES: Final[dict[str, Any]] = {
    "integer": int,
    "number": float,
    "boolean": bool,
    "string": str,
    "array": list[dict[str, Any]],
}


class ServingState(vf.State):
    """What the tool server tells the scorer."""

    actions: list[dict[str, Any]] = Field(default_factory=list)
    """The configuration of each window that has run."""
    done: bool = False
    """Whether all windows have run."""


class ServingToolset(vf.Toolset[vf.ToolsetConfig, ServingState]):
    """An episode of the simulator in this process, behind tools."""

    TOOL_PREFIX = None

    async def setup_task(self, task: Any) -> None:
        """Start the episode of the rollout's task."""
        self._toolbox = Toolbox(LocalEpisode())
        self._toolbox.call("reset", {"task_id": task.task_id, "seed": task.seed})

    def register(self, mcp: Any) -> None:
        """Offer the tools with the schemas of `llmserve_agents.tools`."""
        for tool in Toolbox(LocalEpisode()).tools():
            if tool.name not in _NOT_OFFERED:
                mcp.add_tool(
                    self._with_state(self._function(tool.name, tool.schema)), tool.name, None, tool.description
                )

    def _function(self, name: str, schema: Mapping[str, Any]) -> Callable[..., str]:
        """Return the function behind a tool, with the signature that `schema` describes."""

        def call(**arguments: Any) -> str:
            given = {key: value for key, value in arguments.items() if value is not None}
            try:
                text = self._toolbox.call(name, given).text
            except LLMServeError as error:
                text = f"Refused: {refused(error).text}"
            log = self._toolbox.episode.log()
            self.state.actions = [step.action.model_dump() for step in log.steps]
            self.state.done = self._toolbox.episode.observation().done
            return text

        call.__name__ = name
        parameters = [_parameter(key, spec) for key, spec in schema["properties"].items()]
        call.__signature__ = inspect.Signature(parameters, return_annotation=str)  # type: ignore[attr-defined]
        return call


def offered() -> list[str]:
    """Return the names of the tools that a model has."""
    return [tool.name for tool in Toolbox(LocalEpisode()).tools() if tool.name not in _NOT_OFFERED]


def _parameter(name: str, spec: Mapping[str, Any]) -> inspect.Parameter:
    """Return a parameter that may be left out. Its bounds are shown to the model, and the toolbox checks them."""
    kind: Any = Literal[tuple(spec["enum"])] if "enum" in spec else _TYPES[spec["type"]]
    shown = {key: spec[key] for key in ("minimum", "maximum", "maxItems", "unit") if key in spec}
    annotation = Annotated[kind, Field(description=spec["description"], json_schema_extra=shown)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


if __name__ == "__main__":
    ServingToolset.run()
