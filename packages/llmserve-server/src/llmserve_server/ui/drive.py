"""`Driver`: an agent at the wheel of one session.

It goes through the session registry like everybody, so what it does is stored, graded and resumed like a person's steps. It
knows nothing about pages.
"""

from __future__ import annotations

from threading import Event, Lock
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from llmserve_server.sessions import SessionRegistry
    from llmserve_sim.policies import Policy
    from llmserve_sim.schema import ServeObservation

__all__ = ["Driver"]


class Driver:
    """Steps a session with what a policy answers. It does not lock the session: a step in between is a conflict."""

    def __init__(
        self, registry: SessionRegistry, session_id: str, policy: Policy, observation: ServeObservation
    ) -> None:
        self._registry = registry
        self._session_id = session_id
        self._policy = policy
        self.observation = observation
        """The last observation."""
        self.stopped = False
        """Whether the agent was let go."""
        self.quietly = False
        """Whether there is nobody left to tell about it."""
        self.left = Event()
        """Set once its page has shown the last of it."""
        self._wheel = Lock()

    @classmethod
    def enter(cls, registry: SessionRegistry, session_id: str, policy: Policy) -> Self:
        """Take the wheel of a session at any window; the policy first reads the episode up to here."""
        log = registry.log(session_id)
        seen = [log.initial_observation, *(step.observation for step in log.steps)]
        policy.reset(log.task_id, log.seed)
        for observation in seen[:-1]:
            policy.act(observation)
        return cls(registry, session_id, policy, seen[-1])

    def advance(self, windows: int) -> bool:
        """Step at most so many windows; whether it goes no further: the episode has ended, or the agent was let go.

        Raises what the registry's step raises.
        """
        for _ in range(windows):
            with self._wheel:
                if self.stopped or self.observation.done:
                    break
                action = self._policy.act(self.observation)
                reply = self._registry.step(self._session_id, action, step_index=self.observation.step_index)
                self.observation = reply.observation
        return self.stopped or self.observation.done

    def let_go(self, *, quietly: bool) -> None:
        """Step no further. The window that is under way is finished first, so that nothing moves afterwards."""
        with self._wheel:
            self.stopped, self.quietly = True, quietly
