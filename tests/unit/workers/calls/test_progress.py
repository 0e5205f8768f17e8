"""How often watchers are told what a call writes."""

import asyncio
from typing import Any

from fleet.messages import AgentProgress
from tests.support.waiting import until
from tests.support.workers.fake_control_plane import request
from workers.calls.progress import MOST_PER_S, ProgressRate, ProgressReport


async def nothing(event: AgentProgress, number: int) -> None: ...


def test_many_calls_are_told_of_less_often() -> None:
    """All together, not more often than is good for NATS; a few as often as is asked for."""
    rate = ProgressRate(200)
    assert rate.interval_s == 0.2
    rate.writing = 10 * MOST_PER_S
    assert rate.interval_s == 10.0


async def test_a_call_counts_while_it_writes() -> None:
    """Once, however much it writes, and not any more when an attempt has ended or it was closed."""
    rate = ProgressRate(10_000)
    reports = [ProgressReport(request(question=number), rate, nothing) for number in (1, 2)]
    for report in reports:
        report.began(1, None)
    assert rate.writing == 0
    for report in (*reports, *reports):
        report.wrote("text", 1, 10)
    assert rate.writing == 2
    reports[0].ended(2, None)
    reports[0].close()
    assert rate.writing == 1
    reports[1].close()
    assert rate.writing == 0
    await asyncio.gather(*(report.sent() for report in reports))


async def test_an_event_holds_all_that_was_written_since_the_one_before() -> None:
    """Also where an attempt ends between two of them."""
    sent: list[tuple[int, Any]] = []

    async def send(event: AgentProgress, number: int) -> None:
        sent.append((number, event))

    report = ProgressReport(request(), ProgressRate(1), send)
    report.began(1, None)
    report.wrote("a", 1, 10)
    report.wrote("b", 2, 10)
    await until(lambda: sent)  # a timer of its own sends it
    report.wrote("c", 3, 10)
    report.ended(3, None)
    await report.sent()
    assert [(number, event.text_delta, event.tokens) for number, event in sent] == [(1, "ab", 2), (2, "c", 3)]
    assert sent[-1][1].progress_pct == 100
