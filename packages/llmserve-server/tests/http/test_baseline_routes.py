"""Who may spend the owner's key through /baseline: those with the token, or on this machine, and no page elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from llmserve_server import baseline
from llmserve_server.app import create_app
from llmserve_server.settings import Settings, SettingsError

SPEND = {"use_openai": "true", "task_id": "static_workload", "seed": "1"}
_BODY = {"use_openai": True, "task_id": "static_workload", "seed": 1}
TOKEN = "correct-horse"  # noqa: S105 - of a server that lives as long as its test


class Spent:
    """Counts the suites that would have asked a paid model, instead of asking it."""

    def __init__(self) -> None:
        self.models: list[str] = []


@pytest.fixture
def spent(monkeypatch: pytest.MonkeyPatch) -> Spent:
    found = Spent()
    run = baseline.run_suite

    def counted(*arguments: Any, **named: Any) -> Any:
        if arguments[:1] == ("openai",):
            found.models.append(named["model"])
        plain = {name: named[name] for name in ("tasks", "seeds", "environment", "progress")}
        return run(**plain)

    monkeypatch.setattr(baseline, "run_suite", counted)
    return found


@pytest.fixture
def start() -> Iterator[Callable[..., TestClient]]:
    """Start a server with a key, as seen from an address."""

    def serve(address: str = "127.0.0.1", **settings: Any) -> TestClient:
        given = {"store_url": "sqlite://", "web": False, "engine": "python", "openai_api_key": "sk-1"}
        given |= {"baseline_min_interval_s": 0}
        app = create_app(Settings(**(given | settings)))
        return TestClient(app, "http://localhost:7860", client=(address, 50_000))

    return serve


def code(response: Any) -> str:
    """The code of a refusal; its status otherwise."""
    content = response.json()
    return str(content["error"]["code"]) if "error" in content else str(response.status_code)


def test_this_machine_and_the_token_may_spend_by_get_and_by_post(
    start: Callable[..., TestClient], spent: Spent
) -> None:
    local = start()
    assert code(local.get("/baseline", params=SPEND)) == "200"
    assert code(local.post("/baseline", json=_BODY)) == "200"
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    remote = start("203.0.113.9", api_token=TOKEN)
    assert code(remote.get("/baseline", params=SPEND)) == "unauthorized"
    assert code(remote.get("/baseline", params=SPEND, headers=bearer)) == "200"
    assert code(remote.post("/baseline", json=_BODY, headers=bearer)) == "200"
    assert spent.models == ["gpt-4.1-mini"] * 4


@pytest.mark.parametrize("headers", [{}, {"X-Forwarded-For": "127.0.0.1"}])
def test_a_stranger_may_not_and_gets_the_deterministic_suite_all_the_same(
    start: Callable[..., TestClient], spent: Spent, headers: dict[str, str]
) -> None:
    stranger = start("203.0.113.9" if not headers else "127.0.0.1")
    assert code(stranger.get("/baseline", params=SPEND, headers=headers)) == "token_required"
    assert code(stranger.post("/baseline", json=_BODY, headers=headers)) == "token_required"
    plain = {"task_id": "static_workload", "seed": 1}
    assert stranger.get("/baseline", params=plain, headers=headers).status_code == 200
    assert stranger.post("/baseline", json=plain, headers=headers).json()["tasks"] == ["static_workload"]
    assert spent.models == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
        {"Referer": "https://evil.example/"},
        {"User-Agent": "Mozilla/5.0 (an old browser, which says nothing)"},
        {"Origin": "null"},
    ],
    ids=repr,
)
def test_no_link_and_no_picture_elsewhere_spends(
    start: Callable[..., TestClient], spent: Spent, headers: dict[str, str]
) -> None:
    assert code(start().get("/baseline", params=SPEND, headers=headers)) == "foreign_origin"
    assert spent.models == []


def test_a_foreign_page_spends_nothing_by_a_simple_post(start: Callable[..., TestClient], spent: Spent) -> None:
    page = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
    assert code(start().post("/baseline", content=json.dumps(_BODY), headers=page)) == "foreign_origin"
    assert spent.models == []


def test_the_visitors_own_address_bar_and_docs_may_spend(start: Callable[..., TestClient], spent: Spent) -> None:
    for site in ("none", "same-origin"):
        browser = {"Sec-Fetch-Site": site, "User-Agent": "Mozilla/5.0"}
        assert code(start().get("/baseline", params=SPEND, headers=browser)) == "200"
    assert len(spent.models) == 2


def test_only_listed_models_are_asked(start: Callable[..., TestClient], spent: Spent) -> None:
    client = start()
    refused = client.post("/baseline", json=_BODY | {"model": "gpt-4.1"})
    assert (code(refused), refused.json()["error"]["field"]) == ("invalid_field", "model")
    assert "gpt-4.1-mini" in refused.json()["error"]["bound"]
    assert code(client.post("/baseline", json=_BODY | {"model": "gpt-4o-mini"})) == "200"
    own = start(baseline_models="my/model, my/other")
    assert code(own.post("/baseline", json=_BODY)) == "200"
    assert spent.models == ["gpt-4o-mini", "my/model"]
    with pytest.raises(SettingsError, match="LLMSERVE_BASELINE_MODELS: must be names, separated by commas"):
        Settings(baseline_models="")


def test_without_a_key_the_remedy_is_the_key(start: Callable[..., TestClient]) -> None:
    stranger = start("203.0.113.9", openai_api_key=None)
    assert code(stranger.get("/baseline", params=SPEND)) == "missing_api_key"


@pytest.mark.parametrize("body", [{"model": "gpt-4o-mini"}, {"sead": 1}, {"seed": -1}, {"use_openai": 1}, []])
def test_a_wrong_body_is_refused_by_name(start: Callable[..., TestClient], body: Any) -> None:
    assert code(start().post("/baseline", json=body)) == "invalid_field"
