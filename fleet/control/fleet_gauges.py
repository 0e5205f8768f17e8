"""Measures, every few seconds, what the whole fleet has to do: which deliberations run, and what they still need."""

import asyncio

import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext

from fleet.clock import now_ms
from fleet.config import Settings
from fleet.control.scaling.running import note_unknown, running_tasks
from fleet.control.scaling.streams import request_streams
from fleet.control.states.store import StateStore
from fleet.control.telemetry.metering import Meter
from fleet.jetstream import pool_size, worker_statuses
from fleet.jetstream.connection import OUTAGES
from fleet.messages import UNDECODABLE
from fleet.observability import worker_gauges

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 5.0


class FleetGauges:
    """Of one process of the control plane: each of them tells the whole fleet's numbers. Collectors alone tell what
    running deliberations still need, since they move them on."""

    def __init__(self, nc: Client, js: JetStreamContext, meter: Meter, settings: Settings, store: StateStore) -> None:
        self._workers = settings.workers
        self._tenants = settings.tenants
        self._nc = nc
        self._js = js
        self._meter = meter
        self._store = store

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            try:
                await self.look()
            except (*OUTAGES, *UNDECODABLE) as error:
                log.debug("fleet.not_counted", error=repr(error))
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Reads all gauges once."""
        running = await running_tasks(self._js)
        metrics, requests = self._meter.metrics, (await request_streams(self._nc, self._tenants)).values()
        metrics["fleet_requests_waiting"].at().set(sum(each.state.messages for each in requests))
        metrics["fleet_oldest_request_seconds"].at().set(max(each.oldest_s for each in requests))
        await self._look_at_workers()
        metrics["fleet_deliberations_in_progress"].at().set(len(running))
        if (ahead := self._meter.ahead) is not None:
            known = frozenset(running)
            await note_unknown(running, self._store, ahead)
            metrics["fleet_calls_ahead"].at().set(round(ahead.calls(known), 1))
            metrics["fleet_tokens_ahead"].replace(ahead.tokens(known))

    async def _look_at_workers(self) -> None:
        wanted = due = self._workers.lowest
        if self._workers.is_elastic and (size := (await pool_size.look(self._nc))[0]) is not None:
            wanted, due = size.wanted, size.due
        workers = await worker_statuses.look(self._nc)
        if workers is not None:
            worker_gauges.show(workers, due, self._meter.labels, self._meter.metrics, now_ms(), wanted=wanted)
