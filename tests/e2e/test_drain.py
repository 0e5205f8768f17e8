"""`fleet up` is ended while its model is in the middle of every call."""

import asyncio
import signal
from pathlib import Path

import aiohttp
import nats
import psutil
import pytest

from fleet.config import load
from fleet.jetstream import topology
from fleet.local.ports import free_port, is_free
from tests.e2e.conftest import Up, start, stop
from tests.e2e.stub import StubModel
from tests.support.nats import servers
from tests.support.nats.servers import Server
from tests.support.waiting import WITHIN_S

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nats_binary")]


async def test_sigterm_under_load_leaves_nothing_and_loses_nothing(tmp_path: Path, stub: StubModel) -> None:
    """It exits 0 with all its processes; on NATS no connection and no consumer of its own is left; the calls that
    were in flight are handed back, closed at the model, and made by the next fleet. The NATS that was given is used,
    and left alone. The health of both components is served meanwhile.
    """
    async with servers.one(tmp_path / "nats") as server:
        port = two_free_ports()
        up = await start(tmp_path / "data", NATS_URL=server.url, VLLM_URL=stub.url, FLEET_HEALTH_PORT=str(port))
        assert up.facts["nats_url"] == server.url
        await health_is_served(up, port)
        family = [psutil.Process(up.process.pid), *psutil.Process(up.process.pid).children(recursive=True)]
        stub.gate.clear()
        asked = [await up.request(num_agents=3, rounds=0) for _ in range(5)]
        await stub.until_open(5 * 3)
        assert await stop(up) == 0
        await stub.until_open(0)
        _, alive = await asyncio.to_thread(psutil.wait_procs, family, timeout=WITHIN_S)
        assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
        assert await server.connections() == {}
        assert await consumers(server) == {config.durable_name for _, config in topology.consumers(load({}))}

        stub.gate.set()
        again = await start(tmp_path / "data", NATS_URL=server.url, VLLM_URL=stub.url)
        for task_id in asked:
            assert (await again.result(task_id))["degraded"] is False
        assert await stop(again, signal.SIGINT) == 0
        assert await server.connections() == {}


def two_free_ports() -> int:
    """The first of two that follow each other."""
    while not is_free((port := free_port()) + 1):
        pass
    return port


async def health_is_served(up: Up, port: int) -> None:
    """The dispatcher's on the port that is set, the collector's on the next one."""
    assert up.facts["health_ports"] == {"dispatcher": port, "collector": port + 1}
    async with aiohttp.ClientSession() as http:
        for number, own in ((port, "fleet_requests_held"), (port + 1, "fleet_tasks_in_work")):
            async with http.get(f"http://127.0.0.1:{number}/readyz") as answer:
                assert await answer.json() == {"ready": True, "problems": [], "details": {}}
            async with http.get(f"http://127.0.0.1:{number}/metrics") as answer:
                assert own in await answer.text()


async def consumers(server: Server) -> set[str]:
    """The names of all there are, on any stream."""
    nc = await nats.connect(server.url)
    js = nc.jetstream()
    streams = [info.config.name or "" for info in await js.streams_info()]
    found = {info.name for stream in streams for info in await js.consumers_info(stream)}
    await nc.close()
    return found
