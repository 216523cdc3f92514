"""`Settings`: every option of the server, read from ``LLMSERVE_*`` variables. A wrong one stops the start.

Each field has its meaning, unit and bounds; `describe` lists them for the documentation.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final, Literal, Self

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from llmserve_server.settings.edge import EdgeSettings
from llmserve_server.settings.table import PREFIX as _PREFIX
from llmserve_server.settings.table import Setting, problem_line, rows
from llmserve_server.settings.table import seconds as _seconds
from llmserve_sim.env import EngineKind

__all__ = ["DOCUMENTATION_URL", "ROOT_PATH", "Setting", "Settings", "SettingsError", "describe", "unknown_variables"]

DOCUMENTATION_URL: Final = "/docs"
"""The documentation that the server itself shows."""
ROOT_PATH: Final = r"^(/[A-Za-z0-9._~-]+){0,20}$"
"""What a path prefix may be. In particular it never begins with two slashes, which would be another host."""


class SettingsError(ValueError):
    """One or more settings are wrong. The message has a line for each, with the variable's name and its bound."""


def _also(plain: str) -> AliasChoices:
    """Return the names ``LLMSERVE_<plain>`` and ``<plain>``; hosting platforms and OpenEnv use the second."""
    return AliasChoices(_PREFIX + plain, plain)


class _CoreSettings(BaseSettings):
    """The settings of what is served; those of how the network reaches it are in `edge.py`."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", populate_by_name=True
    )

    mode: Literal["sim", "real"] = Field(
        default="sim", description="What episodes run on: the simulator, or a real OpenAI-compatible endpoint."
    )
    engine: EngineKind = Field(
        default="auto",
        description="Scheduler of the simulator; all give the same numbers. auto: plain Python until "
        "the compiled kernel is ready, then that. numba: the first steps wait for the compiler.",
    )
    host: str = Field(
        default="0.0.0.0",  # noqa: S104 - a container that listens only on loopback cannot be reached
        min_length=1,
        description="Address that the server listens on.",
        validation_alias=_also("HOST"),
    )
    port: int = Field(
        default=7860,
        ge=0,
        le=65535,
        description="TCP port that the server listens on; 0 picks a free one.",
        validation_alias=_also("PORT"),
    )
    root_path: str = Field(
        default="",
        pattern=ROOT_PATH,
        max_length=200,
        description="Path below which a proxy serves everything, such as /envs/llm. The proxy's X-Forwarded-Prefix counts "
        "before it, from the addresses in FORWARDED_ALLOW_IPS.",
        json_schema_extra={"accepted": "a path that begins with / and does not end with it"},
    )
    store_url: SecretStr | None = Field(
        default=None,
        description="SQLAlchemy URL of the episode store; unset: a SQLite file in the user's state folder, or memory "
        "where no folder is writable.",
    )
    max_concurrent_envs: int = Field(
        default=64,
        ge=1,
        le=100_000,
        description="Sessions in memory at once.",
        json_schema_extra={"unit": "sessions"},
        validation_alias=_also("MAX_CONCURRENT_ENVS"),
    )
    max_sessions_per_address: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Sessions in memory at once that one network address began, over whatever transport; unset: a "
        "quarter of the places. Callers on the server's machine have no such limit. On a Space (SPACE_ID), where all callers have the proxy's "
        "address, unset means that at capacity the sessions beyond the share yield after five idle seconds.",
        json_schema_extra={"unit": "sessions"},
    )
    forwarded_allow_ips: str | None = Field(
        default=None,
        min_length=1,
        description="Proxies whose X-Forwarded-For is believed, as addresses or networks with commas between them; "
        "uvicorn reads the same variable. Unset: none is believed; *: all are, so that callers may make up their address. "
        "X-Forwarded-Prefix is believed from the same proxies; unset: from 127.0.0.1.",
        validation_alias=AliasChoices("FORWARDED_ALLOW_IPS"),
    )
    space_id: str | None = Field(
        default=None,
        min_length=1,
        description="Set by Hugging Face on a Space.",
        validation_alias=AliasChoices("SPACE_ID"),
    )
    reset_within_s: float = _seconds(
        15, 0.1, 86400, "A socket that has no session and is silent for this long is closed."
    )
    true_forks: bool = Field(
        default=False,
        description="Whether POST /fork shows the true future of any episode. If false, only episodes on training "
        "seeds are copied; of the others a fork is a forecast.",
    )
    idle_timeout_s: float = _seconds(
        3600, 60, 30 * 86400, "A session unused for this long leaves memory; it comes back when it is used."
    )
    yield_after_s: float = _seconds(
        60, 0, 30 * 86400, "At capacity, a session unused for this long makes room for another; it comes back as well."
    )
    retention_s: float = _seconds(
        7 * 86400, 3600, 10 * 365 * 86400, "An episode untouched for this long is removed from the store."
    )
    max_stored_episodes: int = Field(
        default=100_000,
        ge=100,
        le=1_000_000_000,
        description="Most episodes in the store; beyond it the oldest go, those that their session left behind first.",
        json_schema_extra={"unit": "episodes"},
    )
    baseline_min_interval_s: float = _seconds(
        60, 0, 86400, "Shortest time between two runs of the OpenAI baseline, which spends the owner's key."
    )
    baseline_max_requests: int = Field(
        default=400,
        ge=1,
        le=1_000_000,
        description="Most model requests in one run of the OpenAI baseline.",
        json_schema_extra={"unit": "requests"},
    )
    documentation_url: str = Field(
        default=DOCUMENTATION_URL,
        min_length=1,
        max_length=2000,
        description="URL of the documentation that GET /metadata names; a path is one of this server.",
    )
    web: bool = Field(default=True, description="Whether the page at /web is served.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")
    log_format: Literal["json", "console"] = Field(default="json", description="How log lines are written.")
    openai_api_key: SecretStr | None = Field(
        default=None,
        description="Key of the OpenAI-compatible endpoint.",
        validation_alias=AliasChoices("OPENAI_API_KEY"),
    )
    openai_base_url: str | None = Field(
        default=None,
        pattern=r"^https?://\S+$",
        description="Base URL of the OpenAI-compatible endpoint; unset: OpenAI's own.",
        validation_alias=AliasChoices("OPENAI_BASE_URL"),
    )
    real_provider: Literal["openai", "vllm", "other"] = Field(
        default="openai",
        description="Real mode: whose API it is; with vllm and other, max_tokens is the default limit field.",
    )
    real_model: str = Field(
        default="gpt-4.1-mini", min_length=1, max_length=150, description="Real mode: the model that is asked."
    )
    real_max_requests_per_step: int = Field(
        default=8,
        ge=1,
        le=1024,
        description="Real mode: most requests sent in one step.",
        json_schema_extra={"unit": "requests"},
    )
    real_max_prompt_tokens: int = Field(
        default=256,
        ge=1,
        le=131_072,
        description="Real mode: longest prompt sent.",
        json_schema_extra={"unit": "tokens"},
    )
    real_max_completion_tokens: int = Field(
        default=64,
        ge=1,
        le=131_072,
        description="Real mode: longest completion asked for.",
        json_schema_extra={"unit": "tokens"},
    )
    real_timeout_s: float = _seconds(30, 0.1, 3600, "Real mode: longest wait for one request, from sending to its end.")
    real_time_scale: float = Field(
        default=1.0,
        ge=0.01,
        le=100,
        description="Real mode: wall seconds per simulated second of arrivals; below 1 the same requests come faster.",
        json_schema_extra={"unit": "s/s"},
    )
    real_token_limit_field: Literal["max_completion_tokens", "max_tokens"] | None = Field(
        default=None,
        description="Real mode: the request field that limits the completion; unset: max_completion_tokens for the "
        "provider openai, max_tokens for the others.",
    )
    real_include_usage: bool = Field(
        default=True, description="Real mode: whether the endpoint is asked to count tokens (stream_options)."
    )
    real_extra_body: dict[str, Any] = Field(
        default={},
        description='Real mode: further fields of every request, such as {"ignore_eos": true} for vLLM.',
    )
    real_metrics_url: SecretStr | None = Field(
        default=None,
        min_length=8,
        description="Real mode: URL of the endpoint's Prometheus page; unset: /metrics at the root of OPENAI_BASE_URL.",
    )
    real_usd_per_1m_prompt_tokens: float | None = Field(
        default=None,
        ge=0,
        le=1e6,
        description="Real mode: price of prompt tokens; with that of completion tokens it overrides the built-in table.",
        json_schema_extra={"unit": "US dollars per million tokens"},
    )
    real_usd_per_1m_completion_tokens: float | None = Field(
        default=None,
        ge=0,
        le=1e6,
        description="Real mode: price of completion tokens.",
        json_schema_extra={"unit": "US dollars per million tokens"},
    )
    real_usd_per_hour: float | None = Field(
        default=None,
        ge=0,
        le=1e6,
        description="Real mode: price of the endpoint by time, for a server of one's own.",
        json_schema_extra={"unit": "US dollars per hour"},
    )

    @field_validator("log_level", "log_format", "mode", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("store_url")
    @classmethod
    def _is_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                make_url(value.get_secret_value())
            except ArgumentError:
                raise ValueError(
                    "must be a SQLAlchemy URL such as sqlite:////data/episodes.db or postgresql://user@host/name"
                ) from None
        return value

    @model_validator(mode="after")
    def _both_prices(self) -> Self:
        if (self.real_usd_per_1m_prompt_tokens is None) != (self.real_usd_per_1m_completion_tokens is None):
            raise ValueError(
                f"{_PREFIX}REAL_USD_PER_1M_PROMPT_TOKENS and {_PREFIX}REAL_USD_PER_1M_COMPLETION_TOKENS: must be set together"
            )
        return self

    @model_validator(mode="after")
    def _kept_while_in_memory(self) -> Self:
        if self.retention_s < self.idle_timeout_s:
            raise ValueError(
                f"{_PREFIX}RETENTION_S: must be at least {_PREFIX}IDLE_TIMEOUT_S ({self.idle_timeout_s:g} seconds), "
                f"got {self.retention_s:g}"
            )
        return self

    @property
    def share_per_address(self) -> int:
        """Sessions in memory that one network address may have."""
        given = self.max_sessions_per_address
        return max(1, self.max_concurrent_envs // 4) if given is None else given

    @property
    def share_is_strict(self) -> bool:
        """Whether an address at its share is refused, not only first to yield: an address is then one caller."""
        return not (self.space_id and self.max_sessions_per_address is None and self.forwarded_allow_ips is None)


class Settings(EdgeSettings, _CoreSettings):
    """The server's settings. Arguments override variables. Raises `SettingsError`, which names every wrong variable."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError(
                "\n".join(problem_line(type(self), problem) for problem in error.errors(include_url=False))
            ) from None


def describe() -> tuple[Setting, ...]:
    """Return the table of settings, in the order of their definition."""
    return rows(Settings)


_OTHERS: Final = frozenset({"LLMSERVE_ARTIFACTS", "LLMSERVE_DATA", "LLMSERVE_WEIGHTS"})
"""Known variables that are not the server's: the repository's checks, the simulator and the agents read them."""


def unknown_variables(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the ``LLMSERVE_*`` variables that nothing reads, most likely misspelt, for a warning at the start."""
    known = {variable for row in describe() for variable in row.variables} | _OTHERS
    given = os.environ if environ is None else environ
    return tuple(sorted(name for name in given if name.upper().startswith(_PREFIX) and name.upper() not in known))
