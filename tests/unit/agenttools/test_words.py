"""A failure says what the service said, and what to do next."""

import pytest
from pydantic import BaseModel, ValidationError

from orchestrator.agenttools.shortening import LIMIT, dumps
from orchestrator.agenttools.words import explain, misused
from orchestrator.client import RequestFailed
from orchestrator.errors import AnswerLost, BadInput, OrcError, ServerUnreachable, Unauthorized, UntrustedServer


@pytest.mark.parametrize(
    ("error", "said", "follows"),
    [
        (RequestFailed(401, "Not one of ours."), "Not one of ours.", "ORC_TOKEN_FILE"),
        (Unauthorized("The token cannot be read."), "cannot be read", "ORC_TOKEN_FILE"),
        (RequestFailed(403, "This needs the scope 'run'."), "scope 'run'", "ask a person"),
        (RequestFailed(403, "Plan p is draft: a person approves it first."), "is draft", "for a person to decide"),
        (RequestFailed(404, "There is no run 'x'."), "no run 'x'", "The tool runs lists"),
        (RequestFailed(404, "There is no sweep 'x'."), "no sweep 'x'", "The tool sweeps lists"),
        (RequestFailed(404, "There is no plan 'x'."), "no plan 'x'", "The tool plans lists"),
        (RequestFailed(404, "There is no alert 'x'."), "no alert 'x'", "The tool alerts lists"),
        (RequestFailed(404, "Not Found"), "Not Found", "older than this tool"),
        (RequestFailed(404, "There is no token 'x'."), "no token", "list the ids"),
        (RequestFailed(400, "It is finished."), "It is finished.", "status"),
        (RequestFailed(409, "Mend them.\nline 3: bad"), "line 3: bad", "has been mended"),
        (
            RequestFailed(422, [{"loc": ["body", "a", "b"], "msg": "no", "choices": [1]}]),
            "a.b: no Valid: 1",
            "fields",
        ),
        (BadInput("run_id", "name one."), "run_id: name one.", "fields"),
        (RequestFailed(500, "failed"), "failed", "log"),
        (RequestFailed(501, "missing"), "missing", "install"),
        (RequestFailed(503, "locked"), "locked", "in a while"),
        (RequestFailed(507, "full"), "full", "disk"),
        (RequestFailed(418, "teapot"), "teapot", "Tell a person"),
        (ServerUnreachable("No server runs."), "No server runs.", "orc serve"),
        (AnswerLost("No answer."), "No answer.", "idempotency_key"),
        (UntrustedServer("Another's."), "Another's.", "worked around"),
    ],
)
def test_what_was_said_and_what_to_do(error: OrcError, said: str, follows: str) -> None:
    words, data = explain(error)
    assert said in words
    assert follows in words
    assert follows in data["next"]


def test_a_look_without_an_answer_is_taken_again() -> None:
    words, data = explain(AnswerLost("No answer."), looks=True)
    assert "call it again" in words
    assert "idempotency_key" not in data["next"]


def test_a_failure_is_short_however_long_its_words() -> None:
    diff = [{"field": f"env.{number}", "plan": None, "asked": "x" * 1000} for number in range(1000)]
    words, data = explain(
        RequestFailed(403, "y" * 100_000, {"plan_id": "p", "diff": diff, "amendment": {"a": "z" * 10_000}})
    )
    assert len(words) < LIMIT + 100
    assert "orc plan amend p" in words
    assert len(dumps(data)) <= LIMIT


class Asked(BaseModel):
    status: list[str]
    limit: int


def test_arguments_that_a_tool_does_not_take_are_named_without_the_validators_own_words() -> None:
    with pytest.raises(ValidationError) as caught:
        Asked.model_validate({"status": "failed", "limit": "x"})
    words, data = misused("runs", caught.value)
    assert "status: Input should be a valid list" in words
    assert "limit: Input should be a valid integer" in words
    assert "pydantic" not in words
    assert data["next"] in words


def test_however_many_arguments_are_wrong_the_words_are_few() -> None:
    with pytest.raises(ValidationError) as caught:
        Asked.model_validate({"status": [0] * 300, "limit": 1})
    words, _ = misused("runs", caught.value)
    assert "290 more" in words
    assert len(words) < 2000
