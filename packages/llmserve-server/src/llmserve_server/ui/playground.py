"""OpenEnv's tab, built by OpenEnv's functions. Each visitor has an environment of their own behind it.

OpenEnv's tab knows one manager with one environment for all visitors. `Visitors` stands in its place and passes each
call to the manager of the visitor who makes it. The environments use the session registry like any other caller.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from openenv.core.env_server import gradio_ui, web_interface
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import State

from llmserve_server.errors import EpisodeState
from llmserve_server.openenv.environment import metadata
from llmserve_server.ui.visitor import visitor_address, visitor_key
from llmserve_server.wire import EmptyState, WireAction, WireObservation, to_wire, to_wire_state

if TYPE_CHECKING:
    import gradio as gr
    from openenv.core.env_server.types import EnvironmentMetadata

    from llmserve_server.sessions.registry import SessionRegistry

__all__ = ["Visitors", "VisitorsEnvironment", "playground"]

_MOST_VISITORS: Final = 256
"""Visitors whose environments are kept; the one who did nothing for longest loses theirs first."""
_CALL: Final = """```python
from llmserve_env import LLMServeEnv

env = LLMServeEnv.from_url("http://localhost:7860")
observation = env.reset(task_id="static_workload", seed=42)
while not observation.done:
    observation, reward, done, info = env.step({"batch_cap": 64, "quantization_tier": "INT8"})
print(env.grade())
```
"""


class VisitorsEnvironment(Environment[WireAction, WireObservation, State]):
    """One session of the registry as the environment of OpenEnv's tab for one visitor."""

    def __init__(self, registry: SessionRegistry, address: str | None) -> None:
        super().__init__()
        self._registry = registry
        self._address = address
        self._session_id: str | None = None

    def reset(self, seed: int | None = None, episode_id: str | None = None, **options: Any) -> WireObservation:
        """Start an episode of the first task."""
        self.close()  # its place counts no more
        reply = self._registry.reset(seed=seed, episode_id=episode_id, transport="page", address=self._address)
        self._session_id = reply.session_id
        return to_wire(reply.observation)

    def step(self, action: WireAction, timeout_s: float | None = None, **options: Any) -> WireObservation:
        """Run one window."""
        return to_wire(self._registry.step(self._session(), action.to_action()).observation)

    @property
    def state(self) -> State:
        """Return the state of the episode."""
        if self._session_id is None:
            return EmptyState()
        return to_wire_state(self._registry.state(self._session_id), self._session_id)

    def get_metadata(self) -> EnvironmentMetadata:
        """Return the description of this environment."""
        return metadata()

    def close(self) -> None:
        """Remove the session from memory; it stays in the store."""
        if self._session_id is not None:
            self._registry.close(self._session_id)

    def _session(self) -> str:
        if self._session_id is None:
            raise EpisodeState("there is no episode: reset first")
        return self._session_id


class Visitors(web_interface.WebInterfaceManager):
    """OpenEnv's manager for the visitor whose event is being handled. Its own environment only describes the others."""

    def __init__(self, make: Callable[[], VisitorsEnvironment]) -> None:
        environment = make()
        super().__init__(environment, WireAction, WireObservation, environment.get_metadata())
        self._make = make
        self._turn = Lock()
        self._managers: OrderedDict[str, web_interface.WebInterfaceManager] = OrderedDict()

    async def reset_environment(self, reset_kwargs: dict[str, Any] | None = None) -> dict[str, Any]:
        """Reset the visitor's environment."""
        return dict(await self._manager().reset_environment(reset_kwargs))

    async def step_environment(self, action_data: dict[str, Any]) -> dict[str, Any]:
        """Step the visitor's environment."""
        return dict(await self._manager().step_environment(action_data))

    def get_state(self) -> dict[str, Any]:
        """Return the state of the visitor's environment."""
        return dict(self._manager().get_state())

    def _manager(self) -> web_interface.WebInterfaceManager:
        key = visitor_key()
        if not key:  # one environment for all who name none would be everybody's
            raise EpisodeState("the page names itself by its session_hash: open it in a browser")
        with self._turn:
            manager = self._managers.get(key)
            if manager is None:
                manager = web_interface.WebInterfaceManager(self._make(), WireAction, WireObservation, self.metadata)
                manager._executor.shutdown()  # noqa: SLF001 - a thread for each visitor would be one too many
                manager._executor = self._executor  # noqa: SLF001
                self._managers[key] = manager
                while len(self._managers) > _MOST_VISITORS:
                    self._managers.popitem(last=False)[1].env.close()
            self._managers.move_to_end(key)
            return manager


def playground(registry: SessionRegistry) -> gr.Blocks:
    """Return OpenEnv's tab, with an example of the client beside it."""
    address = partial(visitor_address, registry.callers)
    manager = Visitors(lambda: VisitorsEnvironment(registry, address()))
    fields = web_interface._extract_action_fields(WireAction)  # noqa: SLF001 - as OpenEnv's own page does
    tab: gr.Blocks = gradio_ui.build_gradio_app(
        manager, fields, manager.metadata, is_chat_env=False, title=manager.metadata.name, quick_start_md=_CALL
    )
    return tab
