"""A session that has nothing to do with the fuzz: it goes on, and every observation must be what it would be alone."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx
from tests.fuzz.findings import Findings
from websockets.sync.client import connect

from llmserve_sim.env import ServingEnv
from llmserve_sim.schema import ServeAction

TASK = "bursty_workload"
ACTIONS = (
    {"batch_cap": 64, "speculation_depth": 2},
    {"batch_cap": 256, "quantization_tier": "INT8", "priority_routing": True},
    {"kv_budget_fraction": 0.6, "prefill_decode_split": True},
)


class Bystander(threading.Thread):
    """Plays episodes over one transport, a step now and then, beside an environment of its own that knows the truth."""

    def __init__(self, url: str, headers: dict[str, str], findings: Findings, *, over_socket: bool) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._headers = headers
        self._findings = findings
        self._over_socket = over_socket
        self._told = threading.Event()
        self.steps = 0
        self.name = "WebSocket bystander" if over_socket else "HTTP bystander"

    def run(self) -> None:
        """Play until told to stop."""
        try:
            if self._over_socket:
                url = self._url.replace("http", "ws", 1) + "/ws"
                with connect(url, additional_headers=self._headers, max_size=2**24) as socket:

                    def ask(kind: str, data: dict[str, Any]) -> Any:
                        socket.send(json.dumps({"type": kind, "data": data}))
                        reply = json.loads(socket.recv(timeout=60))
                        return reply["data"] if reply["type"] == "observation" else reply

                    self._play(ask)
            else:
                with httpx.Client(base_url=self._url, headers=self._headers, timeout=60) as client:
                    session: dict[str, str] = {}

                    def ask(kind: str, data: dict[str, Any]) -> Any:
                        body = session | ({"action": data} if kind == "step" else data)
                        reply = client.post(f"/{kind}", json=body).json()
                        session.update({"session_id": reply["session_id"]} if "session_id" in reply else {})
                        return reply

                    self._play(ask)
        except Exception as error:  # noqa: BLE001 - whatever ends the bystander is the finding
            self._findings.add(f"the {self.name} came to an end: {type(error).__name__}: {error}")

    def finish(self) -> None:
        """Stop after the step that is under way."""
        self._told.set()
        self.join(120)
        if self.is_alive():
            self._findings.add(f"the {self.name} hangs")

    def _play(self, ask: Any) -> None:
        env = ServingEnv(TASK)
        seed = 100
        done = True
        while not self._told.wait(0.05):
            if done:
                seed += 1
                truth = env.reset(seed=seed)
                answer = ask("reset", {"task_id": TASK, "seed": seed})
            else:
                action = ACTIONS[self.steps % len(ACTIONS)]
                truth = env.step(ServeAction.model_validate(action))
                answer = ask("step", action)
                self.steps += 1
            done = truth.done
            if not _same(answer, truth.model_dump(mode="json")):
                self._findings.add(f"the {self.name} (seed {seed}, step {truth.step_index}) was answered {answer}")
                return


def _same(answer: Any, truth: dict[str, Any]) -> bool:
    """Whether the answer is the true observation: every number exactly, `reward` and `done` where its transport has them."""
    observation = answer.get("observation") if isinstance(answer, dict) else None
    if not isinstance(observation, dict):
        return False
    whole = {"reward": answer["reward"], "done": answer["done"]} | observation
    return bool(whole == truth)
