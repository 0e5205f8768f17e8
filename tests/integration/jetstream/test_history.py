"""Reading back in a stream, on a real nats-server."""

from contextlib import aclosing
from datetime import timedelta

import nats
from nats.js.api import StreamConfig

from fleet import subjects
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
