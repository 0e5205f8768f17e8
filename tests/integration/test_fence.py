"""What a process has sent arrives before anybody else says the same: asked for on a real nats-server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import nats
import pytest
import pytest_asyncio

from fleet.chaos.proxy import Proxy
from fleet.config import load
from fleet.connection import connect_unbuffered
from fleet.errors import StillOut
from fleet.fence import Fence


class Parties:
    """`sender` reaches the server through `proxy`, `other` and the subscriber of `said` directly."""

    def __init__(self, proxy: Proxy, sender: Any, other: Any) -> None:
        self.proxy = proxy
        self.sender = sender
        self.first, self.second = Fence(sender), Fence(other)
        self.heard: list[bytes] = []

    async def hear(self, msg: Any) -> None:
        self.heard.append(msg.data)


@pytest_asyncio.fixture
async def parties(nats_url: str) -> AsyncIterator[Parties]:
    async with AsyncExitStack() as stack:
        proxy = Proxy(int(nats_url.rpartition(":")[2]))
        await proxy.start()
        stack.push_async_callback(proxy.stop)
        sender = await connect_unbuffered(load({"NATS_URL": proxy.url}), "sender")
        other = await nats.connect(nats_url)
        for nc in (other, sender):
            stack.push_async_callback(nc.close)
        made = Parties(proxy, sender, other)
        await other.subscribe("said", cb=made.hear)
        await made.first.start(lambda task_id: task_id == "in-work")
        await made.second.start(lambda _: True)
        yield made


async def test_what_is_held_in_a_silent_link_is_waited_for(parties: Parties) -> None:
    """While the link is silent nobody may repeat; once it answers, what was sent before has arrived."""
    parties.proxy.silence(lambda _: True)
    await parties.sender.publish("said", b"the end")
    await asyncio.sleep(0.1)
    with pytest.raises(StillOut, match="silent"):
        await parties.second.wait_for(parties.first.instance, "t-1")
    assert parties.heard == []
    parties.proxy.heal()
    await parties.second.wait_for(parties.first.instance, "t-1")
    assert parties.heard == [b"the end"]


async def test_one_that_is_at_work_is_waited_for(parties: Parties) -> None:
    """It has saved the end and is about to publish it."""
    with pytest.raises(StillOut, match="at work"):
        await parties.second.wait_for(parties.first.instance, "in-work")
    await parties.second.wait_for(parties.first.instance, "t-1")


async def test_a_process_does_not_wait_for_its_own_work(parties: Parties) -> None:
    """It knows what it does: it asks through the server for what it has sent before."""
    await parties.second.wait_for(parties.second.instance, "t-1")


async def test_one_that_is_gone_is_not_waited_for(parties: Parties) -> None:
    """NATS says at once that nobody is there."""
    await parties.sender.close()
    while parties.proxy._links:  # noqa: ASYNC110 - until the server has seen it, too
        await asyncio.sleep(0.01)
    await parties.second.wait_for(parties.first.instance, "in-work")


async def test_nothing_is_kept_for_after_a_reconnect(parties: Parties) -> None:
    """While it is disconnected publishing fails, and what had not left is not sent later: somebody else may have."""
    server = parties.proxy._server
    assert server is not None
    server.close()
    await parties.sender.publish("said", b"not sent")
    parties.proxy.cut(lambda _: True)
    async with asyncio.timeout(10):
        while parties.sender.is_connected:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    with pytest.raises(nats.errors.OutboundBufferLimitError):
        await parties.sender.publish("said", b"too late")
    assert parties.sender._pending == []
