"""`fleet up` is ended while its model is in the middle of every call."""

import asyncio
from pathlib import Path

import nats
import psutil
import pytest

from fleet.config import load
from fleet.jetstream import topology
from tests.e2e.conftest import start, stop
from tests.e2e.stub import StubModel
from tests.support import servers
from tests.support.servers import Server

pytestmark = pytest.mark.usefixtures("nats_binary")


async def test_sigterm_under_load_leaves_nothing_and_loses_nothing(tmp_path: Path, stub: StubModel) -> None:
    """It exits 0 with all its processes; on NATS no connection and no consumer of its own is left; the calls that
    were in flight are handed back, closed at the model, and made by the next fleet.
    """
    async with servers.one(tmp_path / "nats") as server:
        up = await start(tmp_path / "data", NATS_URL=server.url, VLLM_URL=stub.url)
        family = [psutil.Process(up.process.pid), *psutil.Process(up.process.pid).children(recursive=True)]
        stub.gate.clear()
        asked = [await up.request(num_agents=3, rounds=0) for _ in range(5)]
        await stub.until_open(5 * 3)
        assert await stop(up) == 0
        await stub.until_open(0)
        _, alive = await asyncio.to_thread(psutil.wait_procs, family, timeout=15)
        assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
        assert await server.connections() == {}
        assert await consumers(server) == {config.durable_name for _, config in topology.consumers(load({}))}

        stub.gate.set()
        again = await start(tmp_path / "data", NATS_URL=server.url, VLLM_URL=stub.url)
        for task_id in asked:
            assert (await again.result(task_id))["degraded"] is False
        assert await stop(again) == 0


async def consumers(server: Server) -> set[str]:
    """The names of all there are, on any stream."""
    nc = await nats.connect(server.url)
    js = nc.jetstream()
    streams = [info.config.name or "" for info in await js.streams_info()]
    found = {info.name for stream in streams for info in await js.consumers_info(stream)}
    await nc.close()
    return found
