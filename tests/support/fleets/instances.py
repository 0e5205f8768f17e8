"""Runs dispatchers and collectors in this process that are begun and ended one by one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import nats

from fleet import subjects
from fleet.config import Settings, load
from fleet.control import collector, dispatcher
from fleet.local.testbed import NoWorkers
from tests.support.fleets.control_plane import Fleet, Inbox
from tests.support.waiting import WITHIN_S


class Instances:
    """Components in this process, each ended on its own; calls are answered once `let_go` is set."""

    def __init__(self, settings: Settings, fleet: Fleet) -> None:
        self.fleet = fleet
        self.settings = settings
        self.running: list[asyncio.Task[None]] = []

    async def begin(self, run: Callable[..., Any], *more: Any) -> None:
        ready = asyncio.Event()
        self.running.append(asyncio.create_task(run(self.settings, *more, on_ready=ready.set)))
        async with asyncio.timeout(WITHIN_S):
            await ready.wait()

    async def end(self, index: int) -> None:
        self.running[index].cancel()
        await asyncio.gather(self.running[index], return_exceptions=True)


@asynccontextmanager
async def held(url: str, **environ: str) -> AsyncIterator[Instances]:
    """A dispatcher, a collector, and no workers yet: what is asked waits. `environ`: further settings."""
    nc, inbox = await nats.connect(url), Inbox()
    for subject in (subjects.ACCEPTED, *subjects.TERMINAL):
        await nc.subscribe(subject, cb=inbox.take)
    instances = Instances(load({"NATS_URL": url, **environ}), Fleet(nc, inbox))
    await instances.begin(dispatcher.run, NoWorkers())
    await instances.begin(collector.run)
    try:
        yield instances
    finally:
        for index in range(len(instances.running)):
            await instances.end(index)
        await nc.close()
