"""`OpenEnvServer`: OpenEnv's server without a count of its own, since `sessions/slots.py` keeps the one account of places.

OpenEnv counts an environment for every socket and for every ``openenv/session/create``, whether it is used or not, so
that idle ones lock everybody out. Here an environment takes a place at its first reset. What has no place is bounded
otherwise: silent sockets are closed (`middleware/websocket.py`), and of the environments that were created over HTTP the
idlest goes when there are too many.
"""

from __future__ import annotations

import inspect
import time
from functools import partial
from typing import Any, Final

from openenv.core.env_server.http_server import HTTPEnvServer
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import ConcurrencyConfig

from llmserve_server.dispatch import Dispatcher
from llmserve_server.fast_path import current_fast_path
from llmserve_server.openenv.environment import ServingEnvironment
from llmserve_server.sessions.registry import SessionRegistry
from llmserve_server.settings import Settings
from llmserve_server.wire import WireAction, WireObservation, WireState

__all__ = ["OpenEnvServer"]

_UNCOUNTED: Final = 1_000_000
"""What OpenEnv is told that it may hold; sockets end before that for want of file descriptors."""
_LEAST_KEPT: Final = 64
"""Environments created over HTTP that are kept at least, however few places there are."""


class OpenEnvServer(HTTPEnvServer):  # type: ignore[misc]
    """OpenEnv's server with our environment. OpenEnv's older releases take no name and no state class."""

    def __init__(self, settings: Settings, registry: SessionRegistry, dispatcher: Dispatcher) -> None:
        known = inspect.signature(HTTPEnvServer).parameters
        optional: dict[str, Any] = {"env_name": "llmserve_env", "state_cls": WireState}
        super().__init__(
            partial(ServingEnvironment, registry, dispatcher, settings.documentation_url),
            WireAction,
            WireObservation,
            concurrency_config=ConcurrencyConfig(
                max_concurrent_envs=_UNCOUNTED, session_timeout=settings.idle_timeout_s
            ),
            **{name: value for name, value in optional.items() if name in known},
        )
        self._most_over_http = max(_LEAST_KEPT, settings.max_concurrent_envs)
        self._reset_within_s = settings.reset_within_s
        self._over_http: dict[str, ServingEnvironment] = {}
        """Environments that ``openenv/session/create`` made, by OpenEnv's id."""

    async def _create_session(self) -> tuple[str, Environment[Any, Any, Any]]:
        """Create an environment as OpenEnv does. One that no socket holds may have to go for it."""
        is_over_http = current_fast_path.get() is None
        if is_over_http:
            await self._make_room()
        session_id, environment = await super()._create_session()
        if is_over_http and isinstance(environment, ServingEnvironment):
            self._over_http[session_id] = environment
        return session_id, environment

    async def _make_room(self) -> None:
        """Destroy the environments that were not reset in time, and the idlest while there are too many."""
        attached: set[str] = getattr(self, "_session_websocket_attachments", set())
        self._over_http = {name: made for name, made in self._over_http.items() if name in self._sessions}
        used = {name: info.last_activity_at for name, info in self._session_info.items()}
        free = [name for name in self._over_http if name not in attached]
        free.sort(key=lambda name: (self._over_http[name].session_id is not None, used.get(name, 0.0)))
        late = time.time() - self._reset_within_s
        surplus = len(self._over_http) + 1 - self._most_over_http
        for number, name in enumerate(free):
            is_late = self._over_http[name].session_id is None and used.get(name, 0.0) < late
            if is_late or number < surplus:
                del self._over_http[name]
                await self._destroy_session(name)
