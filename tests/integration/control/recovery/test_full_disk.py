"""A disk that was full for a moment: nats-server stores nothing more in that stream until it is restarted.

A limit of the server's file sizes makes the same fault, without a disk of the test's own.
"""

import asyncio
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import nats
import pytest
from msgspec import structs

from fleet import subjects
from fleet.config import load
from fleet.control import collector
from fleet.jetstream import topology
from fleet.local.nats_server import EmbeddedNats
from tests.support.nats.servers import Server, free_ports
from tests.support.waiting import WITHIN_S, until

pytestmark = pytest.mark.usefixtures("nats_binary")


@contextmanager
def full(pid: int) -> Iterator[None]:
    """Whatever it writes fails."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


async def fails(js: Any, subject: str) -> None:
    with pytest.raises((nats.errors.Error, TimeoutError)):
        await js.publish(subject, b"lost", timeout=1)


async def test_our_own_server_is_restarted_once_there_is_room(tmp_path: Path) -> None:
    """While there is none it is left alone; afterwards it stores again, and has what it had."""
    server = EmbeddedNats(tmp_path)
    url = await server.start()
    nc = await nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    try:
        js = nc.jetstream(timeout=1)
        await topology.declare(js, load({}))
        assert (await js.publish(subjects.REQUESTED, b"kept")).seq == 1
        assert server.pid is not None
        with full(server.pid):
            await fails(js, subjects.REQUESTED)
        refused = (nats.errors.Error, OSError, TimeoutError)
        await until(lambda: js.publish(subjects.REQUESTED, b"new"), not_yet=refused)
        assert (await js.get_msg(subjects.DELIBERATION_REQUESTS, 1)).data == b"kept"
    finally:
        await nc.close()
        await server.stop()


@asynccontextmanager
async def collecting(url: str, port: int) -> AsyncIterator[None]:
    up = asyncio.Event()
    settings = structs.replace(load({"NATS_URL": url}), health_port=port, health_host="127.0.0.1")
    running = asyncio.create_task(collector.run(settings, on_ready=up.set))
    async with asyncio.timeout(WITHIN_S):
        await up.wait()
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.slow
async def test_readiness_names_a_server_that_stores_nothing(tmp_path: Path) -> None:
    """One that is not ours: after its restart all is well."""
    server = Server("n", tmp_path)
    await server.start()
    (port,) = free_ports(1)
    try:
        async with collecting(server.url, port):
            await until_problems(port, lambda problems: not problems)
            with full(server.pid):
                await until_problems(port, lambda problems: "NATS stores nothing" in problems)
            await server.stop()
            await server.start()
            await until_problems(port, lambda problems: not problems)
    finally:
        await server.stop()


async def until_problems(port: int, fact: Callable[[list[str]], bool]) -> None:
    """Until this is so of the names of what is wrong."""
    async with aiohttp.ClientSession() as http:

        async def is_so() -> bool:
            async with http.get(f"http://127.0.0.1:{port}/readyz") as reply:
                return fact((await reply.json())["problems"])

        await until(is_so)
