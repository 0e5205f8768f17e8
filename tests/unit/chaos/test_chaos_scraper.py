"""What `fleet chaos` scrapes of dispatchers and collectors."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import Gauge

from fleet.chaos.scraper import Scraper
from fleet.local.ports import free_port
from fleet.observability.health import Health, listen

HOST = "127.0.0.1"


@asynccontextmanager
async def serving(health: Health) -> AsyncIterator[int]:
    """Its port."""
    port = free_port()
    task = asyncio.create_task(await listen(health, HOST, port))
    try:
        yield port
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_process_is_known_by_its_start() -> None:
    """The next one at the same port is another; who does not answer is left out."""
    health = Health("test")
    calls = health.metrics["fleet_calls_total"].at("propose", "m", "gpu-1", "completed")
    start = Gauge("process_start_time_seconds", "As ProcessCollector tells it.", registry=health.metrics.registry)
    async with serving(health) as port:
        scraper = Scraper({"dispatcher": port, "collector": free_port()})
        for start_s in (1, 1, 2):
            start.set(start_s)
            calls.inc()
            await scraper.look()
    found = [(life.process, life.began, life.counted["fleet_calls_total"]) for life in scraper.lives]
    assert found == [("dispatcher", 1, 2), ("dispatcher", 2, 3)]


async def test_a_process_that_does_not_tell_its_start_is_left_out() -> None:
    """As everywhere but on Linux."""
    async with serving(Health("test")) as port:
        scraper = Scraper({"dispatcher": port})
        await scraper.look()
    assert scraper.lives == ()
