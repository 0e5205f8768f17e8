"""What nats-py would not survive, sent by a client that writes the protocol itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
import pytest_asyncio
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from fleet.config import load
from fleet.jetstream.connection import connect
from fleet.jetstream.lasting import Connection
from fleet.jetstream.quick_client import QuickClient
from fleet.jetstream.quirks import drop_unsent, entries, forget_subscription
from tests.support.waiting import WITHIN_S


@pytest_asyncio.fixture
async def nc(nats_server: str) -> AsyncIterator[Connection]:
    made = await connect(load({"NATS_URL": nats_server}), "test")
    yield made
    await made.close()


async def send_raw(url: str, *commands: bytes) -> None:
    """Returns once the server has taken them."""
    host, _, port = url.removeprefix("nats://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    await reader.readline()
    writer.write(
        b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\n' + b"".join(commands) + b"PING\r\n"
    )
    async with asyncio.timeout(WITHIN_S):
        while (line := await reader.readline()) != b"PONG\r\n":
            assert not line.startswith(b"-ERR"), line
    writer.close()


def hpub(subject: bytes, headers: bytes, body: bytes) -> bytes:
    return b"HPUB %s %d %d\r\n%s%s\r\n" % (subject, len(headers), len(headers) + len(body), headers, body)


def pub(subject: bytes, body: bytes, reply: bytes = b"") -> bytes:
    return b"PUB %s %s %d\r\n%s\r\n" % (subject, reply, len(body), body)


STRANGE = {
    "status": hpub(b"said.it", b"NATS/1.0 \xff\xfe\r\n\r\n", b"strange"),
    "description": hpub(b"said.it", b"NATS/1.0 100 \xff\xfe\r\n\r\n", b"strange"),
    "description and headers": hpub(b"said.it", b"NATS/1.0 100 \xff\xfe\r\nA: b\r\n\r\n", b"strange"),
    "headers": hpub(b"said.it", b"NATS/1.0\r\n\xff: \xfe\r\n\r\n", b"strange"),
    "no line end": hpub(b"said.it", b"NATS/1.0 \xff", b"strange"),
    "short": hpub(b"said.it", b"\r\n", b"strange"),
    "subject": pub(b"said.\xff\xfe", b"strange"),
    "reply": pub(b"said.it", b"strange", b"\xff\xfe"),
}


@pytest.mark.parametrize("command", STRANGE.values(), ids=STRANGE)
async def test_no_message_from_anyone_makes_a_connection_deaf(nats_server: str, nc: Connection, command: bytes) -> None:
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    await nc.subscribe("said.*", cb=heard.put)
    await nc.flush()
    await send_raw(nats_server, command, pub(b"said.it", b"after"))
    async with asyncio.timeout(20):  # nats-py would hear nothing until its pings fail
        while (await heard.get()).data != b"after":
            pass
    assert nc.is_connected
    assert nc.stats["reconnects"] == 0


async def test_a_flood_of_messages_that_cannot_be_read_is_told_of_seldom(nats_server: str, nc: Connection) -> None:
    """Else any client could fill the disk with what the fleet logs."""
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    await nc.subscribe("said.*", cb=heard.put)
    await nc.flush()
    with capture_logs() as logged:
        strange = [pub(b"said.%d\xff" % number, b"strange") for number in range(500)]
        await send_raw(nats_server, *strange, pub(b"said.it", b"after"))
        async with asyncio.timeout(20):
            assert (await heard.get()).data == b"after"
    assert 0 < len(logged) < 100


async def test_headers_after_a_line_that_cannot_be_read_are_read(nats_server: str, nc: Connection) -> None:
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    await nc.subscribe("said", cb=heard.put)
    await nc.flush()
    await send_raw(nats_server, hpub(b"said", b"NATS/1.0 100 \xff\xfe\r\nTask-Id: t\r\n\r\n", b"body"))
    async with asyncio.timeout(20):
        msg = await heard.get()
    assert (msg.data, msg.headers) == (b"body", {"Task-Id": "t"})


async def test_what_is_dropped_does_not_leave(nc: Connection) -> None:
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    await nc.subscribe("said", cb=heard.put)
    await nc.flush()
    nc._pending.append(b"PUB said 7\r\ndropped\r\n")
    nc._pending_data_size += 20
    drop_unsent(nc)
    await nc.publish("said", b"kept")
    async with asyncio.timeout(20):
        assert (await heard.get()).data == b"kept"


async def test_a_forgotten_subscription_hears_nothing(nc: Connection) -> None:
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    forgotten = await nc.subscribe("said", cb=heard.put)
    forget_subscription(nc, forgotten)
    await nc.publish("said", b"hello")
    await nc.flush()
    assert heard.empty()


class LateEntries(QuickClient):
    """What a bucket delivers comes after all that was asked meanwhile."""

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        come = super()._process_msg
        if not subject.startswith(b"$KV."):
            await come(sid, subject, reply, data, headers)
            return
        loop = asyncio.get_running_loop()
        loop.call_later(0.3, lambda: coming.append(loop.create_task(come(sid, subject, reply, data, headers))))


coming: list[asyncio.Task[None]] = []


@pytest.mark.parametrize("kind", [QuickClient, LateEntries])
@pytest.mark.parametrize("count", [0, 3])
async def test_entries_are_all_there_are_and_leave_no_consumer_behind(
    nats_server: str, kind: type[QuickClient], count: int
) -> None:
    """Also where NATS says that they were delivered, and they have not come yet."""
    nc = kind()
    await nc.connect(nats_server)
    js = nc.jetstream()
    name = f"some-{kind.__name__}-{count}"
    bucket = await js.create_key_value(bucket=name)
    for number in range(count):
        await bucket.put(f"key-{number}", b"value")
    if count:
        await bucket.delete("key-0")
    async with asyncio.timeout(WITHIN_S), aclosing(entries(js, name)) as stored:
        found = {entry.key: entry.operation async for entry in stored}
    assert found == {f"key-{number}": None if number else "DEL" for number in range(count)}
    assert await js.consumers_info(f"KV_{name}") == []
    await nc.close()
