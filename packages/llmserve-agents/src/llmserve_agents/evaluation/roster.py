"""The participants of an evaluation: agents by name, with an argument, under a label.

Examples: ``ppo``, ``static:{"batch_cap": 64}``, ``ppo:weights/{task}/seeds/3``, ``seed-3=ppo:weights/{task}/seeds/3``.
An `AgentSpec` is the text and a function that makes the agent. It is sent to other processes, and each makes the agent
itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from llmserve_agents.evaluation.report import WeightsUsed
from llmserve_agents.policy import AGENTS, MODEL_BASED_AGENTS, Policy, StaticPolicy, make_agent
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import ServeAction, ServeObservation, parse_action

__all__ = ["SEARCHED", "AgentSpec", "agent_specs", "known_agents", "parse_agent", "weights_of", "weights_path"]

SEARCHED: Final = "clairvoyant"
"""The clairvoyant search. It is not an agent, because it knows the future; `bound.py` runs it."""
_LABELLED: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.+-]{0,39})=(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """One participant. `make` is sent to other processes, so it must pickle: a class, or a function of a module."""

    label: str
    """Its name in the report."""
    spec: str
    """The text that it was made from, without the label."""
    make: Callable[[], Policy]

    @property
    def searched(self) -> bool:
        """Whether this is the clairvoyant search, which is no agent."""
        return self.spec == SEARCHED


def known_agents() -> tuple[str, ...]:
    """Return the names that a spec may begin with."""
    return (*AGENTS, *MODEL_BASED_AGENTS, SEARCHED)


def parse_agent(text: str) -> AgentSpec:
    """Return the agent of a text: NAME, NAME:ARGUMENT, or either after LABEL=.

    Raises `InvalidInputError` for an unknown name, or an argument that the agent does not take.
    """
    found = _LABELLED.fullmatch(text)
    label, spec = found.groups() if found else (text, text)
    name, given, argument = spec.partition(":")
    if name not in known_agents():
        raise InvalidInputError("agent", "must be one of " + ", ".join(known_agents()), got=text)
    if spec == SEARCHED:
        return AgentSpec(label, spec, _refuse_search)
    if not given:
        return AgentSpec(label, spec, partial(_by_name, name))
    if name == "static":
        return AgentSpec(label, spec, _static(argument))
    if not _takes_folder(name) or not argument:
        takers = ", ".join(["static:{ACTION AS JSON}", *(f"{one}:FOLDER" for one in AGENTS if _takes_folder(one))])
        raise InvalidInputError("agent", f"must be a name without an argument, or one of {takers}", got=text)
    return AgentSpec(label, spec, partial(FolderAgent, name, argument))


def agent_specs(agents: Iterable[str | AgentSpec]) -> list[AgentSpec]:
    """Return the participants; raises `InvalidInputError` if there are none, or two with the same label."""
    named = [agents] if isinstance(agents, str) else agents
    specs = [agent if isinstance(agent, AgentSpec) else parse_agent(agent) for agent in named]
    labels = [spec.label for spec in specs]
    if not labels:
        raise InvalidInputError("agents", "must be at least one agent")
    if len(set(labels)) < len(labels):
        raise InvalidInputError("agents", "must not repeat a label: write LABEL=AGENT", got=labels)
    return specs


class FolderAgent:
    """An agent with the weights of a given folder; ``{task}`` in the folder's name stands for the episode's task."""

    def __init__(self, name: str, folder: str) -> None:
        self._name, self._template = name, folder
        self._folder: Path | None = None
        self._agent: Any = None

    def reset(self, task_id: str, seed: int) -> None:
        """Load the task's weights, if they are not loaded yet, and reset the agent."""
        folder = Path(self._template.replace("{task}", task_id))
        if folder != self._folder:
            make: Any = AGENTS[self._name]
            self._agent, self._folder = make.from_folder(folder), folder
        self._agent.reset(task_id, seed)

    def act(self, observation: ServeObservation) -> ServeAction:
        """Return the agent's action."""
        action: ServeAction = self._agent.act(observation)
        return action

    @property
    def weights_path(self) -> Path | None:
        """Path of the file that the agent loaded."""
        path: Path | None = self._agent.weights_path
        return path

    @property
    def card(self) -> Mapping[str, Any]:
        """Content of its card."""
        card: Mapping[str, Any] = self._agent.card
        return card


def weights_of(agent: Policy) -> WeightsUsed | None:
    """Return the file that an agent loaded at its last reset; None for an agent that needs no file.

    An agent that loads a file has the properties `weights_path` and `card`, a mapping that says how the file was made.
    """
    path = weights_path(agent)
    if path is None:
        return None
    card: Mapping[str, Any] = getattr(agent, "card", {})
    return WeightsUsed(
        path=path,
        sha256=hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        seed=card.get("seed"),
        steps=card.get("steps"),
        command=card.get("command"),
    )


def weights_path(agent: Policy) -> str | None:
    """Return the path of the file that an agent loaded, relative to the current folder if it is below it."""
    path: Path | None = getattr(agent, "weights_path", None)
    if path is None:
        return None
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _refuse_search() -> Policy:
    raise InvalidInputError("agent", "must be one that acts window by window", got=SEARCHED)


def _by_name(name: str) -> Policy:
    return make_agent(name) if name in AGENTS else MODEL_BASED_AGENTS[name]()


def _static(text: str) -> Callable[[], Policy]:
    try:
        content = json.loads(text)
    except ValueError:
        raise InvalidInputError("agent", "static: must be followed by an action as JSON", got=text) from None
    try:
        action = parse_action(content)
    except InvalidInputError as error:
        raise InvalidInputError("agent", f"static: {error}", got=text) from error
    return partial(StaticPolicy, action)


def _takes_folder(name: str) -> bool:
    return hasattr(AGENTS.get(name), "from_folder")
