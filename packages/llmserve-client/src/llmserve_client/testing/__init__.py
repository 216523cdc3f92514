"""A server inside your tests' process: the real contract over a real `ServingEnv`, with no port, thread or mock.

::

    from llmserve_client.testing import LocalServer

    def test_my_agent_finishes_an_episode():
        with LocalServer().client() as env:
            observation = env.reset("static_workload", seed=1)
            ...

`LocalServer` answers over both transports, for the synchronous and the asynchronous client. It refuses the same calls
as the real server, with the same messages. It can also inject faults (`lose_answer`, `refuse_connections`, …), so that
you can test how your code handles them. It runs the same simulator, so scores equal the real server's to the last bit.
"""

from __future__ import annotations

from llmserve_client.testing._server import LocalServer

__all__ = ["LocalServer"]
