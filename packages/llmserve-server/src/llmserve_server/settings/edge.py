"""`EdgeSettings`: the settings of the server's edge: who may call, from which pages, how much and how slowly."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode

from llmserve_server.settings.table import MIB, Bytes, seconds

__all__ = ["EdgeSettings"]

_HOST: Final = re.compile(r"\*|(\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|\[?[0-9a-f:.]+\]?")
_Names = Annotated[tuple[str, ...], NoDecode]
"""A list of names; in a variable they are separated by commas."""


class EdgeSettings(BaseSettings):
    """The settings that the middleware, the HTTP protocol and the paid routes read."""

    api_token: SecretStr | None = Field(
        default=None,
        min_length=8,
        description="When set, required on everything but /health and the page's form that asks for it: as a bearer "
        "token, or as the cookie that the form sets.",
    )
    allowed_hosts: _Names = Field(
        default=(),
        description="Public names that this server goes by, such as llm.example.org or *.example.org; * takes any. "
        "IP addresses, names without a dot, private names (.local, .internal), *.hf.space and SPACE_HOST need no entry.",
    )
    max_body_bytes: Bytes = Field(default=MIB, description="Largest HTTP body, the grader's and the page's aside.")
    max_log_bytes: Bytes = Field(default=16 * MIB, description="Largest body of POST /grader.")
    max_message_bytes: Bytes = Field(default=MIB, description="Largest WebSocket message.")
    max_buffered_bytes: Bytes = Field(
        default=48 * MIB,
        description="Memory for the bodies that are being received, all callers' together; beyond it a body is refused "
        "unless it is the only one.",
    )
    max_header_bytes: Bytes = Field(default=64 * 1024, description="Largest request line and headers, together.")
    max_log_steps: int = Field(
        default=1_000,
        ge=1,
        le=100_000,
        description="Longest log that is graded; an episode of the tasks has 120 steps.",
        json_schema_extra={"unit": "steps"},
    )
    header_timeout_s: float = seconds(
        10, 0.1, 3600, "Longest wait for a request's headers, from the connection or the first byte on."
    )
    body_timeout_s: float = seconds(
        20, 0.1, 3600, "Longest wait for a request's body, and one second more for each 64 KiB of it that has arrived."
    )
    send_timeout_s: float = seconds(60, 1, 3600, "Longest wait for a client that does not read its answer.")
    baseline_models: _Names = Field(
        default=("gpt-4.1-mini", "gpt-4.1-nano", "gpt-4o-mini", "gpt-5-mini"),
        min_length=1,
        description="Models that the OpenAI baseline may ask; the first is asked where none is named.",
    )

    @field_validator("allowed_hosts", "baseline_models", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(name for name in (part.strip() for part in value.split(",")) if name)
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(name.lower().rstrip(".") for name in value)
        for name in names:
            if not _HOST.fullmatch(name):
                raise ValueError(f"must be host names without scheme, port or path, separated by commas; got {name!r}")
        return names

    @field_validator("api_token")
    @classmethod
    def _fits_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"[!-~]+", value.get_secret_value()):
            raise ValueError("must be visible ASCII characters, which a header can carry")
        return value
