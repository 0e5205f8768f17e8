"""Whether terminal events are in their stream, on a real nats-server."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import nats
import nats.errors
import pytest
from nats.js import JetStreamContext
from nats.js.api import StreamConfig

from fleet import subjects
from fleet.control.publishing import terminal_events
from fleet.control.publishing.terminal_events import TerminalEvents
from tests.support.waiting import until


@pytest.fixture
async def js(nats_server: str) -> AsyncIterator[JetStreamContext]:
    nc = await nats.connect(nats_server)
    made = nc.jetstream()
    await made.create_key_value(bucket=subjects.BUCKET)
    yield made
    await nc.close()


async def end(js: JetStreamContext, task_id: str, *, say: bool) -> None:
    """What is left of a task that has ended: its state, and its event unless that was never said."""
    bucket = await js.key_value(subjects.BUCKET)
    await bucket.put(task_id, b"{}")
    await js.publish(subjects.ACCEPTED, b"", headers={"Nats-Msg-Id": f"{task_id}.accepted"})
    if say:
        await js.publish(subjects.COMPLETED, b"", headers={"Nats-Msg-Id": f"{task_id}.terminal"})


@pytest.fixture
async def readings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Counts how often the stream is read."""
    made: list[Any] = []
    read = terminal_events.events

    def events(*args: Any, **more: Any) -> Any:
        made.append(args)
        return read(*args, **more)

    monkeypatch.setattr(terminal_events, "events", events)
    return made


async def test_one_reading_answers_all_who_ask_together(
    js: JetStreamContext, readings: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each for its own task, from the time at which the first of them ended."""
    monkeypatch.setattr(terminal_events, "SCAN_MARGIN", timedelta(milliseconds=1))
    await js.add_stream(StreamConfig(name=subjects.DELIBERATIONS, subjects=["deliberation.*"]))
    for number in range(40):
        await end(js, f"t-{number}", say=number % 4 != 0)
    asked = TerminalEvents(js)
    answers = await asyncio.gather(*(asked.is_stored(f"t-{number}") for number in range(40)))
    assert answers == [number % 4 != 0 for number in range(40)]
    assert len(readings) < 10


async def test_of_a_task_without_a_state_everything_is_read(js: JetStreamContext) -> None:
    """Nobody knows when it ended."""
    await js.add_stream(StreamConfig(name=subjects.DELIBERATIONS, subjects=["deliberation.*"]))
    await end(js, "t", say=True)
    await (await js.key_value(subjects.BUCKET)).purge("t")
    asked = TerminalEvents(js)
    assert await asyncio.gather(asked.is_stored("t"), asked.is_stored("another")) == [True, False]


async def test_who_asks_while_it_is_read_is_answered_by_the_next_reading(
    js: JetStreamContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was said since its question counts."""
    await js.add_stream(StreamConfig(name=subjects.DELIBERATIONS, subjects=["deliberation.*"]))
    await end(js, "t", say=False)
    read, at_its_end, go_on = terminal_events.events, asyncio.Event(), asyncio.Event()

    async def events(*args: Any, **more: Any) -> AsyncIterator[Any]:
        async for msg in read(*args, **more):
            yield msg
        at_its_end.set()
        await go_on.wait()

    monkeypatch.setattr(terminal_events, "events", events)
    asked = TerminalEvents(js)
    first = asyncio.create_task(asked.is_stored("t"))
    await at_its_end.wait()
    await end(js, "t", say=True)
    second = asyncio.create_task(asked.is_stored("t"))
    await until(lambda: asked._waiting)  # it is known by this alone
    go_on.set()
    assert (await first, await second) == (False, True)


async def test_where_nothing_can_be_read_everybody_hears_why(js: JetStreamContext) -> None:
    """And the next who asks has another chance."""
    bucket = await js.key_value(subjects.BUCKET)
    for task_id in ("a", "b"):
        await bucket.put(task_id, b"{}")
    asked = TerminalEvents(js)
    failed = await asyncio.gather(asked.is_stored("a"), asked.is_stored("b"), return_exceptions=True)
    assert all(isinstance(error, nats.errors.Error) for error in failed)
    await js.add_stream(StreamConfig(name=subjects.DELIBERATIONS, subjects=["deliberation.*"]))
    assert not await asked.is_stored("a")
