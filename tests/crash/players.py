"""Callers who play episodes over HTTP or WebSocket through every crash, beside an environment that knows the truth.

What a caller does about a lost connection is what the documentation tells everyone to do: over HTTP the same step again
with its `step_index`, over WebSocket a new socket and a reset with `session_id` and `resume`.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from math import fsum
from random import Random
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from llmserve_sim.env import ServingEnv
from llmserve_sim.schema import QUANTIZATION_TIERS, ServeAction, ServeObservation

__all__ = ["HttpPlayer", "LostError", "Player", "Score", "SocketPlayer"]

_GIVE_UP_S = 120
"""A call that was not answered by then is lost."""
_TASKS = ("static_workload", "bursty_workload", "adversarial_multitenant")


class LostError(Exception):
    """A session did not go on as it should have."""


class Score:
    """What the players did together; whoever kills waits for steps here."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._waiting: list[tuple[int, asyncio.Event]] = []

    def add(self, name: str) -> None:
        """Count."""
        self.counts[name] += 1
        if name == "steps":
            for target, event in self._waiting:
                if self.counts[name] >= target:
                    event.set()

    async def steps(self, more: int) -> None:
        """Wait until so many more steps were answered."""
        event = asyncio.Event()
        entry = (self.counts["steps"] + more, event)
        self._waiting.append(entry)
        await event.wait()
        self._waiting.remove(entry)


class Player:
    """Plays one episode after another in one session, and compares every observation."""

    def __init__(self, number: int, rng: Random, urls: list[str], score: Score) -> None:
        self.number = number
        self.rng = rng
        self.urls = urls
        self.score = score
        self.session_id: str | None = None
        self.finished: dict[str, float] = {}
        """Total reward of each finished episode, by its id."""
        self._client = httpx.AsyncClient(timeout=30)

    async def play(self, over: asyncio.Event) -> None:
        """Play until it is over, and the running episode to its end."""
        while not over.is_set():
            env = ServingEnv()
            task, seed = self.rng.choice(_TASKS), self.rng.randrange(1_000_000)
            episode_id = f"{self.number}-{len(self.finished)}"
            self._same(await self.begin(task, seed, episode_id), env.reset(seed, task))
            rewards: list[float] = []
            while not env.outcome.done:
                action = self._action()
                truth = env.step(action)
                self._same(await self.step(action, len(rewards)), truth)
                rewards.append(truth.reward)
                self.score.add("steps")
            self.finished[episode_id] = fsum(rewards)
            self.score.add("episodes")

    async def check(self) -> None:
        """Grade every episode of the session again; raises `LostError`."""
        state = (await self._ask("GET", "/state", {})).json()
        if (state["session_id"], state["episode_id"]) != (self.session_id, f"{self.number}-{len(self.finished) - 1}"):
            raise LostError(f"session {self.number} is at {state['episode_id']} after {len(self.finished)} episodes")
        for episode_id, total in self.finished.items():
            report = (await self._ask("POST", "/grader", {"episode_id": episode_id})).json()
            if not (report.get("verified") and report["complete"] and report["total_reward"] == total):
                raise LostError(f"episode {episode_id}: total reward {total}, graded {report}")
            self.score.add("verified")

    async def close(self) -> None:
        """Hang up."""
        await self._client.aclose()

    async def begin(self, task: str, seed: int, episode_id: str) -> dict[str, Any]:
        """Start an episode in this session and return its first observation."""
        raise NotImplementedError

    async def step(self, action: ServeAction, index: int) -> dict[str, Any]:
        """Step, until it is answered, and return the observation."""
        raise NotImplementedError

    def _action(self) -> ServeAction:
        rng = self.rng
        return ServeAction(
            batch_cap=rng.randint(1, 512),
            kv_budget_fraction=rng.uniform(0.1, 1.0),
            speculation_depth=rng.randint(0, 8),
            quantization_tier=rng.choice(QUANTIZATION_TIERS),
            prefill_decode_split=rng.random() < 0.1,
            priority_routing=rng.random() < 0.5,
        )

    def _same(self, answered: dict[str, Any], truth: ServeObservation) -> None:
        if answered != json.loads(truth.model_dump_json()):
            raise LostError(f"session {self.number}: answered {answered}, and the truth is {truth.model_dump_json()}")

    async def _ask(self, method: str, path: str, content: dict[str, Any]) -> httpx.Response:
        """Ask one of the servers, and another (or the same) again until one answers."""
        headers = {} if self.session_id is None else {"X-Session-Id": self.session_id}
        async with asyncio.timeout(_GIVE_UP_S):
            while True:
                url = self.rng.choice(self.urls) + path
                try:
                    answer = await self._client.request(method, url, json=content or None, headers=headers)
                except httpx.TransportError:
                    self.score.add("attempts cut off")
                    await asyncio.sleep(self.rng.uniform(0.01, 0.1))
                    continue
                if answer.status_code != 200:
                    raise LostError(
                        f"session {self.number}: {method} {path} was answered {answer.status_code} {answer.text}"
                    )
                return answer


class HttpPlayer(Player):
    """Over HTTP: each call goes to any of the servers."""

    async def begin(self, task: str, seed: int, episode_id: str) -> dict[str, Any]:
        """Reset; the first time in a new session."""
        return self._taken(await self._ask("POST", "/reset", {"task_id": task, "seed": seed, "episode_id": episode_id}))

    async def step(self, action: ServeAction, index: int) -> dict[str, Any]:
        """Step; a call that was cut off is repeated with the same `step_index`."""
        content = {"action": action.model_dump(), "step_index": index, "session_id": self.session_id}
        return self._taken(await self._ask("POST", "/step", content))

    def _taken(self, answer: httpx.Response) -> dict[str, Any]:
        content = answer.json()
        if self.session_id not in {None, content["session_id"]}:
            raise LostError(f"session {self.number} became another")
        self.session_id = content["session_id"]
        return dict(content["observation"])


class SocketPlayer(Player):
    """Over WebSocket: a socket to one of the servers, until it breaks or the player feels like another."""

    _socket: ClientConnection | None = None

    async def begin(self, task: str, seed: int, episode_id: str) -> dict[str, Any]:
        """Reset; the first time in a new session, whose id the state tells."""
        while True:
            try:
                socket, _ = await self._connected()
                given = {"task_id": task, "seed": seed, "episode_id": episode_id}
                answer = await self._say(socket, "reset", given)
                state = await self._say(socket, "state", {})
            except (ConnectionClosed, OSError):
                await self._cut_off()
                continue
            if self.session_id not in {None, state["session_id"]}:
                raise LostError(f"session {self.number} became another")
            self.session_id = state["session_id"]
            return answer

    async def step(self, action: ServeAction, index: int) -> dict[str, Any]:
        """Step; where the socket breaks, come back and see whether the step had been taken."""
        while True:
            try:
                socket, last = await self._connected(hop=self.rng.random() < 0.02)
                if last is not None and last["step_index"] == index + 1:
                    self.score.add("steps taken but not answered")
                    return last
                if last is not None and last["step_index"] != index:
                    raise LostError(f"session {self.number} came back at {last['step_index']} and not at {index}")
                return await self._say(socket, "step", action.model_dump() | {"metadata": {"step_index": index}})
            except (ConnectionClosed, OSError):
                await self._cut_off()

    async def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            await self._socket.close()
        await super().close()

    async def _connected(self, *, hop: bool = False) -> tuple[ClientConnection, dict[str, Any] | None]:
        """Return a socket, and the session's last observation where the socket is new and the session is not."""
        if self._socket is not None and not hop:
            return self._socket, None
        if self._socket is not None:
            await self._socket.close()
            self._socket = None
        url = self.rng.choice(self.urls).replace("http", "ws", 1) + "/ws"
        async with asyncio.timeout(_GIVE_UP_S):
            while self._socket is None:
                try:
                    self._socket = await connect(url, max_size=2**24, open_timeout=10)
                except (InvalidHandshake, OSError, TimeoutError):
                    await self._cut_off()
                    url = self.rng.choice(self.urls).replace("http", "ws", 1) + "/ws"
        if self.session_id is None:
            return self._socket, None
        return self._socket, await self._say(self._socket, "reset", {"session_id": self.session_id, "resume": True})

    async def _say(self, socket: ClientConnection, kind: str, data: dict[str, Any]) -> dict[str, Any]:
        async with asyncio.timeout(_GIVE_UP_S):
            await socket.send(json.dumps({"type": kind} | ({"data": data} if data else {})))
            answer = json.loads(await socket.recv())
        if answer["type"] == "state":
            return dict(answer["data"])
        if answer["type"] != "observation":
            raise LostError(f"session {self.number}: {kind} was answered {answer}")
        observation: dict[str, Any] = answer["data"]["observation"]
        return {name: answer["data"][name] for name in ("reward", "done")} | observation

    async def _cut_off(self) -> None:
        self.score.add("attempts cut off")
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()
        await asyncio.sleep(self.rng.uniform(0.01, 0.1))
