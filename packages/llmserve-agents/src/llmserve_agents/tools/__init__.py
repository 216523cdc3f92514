"""The environment as tools that a language model calls: one definition, for the server's MCP and for trainers.

`Toolbox` is an episode behind eight tools: it checks the arguments, plays, and answers with a text for the model and
the same as data. `Toolbox(LocalEpisode())` runs in this process, `Toolbox(RemoteEpisode(client))` on a server.
"""

from __future__ import annotations

from llmserve_agents.tools.definitions import Tool, definitions
from llmserve_agents.tools.episode import LocalEpisode, RemoteEpisode, ToolEpisode
from llmserve_agents.tools.forecasting import Forecast, forecast
from llmserve_agents.tools.toolbox import Answer, Toolbox, refused

__all__ = [
    "Answer",
    "Forecast",
    "LocalEpisode",
    "RemoteEpisode",
    "Tool",
    "ToolEpisode",
    "Toolbox",
    "definitions",
    "forecast",
    "refused",
]
