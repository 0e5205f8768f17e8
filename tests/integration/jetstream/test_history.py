"""Reading back in a stream, on a real nats-server."""

from contextlib import aclosing
from datetime import timedelta

import nats
import pytest
from nats.js.api import StreamConfig

from fleet import subjects
from fleet.jetstream import history
from fleet.jetstream.history import events

STREAM = "EVENTS"


async def test_several_subjects_since_a_time(nats_server: str) -> None:
    """Everything of all of them, also what is older than the first message of one of them."""
    nc = await nats.connect(nats_server)
    js = nc.jetstream()
    await js.add_stream(StreamConfig(name=STREAM, subjects=["deliberation.*"]))
    expected = []
    for number in range(12):
        subject = subjects.FAILED if number == 9 else subjects.ACCEPTED if number % 4 == 3 else subjects.COMPLETED
        ack = await js.publish(subject, b"")
        expected.append((ack.seq, subject))
    third = await js.get_msg(STREAM, 3)
    assert third.time is not None
    since = third.time - timedelta(microseconds=1)
    for wanted in (subjects.TERMINAL, (subjects.ACCEPTED, *subjects.TERMINAL), (subjects.COMPLETED,)):
        async with aclosing(events(js, wanted, since, headers_only=True, stream=STREAM)) as found:
            read = [(msg.metadata.sequence.stream, msg.subject) async for msg in found]
        assert read == [(sequence, subject) for sequence, subject in expected if sequence >= 3 and subject in wanted]
    await nc.close()


async def test_what_is_deleted_meanwhile_is_not_waited_for(nats_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a collector that makes room, while another one reads what there is."""
    monkeypatch.setattr(history, "BATCH", 2)
    monkeypatch.setattr(history, "FETCH_WITHIN_S", 0.5)
    nc = await nats.connect(nats_server)
    js = nc.jetstream()
    await js.add_stream(StreamConfig(name=STREAM, subjects=["deliberation.*"]))
    for _ in range(9):
        await js.publish(subjects.COMPLETED, b"")
    read = []
    async with aclosing(events(js, (subjects.COMPLETED,), None, stream=STREAM)) as found:
        async for msg in found:
            read.append(msg.metadata.sequence.stream)
            await js.purge_stream(STREAM)
    assert read == [1, 2]
    await nc.close()
