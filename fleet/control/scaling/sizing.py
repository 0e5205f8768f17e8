"""Decides again and again how many workers there should be, and tells the launcher of each dispatcher.

Collectors decide, since they know how far each deliberation is. Each of them looks at the decision that counts, makes
the next one from it, and writes it by compare-and-set: of those that decide at the same moment one wins, and the others
go on from its decision. So several agree without a leader, and whoever dies leaves nothing to take over.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

import structlog

from fleet.clock import now_ms
from fleet.config import Settings
from fleet.control import launching
from fleet.control.component import Component
from fleet.control.launching import Launcher
from fleet.control.scaling.decision import decide
from fleet.control.scaling.policy import Load, first_size, next_size
from fleet.control.scaling.running import note_unknown, running_tasks
from fleet.control.scaling.streams import open_calls, waiting_requests
from fleet.jetstream import pool_size, worker_statuses
from fleet.jetstream.connection import OUTAGES
from fleet.messages import UNDECODABLE
from fleet.messages.workers import is_silent
from fleet.observability.health import Observation
from fleet.tenants.names import name_of

log = structlog.get_logger(__name__)

DECIDE_EVERY_S, FOLLOW_EVERY_S = 2.0, 1.0
FRESH_MS = 1_000
"""A decision that another collector has made so lately is good enough."""
USUAL_WIDTH = 3.0
"""Agents of a request that does not say how many."""


class Sizing:
    """Of one collector, whose meter takes note of what is coming."""

    def __init__(self, component: Component) -> None:
        assert component.meter.ahead is not None
        self._component = component
        self._settings = component.settings
        self._ahead = component.meter.ahead

    async def run(self) -> None:
        """Decides until cancelled."""
        while True:
            try:
                await self.decide(now_ms())
            except (*OUTAGES, *UNDECODABLE) as error:
                log.debug("pool.not_sized", error=repr(error))
            await asyncio.sleep(DECIDE_EVERY_S)

    async def decide(self, at_ms: int) -> None:
        """Once, unless somebody has just done it."""
        nc, workers = self._component.nc, self._settings.workers
        before, revision = await pool_size.look(nc)
        if before is not None and 0 <= at_ms - before.decided_at_ms < FRESH_MS:
            return
        load = await self._load()
        if before is None:
            answering = [worker for worker in await worker_statuses.look(nc) or () if not is_silent(worker, at_ms)]
            after = first_size(workers, load, len(answering), at_ms)
        else:
            after = next_size(before, workers, load, at_ms)
        if await decide(self._component.js, after, revision) and (before is None or after.wanted != before.wanted):
            calls = round(load.calls_at_once)
            log.info("pool.sized", wanted=after.wanted, before=before and before.wanted, calls_at_once=calls)

    async def _load(self) -> Load:
        component = self._component
        running = await running_tasks(component.js)
        await note_unknown(running, component.store, self._ahead)
        known = frozenset(running)
        waiting = await waiting_requests(component.nc, self._settings.tenants)
        return Load(
            open_calls=await open_calls(component.nc),
            coming=self._ahead.calls_at_once(known),
            begins=beginning(waiting, Counter(name_of(key).tenant for key in running), self._settings),
            width=self._ahead.width or USUAL_WIDTH,
        )


def beginning(waiting: Mapping[str, int], running: Mapping[str, int], settings: Settings) -> int:
    """How many of the requests that wait are let in as soon as there is a worker, by tenant: the others wait for the
    end of a deliberation, and then take its place."""
    begins = 0
    for tenant, requests in waiting.items():
        limits = settings.tenants.get(tenant)
        limit = limits.max_in_flight if limits is not None else None
        begins += requests if limit is None else min(requests, max(0, limit - running.get(tenant, 0)))
    return min(begins, max(0, settings.limits.max_in_flight - sum(running.values())))


class Follower:
    """Tells a dispatcher's launcher what has been decided. `wanted`: how many workers, as far as is known here."""

    def __init__(self, settings: Settings, launcher: Launcher) -> None:
        self.wanted = settings.workers.lowest
        self._settings = settings
        self._launcher = launcher

    def workers(self) -> Observation:
        """Whether workers answer."""
        return launching.workers(self._launcher, self.wanted, self._settings.workers.lowest)

    def counts(
        self, in_progress: Callable[[], Awaitable[int]], models: Callable[[], Observation]
    ) -> Callable[[], Awaitable[int]]:
        """How many deliberations are in progress; while there may be no worker or no model, and is none: as many as
        there may be. So requests wait for the first one, and their deadlines do not run."""
        settings = self._settings

        async def count() -> int:
            has_no_worker = settings.workers.lowest == 0 and not self._launcher.answering()
            if has_no_worker or (settings.limits.wait_for_models and not models().ok):
                return settings.limits.max_in_flight
            return await in_progress()

        return count

    async def run(self, component: Component) -> None:
        """Looks until cancelled."""
        while True:
            try:
                size, _ = await pool_size.look(component.nc)
            except OUTAGES as error:
                log.debug("pool.not_seen", error=repr(error))
            else:
                if size is not None:
                    self.wanted = size.wanted
                    self._launcher.resize(size.wanted)
            await asyncio.sleep(FOLLOW_EVERY_S)
