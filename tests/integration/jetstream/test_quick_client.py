"""The short way of requests, replies and headers means what nats-py's own means."""

import asyncio
from collections.abc import AsyncIterator

import nats.errors
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import Header, StreamConfig
from nats.js.errors import APIError, BadRequestError, NoStreamResponseError

from fleet.config import load
from fleet.jetstream.connection import connect
from fleet.jetstream.lasting import Connection
from fleet.jetstream.quick_client import acknowledged
from fleet.messages.headers import headers
from tests.support.waiting import WITHIN_S, until

OWN = headers("agent.requested", "t.propose.0.a", "/fleet/dispatcher", "t", "00-aa-bb-01")


@pytest_asyncio.fixture
async def nc(nats_server: str) -> AsyncIterator[Connection]:
    made = await connect(load({"NATS_URL": nats_server}), "test")
    yield made
    await made.close()


@pytest_asyncio.fixture
async def js(nc: Connection) -> JetStreamContext:
    context = nc.jetstream()
    await context.add_stream(StreamConfig(name="KEPT", subjects=["kept.*"]))
    return context


async def test_a_refused_compare_and_set_is_raised_although_the_reply_names_the_stream(
    nc: Connection, js: JetStreamContext
) -> None:
    assert (await js.publish("kept.a", b"1", headers={Header.EXPECTED_LAST_SUBJECT_SEQUENCE: "0"})).seq == 1
    refused = {Header.EXPECTED_LAST_SUBJECT_SEQUENCE: "0"}
    assert b'"stream":"KEPT"' in (await nc.request("kept.a", b"2", headers=refused)).data
    with pytest.raises(BadRequestError) as raised:
        await js.publish("kept.a", b"2", headers=refused)
    assert raised.value.err_code == 10071
    assert (await js.stream_info("KEPT")).state.messages == 1


async def test_a_repeated_message_id_is_told_as_a_duplicate(js: JetStreamContext) -> None:
    acks = [await js.publish("kept.a", b"1", headers=OWN) for _ in range(2)]
    assert [(ack.stream, ack.seq, bool(ack.duplicate)) for ack in acks] == [("KEPT", 1, False), ("KEPT", 1, True)]


async def test_a_subject_that_no_stream_keeps_is_raised(js: JetStreamContext) -> None:
    with pytest.raises(NoStreamResponseError):
        await js.publish("nowhere", b"")


@pytest.mark.parametrize("reply", [b"{}", b'{"stream":""}', b'{"error":{"code":500,"err_code":1},"stream":"KEPT"}'])
def test_what_does_not_say_where_it_was_stored_is_no_acknowledgement(reply: bytes) -> None:
    with pytest.raises(APIError):
        acknowledged(reply)


async def test_a_request_that_nobody_answers_in_time_is_raised_and_its_late_reply_goes_nowhere(nc: Connection) -> None:
    asked: asyncio.Queue[Msg] = asyncio.Queue()
    await nc.subscribe("ask", cb=asked.put)
    with pytest.raises(nats.errors.TimeoutError):
        await nc.request("ask", b"", timeout=0.05)
    await (await asked.get()).respond(b"late")
    answering = asyncio.create_task(nc.request("ask", b"", timeout=WITHIN_S))
    await (await asked.get()).respond(b"in time")
    assert (await answering).data == b"in time"


async def test_whoever_has_seen_a_reply_subject_cannot_tell_the_next_one(nc: Connection) -> None:
    asked: asyncio.Queue[Msg] = asyncio.Queue()

    async def answer(msg: Msg) -> None:
        await asked.put(msg)
        await msg.respond(b"")

    await nc.subscribe("ask", cb=answer)
    for _ in range(3):
        await nc.request("ask", b"", timeout=WITHIN_S)
    tokens = [int((await asked.get()).reply.rpartition(".")[2], 16) for _ in range(3)]
    assert tokens[1] - tokens[0] != tokens[2] - tokens[1]


async def test_what_takes_messages_at_once_may_raise_and_still_gets_the_next(nc: Connection) -> None:
    taken: asyncio.Queue[bytes] = asyncio.Queue()

    def take(msg: Msg) -> None:
        taken.put_nowait(msg.data)
        raise ValueError

    subscription = await nc.subscribe_at_once("said", take)
    for body in (b"1", b"2"):
        await nc.publish("said", body)
    async with asyncio.timeout(WITHIN_S):
        assert [await taken.get(), await taken.get()] == [b"1", b"2"]
    await subscription.unsubscribe()
    await nc.publish("said", b"3")
    await nc.flush()
    assert taken.empty()


VALUES = st.text(st.characters(codec="utf-8"), max_size=20)


@given(VALUES, st.sampled_from(["Task-Id", "x-of-a-client", "ce-id"]))
async def test_headers_are_sent_and_read_as_nats_py_does(value: str, name: str) -> None:
    ours, theirs = Connection(), Client()
    sent = []
    for client in (ours, theirs):
        await client._send_publish("s", "r", b"body", 4, {**OWN, name: value})
        _, _, rest = client._pending.pop().partition(b"\r\n")
        sent.append(rest.removesuffix(b"body\r\n"))
    read = [await client._process_headers(block) for client in (ours, theirs) for block in sent]
    assert read == [read[0]] * 4
    assert read[0] is not None
    assert read[0].keys() == {**OWN, name: value}.keys()


async def test_a_subscription_that_is_drained_has_ended_for_the_server_before_its_answer(
    nc: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By nats-py alone the PING overtakes the UNSUB: what NATS delivers in between is lost."""
    sub = await nc.subscribe("somewhere")
    await nc.flush()
    written: list[bytes] = []
    transport = nc._transport
    assert transport is not None
    monkeypatch.setattr(transport, "write", written.append)
    monkeypatch.setattr(transport, "writelines", written.extend)
    draining = asyncio.create_task(sub.drain())
    await until(lambda: any(b"PING" in each for each in written))
    sent = b"".join(written)
    assert sent.index(b"UNSUB") < sent.index(b"PING")
    monkeypatch.undo()
    transport.writelines(written)
    await draining
