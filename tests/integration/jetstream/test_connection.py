"""Connections that outlive a server that says nothing for a while."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import nats.errors
import pytest
import pytest_asyncio

from fleet.config import load
from fleet.jetstream.connection import connect
from fleet.local.nats_server import EmbeddedNats
from tests.support.waiting import WITHIN_S, until

pytestmark = pytest.mark.usefixtures("nats_binary")


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    running = EmbeddedNats(tmp_path)
    await running.start()
    yield running
    await running.stop()


async def stopped(pid: int) -> None:
    """Returns once every thread of it stands still: until then it may answer."""
    await until(lambda: {thread.read_text().rpartition(")")[2].split()[0] for thread in threads(pid)} == {"T"})


def threads(pid: int) -> Iterable[Path]:
    return Path(f"/proc/{pid}/task").glob("*/stat")


async def test_a_flush_that_timed_out_does_not_make_the_connection_deaf(server: EmbeddedNats) -> None:
    """Its answer comes late, and messages after it: over the same connection."""
    nc = await connect(load({"NATS_URL": server.url}), "test")
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def hear(msg: nats.aio.msg.Msg) -> None:
        await heard.put(msg.data)

    await nc.subscribe("said", cb=hear)
    await nc.flush()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    await stopped(server.pid)
    try:
        with pytest.raises(nats.errors.TimeoutError):
            await nc.flush(timeout=0.2)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    await nc.publish("said", b"hello")
    async with asyncio.timeout(WITHIN_S):
        assert await heard.get() == b"hello"
    assert nc.stats["reconnects"] == 0
    await nc.close()
