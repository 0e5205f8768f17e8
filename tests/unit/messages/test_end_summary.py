"""The header by which terminal events are listed: the event's facts, one line of ASCII, never long."""

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.deliberation.events import CancelAsked
from fleet.deliberation.machine import decide
from fleet.jetstream.payloads import HEADROOM
from fleet.messages import (
    DeliberationCompleted,
    EndSummary,
    ErrorType,
    FailedCall,
    TerminalEvent,
    TimedOut,
    decode,
    status_of,
)
from fleet.messages.end_summary import HEADER, MAX_TEXT, header_of
from tests.recorded.record import NOW, begin, everything


def ends() -> list[TerminalEvent]:
    found = [message for record in everything() for message in record.values()]
    return [each for each in found if isinstance(each, TerminalEvent)]


def read(event: TerminalEvent) -> EndSummary:
    return decode(header_of(event)[HEADER].encode(), EndSummary)


@pytest.mark.parametrize("event", ends(), ids=status_of)
def test_it_says_what_the_event_says(event: TerminalEvent) -> None:
    summary = read(event)
    assert summary.status == status_of(event)
    same = ("usage", "cost", "tenant", "duration_ms", "correlation")
    assert [getattr(summary, name) for name in same] == [getattr(event, name) for name in same]
    if isinstance(event, DeliberationCompleted):
        assert (summary.degraded, summary.winner_id) == (event.degraded, event.winner_id)
        assert (summary.score, summary.missing) == (event.results[0].score, len(event.missing))
        assert summary.failures == Counter(call.error_type for call in event.failed_agents)


@given(st.text(max_size=20), st.sampled_from([1, 30, 3_000]))
def test_whatever_is_written_it_is_one_short_line(text: str, times: int) -> None:
    """The worst a client can send leaves room for the other headers."""
    state = begin("said", {"num_agents": 2}).state
    event = decide(state, CancelAsked(text * times, NOW)).state.result
    assert event is not None
    assert event.task is not None
    task = event.task.change(task_description=text * times)
    line = header_of(event.change(task=task, correlation={text: text * times}))[HEADER]
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < HEADROOM / 2
    summary = decode(line.encode(), EndSummary)
    assert len(summary.question) <= MAX_TEXT
    assert summary.correlation in ({}, {text: text * times})


def test_failures_are_counted_by_type() -> None:
    kinds: tuple[ErrorType, ...] = ("Timeout", "RateLimited", "Timeout")
    calls = [FailedCall(agent_id=f"a{n}", phase="propose", error="", error_type=kind) for n, kind in enumerate(kinds)]
    event = TimedOut(
        task_id="t",
        error="the deadline\ncame",
        failed_agents=tuple(calls),
        total_agents=3,
        duration_ms=1,
        completed_at="2026-01-01T00:00:00.000Z",
    )
    assert read(event).failures == {"RateLimited": 1, "Timeout": 2}
    assert read(event).error == "the deadline came"
    assert msgspec.json.decode(header_of(event)[HEADER])["status"] == "TIMEOUT"
