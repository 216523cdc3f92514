"""The parts that need no server: addresses, options, refusals, and what travels."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve_client import (
    AnswerError,
    AsyncLLMServeEnv,
    AtCapacityError,
    Endpoint,
    InvalidFieldError,
    LLMServeEnv,
    RefusedError,
    Retries,
    ServerFailureError,
    Timeouts,
    TooLargeError,
    UnauthorizedError,
    space_url,
)
from llmserve_client import _exceptions as exceptions
from llmserve_client._operations import HttpResponse
from llmserve_client._wire import read_http, read_observation, read_socket
from llmserve_sim.env import ServingEnv


@pytest.mark.parametrize(
    ("url", "http", "socket"),
    [
        ("http://localhost:7860", "http://localhost:7860", "ws://localhost:7860/ws"),
        ("http://localhost:7860/", "http://localhost:7860", "ws://localhost:7860/ws"),
        ("https://a.hf.space", "https://a.hf.space", "wss://a.hf.space/ws"),
        ("HTTPS://A.hf.space/x/y/", "https://a.hf.space/x/y", "wss://a.hf.space/x/y/ws"),
        ("ws://h:1/p", "http://h:1/p", "ws://h:1/p/ws"),
        ("wss://h", "https://h", "wss://h/ws"),
        ("http://[::1]:80", "http://[::1]:80", "ws://[::1]:80/ws"),
    ],
)
def test_a_base_url_gives_both_addresses(url: str, http: str, socket: str) -> None:
    assert (Endpoint.parse(url).http, Endpoint.parse(url).socket) == (http, socket)


@pytest.mark.parametrize(
    ("url", "local"),
    [("http://localhost", True), ("http://127.0.0.9:1", True), ("http://[::1]", True), ("http://10.0.0.1", False)],
)
def test_no_proxy_is_asked_for_this_machine(url: str, *, local: bool) -> None:
    assert Endpoint.parse(url).local is local


@pytest.mark.parametrize(
    "url", ["", "localhost:7860", "ftp://h", "http://", "http://h:port", "http://h?x=1", "http://h#x", None, 3]
)
def test_what_is_no_address_is_refused(url: Any) -> None:
    with pytest.raises(InvalidFieldError) as refused:
        LLMServeEnv.from_url(url)
    assert refused.value.field == "url"


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidFieldError) as refused:
        LLMServeEnv("http://me:secret@h")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("repo_id", "url"),
    [
        ("user/space", "https://user-space.hf.space"),
        ("Org-1/My_Env.v2", "https://org-1-my-env-v2.hf.space"),
    ],
)
def test_a_space_is_found_at_its_own_host_without_asking_the_network(repo_id: str, url: str) -> None:
    assert space_url(repo_id) == url
    assert LLMServeEnv.from_hub(repo_id).url == AsyncLLMServeEnv.from_hub(repo_id).url == url


@pytest.mark.parametrize("repo_id", ["", "space", "a/b/c", "a/", "https://huggingface.co/spaces/a/b", "a b/c", None])
def test_what_names_no_space_is_refused(repo_id: Any) -> None:
    with pytest.raises(InvalidFieldError) as refused:
        LLMServeEnv.from_hub(repo_id)
    assert refused.value.field == "repo_id"


def test_how_a_space_is_found_can_be_replaced() -> None:
    assert LLMServeEnv.from_hub("a/b", resolve=lambda repo_id: f"https://mirror/{repo_id}").url == "https://mirror/a/b"


@pytest.mark.parametrize(
    "options",
    [
        {"transport": "carrier pigeon"},
        {"token": ""},
        {"token": "a\nb"},
        {"token": "geheimniß"},
        {"headers": {"X-A": "1\r\nX-B: 2"}},
    ],
)
def test_options_that_cannot_be_are_refused_by_name(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(InvalidFieldError) as refused:
        LLMServeEnv("http://h", **options)
    assert refused.value.field.startswith(name)


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), True, "1"])
def test_time_limits_are_positive_numbers(value: Any) -> None:
    for name in ("connect_s", "answer_s", "baseline_s"):
        with pytest.raises(InvalidFieldError) as refused:
            Timeouts(**{name: value})
        assert refused.value.field == name


@pytest.mark.parametrize(
    ("name", "value"),
    [("attempts", -1), ("attempts", 1.5), ("first_attempts", -1), ("pause_s", -1), ("pause_max_s", "x")],
)
def test_retries_are_numbers_that_make_sense(name: str, value: Any) -> None:
    with pytest.raises(InvalidFieldError) as refused:
        Retries(**{name: value})
    assert refused.value.field == name


def test_pauses_double_up_to_their_bound() -> None:
    assert list(Retries(attempts=5, pause_s=0.5, pause_max_s=3.0).pauses()) == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_patience_outlasts_a_restart_several_times_and_ends_within_a_minute() -> None:
    assert 40 < sum(Retries().pauses()) < 60


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, UnauthorizedError),
        (413, TooLargeError),
        (429, AtCapacityError),
        (500, ServerFailureError),
        (418, RefusedError),
    ],
)
def test_a_status_without_a_typed_body_still_finds_its_leaf(status: int, kind: type[RefusedError]) -> None:
    with pytest.raises(RefusedError) as refused:
        read_http(HttpResponse(status, b"<html>teapot</html>", {"retry-after": "7"}))
    assert type(refused.value) is kind
    assert (refused.value.status, refused.value.code, refused.value.retry_after_s) == (status, f"http_{status}", 7.0)
    assert "teapot" in str(refused.value)


def test_every_code_means_the_same_over_both_transports() -> None:
    for code, (status, kind) in exceptions._BY_CODE.items():
        error = {"code": code, "message": "no", "field": "f", "bound": "b"}
        raised = []
        for read in (
            lambda error=error, status=status: read_http(HttpResponse(status, exceptions_body(error))),
            lambda error=error: read_socket(socket_error(error), "observation"),
        ):
            with pytest.raises(RefusedError) as refused:
                read()
            raised.append(refused.value)
        assert {type(item) for item in raised} == {kind}
        assert {(item.code, item.status, item.field, item.bound) for item in raised} == {(code, status, "f", "b")}


def exceptions_body(error: dict[str, str]) -> bytes:
    """The HTTP body of a refusal."""
    return json.dumps({"error": error, "detail": error["message"]}).encode()


def socket_error(error: dict[str, str]) -> str:
    """The socket's message of a refusal."""
    return json.dumps({"type": "error", "data": {"message": "no", "code": "EXECUTION_ERROR", "error": error}})


@pytest.mark.parametrize(
    ("data", "code", "field"),
    [
        ({"message": "full", "code": "CAPACITY_REACHED", "max_sessions": 1}, "at_capacity", ""),
        (
            {"message": "Invalid message", "code": "VALIDATION_ERROR", "errors": [{"loc": ["batch_cap"], "msg": "m"}]},
            "invalid_field",
            "batch_cap",
        ),
        ({"message": "boom", "code": "EXECUTION_ERROR"}, "execution_error", ""),
        ({}, "refused", ""),
    ],
)
def test_openenvs_own_refusals_are_understood(data: dict[str, Any], code: str, field: str) -> None:
    with pytest.raises(RefusedError) as refused:
        read_socket(json.dumps({"type": "error", "data": data}), "observation")
    assert (refused.value.code, refused.value.field) == (code, field)


@given(st.text() | st.sampled_from(["[]", "{}", '{"type":"observation"}', '{"type":"state","data":{}}', "NaN"]))
def test_a_socket_that_talks_nonsense_is_told_apart(text: str) -> None:
    with pytest.raises(AnswerError):
        read_socket(text, "observation")


@given(st.binary(max_size=60))
def test_a_body_that_is_nonsense_is_told_apart(body: bytes) -> None:
    try:
        content = read_http(HttpResponse(200, body))
    except AnswerError:
        return
    with pytest.raises(AnswerError):
        read_observation(content)


def test_reward_and_done_are_put_back_where_openenv_took_them_out() -> None:
    env = ServingEnv("static_workload", engine="python")
    env.reset(3)
    seen = env.step({})
    inside = seen.model_dump(mode="json")
    outside = {name: inside.pop(name) for name in ("reward", "done")}
    assert read_observation({"observation": inside, **outside}).model_dump_json() == seen.model_dump_json()
    assert read_observation({"observation": seen.model_dump(mode="json")}).model_dump_json() == seen.model_dump_json()


def test_refusals_survive_the_way_between_processes() -> None:
    refused = exceptions.refusal("m", code="at_capacity", field="f", bound="b", retry_after_s=3.0)
    again = pickle.loads(pickle.dumps(refused))  # noqa: S301 - its own
    assert type(again) is AtCapacityError
    assert vars(again) == vars(refused)
    assert str(again) == "m"
