"""What an operator meets: a wrong variable stops the start, with its name and its bound."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmserve_server.settings import Settings, SettingsError, describe, unknown_variables


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for row in describe():
        for variable in row.variables:
            monkeypatch.delenv(variable, raising=False)


def test_without_variables_the_documented_defaults_hold() -> None:
    settings = Settings()
    assert (settings.mode, settings.port, settings.max_concurrent_envs) == ("sim", 7860, 64)
    assert settings.store_url is None
    assert settings.api_token is None


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("LLMSERVE_MODE", "live", "LLMSERVE_MODE: must be one of sim, real, got 'live'"),
        ("LLMSERVE_ENGINE", "jax", "LLMSERVE_ENGINE: must be one of auto, numba, python, reference, got 'jax'"),
        ("PORT", "65536", "LLMSERVE_PORT (or PORT): must be an integer in 0..65535, got '65536'"),
        (
            "MAX_CONCURRENT_ENVS",
            "0",
            "LLMSERVE_MAX_CONCURRENT_ENVS (or MAX_CONCURRENT_ENVS): must be an integer in 1..100000 (sessions), got '0'",
        ),
        (
            "LLMSERVE_IDLE_TIMEOUT_S",
            "59",
            "LLMSERVE_IDLE_TIMEOUT_S: must be a number in 60..2592000 (seconds), got '59'",
        ),
        (
            "LLMSERVE_RETENTION_S",
            "nan",
            "LLMSERVE_RETENTION_S: must be a number in 3600..315360000 (seconds), got 'nan'",
        ),
        ("LLMSERVE_MAX_BODY_BYTES", "1e6", "must be an integer in 1024..1073741824 (bytes), got '1e6'"),
        ("LLMSERVE_WEB", "perhaps", "LLMSERVE_WEB: must be true or false, got 'perhaps'"),
        ("OPENAI_BASE_URL", "ftp://host", "OPENAI_BASE_URL: must be an http:// or https:// URL, got 'ftp://host'"),
        ("LLMSERVE_STORE_URL", "episodes.db", "LLMSERVE_STORE_URL: must be a SQLAlchemy URL such as sqlite:///"),
    ],
)
def test_a_wrong_variable_is_named_with_its_bound(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as refused:
        Settings()
    assert told in str(refused.value)


def test_every_wrong_variable_gets_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LLMSERVE_MODE", "PORT", "LLMSERVE_LOG_LEVEL"):
        monkeypatch.setenv(variable, "wrong")
    with pytest.raises(SettingsError) as refused:
        Settings()
    assert [line.split(":")[0] for line in str(refused.value).splitlines()] == [
        "LLMSERVE_MODE",
        "LLMSERVE_PORT (or PORT)",
        "LLMSERVE_LOG_LEVEL",
    ]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LLMSERVE_API_TOKEN", "short"),
        ("LLMSERVE_STORE_URL", "postgresql:secret@host"),
        ("LLMSERVE_API_TOKEN", "späßchen"),
    ],
)
def test_the_value_of_a_secret_is_not_repeated(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as refused:
        Settings()
    assert variable in str(refused.value)
    assert value not in str(refused.value)


def test_secrets_do_not_show_when_settings_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    monkeypatch.setenv("LLMSERVE_STORE_URL", "postgresql://me:geheim@host/name")
    shown = f"{Settings()} {Settings()!r} {Settings().model_dump()} {Settings().model_dump_json()}"
    assert "0123456789" not in shown
    assert "geheim" not in shown


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSERVE_API_TOKEN", "")
    monkeypatch.setenv("PORT", "")
    assert Settings().api_token is None
    assert Settings().port == 7860


def test_our_variable_goes_before_the_plain_one_and_an_argument_before_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "8000")
    assert Settings().port == 8000
    monkeypatch.setenv("LLMSERVE_PORT", "8001")
    assert Settings().port == 8001
    assert Settings(port=8002).port == 8002


def test_an_unknown_argument_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"^max_envs: there is no such setting; the settings are mode, "):
        Settings(max_envs=3)


def test_episodes_are_kept_for_at_least_as_long_as_sessions_stay_in_memory() -> None:
    with pytest.raises(
        SettingsError, match=r"^LLMSERVE_RETENTION_S: must be at least LLMSERVE_IDLE_TIMEOUT_S \(9000 s"
    ):
        Settings(idle_timeout_s=9000, retention_s=8000)


def test_settings_do_not_change_once_made() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1


def test_misspelt_variables_are_found() -> None:
    given = {"LLMSERVE_STORE_ULR": "x", "LLMSERVE_MODE": "sim", "PATH": "/bin", "llmserve_web": "true"}
    assert unknown_variables(given) == ("LLMSERVE_STORE_ULR",)


def test_the_table_of_settings_says_everything_about_each() -> None:
    rows = describe()
    assert [row.name for row in rows] == list(Settings.model_fields)
    for row in rows:
        assert row.variables, row
        assert row.meaning.endswith("."), row
        assert row.bounds, row
    units = {row.unit for row in rows if row.name.endswith("_s")}
    assert units == {"seconds"}


@given(st.integers(-(2**70), 2**70))
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_a_port_is_taken_exactly_where_its_bound_says_so(port: int) -> None:
    if 0 <= port <= 65535:
        assert Settings(port=port).port == port
    else:
        with pytest.raises(SettingsError, match=r"0\.\.65535"):
            Settings(port=port)
