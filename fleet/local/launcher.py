"""Launches the dispatcher's workers in a process of its own.

Ray ends each process that has joined it when its control service is away for a minute; the dispatcher must go on.

`python -m fleet.local.launcher` joins Ray, prints how many workers answer, reads how many are wanted, line by line, and
ends when the control plane is gone; `python -m fleet.local.launcher stop` drains and ends the workers.
"""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

from fleet.clock import now_ms
from fleet.errors import FleetError
from fleet.event_loop import log_failure
from fleet.limits.workers import Workers
from fleet.local.supervisor import Child, ChildFailed
from fleet.observability.visible import visible

if TYPE_CHECKING:
    from workers.ray_pool.pool import RayPool

log = structlog.get_logger(__name__)

BEGAN = "FLEET_DISPATCHER_BEGAN"
"""When the dispatcher began, in ms since 1970: its launcher may be started again."""
WANTED = "FLEET_WORKERS_WANTED"
"""How many workers there should be, as the dispatcher knew when it started the launcher; news come line by line."""
STALE_S = 10.0
TRY_AGAIN_S = 1.0
STOP_WITHIN_S = 3.0
OTHERS_WITHIN_S = 10.0
"""How long the first worker that answers waits for the others."""


class LauncherProcess:
    """A `fleet.control.launching.Launcher`: keeps the process running, and hears of the workers from it."""

    def __init__(self, workers: Workers) -> None:
        self._environ = {**os.environ, BEGAN: str(now_ms())}
        command = [sys.executable, "-m", "fleet.local.launcher"]
        self._child = Child("launcher", lambda: command, environ=self._environment, on_line=self._heard, reads=True)
        self._may_be_none = workers.lowest == 0
        self._wanted = workers.lowest
        self._told: int | None = None
        self._answering = 0
        self._reported_at: float | None = None
        self._some, self._all = asyncio.Event(), asyncio.Event()

    async def start(self) -> None:
        """While Ray is away, or has no room, it goes on trying."""
        while True:
            try:
                self._heard(await self._child.start())
                break
            except ChildFailed as error:
                log.error("workers.not_launched", error=str(error), again_in_s=TRY_AGAIN_S)
            await asyncio.sleep(TRY_AGAIN_S)
        if self._may_be_none:
            return
        await self._some.wait()
        try:
            async with asyncio.timeout(OTHERS_WITHIN_S):
                await self._all.wait()
        except TimeoutError:
            log.warning("workers.missing", answering=self._answering, wanted=self._wanted)

    async def stop(self) -> None:
        """Ends the launcher; the workers go on."""
        await self._child.stop(STOP_WITHIN_S)

    def resize(self, wanted: int) -> None:
        """So many workers are to run."""
        if wanted != self._told:
            self._told = self._wanted = wanted
            self._child.tell(str(wanted))

    def answering(self) -> int | None:
        """How many workers have answered lately; None where Ray's control plane, or the launcher, has not."""
        fresh = self._reported_at is not None and time.monotonic() - self._reported_at < STALE_S
        return self._answering if fresh else None

    def _environment(self) -> dict[str, str]:
        return self._environ if self._told is None else {**self._environ, WANTED: str(self._told)}

    def _heard(self, line: str) -> None:
        if line.strip().isdecimal():
            self._answering = int(line)
            self._reported_at = time.monotonic()
            if self._answering > 0:
                self._some.set()
            if self._answering >= self._wanted:
                self._all.set()
        else:
            sys.stderr.write(visible(line))  # Ray's own words


async def stop_workers(environ: Mapping[str, str], within_s: float) -> None:
    """Drains and ends the workers of a fleet on a Ray that was there before it. Raises TimeoutError."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "fleet.local.launcher", "stop", env=environ)
    try:
        async with asyncio.timeout(within_s):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise


def main(stop: bool) -> None:
    from setproctitle import setproctitle

    from fleet import config
    from fleet.local.signals import run_until_signalled
    from fleet.observability.logs import configure_logging
    from workers.ray_pool.pool import RayPool

    setproctitle("fleet-launcher")
    configure_logging("launcher")
    # Ray would say that it handles no SIGTERM beside the main thread: we do.
    logging.getLogger("ray._private.worker").setLevel(logging.ERROR)
    settings = config.load(os.environ)
    pool = RayPool(settings, int(os.environ.get(BEGAN, 0)))
    try:
        run_until_signalled(pool.stop_workers() if stop else _supervise(pool, follows=settings.workers.is_elastic))
    except FleetError as error:
        log.error("launcher.ended", error=str(error))
        # Not politely: Ray would wait for what is gone.
        os._exit(1)


async def _supervise(pool: "RayPool", *, follows: bool) -> None:
    from fleet.local.signals import reclaim

    await pool.start()
    reclaim()
    if wanted := os.environ.get(WANTED):
        pool.resize(int(wanted))
    reading = asyncio.create_task(_follow(pool) if follows else asyncio.sleep(0))
    reading.add_done_callback(log_failure)
    try:
        await pool.supervise(lambda answering: print(answering, flush=True))
    except asyncio.CancelledError:
        await pool.stop()
        raise
    finally:
        reading.cancel()


async def _follow(pool: "RayPool") -> None:
    """Resizes the pool with each line of the dispatcher's."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        pool.resize(int(line))


if __name__ == "__main__":
    main("stop" in sys.argv[1:])
