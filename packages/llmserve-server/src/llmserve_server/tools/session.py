"""`ToolSession`: the tools of one caller, called from the event loop without making other callers wait."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import structlog

from llmserve_agents.tools import Answer, Toolbox, refused
from llmserve_server.dispatch import Dispatcher
from llmserve_server.errors import ServiceError, to_service_error
from llmserve_server.tools.episode import RegistryEpisode
from llmserve_sim.errors import LLMServeError

__all__ = ["ToolSession", "tool_result"]

_log = structlog.get_logger(__name__)


class ToolSession:
    """The tools over one episode. Calls run one after the other, each in a thread."""

    def __init__(self, episode: RegistryEpisode, dispatcher: Dispatcher) -> None:
        self.episode = episode
        self._dispatcher = dispatcher
        self._toolbox = Toolbox(episode)
        self._lock = asyncio.Lock()

    def tools(self) -> list[dict[str, Any]]:
        """Return the tools in the words of MCP."""
        return [
            {
                "name": tool.name,
                "title": tool.title,
                "description": tool.description,
                "inputSchema": tool.schema,
                "annotations": {
                    "readOnlyHint": tool.read_only,
                    "destructiveHint": tool.name == "reset",
                    "openWorldHint": False,
                },
            }
            for tool in self._toolbox.tools()
        ]

    def note(self, text: str) -> None:
        """Put a sentence before the text of the next answer."""
        self._toolbox.note = text

    async def call(self, name: object, arguments: object) -> Answer:
        """Call a tool; a refusal is an answer too. A call that has begun ends, even if its caller has left."""
        async with self._lock:
            with anyio.CancelScope(shield=True):
                answer = await self._dispatcher.run(self.call_now, name, arguments)
                for step in self.episode.steps:
                    self._dispatcher.count(*step)
                self.episode.steps.clear()
        return answer

    def call_now(self, name: object, arguments: object) -> Answer:
        """Call a tool in this thread."""
        try:
            answer = self._toolbox.call(name, arguments)
        except (ServiceError, LLMServeError) as error:
            typed = to_service_error(error)
            for note in () if typed is error else getattr(error, "__notes__", ()):
                typed.add_note(note)
            return refused(typed)
        except Exception as error:  # noqa: BLE001 - the caller is not told the text of a defect
            _log.error("tool_failed", tool=str(name)[:40], exc_info=error)
            return refused(ServiceError("the server failed on this call; its log says why", code="internal_error"))
        return answer


def tool_result(answer: Answer) -> dict[str, Any]:
    """Return MCP's result of a tool call: the text, and the same as structured content."""
    content = [{"type": "text", "text": answer.text}]
    return {"content": content, "structuredContent": answer.data, "isError": answer.failed}
