"""Real mode behind the server's routes: a step that takes time, refusals with codes, and a key that stays secret."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from llmserve_server.app import create_app
from llmserve_server.settings import Settings


@pytest.fixture
def served(endpoint: Any, say: Any, tmp_path: Path) -> Any:
    """Start the server in real mode on the scripted endpoint; each call is another process's life on the same store."""
    settings = Settings(
        mode="real",
        web=False,
        store_url=SecretStr(f"sqlite:///{tmp_path / 'episodes.db'}"),
        real_provider="other",
        real_model="tiny",
        real_max_requests_per_step=3,
        real_max_prompt_tokens=16,
        real_max_completion_tokens=4,
        real_time_scale=0.01,
        OPENAI_API_KEY=say.KEY,
        OPENAI_BASE_URL=endpoint.url,
    )

    @contextmanager
    def run() -> Iterator[TestClient]:
        with TestClient(create_app(settings)) as client:
            yield client

    return run


def test_an_episode_goes_on_in_another_process(served: Any, endpoint: Any) -> None:
    """What was measured is stored; nothing is sent twice; the key is in no answer and not in the metrics."""
    with served() as client:
        session = client.post("/reset", json={"task_id": "static_workload", "seed": 3}).json()["session_id"]
        for index in range(2):
            body = {"action": {"batch_cap": 4}, "session_id": session, "step_index": index}
            assert client.post("/step", json=body).status_code == 200
        log = client.get("/log", headers={"X-Session-Id": session}).text
        metrics = client.get("/metrics").text
    sent = len(endpoint.requests)
    with served() as client:
        headers = {"X-Session-Id": session}
        assert client.get("/log", headers=headers).text == log
        assert client.get("/state", headers=headers).json()["step_count"] == 2
        assert len(endpoint.requests) == sent
        grade = client.post("/grader", json={}, headers=headers).json()
        assert grade["verified"] is None
        fork = client.post("/fork", headers=headers)
        assert (fork.status_code, fork.json()["error"]["code"]) == (409, "not_forkable")
    assert any("sk-test" in head for head in endpoint.heads)
    assert not any("sk-test" in text for text in (log, metrics, fork.text, str(grade)))


def test_a_step_that_waits_does_not_keep_the_server_from_answering(served: Any, endpoint: Any, say: Any) -> None:
    """While the endpoint takes its time, health and other sessions are served."""
    arrived, go_on = threading.Event(), threading.Event()

    def script(*_: Any) -> Any:
        arrived.set()
        return say.Reply([go_on, *say.tokens(2).parts])

    endpoint.script = script
    answers: list[int] = []
    with served() as client:
        session = client.post("/reset", json={"seed": 3}).json()["session_id"]

        def step() -> None:
            answers.append(client.post("/step", json={"action": {}, "session_id": session}).status_code)

        thread = threading.Thread(target=step)
        thread.start()
        try:
            assert arrived.wait(20)
            assert client.get("/health").status_code == 200
            client.cookies.clear()  # they name the session that is in its step, and a call on that one waits
            assert client.post("/reset", json={"seed": 4}).status_code == 200
            assert answers == []
        finally:
            go_on.set()
            thread.join(30)
    assert answers == [200]
