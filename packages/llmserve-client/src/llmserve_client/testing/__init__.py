"""A server in your tests' own process: the real contract over a real `ServingEnv`, with no port, thread or mock.

::

    from llmserve_client.testing import LocalServer

    def test_my_agent_finishes_an_episode():
        with LocalServer().client() as env:
            observation = env.reset("static_workload", seed=1)
            ...

`LocalServer` answers over both transports, for the synchronous and the asynchronous client, refuses what the real server
refuses in the same words, and can be told to misbehave (`lose_answer`, `refuse_connections`, …), so that what your code
does on a bad day can be tested too. Its dynamics are the simulator's: scores agree with the real server's to the bit.
"""

from __future__ import annotations

from llmserve_client.testing._server import LocalServer

__all__ = ["LocalServer"]
