import json
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from msgspec import structs

from fleet.messages import ChatMessage
from tests.support.workers.calls import ask
from workers.llm.failures import AttemptError, shorten
from workers.llm.refusals import of_status, status_within
from workers.llm.retry import CAP_S, MAX_SHOWN_CHARACTERS, Step, next_step
from workers.llm.retry_after import asked_wait_s, seconds_in

NOW = datetime(2026, 1, 1, tzinfo=UTC)

INVALID = AttemptError("InvalidAnswer", "http://a: no JSON", fault="answer", retryable=True)
FAILED = AttemptError("ServerError", "", fault="server")
REFUSED = AttemptError("ConnectionRefused", "", fault="server", begun=False)
CUT = AttemptError("Truncated", "", fault="answer")


def step(*errors: AttemptError, said: str = "", **more: Any) -> Step | None:
    given = {"max_tokens": 500, "max_attempts": 50, "remaining_s": 1e9, "elsewhere": False, "rng": Random(1), **more}
    return next_step(errors, more.pop("request", ask()), said, **given)


def wait(*errors: AttemptError, **more: Any) -> float | None:
    found = step(*errors, **more)
    return None if found is None else found.wait_s


def limited(asked_s: float) -> AttemptError:
    return AttemptError("RateLimited", "", fault="busy", begun=False, retry_after_s=asked_s)


def test_waits_grow_up_to_the_cap() -> None:
    """Full jitter: anywhere between nothing and the bound, whatever the number of failures."""
    for failures in range(1, 50):
        for error in (FAILED, REFUSED):
            waited = wait(*[error] * failures)
            assert waited is not None
            assert 0 <= waited <= min(CAP_S, 0.25 * 2 ** (failures - 1))


def test_a_wait_is_at_least_what_the_server_asked_for() -> None:
    """Retry-After is a minimum."""
    assert (wait(limited(3.0)) or 0) >= 3.0


def test_a_wait_past_the_deadline_ends_the_call() -> None:
    """There is nothing to wait for; but another endpoint may take it at once."""
    assert wait(limited(3.0), remaining_s=2.0) is None
    assert wait(limited(3.0), remaining_s=2.0, elsewhere=True) == 0.0


def test_what_the_model_may_have_worked_on_is_tried_so_many_times() -> None:
    """What had not begun is tried until the deadline."""
    assert wait(FAILED, FAILED, max_attempts=2) is None
    assert wait(FAILED, *[REFUSED] * 99, max_attempts=2) is not None
    assert wait(*[limited(0.0)] * 99, max_attempts=2) is not None


def test_what_one_endpoint_refuses_another_may_take() -> None:
    """At once; where there is none, the call ends."""
    refusal = AttemptError("Unauthorized", "", fault="endpoint")
    assert wait(refusal, elsewhere=True) == 0.0
    assert wait(refusal) is None
    assert wait(AttemptError("BadRequest", "", fault="request"), elsewhere=True) is None


def test_an_invalid_answer_is_asked_for_once_more_at_once() -> None:
    """Whatever else failed, however few attempts there are; a second one ends the call."""
    assert wait(INVALID, max_attempts=1) == 0.0
    assert wait(FAILED, INVALID, max_attempts=2) == 0.0
    assert wait(INVALID, INVALID) is None
    assert wait(INVALID, FAILED, INVALID) is None


def test_an_invalid_answer_is_no_failed_attempt() -> None:
    """What fails besides has all of `max_attempts`."""
    assert wait(INVALID, FAILED, max_attempts=2) is not None
    assert wait(INVALID, FAILED, FAILED, max_attempts=2) is None


def test_a_very_long_invalid_answer_is_not_sent_back() -> None:
    """It would fill the window once more; the complaint is enough."""
    for length, back in ((100, True), (MAX_SHOWN_CHARACTERS + 1, False)):
        said = "x" * length
        found = step(INVALID, said=said)
        assert found is not None
        assert (said in [message.content for message in found.request.messages]) is back
        assert "no JSON" in found.request.messages[-1].content


def test_a_cut_answer_is_asked_for_with_more_room_once() -> None:
    """And never with as much again."""
    found = step(CUT)
    assert found is not None
    assert (found.request.max_tokens, found.request.more_than) == (1000, 500)
    assert step(CUT, CUT) is None


@pytest.mark.parametrize("error_type", ["ContentFiltered", "Refused"])
def test_what_would_be_answered_the_same_ends_the_call(error_type: str) -> None:
    """Nobody asks the same again."""
    assert step(AttemptError(error_type, "", fault="answer")) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        ("8s", 8.0),
        ("1m3.5s", 63.5),
        ("250ms", 0.25),
        ("6m0s", 360.0),
        ("1h", 3600.0),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30.0),
        ("2026-01-01T00:00:30Z", 30.0),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0.0),
        (str(NOW.timestamp() + 7), 7.0),
        (str(int(NOW.timestamp() + 7) * 1000), 7.0),
        ("2 seconds", 2.0),
        ("1500 milliseconds", 1.5),
        ("1 minute and 30 sec", 90.0),
        ("PT1M2S", 62.0),
        ('"2"', 2.0),
        ("2, 3", 3.0),
        ("soon", None),
        ("-1", None),
        ("inf", None),
        ("", None),
        (None, None),
    ],
)
def test_a_time_is_read_in_every_spelling(text: str | None, expected: float | None) -> None:
    """Anything else is as good as absent."""
    assert seconds_in(text, NOW) == expected


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({"Retry-After": "2", "x-ratelimit-reset-tokens": "9s"}, "", 2.0),
        ({"retry-after-ms": "1500", "Retry-After": "2"}, "", 1.5),
        (
            {"x-ratelimit-reset-tokens": "8s", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-requests": "1s"},
            "",
            8,
        ),
        ({"x-ratelimit-reset-tokens": "8s", "x-ratelimit-reset-requests": "1s"}, "", 1.0),
        ({"anthropic-ratelimit-tokens-reset": "2026-01-01T00:00:04Z"}, "", 4.0),
        ({}, '{"error": {"message": "Rate limit reached. Please try again in 8.2s."}}', 8.2),
        ({}, '{"details": [{"retryDelay": "17s"}]}', 17.0),
        ({}, '{"retry_after": 2.5}', 2.5),
        ({}, '{"error": {"retry_after_ms": 1500}}', 1.5),
        ({}, "Please wait for 20 seconds", 20.0),
        ({}, "try again in 1500 milliseconds", 1.5),
        ({"RateLimit": "limit=10, remaining=0, reset=3"}, "", 3.0),
        ({"RateLimit": '"default";r=0;t=4'}, "", 4.0),
        ({"RateLimit": '"default";r=5;t=4'}, "", None),
        ({}, "busy", None),
        ({"Retry-After": "soon"}, "", None),
    ],
)
def test_how_long_a_server_asks_to_be_left_alone(headers: dict[str, str], body: str, expected: float | None) -> None:
    """`Retry-After` first, then the limit that was met, then the words."""
    assert asked_wait_s(headers, body, NOW) == expected


@pytest.mark.parametrize(
    ("status", "fault", "begun"),
    [
        (400, "endpoint", False),
        (401, "endpoint", False),
        (404, "endpoint", False),
        (408, "server", True),
        (422, "endpoint", False),
        (424, "server", True),
        (425, "busy", False),
        (429, "busy", False),
        (500, "server", True),
        (502, "server", False),
        (503, "server", False),
        (529, "busy", False),
        (307, "endpoint", False),
    ],
)
def test_a_status_says_who_is_at_fault(status: int, fault: str, begun: bool) -> None:
    """And whether the model may have begun."""
    error = of_status(status, "")
    assert (error.fault, error.begun) == (fault, begun)


@pytest.mark.parametrize(
    "body", ["The server is overloaded: too many requests are queued.", '{"message": "Loading model"}']
)
def test_a_503_of_a_full_or_loading_server_is_no_fault_of_it(body: str) -> None:
    """Its breaker stays closed."""
    assert of_status(503, body).fault == "busy"


@pytest.mark.parametrize(
    ("status", "message", "window", "prompt"),
    [
        (400, "This model's maximum context length is 10 tokens.", None, None),
        (400, "request (6009 tokens) exceeds the available context size (4096 tokens)", 4096, 6009),
        (400, "The decoder prompt (length 9000) is longer than the maximum model length of 8192.", 8192, 9000),
        (422, "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 3000 `inputs` tokens and 4096", 4096, 3000),
        (400, "prompt is too long: 210000 tokens > 200000 maximum", 200000, 210000),
        (
            400,
            "maximum context length is 8192 tokens. You requested 8352 (4256 in the messages)",
            8192,
            4256,
        ),
        (400, "The input (9001 tokens) is longer than the model's context length (8192 tokens).", 8192, None),
        (400, "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000", 200000, 188240),
    ],
)
def test_an_overflow_is_known_in_every_wording(
    status: int, message: str, window: int | None, prompt: int | None
) -> None:
    """With the numbers that it tells."""
    error = of_status(status, json.dumps({"error": {"message": message}}))
    assert error.error_type == "ContextOverflow"
    if window is not None:
        assert error.window == window
    if prompt is not None:
        assert error.prompt_tokens == prompt


def test_a_rate_limit_that_speaks_of_tokens_is_no_overflow() -> None:
    """Waiting helps there."""
    assert of_status(429, "Limit 8192 tokens per min, requested 9000. Reduce the length.").error_type == "RateLimited"


def test_a_proxy_says_what_is_behind_it() -> None:
    """A model that is not there; a server that is not there, which has not begun."""
    assert of_status(400, "Invalid model name passed in model=m").error_type == "NotFound"
    away = of_status(500, "litellm.InternalServerError: OpenAIException - Connection error.")
    assert (away.fault, away.begun) == ("server", False)


def test_a_proxy_that_answers_500_may_name_the_real_status() -> None:
    """As a number or as text."""
    assert status_within(500, '{"error": {"code": "400", "message": "x"}}') == 400
    assert status_within(500, '{"error": {"code": "internal"}}') == 500
    assert status_within(503, '{"error": {"code": 400}}') == 503


def test_long_server_texts_are_shortened_and_say_so() -> None:
    """The length of the whole is stated."""
    assert "(1000 characters in all)" in shorten("x" * 1000)


def test_a_repair_goes_on_where_the_answer_ended() -> None:
    """With another seed, and the schema in words."""
    request = structs.replace(ask(answer_schema={"type": "object"}), messages=(ChatMessage(role="user", content="q"),))
    found = next_step(
        [INVALID], request, "bad", max_tokens=1, max_attempts=1, remaining_s=9, elsewhere=False, rng=Random(1)
    )
    assert found is not None
    assert [message.role for message in found.request.messages] == ["user", "assistant", "user"]
    assert '{"type":"object"}' in found.request.messages[2].content
    assert found.request.seed != request.seed
