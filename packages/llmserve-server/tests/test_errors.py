"""What a caller sees of a refusal: a stable code, a status, a sentence, a field and a bound."""

from __future__ import annotations

import json

import pytest

from llmserve_agents.errors import AgentError
from llmserve_server import errors
from llmserve_server.errors import InvalidField, ServiceError, to_service_error
from llmserve_sim.errors import EpisodeStateError, InvalidInputError, UnknownTaskError

LEAVES = [getattr(errors, name) for name in errors.__all__ if name not in {"ServiceError", "to_service_error"}]


def test_every_refusal_is_exported_and_documented_in_the_tree() -> None:
    assert sorted(errors.__all__) == errors.__all__
    assert set(LEAVES) == set(ServiceError.__subclasses__())
    for leaf in LEAVES:
        row = next(line for line in (errors.__doc__ or "").splitlines() if f" {leaf.__name__} " in line)
        assert f"{leaf.status} {leaf.code}" in row


def test_codes_are_distinct_and_only_what_it_stands_on_is_the_servers_fault() -> None:
    assert len({leaf.code for leaf in LEAVES}) == len(LEAVES)
    assert {leaf.code for leaf in LEAVES if leaf.status >= 500} == {
        "endpoint_failed",
        "shutting_down",
        "store_unavailable",
    }


def test_the_body_is_json_with_the_message_where_fastapis_clients_look_for_it() -> None:
    body = InvalidField("port: must be 1", field="port", bound="1").body()
    assert json.loads(json.dumps(body)) == {
        "error": {"code": "invalid_field", "message": "port: must be 1", "field": "port", "bound": "1"},
        "detail": "port: must be 1",
    }
    assert errors.Busy("later", retry_after_s=3).body()["error"]["retry_after_s"] == 3


@pytest.mark.parametrize(
    ("raised", "code", "status", "field"),
    [
        (UnknownTaskError("task_id", "must be one of a, b", got="c"), "unknown_task", 404, "task_id"),
        (InvalidInputError("seed", "must be an integer", got="x"), "invalid_field", 422, "seed"),
        (EpisodeStateError("reset first"), "not_reset", 409, None),
    ],
)
def test_the_simulators_refusals_become_the_servers(
    raised: Exception, code: str, status: int, field: str | None
) -> None:
    refusal = to_service_error(raised)
    assert (refusal.code, refusal.status, refusal.field) == (code, status, field)
    assert refusal.message == str(raised)


def test_an_agent_that_cannot_act_is_told_without_the_folders_it_looked_in() -> None:
    refusal = to_service_error(AgentError("there is no policy.safetensors in /secret/folder"))
    assert (refusal.code, refusal.status) == ("agent_unavailable", 404)
    assert "weights" in refusal.message
    assert "/secret" not in str(refusal.body())


def test_a_refusal_stays_what_it_is_and_a_defect_is_not_dressed_up_as_one() -> None:
    refusal = InvalidField("x")
    assert to_service_error(refusal) is refusal
    with pytest.raises(ZeroDivisionError):
        to_service_error(ZeroDivisionError())
