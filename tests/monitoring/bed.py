"""A fleet that faults of `fleet chaos` may break, without Ray: a part that dies is started again."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from fleet import subjects
from fleet.chaos.cluster import SIZES
from fleet.chaos.faults import Target
from fleet.chaos.nats_servers import NatsServers
from fleet.chaos.proxy import Proxy
from fleet.chaos.recorder import Recorder
from fleet.config import Settings, unconfigured
from fleet.jetstream import connection
from fleet.jetstream.connection import OUTAGES
from fleet.local.supervisor import Child
from tests.support.fleets.processes import COMMANDS
from tests.support.nats.servers import free_ports

GRACE_S = 5.0
CONFIG = """\
[workers]
ack_wait_s = 3
stall_timeout_s = 5
[endpoints.model]
url = "{url}"
first_token_timeout_s = 5
price = {{ input = 1.0, cached = 0.1, output = 3.0 }}
[roles.DEV]
max_tokens = 2000
{sizes}
"""


class Bed:
    """The part of a `fleet.chaos.cluster.Cluster` that faults use."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._once: dict[str, dict[str, str]] = {}
        self.nats = NatsServers(directory / "nats")
        self.proxy = Proxy()
        (port, *health) = free_ports(3)
        self.vllm_url = f"http://127.0.0.1:{port}"
        self.health_ports = dict(zip(("dispatcher", "collector"), health, strict=True))
        model = ("-m", "workers.simulator", "--port", str(port), "--latency-ms", "20")
        self.model = self._child("model", *model)
        self.parts = {kind: self._child(kind, *COMMANDS[kind]) for kind in ("dispatcher", "collector", "worker")}

    async def start(self, stack: AsyncExitStack) -> None:
        """Ends with `stack`."""
        (self._directory / "fleet.toml").write_text(CONFIG.format(url=self.vllm_url, sizes=SIZES))
        stack.push_async_callback(self.nats.stop)
        await self.nats.start()
        self.proxy.upstreams = tuple(self.nats.ports)
        await self.proxy.start()
        stack.push_async_callback(self.proxy.stop)
        for child in (self.model, *self.parts.values()):
            stack.push_async_callback(child.stop, GRACE_S)
        await self.parts["dispatcher"].start()  # alone: the streams just fit
        await asyncio.gather(*(child.start() for child in (self.model, self.parts["collector"], self.parts["worker"])))

    def pids(self, target: str) -> list[int]:
        """As `Cluster.pids`; the worker stands for the actors."""
        if target == "nats":
            return self.nats.pids
        pid = self.parts["worker" if target == "actor" else target].pid
        return [] if pid is None else [pid]

    def once(self, name: str, **environ: str) -> Child:
        """As `Cluster.once`."""
        self._once[name] = environ
        return self.parts[name]

    def _child(self, name: str, *command: str) -> Child:
        log = self._directory / f"{name}.log"
        return Child(name, lambda: [sys.executable, *command], environ=lambda: self._environ(name), log_file=log)

    def _environ(self, name: str) -> dict[str, str]:
        own = {
            "NATS_URL": self.proxy.url,
            "FLEET_CONFIG": str(self._directory / "fleet.toml"),
            "FLEET_HEALTH_HOST": "127.0.0.1",
        }
        if name in self.health_ports:
            own["FLEET_HEALTH_PORT"] = str(self.health_ports[name])
        return {**unconfigured(os.environ), **own, **self._once.pop(name, {})}


@asynccontextmanager
async def working(directory: Path) -> AsyncIterator[tuple[Target, Bed]]:
    """Dispatcher, collector and worker under a little load."""
    async with AsyncExitStack() as stack:
        bed = Bed(directory)
        await bed.start(stack)
        nc = await connection.connect(Settings(nats_url=bed.nats.url), "client", reconnect_time_wait=0.2)
        stack.push_async_callback(nc.close)
        asking = asyncio.create_task(_ask(nc))

        async def end() -> None:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

        stack.push_async_callback(end)
        recorder = Recorder(nc)
        await recorder.subscribe()
        faults: Any = bed
        yield Target(nc, recorder, faults), bed


async def _ask(nc: Any) -> None:
    """One small deliberation after the other, without waiting for any."""
    body = b'{"task_description": "Design it", "num_agents": 2, "rounds": 1, "constraints": {"timeout_seconds": 300}}'
    while True:
        with suppress(*OUTAGES):  # NATS is away on purpose
            await nc.request(subjects.REQUESTED, body, timeout=2)
        await asyncio.sleep(0.5)
