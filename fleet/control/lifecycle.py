"""Starts one process of the control plane, keeps its parts running, and ends them in order.

What was begun is pushed onto one exit stack: it ends in reverse, and an error in one step skips none of the others.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any

import structlog
from prometheus_client import ProcessCollector

from fleet import subjects
from fleet.config import Settings
from fleet.control.background import Background
from fleet.control.component import Component, open_component
from fleet.control.fleet_gauges import FleetGauges
from fleet.control.intake import Broker
from fleet.control.recovery.foreign_consumers import ForeignConsumers
from fleet.control.recovery.restored_streams import RestoredStreams
from fleet.control.recovery.watchdog import Watchdog
from fleet.control.runner import Runner
from fleet.control.scaling.expected_work import ExpectedWork
from fleet.control.telemetry.metering import Meter
from fleet.errors import Unreachable
from fleet.event_loop import settle
from fleet.jetstream.connection import OUTAGES, connect, disconnect
from fleet.jetstream.declaring.permissions import tell_lacking
from fleet.jetstream.lasting import Connection
from fleet.jetstream.origin import CONTROL_INBOX
from fleet.observability.health import Health, Observation, listen
from fleet.observability.metrics import Metrics
from fleet.observability.retries import again

log = structlog.get_logger(__name__)

CONNECT_FIRST_PAUSE_S, CONNECT_PAUSE_S = 0.5, 2.0
DRAIN_S = 8.0
"""With all other steps, also where NATS has stopped to answer, less than the 20 s in which a component must end."""

Parts = Callable[[Component, Broker, AsyncExitStack], Awaitable[None]]
"""Begins what a component has of its own. How to end it is pushed onto the stack."""


class Lifecycle:
    """Of one process. `reads`: the (stream, consumer) that it serves; `metrics`: what it counts with."""

    def __init__(
        self, settings: Settings, name: str, reads: Sequence[tuple[str, str]], metrics: Metrics | None = None
    ) -> None:
        self.settings = settings
        self.name = name
        self.health = Health(name, metrics)
        # Whoever looks at what is coming makes it forget what has ended: gauges, and the size of the pool.
        looks = name == "collector" and (settings.health_port is not None or settings.workers.is_elastic)
        self.meter = Meter(settings, self.health.metrics, ExpectedWork() if looks else None)
        self._reads = reads
        self._background = Background()
        self._created: list[str] = []
        """Streams that were missing, also those that an attempt to start has declared before it failed."""

    async def run(self, parts: Parts, then: Callable[[], Awaitable[None]]) -> None:
        """Serves health, starts, awaits `then`, and goes on until cancelled. Raises what ended a part of it."""
        self.health.expect("nats", "NATS has not answered yet")
        self.health.expect("streams", "the streams have not been seen yet")
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._background.stop)
            self._background.start("heartbeat", self.health.keep_beating())
            if self.settings.health_port is not None:
                ProcessCollector(registry=self.health.metrics.registry)
                serving = await listen(self.health, self.settings.health_host, self.settings.health_port)
                self._background.start("health server", serving)
            begun = await stack.enter_async_context(AsyncExitStack())

            async def start() -> None:
                await self._start(parts, begun)
                await then()
                settle()

            try:
                await self._background.run(start)
            finally:
                self.health.expect("stopping", "this process takes nothing new")
                stopping_at = time.monotonic()
        log.info(f"{self.name}.stopped", took_ms=round((time.monotonic() - stopping_at) * 1000))

    def keep(self, name: str, work: Coroutine[Any, Any, None], begun: AsyncExitStack) -> None:
        """Runs `work` in the background. Where it ends by itself, so does the process."""
        self._background.start(name, work)
        begun.push_async_callback(self._background.stop, name)

    async def _start(self, parts: Parts, begun: AsyncExitStack) -> None:
        """Tried again, however long, while NATS is away, lets nobody in or has no leader: a server may be started later
        than its clients, and its users and certificates can be mended while it runs.
        """
        await again(
            f"{self.name}.start",
            lambda: self._try_to_start(parts, begun),
            on=(Unreachable, *OUTAGES),
            first_s=CONNECT_FIRST_PAUSE_S,
            longest_s=CONNECT_PAUSE_S,
        )

    async def _try_to_start(self, parts: Parts, begun: AsyncExitStack) -> None:
        """What does not answer is a problem of readiness, and what was begun is ended."""
        nc: Connection | None = None
        try:
            nc = await connect(self.settings, f"fleet-{self.name}-publisher", inbox_prefix=CONTROL_INBOX)
            begun.push_async_callback(disconnect, nc)
            self.health.set("nats", ok=True)
            await self._open(nc, parts, begun)
        except (Unreachable, *OUTAGES) as error:
            problem = "streams" if nc is not None and nc.is_connected else "nats"
            self.health.set(problem, ok=False, detail=str(error) or type(error).__name__)
            await begun.aclose()
            raise

    async def _open(self, nc: Connection, parts: Parts, begun: AsyncExitStack) -> None:
        await tell_lacking(nc, "control")
        component = await open_component(self.settings, self.name, nc, self._created, begun, self.meter)
        broker = Broker(self.settings, f"fleet-{self.name}")
        begun.push_async_callback(broker.close)
        await parts(component, broker, begun)
        await component.dead_letters.start()
        begun.push_async_callback(broker.drain)
        await broker.start()
        await self._watch(component, (nc, component.out, broker.connection), begun)

    async def _watch(self, component: Component, clients: Sequence[Connection], begun: AsyncExitStack) -> None:
        runner = component.runner
        self.health.set("nats", ok=True)
        self.health.set("streams", ok=True)
        self.health.watch("writes fail", lambda: _writes(runner))
        self.health.metrics["fleet_tasks_in_work"].at().set_function(lambda: float(len(runner.in_work)))
        lost, restored = component.lost_streams, RestoredStreams(component.lost_streams)
        await component.nc.subscribe(subjects.purge_of("*"), cb=restored.on_purge)
        foreign = ForeignConsumers(component.nc, component.js)
        await foreign.start()
        self.keep("foreign consumers", foreign.run(), begun)
        dog = Watchdog(self.settings, self.health, component.js, clients, self._reads, lost, restored)
        self.keep("connections", _closings(clients), begun)
        self.keep("watchdog", dog.run(), begun)
        if self.settings.health_port is not None:  # else nobody can read them
            gauges = FleetGauges(component.nc, component.js, self.meter, self.settings, component.store)
            self.keep("gauges of the fleet", gauges.run(), begun)
        self.keep("dead letters", component.dead_letters.run(), begun)
        self.keep("lost streams", lost.run(), begun)


async def _closings(clients: Sequence[Connection]) -> None:
    """Raises `Unreachable` once one of them is closed for good."""
    closings = [asyncio.create_task(client.closed.wait()) for client in clients]
    try:
        await asyncio.wait(closings, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for closing in closings:
            closing.cancel()
    raise Unreachable("a connection to NATS was closed for good: this process ends, and a new one connects")


def _writes(runner: Runner) -> Observation:
    failing = runner.write_failing
    detail = "NATS did not take what had to be written: a full disk or stream?" if failing else ""
    return Observation(not failing, detail)
