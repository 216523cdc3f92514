"""Servers behind a proxy: TLS, a path prefix, a trailing slash, a token, and a certificate of one's own."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import secrets
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from llmserve_client import AsyncLLMServeEnv, ConnectError, LLMServeEnv, Retries, TransportError

PREFIX = "/envs/llm"
TOKEN = "open-sesame"  # noqa: S105 - a test's own
README = Path(__file__).parents[2] / "packages" / "llmserve-client" / "README.md"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for this machine that nobody else vouches for, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("a certificate is made with the openssl command, which is not installed")
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "cert.pem", folder / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, *names, "-out", str(made), "-keyout", str(key)], check=True, capture_output=True)
    return made, key


@pytest.fixture(scope="module")
def address(certificate: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[str]:
    """Where a server answers over TLS, below a prefix, to those who know its token."""
    made, key = certificate
    folder = tmp_path_factory.mktemp("proxied")
    environment = os.environ | {
        "LLMSERVE_API_TOKEN": TOKEN,
        "LLMSERVE_STORE_URL": f"sqlite:///{folder / 'episodes.db'}",
        "LLMSERVE_WEB": "false",
    }
    command = [
        sys.executable,
        str(Path(__file__).with_name("behind_a_proxy.py")),
        PREFIX,
        str(port),
        str(made),
        str(key),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        url = f"https://localhost:{port}{PREFIX}/"
        context = ssl.create_default_context(cafile=str(made))
        deadline = time.monotonic() + 300
        while True:
            try:
                with LLMServeEnv.from_url(url, token=TOKEN, ssl_context=context, retries=Retries(attempts=0)) as env:
                    env.tasks()
                break
            except TransportError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("transport", ["auto", "http", "websocket"])
@pytest.mark.parametrize("slash", ["/", ""])
def test_https_below_a_prefix_with_a_token(
    address: str, certificate: tuple[Path, Path], transport: Any, slash: str
) -> None:
    context = ssl.create_default_context(cafile=str(certificate[0]))
    url = address.rstrip("/") + slash
    with LLMServeEnv.from_url(url, transport=transport, token=TOKEN, ssl_context=context) as env:
        first = env.reset("static_workload", 7)
        assert env.transport == ("websocket" if transport == "auto" else transport)
        assert env.grade().verified

    async def play() -> object:
        async with AsyncLLMServeEnv.from_url(url, transport=transport, token=TOKEN, ssl_context=context) as client:
            return await client.reset("static_workload", 7)

    assert asyncio.run(play()) == first


def test_the_running_command_stays_below_the_prefix_that_its_proxy_names(start_server: Any) -> None:
    """The visitor's address takes the place of the proxy's, whose prefix is trusted all the same."""
    server = start_server()
    proxied = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "X-Forwarded-Prefix": PREFIX}
    with httpx.Client(base_url=server.url, headers=proxied) as client:
        reply = client.post("/reset", json={"seed": 7})
        assert f"Path={PREFIX};" in reply.headers["set-cookie"]
        assert "Secure" in reply.headers["set-cookie"]
        assert client.get("/openapi.json").json()["servers"] == [{"url": PREFIX}]
        assert client.get(f"{PREFIX}/health").status_code == 200


@pytest.mark.parametrize("transport", ["http", "websocket"])
def test_a_certificate_that_nobody_vouches_for_is_not_trusted(address: str, transport: Any) -> None:
    env = LLMServeEnv.from_url(address, transport=transport, token=TOKEN, retries=Retries(attempts=0))
    with env, pytest.raises(ConnectError, match=r"(?i)certificate"):
        env.reset()


def test_a_certificate_can_be_vouched_for_in_the_environment(address: str, certificate: tuple[Path, Path]) -> None:
    code = (
        "import sys; from llmserve_client import LLMServeEnv\n"
        "for transport in ('http', 'websocket'):\n"
        "    with LLMServeEnv.from_url(sys.argv[1], token=sys.argv[2], transport=transport) as env: env.reset()\n"
    )
    environment = os.environ | {"SSL_CERT_FILE": str(certificate[0])}
    subprocess.run([sys.executable, "-c", code, address, TOKEN], env=environment, check=True, capture_output=True)


def test_behind_a_proxy_no_visitor_reaches_another_in_ten_thousand_guesses(
    address: str, certificate: tuple[Path, Path]
) -> None:
    parts = urlsplit(address)
    context = ssl.create_default_context(cafile=str(certificate[0]))
    stranger = http.client.HTTPSConnection(str(parts.hostname), parts.port, context=context, timeout=120)

    def asked(method: str, path: str, session: str | None = None) -> tuple[int, dict[str, Any]]:
        named = {} if session is None else {"X-Session-Id": session}
        stranger.request(method, PREFIX + path, headers={"Authorization": f"Bearer {TOKEN}"} | named)
        with stranger.getresponse() as answer:
            return answer.status, json.load(answer)

    with LLMServeEnv.from_url(address, transport="http", token=TOKEN, ssl_context=context) as env:
        env.reset("static_workload", 7)
        own = str(env.session_id)
        for method, path in (("GET", "/state"), ("GET", "/log"), ("POST", "/grader"), ("POST", "/fork")):
            status, content = asked(method, path)
            assert own not in str(content)
            assert status == 409 or content == {"episode_id": None, "step_count": 0}
        for guess in (secrets.token_urlsafe(24) for _ in range(10_000)):
            assert asked("GET", "/state", guess)[0] == 404
        assert asked("GET", "/state", own)[0] == 200
        assert env.step({}).observation.step_index == 1
    stranger.close()


def test_the_documented_example_runs_as_it_stands(server: Any) -> None:
    """It never closes its environment, and leaves without a warning all the same."""
    (example,) = re.findall(r"```python\n(from llmserve_env import.*?)```", README.read_text(), re.DOTALL)
    assert "http://localhost:7860" in example
    code = example.replace("localhost:7860", f"localhost:{server.port}")
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", code], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "score=" in ran.stdout
    assert "verified=True" in ran.stdout
