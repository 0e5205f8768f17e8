"""What a process has sent arrives before anybody else says the same: asked for on a real nats-server."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import nats
import pytest
import pytest_asyncio

from fleet.chaos.proxy import Proxy
from fleet.config import load
from fleet.control.publishing.fence import PublisherFence
from fleet.errors import EventInFlight, Unreachable
from tests.support.waiting import until


class Parties:
    """`sender` reaches the server through `proxy`, `other` and the subscriber of `said` directly."""

    def __init__(self, proxy: Proxy, first: PublisherFence, other: Any) -> None:
        self.proxy = proxy
        self.sender = first.nc
        self.first, self.second = first, PublisherFence(other)
        self.heard: list[bytes] = []

    async def hear(self, msg: Any) -> None:
        self.heard.append(msg.data)


@pytest_asyncio.fixture
async def parties(nats_url: str) -> AsyncIterator[Parties]:
    async with AsyncExitStack() as stack:
        proxy = Proxy(int(nats_url.rpartition(":")[2]))
        await proxy.start()
        stack.push_async_callback(proxy.stop)
        first = await PublisherFence.connect(load({"NATS_URL": proxy.url}), "sender")
        other = await nats.connect(nats_url)
        for nc in (other, first.nc):
            stack.push_async_callback(nc.close)
        made = Parties(proxy, first, other)
        await other.subscribe("said", cb=made.hear)
        await made.first.start({"in-work"})
        await made.second.start({"t-1", "in-work"})
        yield made


async def test_what_is_held_in_a_silent_link_is_waited_for(parties: Parties) -> None:
    """While the link is silent nobody may repeat; once it answers, what was sent before has arrived."""
    parties.proxy.silence(lambda _: True)
    await parties.sender.publish("said", b"the end")
    await until(lambda: not parties.sender.pending_data_size)  # it has left for the link
    with pytest.raises(EventInFlight, match="silent"):
        await parties.second.wait_for(parties.first.instance, "t-1")
    assert parties.heard == []
    parties.proxy.heal()
    await parties.second.wait_for(parties.first.instance, "t-1")
    assert parties.heard == [b"the end"]


async def test_one_that_is_at_work_is_waited_for(parties: Parties) -> None:
    """It has saved the end and is about to publish it."""
    with pytest.raises(EventInFlight, match="busy"):
        await parties.second.wait_for(parties.first.instance, "in-work")
    await parties.second.wait_for(parties.first.instance, "t-1")


async def test_a_process_does_not_wait_for_its_own_work(parties: Parties) -> None:
    """It knows what it does: it asks through the server for what it has sent before."""
    await parties.second.wait_for(parties.second.instance, "t-1")


async def test_one_that_is_gone_is_not_waited_for(parties: Parties) -> None:
    """NATS says at once that nobody is there."""
    await parties.sender.close()
    await until(lambda: not parties.proxy._links)  # until the server has seen it, too
    await parties.second.wait_for(parties.first.instance, "in-work")


async def reconnected(parties: Parties, before: str) -> None:
    """Waits until the sender has another connection, and answers by it."""
    first, sender = parties.first, parties.sender
    await until(lambda: first.instance != before and sender.is_connected and first._sub is not None)


async def test_a_new_connection_does_not_answer_for_what_the_old_one_has_sent(parties: Parties) -> None:
    """The link falls silent with something in it, the sender connects anew: nobody may repeat until the server has
    given the old connection up, or it speaks again.
    """
    before = parties.first.instance
    old = {link.number for link in parties.proxy._links}
    parties.proxy.silence(lambda link: link.number in old)
    await parties.sender.publish("said", b"the end")
    await until(lambda: not parties.sender.pending_data_size)  # it has left for the link
    await parties.sender._process_op_err(
        nats.errors.StaleConnectionError()
    )  # what its pings would find in some seconds
    await reconnected(parties, before)
    with pytest.raises(EventInFlight, match="silent"):
        await parties.second.wait_for(before, "t-1")
    parties.proxy.heal()
    await until(lambda: parties.heard == [b"the end"])
    await parties.second.wait_for(parties.first.instance, "t-1")


async def test_nothing_is_kept_for_after_a_reconnect(parties: Parties) -> None:
    """While it is disconnected publishing fails, and what had not left is not sent later: somebody else may have."""
    before = parties.first.instance
    parties.sender._pending.append(b"PUB said 8\r\nnot sent\r\n")
    parties.proxy.cut(lambda _: True)
    await until(lambda: not parties.sender.is_connected, pause_s=0.001)
    with pytest.raises(nats.errors.OutboundBufferLimitError):
        await parties.sender.publish("said", b"too late")
    await reconnected(parties, before)
    await parties.second.wait_for(parties.first.instance, "t-1")
    await parties.second.wait_for(before, "in-work")
    assert parties.heard == []


async def test_who_may_not_ask_is_told_so_at_once(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without the permission would wait for ever: it does not start."""
    nc = await nats.connect(nats_url)
    monkeypatch.setattr(nc, "subscribe", _refused)
    await nc.flush()
    held = await nats.connect(nats_url)
    fence = PublisherFence(nc)

    async def never_answer(_: Any) -> None:
        """As a server that refuses the subscription, and has another subscriber."""

    await held.subscribe("fleet.instance.*", cb=never_answer)
    await held.flush()
    with pytest.raises(Unreachable, match=r"fleet\.instance\.\*"):
        await fence.start(())
    await nc.close()
    await held.close()


async def _refused(*_: Any, **__: Any) -> None:
    """A subscription that the server does not take."""
