"""Faults of `fleet chaos` on a running fleet, and the alerts of a real Prometheus; the query of every panel."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from fleet import subjects
from fleet.chaos.faults import Target, inject
from fleet.chaos.recorder import Recorder
from fleet.chaos.schedule import Fault, Kind
from fleet.config import Settings
from fleet.jetstream import connection
from fleet.jetstream.connection import OUTAGES
from fleet.local.nats_server import EmbeddedNats
from tests.support.monitoring import Prometheus, load_dashboards, prometheus
from tests.support.processes import Component
from tests.support.servers import free_ports
from workers.simulator.server import Simulator, SimulatorConfig

FIRES_WITHIN_S = 60
QUIET_S = 45
CONFIG = """\
[workers]
ack_wait_s = 3
stall_timeout_s = 5
[endpoints.model]
url = "{url}"
price = {{ input = 1.0, cached = 0.1, output = 3.0 }}
[roles.DEV]
max_tokens = 2000
"""

MATRIX: tuple[tuple[Kind, str, str], ...] = (
    ("model", "http_503", "FleetModelServerSick"),
    ("model", "refuse", "FleetModelServerSick"),
    ("stop", "worker", "FleetWorkersMissing"),
    ("stop", "collector", "FleetProcessDown"),
    ("stop", "nats", "FleetNatsAway"),
    ("malformed", subjects.AGENT_COMPLETED, "FleetDeadLetters"),
)
"""The last one is remembered for ten minutes."""


class Bed:
    """What faults may touch: the part of a `fleet.chaos.cluster.Cluster` that they use."""

    def __init__(self, vllm_url: str, nats: EmbeddedNats, parts: dict[str, Component]) -> None:
        self.vllm_url = vllm_url
        self._nats = nats
        self._parts = parts

    def pids(self, target: str) -> list[int]:
        pid = self._nats.pid if target == "nats" else self._parts[target].pid
        return [] if pid is None else [pid]


@asynccontextmanager
async def watched_fleet(tmp_path: Path) -> AsyncIterator[tuple[Target, Prometheus]]:
    """Dispatcher, collector and worker as processes, scraped by a Prometheus, under a little load."""
    async with AsyncExitStack() as stack:
        nats = EmbeddedNats(tmp_path / "nats")
        await nats.start()
        stack.push_async_callback(nats.stop)
        model = await stack.enter_async_context(Simulator(SimulatorConfig(latency_ms=20)))
        config = tmp_path / "fleet.toml"
        config.write_text(CONFIG.format(url=model.url))
        ports = dict(zip(("dispatcher", "collector"), free_ports(2), strict=True))
        environ = {"NATS_URL": nats.url, "FLEET_CONFIG": str(config), "FLEET_HEALTH_HOST": "127.0.0.1"}
        parts = {
            kind: Component(
                kind,
                tmp_path / f"{kind}.log",
                **environ,
                **({"FLEET_HEALTH_PORT": str(ports[kind])} if kind in ports else {}),
            )
            for kind in ("dispatcher", "collector", "worker")
        }
        for part in parts.values():
            stack.push_async_callback(part.end, signal.SIGKILL)
        await asyncio.gather(*(part.start() for part in parts.values()))
        watching = await stack.enter_async_context(prometheus(tmp_path, list(ports.values())))
        nc = await connection.connect(Settings(nats_url=nats.url), "client", reconnect_time_wait=0.2)
        stack.push_async_callback(nc.close)
        asking = asyncio.create_task(ask(nc))

        async def end() -> None:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

        stack.push_async_callback(end)
        bed: Any = Bed(model.url, nats, parts)
        yield Target(nc, Recorder(nc), bed), watching


async def ask(nc: Any) -> None:
    """One small deliberation after the other, without waiting for any."""
    body = b'{"task_description": "Design it", "num_agents": 2, "rounds": 1, "constraints": {"timeout_seconds": 300}}'
    while True:
        with suppress(*OUTAGES):  # NATS is away on purpose
            await nc.request(subjects.REQUESTED, body, timeout=2)
        await asyncio.sleep(0.5)


async def until_fires(watching: Prometheus, alert: str) -> set[str]:
    async with asyncio.timeout(FIRES_WITHIN_S):
        while alert not in (firing := await watching.firing()):  # noqa: ASYNC110 - Prometheus says nothing by itself
            await asyncio.sleep(0.5)
    return firing


async def nothing_from(watching: Prometheus, queries: dict[str, str]) -> list[str]:
    """Names of the queries that return no data."""
    return [where for where, query in queries.items() if not await watching.query(query)]


async def until_quiet(watching: Prometheus) -> None:
    async with asyncio.timeout(180):
        while await watching.firing():  # noqa: ASYNC110
            await asyncio.sleep(0.5)


@pytest.mark.timeout(1500)
async def test_each_fault_fires_its_alert_and_no_other(tmp_path: Path) -> None:
    """A quiet fleet fires none. Within a minute of each fault the alert named for it does, alone."""
    async with watched_fleet(tmp_path) as (target, watching):
        for _ in range(QUIET_S):
            assert await watching.firing() == set()
            await asyncio.sleep(1)
        for number, (kind, what, alert) in enumerate(MATRIX):
            fault = Fault(number=number, kind=kind, target=what, at_s=0.0, for_s=FIRES_WITHIN_S, chance=0.99)
            breaking = asyncio.create_task(inject(target, fault))
            firing = await until_fires(watching, alert)
            assert firing == {alert}, (kind, what)
            breaking.cancel()  # what was broken is mended
            await asyncio.gather(breaking, return_exceptions=True)
            if number < len(MATRIX) - 1:
                await until_quiet(watching)


@pytest.mark.timeout(600)
async def test_every_panel_shows_something(tmp_path: Path) -> None:
    """In a fleet at work, each query of each dashboard returns data."""
    queries = {
        f"{name}: {panel['title']}": panel["targets"][0]["expr"].replace("$__rate_interval", "1m")
        for name, board in load_dashboards().items()
        for panel in board["panels"]
    }
    async with watched_fleet(tmp_path) as (_, watching):
        async with asyncio.timeout(180):
            while await nothing_from(watching, queries):  # noqa: ASYNC110 - Prometheus says nothing by itself
                await asyncio.sleep(2)
        assert not await nothing_from(watching, queries)
