"""The words of the agent protocol: pieces of an answer, errors, statuses. No server."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.control.service.calls import ServiceFault, fault
from fleet.control.service.prompts import answer_of, facts_of, refused, request_in, status_of
from fleet.messages import DeliberationCompleted, DeliberationRejected, FollowReply, ResultReply, encode
from tests.recorded.record import everything

ENDS = [end for record in everything() for end in record.values() if isinstance(end, DeliberationCompleted)]
CODES = (400, 401, 403, 404, 409, 429, 500)
"""The protocol's table."""


@given(st.sampled_from(ENDS), st.text(min_size=1, max_size=4_000), st.integers(8_192, 1_048_576))
def test_pieces_fit_a_message_and_make_the_whole_text(event: DeliberationCompleted, text: str, most: int) -> None:
    """Whatever is in it and however often it is repeated; the facts come once, at the end."""
    pieces = list(answer_of(event, text * 20, most))
    assert "".join(piece.data.text for piece in pieces) == text * 20
    assert all(len(encode(piece)) <= most for piece in pieces)
    assert [len(piece.data.attachments) for piece in pieces] == [0] * (len(pieces) - 1) + [1]
    (file,) = pieces[-1].data.attachments
    assert json.loads(base64.b64decode(file.content)) == json.loads(encode(facts_of(event)))


@given(st.text(min_size=1).filter(str.strip), st.dictionaries(st.sampled_from(["task_id", "role"]), st.text()))
def test_a_prompt_is_the_text_of_a_request(text: str, fields: dict[str, str]) -> None:
    """And its other fields are those of the request."""
    body = request_in(json.dumps({"prompt": text, "deliberation": fields, "options": 1}).encode())
    assert json.loads(body) == fields | {"task_description": text}


@pytest.mark.parametrize("code", [400, 404, 409, 500, 503, 504])
def test_a_fault_has_a_code_of_the_protocol(code: int) -> None:
    """A name for programs, and the sentence and the task's id that were there."""
    told = refused(fault(code, "it is so", task_id="t"))
    assert told.code in CODES
    body = json.loads(encode(told.body))
    assert (body["message"], body["task_id"], told.text) == ("it is so", "t", "it is so")
    assert body["error"].replace("_", "").islower()


@pytest.mark.parametrize(
    ("code", "expected"), [("malformed", 400), ("invalid", 400), ("conflict", 409), ("forbidden", 403), ("budget", 429)]
)
def test_a_rejection_keeps_its_name(code: Any, expected: int) -> None:
    """What a tenant may not do, or has spent, is told apart from a bad request."""
    rejection = DeliberationRejected(
        task_id="t", code=code, path="$", error="$: no", stream_sequence=1, rejected_at="2026-01-01T00:00:00.000Z"
    )
    told = refused(ServiceFault(400, rejection.error, rejection))
    assert (told.code, json.loads(encode(told.body))) == (
        expected,
        {"error": code, "message": "$: no", "task_id": "t"},
    )


def test_statuses_are_words_of_name_and_value() -> None:
    """What is not known is left out."""
    assert status_of(ResultReply(task_id="d-7", status="PENDING")).data == "task_id=d-7 status=PENDING"
    began = FollowReply(task_id="d-7", phase="score", round=1, done=0, expected=3)
    assert status_of(began).data == "phase=score round=1 done=0 expected=3"
    ended = began.change(done=1, agent_id="agent-dev-002", outcome="ServerError")
    assert status_of(ended).data == "phase=score round=1 done=1 expected=3 agent_id=agent-dev-002 outcome=ServerError"
