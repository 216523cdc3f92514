"""`RealConfig`: the settings of real mode as one frozen record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import SecretStr

from llmserve_server.backends.real.grading import PREFIX
from llmserve_server.errors import MissingApiKey

if TYPE_CHECKING:
    from llmserve_server.settings import Settings

__all__ = ["OPENAI_HOST", "Provider", "RealConfig", "TokenLimitField"]

Provider = Literal["openai", "vllm", "other"]
TokenLimitField = Literal["max_completion_tokens", "max_tokens"]

OPENAI_HOST: Final = "api.openai.com"
"""The host of the official client without a base URL."""
_NO_KEY: Final = "none"
"""Passed to the official client, which requires a key, if the endpoint needs none."""


@dataclass(frozen=True, slots=True)
class RealConfig:
    """One endpoint and the limits of its use; ``LLMSERVE_REAL_*`` in the environment."""

    provider: Provider = "openai"
    model: str = "gpt-4.1-mini"
    api_key: SecretStr = field(default_factory=lambda: SecretStr(_NO_KEY))
    base_url: SecretStr | None = None
    """None for OpenAI's. A secret, because a URL may contain a password or a token."""
    max_requests_per_step: int = 16
    max_prompt_tokens: int = 1024
    max_completion_tokens: int = 128
    time_scale: float = 1.0
    """Wall seconds per simulated second of arrivals."""
    request_timeout_s: float = 30.0
    """From sending to the last byte."""
    token_limit_field: TokenLimitField = "max_completion_tokens"  # noqa: S105 - the name of a field
    include_usage: bool = True
    extra_body: dict[str, Any] = field(default_factory=dict)
    metrics_url: SecretStr | None = None
    usd_per_1m_prompt_tokens: float | None = None
    usd_per_1m_completion_tokens: float | None = None
    usd_per_hour: float | None = None

    @classmethod
    def of(cls, settings: Settings) -> RealConfig:
        """Return the configuration in `settings`; raises `MissingApiKey` if OpenAI's key is missing."""
        key = settings.openai_api_key
        url = None if settings.openai_base_url is None else SecretStr(settings.openai_base_url)
        if key is None and _host(url) == OPENAI_HOST:
            raise MissingApiKey(
                "real mode sends requests to OpenAI: set OPENAI_API_KEY, or OPENAI_BASE_URL to another endpoint"
            )
        limit: TokenLimitField = "max_completion_tokens" if settings.real_provider == "openai" else "max_tokens"
        return cls(
            provider=settings.real_provider,
            model=settings.real_model,
            api_key=SecretStr(_NO_KEY) if key is None else key,
            base_url=url,
            max_requests_per_step=settings.real_max_requests_per_step,
            max_prompt_tokens=settings.real_max_prompt_tokens,
            max_completion_tokens=settings.real_max_completion_tokens,
            time_scale=settings.real_time_scale,
            request_timeout_s=settings.real_timeout_s,
            token_limit_field=settings.real_token_limit_field or limit,
            include_usage=settings.real_include_usage,
            extra_body=dict(settings.real_extra_body),
            metrics_url=settings.real_metrics_url,
            usd_per_1m_prompt_tokens=settings.real_usd_per_1m_prompt_tokens,
            usd_per_1m_completion_tokens=settings.real_usd_per_1m_completion_tokens,
            usd_per_hour=settings.real_usd_per_hour,
        )

    @property
    def is_openai(self) -> bool:
        """Whether requests go to OpenAI itself, not to a compatible endpoint."""
        return _host(self.base_url) == OPENAI_HOST

    @property
    def deployment(self) -> str:
        """The name of the deployment in a log; it contains no URL."""
        return f"{PREFIX}{self.provider}/{self.model}"

    @property
    def page_url(self) -> str | None:
        """The URL of vLLM's metrics, `/metrics` at the root of the endpoint; None for OpenAI."""
        if self.metrics_url is not None:
            return self.metrics_url.get_secret_value()
        if self.is_openai or self.base_url is None:
            return None
        parts = urlsplit(self.base_url.get_secret_value())
        return f"{parts.scheme}://{parts.netloc}/metrics"


def _host(url: SecretStr | None) -> str:
    return OPENAI_HOST if url is None else urlsplit(url.get_secret_value()).hostname or ""
