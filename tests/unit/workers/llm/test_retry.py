from datetime import UTC, datetime
from random import Random

import pytest

from fleet.errors import AgentCallError
from workers.llm.failures import is_retryable, of_status, shorten
from workers.llm.retry import CAP_S, MAX_HEDGES, MAX_REPAIRS, most_attempts, retry_after_s, wait_before_retry

NOW = datetime(2026, 1, 1, tzinfo=UTC)


INVALID = AgentCallError("InvalidAnswer", "", retryable=True)
FAILED = AgentCallError("ServerError", "", retryable=True)


def wait(*errors: AgentCallError, max_attempts: int = 50, remaining_s: float = 1e9) -> float | None:
    return wait_before_retry(errors, max_attempts=max_attempts, remaining_s=remaining_s, rng=Random(1))


def limited(asked_s: float) -> AgentCallError:
    return AgentCallError("RateLimited", "", retryable=True, retry_after_s=asked_s)


def test_waits_grow_up_to_the_cap() -> None:
    """Full jitter: anywhere between nothing and the bound, whatever the number of failures."""
    for failures in range(1, 50):
        waited = wait(*[FAILED] * failures)
        assert waited is not None
        assert 0 <= waited <= min(CAP_S, 0.25 * 2 ** (failures - 1))


def test_a_wait_is_at_least_what_the_server_asked_for() -> None:
    """Retry-After is a minimum."""
    assert (wait(limited(3.0)) or 0) >= 3.0


def test_a_wait_past_the_deadline_ends_the_call() -> None:
    """There is nothing to wait for."""
    assert wait(limited(3.0), remaining_s=2.0) is None


def test_what_is_not_retryable_or_was_tried_often_enough_ends_the_call() -> None:
    """No wait means no retry."""
    assert wait(AgentCallError("BadRequest", "", retryable=False)) is None
    assert wait(FAILED, FAILED, max_attempts=2) is None


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


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30.0),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("inf", None),
        (None, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(header: str | None, expected: float | None) -> None:
    """Anything else is as good as absent."""
    assert retry_after_s(header, NOW) == expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, False),
        (401, False),
        (404, False),
        (408, True),
        (422, False),
        (425, True),
        (429, True),
        (500, True),
        (529, True),
    ],
)
def test_statuses_worth_another_try(status: int, expected: bool) -> None:
    """408, 425, 429 and 5xx, nothing else."""
    assert is_retryable(status) is expected
    assert of_status(status, "").retryable is expected


def test_an_overflow_reported_by_the_server_has_its_name() -> None:
    """A 400 that speaks of the context length."""
    body = '{"error": {"message": "This model\'s maximum context length is 10 tokens."}}'
    assert of_status(400, body).error_type == "ContextOverflow"


def test_long_server_texts_are_shortened_and_say_so() -> None:
    """The length of the whole is stated."""
    assert "(1000 characters in all)" in shorten("x" * 1000)


def test_deliveries_of_a_call_never_share_the_number_of_an_attempt() -> None:
    """Every try, the repair and the hedge have room in one delivery's range."""
    assert most_attempts(4) == 4 + MAX_REPAIRS + MAX_HEDGES
