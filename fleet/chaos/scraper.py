"""Scrapes the metrics of dispatchers and collectors while they live and die."""

import asyncio
import time
from collections.abc import Mapping

import aiohttp

from fleet.chaos.counters import Life, read

EVERY_S = 0.5
WITHIN_S = 2.0
STARTED = "process_start_time_seconds "
"""What tells one process from the next at the same port; only Linux has it, and elsewhere no counter is compared."""


class Scraper:
    """`ports`: of health, by the name of the process."""

    def __init__(self, ports: Mapping[str, int]) -> None:
        self._ports = ports
        self._lives: dict[tuple[str, float], Life] = {}

    @property
    def lives(self) -> tuple[Life, ...]:
        """All processes that were seen."""
        return tuple(self._lives.values())

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Once; who does not answer is left out."""
        timeout = aiohttp.ClientTimeout(total=WITHIN_S)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            await asyncio.gather(*(self._scrape(http, process, port) for process, port in self._ports.items()))

    async def _scrape(self, http: aiohttp.ClientSession, process: str, port: int) -> None:
        try:
            async with http.get(f"http://127.0.0.1:{port}/metrics") as reply:
                text = await reply.text()
        except (aiohttp.ClientError, OSError, TimeoutError):
            return
        at = time.time()
        for began in (float(line.removeprefix(STARTED)) for line in text.splitlines() if line.startswith(STARTED)):
            known = self._lives.get((process, began))
            first = known.first if known else at
            self._lives[process, began] = Life(process=process, began=began, first=first, last=at, counted=read(text))
