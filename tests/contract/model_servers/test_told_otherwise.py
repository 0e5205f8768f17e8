"""Answers that are told twice, in other places or in other words than in OpenAI's description.

Each piece counts once, and no word that a server finds for an end makes a text whole that is not.
"""

import json
from typing import Any

import pytest

from fleet.messages import AgentCompleted, AgentFailed, AgentResponse
from tests.contract.model_servers.test_odd_bytes import TEXT, body, choice, whole
from tests.contract.model_servers.test_streams import DONE, ONE, STOP, TWO, call, chunk, events, response
from tests.support.workers.raw_server import raw_server
from workers.llm.reading.answer import StreamedAnswer, is_blank
from workers.llm.reading.endings import Ending, ending_of, is_reason


def both(so_far: str, piece: str, reason: str | None = None) -> str:
    return choice(message={"role": "assistant", "content": so_far}, delta={"content": piece}, finish_reason=reason)


MESSAGE = {"role": "assistant", "content": TEXT}
GROUPS = {
    "all of it beside each piece": (both("First ", "First "), both(TEXT, "second."), both(TEXT, "", "stop"), DONE),
    "all of it with the reason": (ONE, TWO, choice(delta={}, message=MESSAGE, finish_reason="stop"), DONE),
    "all of it after the end": (ONE, TWO, STOP, json.dumps(whole()), DONE),
    "all of it, edited": (ONE, TWO, choice(message={"content": f"{TEXT} [1]"}), STOP, DONE),
    "all of it in growing messages": (
        choice(message={"content": "First "}),
        choice(message={"content": TEXT}),
        choice(message={"content": TEXT}, finish_reason="stop"),
    ),
    "pieces as messages": (choice(message={"content": "First "}), choice(message={"content": "second."}), STOP),
    "each piece in two fields": (
        choice(delta={"content": "First "}, text="First "),
        choice(delta={"content": "second."}, text="second.", finish_reason="stop"),
    ),
    "an error that is the word null": (json.dumps({**json.loads(ONE), "error": "null"}), TWO, STOP, DONE),
    "all of it in an envelope": (json.dumps({"output": whole(), "usage": {"input_tokens": 3, "output_tokens": 2}}),),
    "thoughts in an object": (chunk({"reasoning": {"content": "Hmm."}}), ONE, TWO, STOP, DONE),
    "a refusal that is the word null": (chunk({"content": TEXT, "refusal": "null"}), STOP, DONE),
    "the reason under another name": (ONE, TWO, choice(delta={}, finishReason="STOP"), DONE),
    "the reason in a field of others": (ONE, TWO, choice(delta={}, finish_reason=None, stop_reason="end_turn"), DONE),
    "a reason that is none": (chunk({"content": "First "}, "not_finished"), TWO, STOP, DONE),
}


async def asked(*told: str, **more: Any) -> tuple[AgentResponse, int]:
    async with raw_server(response(events(*told))) as server:
        return await call(server, kind="other", **more), server.requests


@pytest.mark.parametrize("name", GROUPS)
async def test_each_piece_counts_once(name: str) -> None:
    """Whatever is told beside it."""
    answer, requests = await asked(*GROUPS[name])
    assert isinstance(answer, AgentCompleted), answer
    assert answer.proposal is not None
    content = answer.proposal.content
    assert (content.removesuffix(" [1]"), requests) == (TEXT, 1)


@pytest.mark.parametrize(
    ("told", "error_type", "says"),
    [
        ((ONE, chunk({"content": "second."}, "length"), STOP, DONE), "Truncated", "length"),
        ((ONE, chunk({"refusal": "I cannot go on."}), STOP, DONE), "Refused", "I cannot go on."),
        ((ONE, chunk({}, "content_filter: SAFETY"), DONE), "ContentFiltered", "SAFETY"),
        ((ONE, choice(delta={}, finish_reason="error", error={"message": "engine died"})), "ServerError", "engine"),
    ],
)
async def test_what_ended_otherwise_is_not_whole(told: tuple[str, ...], error_type: str, says: str) -> None:
    """Whatever else is said of it."""
    answer, _ = await asked(*told)
    assert isinstance(answer, AgentFailed), answer
    assert (answer.error_type, says in answer.error) == (error_type, True), answer.error


async def test_an_answer_in_json_may_come_as_json() -> None:
    """Not as a text that holds it."""
    async with raw_server(body(whole(message={"content": {"name": "x"}}))) as server:
        answer = await call(server, kind="other", answer_schema={"type": "object", "required": ["name"]})
    assert isinstance(answer, AgentCompleted), answer
    assert answer.proposal is not None
    assert json.loads(answer.proposal.content) == {"name": "x"}


@pytest.mark.parametrize(
    ("usage", "prompt", "completion"),
    [
        ('{"prompt_tokens": 0, "completion_tokens": 0}', None, None),
        ('{"prompt_tokens": -1, "completion_tokens": -1}', None, None),
        ('{"prompt_tokens": 1e999, "completion_tokens": 3}', None, 3),
        (f'{{"prompt_tokens": {10**400}, "completion_tokens": "Infinity"}}', None, None),
        ('{"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 90}}', 95, 3),
    ],
)
async def test_counts_that_cannot_be_were_not_told(usage: str, prompt: int | None, completion: int | None) -> None:
    """They are null, and estimated. What was cached is a part of the prompt."""
    answer, _ = await asked(ONE, TWO, STOP, f'{{"choices": [], "usage": {usage}}}', DONE)
    assert isinstance(answer, AgentCompleted), answer
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (prompt, completion)
    assert bool(answer.usage.estimated_tokens) == (None in (prompt, completion))


@pytest.mark.parametrize(
    "event",
    [
        choice(delta={}, finish_reason="stop", usage={"prompt_tokens": 12, "completion_tokens": 3}),
        json.dumps({"choices": [], "x_groq": {"usage": {"prompt_tokens": 12, "completion_tokens": 3}}}),
    ],
)
def test_counts_are_found_where_servers_put_them(event: str) -> None:
    """In a choice, or in a field of their own."""
    answer = StreamedAnswer()
    answer.take(ONE)
    answer.take(event)
    assert answer.counts is not None
    assert (answer.counts.prompt, answer.counts.completion) == (12, 3)


@pytest.mark.parametrize(
    ("ending", "reasons"),
    [
        ("whole", "stop FinishReason.STOP FINISH_REASON_STOP endTurn normal STOP_SEQUENCE_REACHED eos_found"),
        ("length", "FinishReason.MAX_TOKENS max-tokens token_limit maximum_tokens output_limit truncated_by_server"),
        ("filtered", "content_filter:SAFETY FinishReason.SAFETY blocked moderation risk_control CONTENT-FILTER"),
        ("aborted", "time_limit engine_error aborted_by_server user_cancelled"),
        ("unknown", "stopped_by_moon ended end_of_stream"),
    ],
)
def test_a_reason_is_known_by_its_words(ending: Ending, reasons: str) -> None:
    """But no part of a word makes a text whole."""
    assert {reason: ending_of(reason) for reason in reasons.split()} == dict.fromkeys(reasons.split(), ending)


@pytest.mark.parametrize("value", ["", "null", "not_finished", "IN_PROGRESS", None, 1])
def test_what_goes_on_has_no_reason(value: object) -> None:
    """Whatever stands in its place."""
    assert not is_reason(value)


@pytest.mark.parametrize("text", [" \n\t", "\u2800\u2800", "\u3164", "\u115f\uffa0", "\u200b"])
def test_what_nobody_can_see_is_no_text(text: str) -> None:
    """Whatever script its blanks are of."""
    assert is_blank(text)
