"""`Autopilot`: an agent that steps one session.

It uses the session registry like any other caller, so its steps are stored, graded and resumed like a visitor's.
"""

from __future__ import annotations

from threading import Event, Lock
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from llmserve_server.sessions.registry import SessionRegistry
    from llmserve_sim.policies import Policy
    from llmserve_sim.schema import ServeObservation

__all__ = ["Autopilot"]


class Autopilot:
    """Steps a session with a policy's actions. The session is not locked: another caller's step causes a conflict."""

    def __init__(
        self, registry: SessionRegistry, session_id: str, policy: Policy, observation: ServeObservation
    ) -> None:
        self._registry = registry
        self._session_id = session_id
        self._policy = policy
        self.observation = observation
        """The last observation."""
        self.stopped = False
        """Whether `stop` was called."""
        self.silent = False
        """Whether the page must show nothing more of this autopilot."""
        self.page_done = Event()
        """Set once the page has shown the last of this autopilot."""
        self._lock = Lock()

    @classmethod
    def take_over(cls, registry: SessionRegistry, session_id: str, policy: Policy) -> Self:
        """Continue a session with `policy` from any window; the policy first sees the episode up to there."""
        log = registry.log(session_id)
        seen = [log.initial_observation, *(step.observation for step in log.steps)]
        policy.reset(log.task_id, log.seed)
        for observation in seen[:-1]:
            policy.act(observation)
        return cls(registry, session_id, policy, seen[-1])

    def advance(self, windows: int) -> bool:
        """Step at most `windows` windows. Return True if the episode has ended or `stop` was called.

        Raises what the registry's `step` raises.
        """
        for _ in range(windows):
            with self._lock:
                if self.stopped or self.observation.done:
                    break
                action = self._policy.act(self.observation)
                reply = self._registry.step(self._session_id, action, step_index=self.observation.step_index)
                self.observation = reply.observation
        return self.stopped or self.observation.done

    def stop(self, *, silent: bool) -> None:
        """Stop stepping. A running window is finished first; after this call nothing is stepped."""
        with self._lock:
            self.stopped, self.silent = True, silent
