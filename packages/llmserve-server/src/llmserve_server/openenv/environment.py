"""`ServingEnvironment`: a session of the registry as OpenEnv's `Environment`. OpenEnv makes one for every WebSocket.

It holds only the id of a session. The episode is in the registry, so it can be graded over HTTP while the socket is
open, and resumed after it has closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any, NoReturn

import structlog
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.mcp_types import CallToolAction, ListToolsAction
from openenv.core.env_server.types import EnvironmentMetadata, Observation, State
from pydantic import ValidationError

from llmserve_agents.tools import Answer
from llmserve_server.__about__ import __version__
from llmserve_server.callers.callers import current_scope
from llmserve_server.callers.paths import prefix_of, route_path
from llmserve_server.dispatch import Dispatcher
from llmserve_server.errors import Busy, EpisodeState, ServiceError, UnknownSession
from llmserve_server.fast_path import current_fast_path
from llmserve_server.openenv import tasks as task_api
from llmserve_server.openenv.rubric import RewardRubric
from llmserve_server.sessions.registry import Reply, SessionRegistry
from llmserve_server.settings import DOCUMENTATION_URL
from llmserve_server.tools.episode import RegistryEpisode
from llmserve_server.tools.openenv import ToolClient, tool_observation, tools_observation
from llmserve_server.tools.session import ToolSession
from llmserve_server.wire import (
    EmptyState,
    ResetRequest,
    WireAction,
    WireObservation,
    refusal,
    step_index_of,
    to_wire,
    to_wire_state,
)
from llmserve_sim.errors import InvalidInputError, LLMServeError
from llmserve_sim.schema import ServeAction, ServeObservation, translate

__all__ = ["ServingEnvironment", "metadata", "reset_arguments"]

_log = structlog.get_logger(__name__)


class ServingEnvironment(Environment[WireAction, WireObservation, State]):
    """One caller's session behind OpenEnv's interface.

    `reset` takes what `POST /reset` takes: `task_id`, `seed`, `episode_id`, `session_id` with `resume`, or the Task
    API's `split` and `index`; any other argument is refused. `step` takes a `WireAction`. `close` removes the session
    from memory; it stays in the store and can be resumed by its id.
    """

    SUPPORTS_CONCURRENT_SESSIONS: bool = True
    # No environment needs its own thread, but OpenEnv starts one per socket unless all share an executor.
    REQUIRES_SINGLE_THREAD_EXECUTOR: bool = True

    def __init__(
        self, registry: SessionRegistry, dispatcher: Dispatcher, documentation_url: str = DOCUMENTATION_URL
    ) -> None:
        super().__init__(rubric=RewardRubric())
        self._documentation_url = documentation_url
        self._registry = registry
        self._dispatcher = dispatcher
        self._session_id: str | None = None
        self._tools: ToolSession | None = None

    @property
    def session_id(self) -> str | None:
        """The session; None before the first reset."""
        return self._session_id

    def reset(self, /, seed: int | None = None, episode_id: str | None = None, **options: Any) -> WireObservation:
        """Start an episode and return its first observation."""
        try:
            arguments = self._reset_arguments(seed, episode_id, options)
            return self._taken(self._reset_now(**arguments))
        except Exception as error:  # noqa: BLE001 - OpenEnv shows the caller the text of any exception
            _refuse(error)

    async def reset_async(
        self, /, seed: int | None = None, episode_id: str | None = None, **options: Any
    ) -> WireObservation:
        """Do what `reset` does without making other sessions wait."""
        try:
            arguments = self._reset_arguments(seed, episode_id, options)
            taken = self._taken(await self._dispatcher.run(self._reset_now, **arguments))
        except Exception as error:  # noqa: BLE001
            _refuse(error)
        self._use_fast_path()
        return taken

    async def step_now(self, action: ServeAction, step_index: int | None) -> ServeObservation | None:
        """Step if that would not wait, else return None. Raises a `ServiceError` if the step is refused."""
        if self._session_id is None or not self._dispatcher.can_step_inline(self._session_id):
            return None
        observation = (await self._dispatcher.step(self._session_id, action, step_index)).observation
        self.rubric.see(observation)
        return observation

    def step(self, action: WireAction, timeout_s: float | None = None, **options: Any) -> Observation:
        """Run one window under `action`, or list or call tools."""
        if isinstance(action, ListToolsAction):
            return tools_observation(self.list_tools())
        if isinstance(action, CallToolAction):
            with self._tools_here() as tools:
                return tool_observation(action, tools.call_now(action.tool_name, action.arguments))
        try:
            reply = self._registry.step(self._session(), action.to_action(), step_index=step_index_of(action))
            self.rubric.see(reply.observation)
            return to_wire(reply.observation)
        except Exception as error:  # noqa: BLE001
            _refuse(error)

    async def step_async(self, action: WireAction, timeout_s: float | None = None, **options: Any) -> Observation:
        """Do what `step` does without making other sessions wait."""
        if isinstance(action, ListToolsAction):
            return tools_observation(self.list_tools())
        if isinstance(action, CallToolAction):
            return tool_observation(action, await self.call_tool(action.tool_name, action.arguments))
        try:
            reply = await self._dispatcher.step(self._session(), action.to_action(), step_index_of(action))
            self.rubric.see(reply.observation)
        except Exception as error:  # noqa: BLE001
            _refuse(error)
        self._use_fast_path()  # a socket may have been attached to an environment that has an episode
        return to_wire(reply.observation)

    async def bring_back(self) -> None:
        """Load the session's episode in a thread if it has left memory, so that `state` need not wait for it."""
        if self._session_id is not None and not self._registry.is_idle(self._session_id):
            with suppress(ServiceError):  # `state` meets it again
                await self._dispatcher.run(self._registry.state, self._session_id)

    @property
    def mcp_client(self) -> ToolClient:
        """What OpenEnv's JSON-RPC at `/mcp` and over `/ws` asks for tools."""
        return ToolClient(self.list_tools, self.call_tool)

    def list_tools(self) -> list[dict[str, Any]]:
        """Return the tools in the words of MCP; no episode is needed."""
        with self._tools_here() as tools:
            return tools.tools()

    async def call_tool(self, name: object, arguments: object) -> Answer:
        """Call a tool on this session's episode; a refusal is an answer too."""
        with self._tools_here() as tools:
            return await tools.call(name, arguments)

    @contextmanager
    def _tools_here(self) -> Iterator[ToolSession]:
        """Lend the tools, which share the session with `reset` and `step`."""
        if self._tools is None:
            self._tools = ToolSession(RegistryEpisode(self._registry, **self._caller()), self._dispatcher)
        if self._session_id is not None:
            self._tools.episode.session_id = self._session_id
        yield self._tools
        self._session_id = self._tools.episode.session_id
        if self._session_id is not None:
            self._use_fast_path()

    @property
    def state(self) -> State:
        """The state of the episode, with the id of its session; an empty state before the first reset."""
        if self._session_id is None:
            return EmptyState()
        try:
            session_id = self._free_session()
            return to_wire_state(self._registry.state(session_id), session_id)
        except Exception as error:  # noqa: BLE001
            _refuse(error)

    def get_metadata(self) -> EnvironmentMetadata:
        """Return the description of this environment, with the server's readme."""
        described = metadata()
        described.readme_content, described.documentation_url = _readme(), self._documentation_url
        scope = current_scope.get()
        if scope is not None and self._documentation_url.startswith("/"):
            described.documentation_url = prefix_of(scope) + self._documentation_url
        return described

    def list_splits(self) -> list[dict[str, str]]:
        """Return the splits of OpenEnv's Task API."""
        return [{"name": name, "type": name} for name in task_api.SPLITS]

    def num_tasks(self, split: str) -> int:
        """Return the number of tasks in a split; raises `InvalidField`."""
        try:
            return task_api.num_tasks(split)
        except LLMServeError as error:
            raise refusal(error) from None

    def list_tasks(self, split: str) -> list[dict[str, Any]]:
        """Return the first thousand tasks of a split; `num_tasks` returns how many there are."""
        return self.get_task_range(split)

    def get_task(self, split: str, index: int) -> dict[str, Any]:
        """Return the arguments of `reset` that start one task; raises `InvalidField` and `IndexError`."""
        try:
            return task_api.task_spec(split, index)
        except LLMServeError as error:
            raise refusal(error) from None

    def get_task_range(self, split: str, start: int | None = None, stop: int | None = None) -> list[dict[str, Any]]:
        """Return the tasks of ``[start, stop)``, at most a thousand."""
        try:
            return task_api.task_range(split, start, stop)
        except LLMServeError as error:
            raise refusal(error) from None

    def close(self) -> None:
        """Remove the session from memory; closing twice is allowed.

        The session id is kept: OpenEnv also closes idle environments whose socket is open, and these can be used again.
        """
        if self._session_id is not None:
            self._registry.close(self._session_id)

    def _session(self) -> str:
        if self._session_id is None:
            raise EpisodeState("there is no episode: reset first")
        return self._session_id

    def _free_session(self) -> str:
        """Return the session id for a call in the event loop; raise `Busy` if the session is in use."""
        session_id = self._session()
        if self._registry.is_busy(session_id):
            raise Busy("a step of this session is under way: ask again when it is done", retry_after_s=1)
        return session_id

    def _reset_arguments(self, seed: Any, episode_id: Any, options: dict[str, Any]) -> dict[str, Any]:
        given = {"seed": seed, "episode_id": episode_id} | options
        request = reset_arguments({name: value for name, value in given.items() if value is not None})
        if request["session_id"] is None:
            request["session_id"] = self._session_id
        return request | self._caller()

    def _reset_now(self, **arguments: Any) -> Reply:
        """Reset this environment's session, or a new one if the store has pruned it."""
        try:
            return self._registry.reset(**arguments)
        except UnknownSession:
            if arguments["session_id"] != self._session_id or arguments["resume"]:
                raise
            return self._registry.reset(**(arguments | {"session_id": None}))

    def _use_fast_path(self) -> None:
        """Tell this socket, if there is one, that it has a session now."""
        fast_path = current_fast_path.get()
        if fast_path is not None:
            fast_path.environment = self

    def _caller(self) -> dict[str, Any]:
        """Return what a new session is told of its caller: the transport, and the network address."""
        scope = current_scope.get()
        transport = "mcp" if scope is not None and route_path(scope) == "/mcp" else "websocket"
        return {"transport": transport, "address": self._registry.callers.of(scope).address}

    def _taken(self, reply: Reply) -> WireObservation:
        if self._session_id not in {None, reply.session_id}:
            self.close()
        self._session_id = reply.session_id
        self.rubric.see(reply.observation)
        return to_wire(reply.observation)


def reset_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the registry's `reset` for the fields of a `ResetRequest`.

    No value is converted. Raises `InvalidInputError`, which names the field.
    """
    try:
        request = ResetRequest.model_validate(given)
    except ValidationError as error:
        raise translate(error, ResetRequest) from None
    task_id, seed = request.task_id, request.seed
    if (request.split is None) != (request.index is None):
        raise InvalidInputError("index" if request.index is None else "split", "is required beside the other")
    if request.split is not None:
        if task_id is not None or seed is not None:
            raise InvalidInputError("split", "names the task and the seed itself: leave out task_id and seed")
        try:
            task_id, seed = task_api.task_and_seed(request.split, request.index)
        except IndexError as error:
            raise InvalidInputError("index", str(error).removeprefix("index: ")) from None
    return {
        "task_id": task_id,
        "seed": seed,
        "episode_id": request.episode_id,
        "session_id": request.session_id,
        "resume": request.resume,
    }


def metadata() -> EnvironmentMetadata:
    """Return the description of this environment, for OpenEnv's pages and tools."""
    return EnvironmentMetadata(
        name="LLMServeEnv",
        description="Learn LLM inference serving policies under latency, memory and cost constraints: six knobs a "
        "window on a deterministic, CPU-simulated vLLM fleet.",
        version=__version__,
        author="The LLMServeEnv contributors",
    )


@cache
def _readme() -> str | None:
    """Return the readme that the installed distribution carries; None if the package is not installed."""
    try:
        carried = distribution("llmserve-server").metadata
    except PackageNotFoundError:
        return None
    return carried.get_payload() or carried["Description"]  # type: ignore[attr-defined]


def _refuse(error: Exception) -> NoReturn:
    """Raise `error` as a `ServiceError`; an unexpected error is logged, and the caller is not told its text."""
    if not isinstance(error, ServiceError | LLMServeError):
        _log.error("call_failed", exc_info=error)
        error = ServiceError("the server failed on this call; its log says why", code="internal_error")
    raise refusal(error) from None
