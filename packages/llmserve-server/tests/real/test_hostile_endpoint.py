"""An endpoint that means harm fills no memory, holds no step up, sends nobody elsewhere and shows no password."""

from __future__ import annotations

import asyncio
import gzip
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from llmserve_server.backends.real import vllm_metrics
from llmserve_server.backends.real.answers import Answer, Failure
from llmserve_server.backends.real.chunks import EventDecoder, MalformedError
from llmserve_server.backends.real.config import RealConfig
from llmserve_server.backends.real.vllm_metrics import MetricsPage, parse
from llmserve_server.log_config import configure_logging
from llmserve_server.settings import Settings, SettingsError

MIB = b" " * 2**20
Ask = Callable[[RealConfig], Answer]
STREAM = {"content-type": "text/event-stream"}


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (200, Failure.MALFORMED),
        (307, Failure.REFUSED),
        (400, Failure.REFUSED),
        (429, Failure.RATE_LIMITED),
        (500, Failure.SERVER_ERROR),
    ],
)
def test_a_body_of_hundreds_of_megabytes_is_not_read(
    endpoint: Any, config: Callable[..., RealConfig], say: Any, status: int, failure: Failure, ask: Ask
) -> None:
    endpoint.script = say.Reply([MIB] * 400, status, STREAM if status == 200 else {"content-type": "application/json"})
    assert ask(config(endpoint.url)).failure is failure
    assert endpoint.sent < 60 * len(MIB)  # what the kernel's buffers took


def test_a_stream_without_text_and_without_end_is_cut_off(
    endpoint: Any, config: Callable[..., RealConfig], say: Any, ask: Ask
) -> None:
    comments = b": still here\n\n" * 10_000
    endpoint.script = say.Reply([comments] * 2000)
    assert ask(config(endpoint.url)).failure is Failure.OVERLONG
    assert endpoint.sent < 60 * len(MIB)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize(("status", "failure"), [(200, Failure.MALFORMED), (503, Failure.SERVER_ERROR)])
def test_a_compressed_body_is_refused_unopened(
    endpoint: Any, config: Callable[..., RealConfig], say: Any, status: int, failure: Failure, encoding: str, ask: Ask
) -> None:
    bomb = gzip.compress(MIB * 64)
    endpoint.script = say.Reply([bomb], status, STREAM | {"content-encoding": encoding})
    start = time.monotonic()
    assert ask(config(endpoint.url)).failure is failure
    assert time.monotonic() - start < 10.0
    assert "accept-encoding: identity" in endpoint.heads[0].lower()


@pytest.mark.parametrize("status", [200, 400, 500])
def test_the_time_limit_holds_for_a_body_that_drips(
    endpoint: Any, config: Callable[..., RealConfig], say: Any, status: int, ask: Ask
) -> None:
    endpoint.script = say.Reply([b"x", 0.1] * 600, status, STREAM)
    start = time.monotonic()
    assert ask(config(endpoint.url, request_timeout_s=1.0)).failure is Failure.TIMEOUT
    assert time.monotonic() - start < 15.0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(
    endpoint: Any, config: Callable[..., RealConfig], say: Any, status: int, ask: Ask
) -> None:
    elsewhere = endpoint.url.replace("127.0.0.1", "localhost") + "/chat/completions"
    endpoint.script = say.Reply([], status, {"location": elsewhere})
    assert ask(config(endpoint.url)).failure is Failure.REFUSED
    assert len(endpoint.requests) == 1


def _with_password(url: str) -> str:
    return url.replace("://", "://reader:s3cr%40t@")


@pytest.mark.parametrize("level", ["info", "debug"])
def test_a_url_with_a_password_works_and_is_logged_nowhere(
    endpoint: Any, config: Callable[..., RealConfig], say: Any, level: Any, capfd: pytest.CaptureFixture[str], ask: Ask
) -> None:
    configure_logging(Settings(log_level=level))
    for name in ("httpx", "httpx2", "openai"):  # as a host that wants these lines sets them
        logging.getLogger(name).setLevel(logging.DEBUG)
    endpoint.script = say.tokens(2)
    secret = SecretStr(_with_password(endpoint.url) + "?api-key=s3cr-t")
    ask(config(endpoint.url, base_url=secret))
    assert ask(config(endpoint.url, base_url=SecretStr(_with_password(endpoint.url)))).failure is None
    assert endpoint.heads[-1].lower().count("authorization: basic ") == 1
    endpoint.page = "vllm:kv_cache_usage_perc 0.5\n"
    assert _read(_with_password(endpoint.url.replace("/v1", "/metrics"))) is not None
    assert "authorization: basic " in endpoint.page_heads[-1].lower()
    said = "".join(capfd.readouterr())
    assert "HTTP Request" in said
    assert "s3cr" not in said
    assert say.KEY not in said


def test_a_wrong_url_is_refused_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "ftp://reader:s3cret@host/v1?api-key=s3cret2")
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert "OPENAI_BASE_URL" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def _read(url: str) -> Any:
    async def run() -> Any:
        page = MetricsPage(url)
        try:
            return await page.read()
        finally:
            await page.close()

    return asyncio.run(run())


@pytest.mark.parametrize("kind", ["endless", "gzip", "error", "redirect", "drip", "lines"])
def test_a_hostile_metrics_page_is_not_read(
    endpoint: Any, say: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = b"vllm:kv_cache_usage_perc 0.5\n"
    endpoint.page = {
        "endless": say.Reply([MIB] * 400),
        "gzip": say.Reply([gzip.compress(good * 10)], headers={"content-encoding": "gzip"}),
        "error": say.Reply([MIB] * 400, 500),
        "redirect": say.Reply([], 307, {"location": endpoint.url}),
        "drip": say.Reply([b"#", 0.1] * 600),
        "lines": say.Reply([good * 10_000]),
    }[kind]
    monkeypatch.setattr(vllm_metrics, "_TIMEOUT_S", 1.0)
    start = time.monotonic()
    assert _read(endpoint.url.replace("/v1", "/metrics")) is None
    assert time.monotonic() - start < 15.0
    assert endpoint.sent < 60 * len(MIB)
    assert "accept-encoding: identity" in endpoint.page_heads[0].lower()
    assert len(endpoint.page_heads) == 1


def test_only_our_lines_of_a_metrics_page_are_parsed() -> None:
    page = "".join(f'other_metric{{a="{n}"}} 1.0\n' for n in range(100_000)) + "vllm:kv_cache_usage_perc 0.5\n"
    start = time.process_time()
    reading = parse(page)
    assert reading is not None
    assert reading.kv_share == 0.5
    assert time.process_time() - start < 5.0


def test_a_long_line_in_small_pieces_takes_linear_time() -> None:
    decoder = EventDecoder()
    start = time.process_time()
    for _ in range(2**20):
        assert list(decoder.feed(b"x")) == []
    with pytest.raises(MalformedError):
        list(decoder.feed(b"x"))
    assert time.process_time() - start < 30.0
