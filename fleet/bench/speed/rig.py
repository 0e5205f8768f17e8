"""Starts everything that is measured, on loopback: NATS, a model server, a fleet, the baseline `bare`.

NATS and the model server are shared by all that is compared.
"""

import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from nats.aio.client import Client

from fleet.local.nats_server import EmbeddedNats
from fleet.local.startable import Startable
from fleet.local.supervisor import Child
from fleet.local.testbed import GRACE_S, MODEL_GRACE_S, Testbed
from workers.simulator import client as simulator_client

MOST_RECORDED = 1_000_000


class Rig(Startable):
    """`async with Rig(data_dir) as rig:` all that it has answers inside; nothing is left afterwards.

    `vllm_url`: a model server that is there; without one the simulated one is started with `pace`. `config`: the
    fleet's TOML. `bare`: whether the baseline of that name is started.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        pace: Sequence[str] = (),
        vllm_url: str | None = None,
        config: str = "",
        bare: bool = True,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.data_dir = data_dir
        self.vllm_url = vllm_url or ""
        self.nats = EmbeddedNats(data_dir)
        self.ready_s = 0.0
        self.nc = Client()
        self._more = dict(environ or {})
        self._pace = pace
        self.bed = Testbed(data_dir, config, self._where)
        self.model = None if vllm_url else self.bed.simulator(self._simulator)
        self.bare = self.bed.child("bare", self._bare) if bare else None
        self.fleet = self.bed.fleet_up()
        self._replicas: list[Child] = []

    @property
    def fleet_pids(self) -> list[int]:
        """The fleet's and NATS': their descendants belong to them."""
        roots = (self.fleet.pid, self.nats.pid, *(replica.pid for replica in self._replicas))
        return [pid for pid in roots if pid is not None]

    @property
    def bare_pids(self) -> list[int]:
        """The baseline's and NATS'."""
        assert self.bare is not None
        return [pid for pid in (self.bare.pid, self.nats.pid) if pid is not None]

    async def configure_model(self, **change: Any) -> None:
        """Changes the simulated server's pace for the requests that follow."""
        await simulator_client.configure(self.vllm_url, **change)

    async def model_calls(self, limit: int) -> list[dict[str, Any]]:
        """The latest calls that the simulated server has answered, without their bodies."""
        return await simulator_client.calls(self.vllm_url, limit)

    async def model_metrics(self) -> dict[str, float]:
        """What the model server counts, by name: over all its models, since it began."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.vllm_url}/metrics") as response:
            response.raise_for_status()
            return totals(await response.text())

    async def beside(self, component: str) -> None:
        """Starts another `dispatcher` or `collector` of the same fleet; its processor time counts as the fleet's."""
        child = self.bed.replica(f"{component}-2", "-m", "fleet.cli", component)
        self._stack.push_async_callback(child.stop, GRACE_S)
        await child.start()
        self._replicas.append(child)

    async def _start(self) -> None:
        self.bed.prepare()
        self._stack.push_async_callback(self.nats.stop)
        await self.nats.start()
        if self.model is not None:
            self._stack.push_async_callback(self.model.stop, MODEL_GRACE_S)
            self.vllm_url = await self.model.start()
        self._stack.push_async_callback(self.fleet.stop, GRACE_S)
        began = time.monotonic()
        await self.fleet.start()
        self.ready_s = time.monotonic() - began
        if self.bare is not None:
            self._stack.push_async_callback(self.bare.stop, MODEL_GRACE_S)
            await self.bare.start()
        await self.nc.connect(self.nats.url, name="fleet-bench")
        self._stack.push_async_callback(self.nc.close)

    def _where(self) -> dict[str, str]:
        return {"NATS_URL": self.nats.url, "VLLM_URL": self.vllm_url, **self._more}

    def _simulator(self) -> list[str]:
        return ["--port", "0", "--recorded-calls", str(MOST_RECORDED), *self._pace]

    def _bare(self) -> list[str]:
        return [sys.executable, "-m", "fleet.bench.speed.bare", self.nats.url, self.vllm_url]


def totals(metrics: str) -> dict[str, float]:
    """Metrics in Prometheus' text format, summed over their labels, by name."""
    found: dict[str, float] = defaultdict(float)
    for line in metrics.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name.partition("{")[0]] += float(value)
    return found


@asynccontextmanager
async def side_by_side(rigs: Sequence[Rig]) -> AsyncIterator[None]:
    """All of them answer inside. They are started one after the other, so that each is ready in time, and ended
    together.
    """
    try:
        for rig in rigs:
            await rig.__aenter__()
        yield
    finally:
        await asyncio.gather(*(rig.__aexit__() for rig in rigs))


async def settled(seconds: float = 0.5) -> None:
    """What was started or asked for before has had its time: it is not counted into what follows."""
    await asyncio.sleep(seconds)
