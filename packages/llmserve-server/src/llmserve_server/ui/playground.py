"""OpenEnv's tab, built by OpenEnv's functions. All its visitors share one environment, as in every OpenEnv server.

The environment uses the session registry like any other caller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from openenv.core.env_server import gradio_ui, web_interface
from openenv.core.env_server.interfaces import Environment

from llmserve_server.environment import metadata
from llmserve_server.errors import EpisodeState
from llmserve_server.wire import WireAction, WireObservation, WireState, to_wire, to_wire_state

if TYPE_CHECKING:
    import gradio as gr
    from openenv.core.env_server.types import EnvironmentMetadata

    from llmserve_server.sessions import SessionRegistry

__all__ = ["SharedEnvironment", "playground"]

_CALL: Final = """```python
from llmserve_env import LLMServeEnv

env = LLMServeEnv.from_url("http://localhost:7860")
observation = env.reset(task_id="static_workload", seed=42)
while not observation.done:
    observation, reward, done, info = env.step({"batch_cap": 64, "quantization_tier": "INT8"})
print(env.grade())
```
"""


class SharedEnvironment(Environment[WireAction, WireObservation, WireState]):
    """One session of the registry as the environment of OpenEnv's tab, which calls it from one thread."""

    def __init__(self, registry: SessionRegistry) -> None:
        super().__init__()
        self._registry = registry
        self._session_id: str | None = None

    def reset(self, seed: int | None = None, episode_id: str | None = None, **options: Any) -> WireObservation:
        """Start an episode of the first task."""
        reply = self._registry.reset(seed=seed, episode_id=episode_id, transport="page")
        if self._session_id is not None:
            self._registry.close(self._session_id)
        self._session_id = reply.session_id
        return to_wire(reply.observation)

    def step(self, action: WireAction, timeout_s: float | None = None, **options: Any) -> WireObservation:
        """Run one window."""
        return to_wire(self._registry.step(self._session(), action.to_action()).observation)

    @property
    def state(self) -> WireState:
        """Return the state of the episode."""
        return to_wire_state(self._registry.state(self._session()), self._session())

    def get_metadata(self) -> EnvironmentMetadata:
        """Return the description of this environment."""
        return metadata()

    def _session(self) -> str:
        if self._session_id is None:
            raise EpisodeState("there is no episode: reset first")
        return self._session_id


def playground(registry: SessionRegistry) -> gr.Blocks:
    """Return OpenEnv's tab, with an example of the client beside it."""
    environment = SharedEnvironment(registry)
    manager = web_interface.WebInterfaceManager(environment, WireAction, WireObservation, environment.get_metadata())
    fields = web_interface._extract_action_fields(WireAction)  # noqa: SLF001 - as OpenEnv's own page does
    tab: gr.Blocks = gradio_ui.build_gradio_app(
        manager, fields, manager.metadata, is_chat_env=False, title=manager.metadata.name, quick_start_md=_CALL
    )
    return tab
