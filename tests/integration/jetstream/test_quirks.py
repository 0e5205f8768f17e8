"""What nats-py would not survive, sent by a client that writes the protocol itself."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from nats.aio.msg import Msg

from fleet.config import load
from fleet.jetstream.connection import Connection, connect
from fleet.jetstream.quirks import drop_unsent, forget_subscription, stop_watching


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
    async with asyncio.timeout(10):
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
    async with asyncio.timeout(3):  # nats-py would hear nothing until its pings fail
        while (await heard.get()).data != b"after":
            pass
    assert nc.is_connected
    assert nc.stats["reconnects"] == 0


async def test_headers_after_a_line_that_cannot_be_read_are_read(nats_server: str, nc: Connection) -> None:
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    await nc.subscribe("said", cb=heard.put)
    await nc.flush()
    await send_raw(nats_server, hpub(b"said", b"NATS/1.0 100 \xff\xfe\r\nTask-Id: t\r\n\r\n", b"body"))
    async with asyncio.timeout(3):
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
    async with asyncio.timeout(3):
        assert (await heard.get()).data == b"kept"


async def test_a_forgotten_subscription_hears_nothing(nc: Connection) -> None:
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    forgotten = await nc.subscribe("said", cb=heard.put)
    forget_subscription(nc, forgotten)
    await nc.publish("said", b"hello")
    await nc.flush()
    assert heard.empty()


async def test_a_watcher_leaves_no_consumer_behind(nc: Connection) -> None:
    js = nc.jetstream()
    bucket = await js.create_key_value(bucket="some")
    await bucket.put("key", b"value")
    watcher = await bucket.watchall()
    await stop_watching(js, "some", watcher)
    assert await js.consumers_info("KV_some") == []
