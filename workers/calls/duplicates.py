"""Calls that another worker may be making, too: twice a second a look whether they are still wanted.

A lease is lost without a word when its worker stands still, or is cut off from NATS, for longer than `ack_wait`: NATS
hands the call to another worker, and neither knows of the other. So every call that came again, and every one that was
held through such a time, is in doubt, and closed as soon as its slot is filled or its task has ended.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from workers.calls.leases import Lease, Leases
from workers.calls.publisher import Standing

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 0.5
PAUSE_S = 1.0
"""This process stood still if a look comes so much later than it should."""


class Doubts:
    """Of one worker. `standing` reads a task's state, None where it cannot be read."""

    def __init__(self, leases: Leases, standing: Callable[[str], Awaitable[Standing | None]]) -> None:
        self._leases = leases
        self._standing = standing
        self._all_until = 0.0

    def all(self) -> None:
        """Doubt every call there is, and what comes in the next moment: it may have lain in the connection."""
        self._all_until = time.monotonic() + PAUSE_S

    async def look(self) -> None:
        """Runs until cancelled."""
        while True:
            due = time.monotonic() + LOOK_EVERY_S
            await asyncio.sleep(LOOK_EVERY_S)
            now = time.monotonic()
            if now - due > PAUSE_S:
                log.warning("worker.stood_still", seconds=round(now - due, 1), calls=len(self._leases))
                self.all()
            await self._close_unwanted(everything=now < self._all_until or now - due > PAUSE_S)

    async def _close_unwanted(self, *, everything: bool) -> None:
        by_task: dict[str, list[Lease]] = {}
        for lease in self._leases.all():
            lease.doubtful = lease.doubtful or everything
            if lease.doubtful and lease.task_id is not None:
                by_task.setdefault(lease.task_id, []).append(lease)
        await asyncio.gather(*(self._check(task_id, leases) for task_id, leases in by_task.items()))

    async def _check(self, task_id: str, leases: list[Lease]) -> None:
        standing = await self._standing(task_id)
        for lease in leases:
            unwanted = standing and lease.request and not standing.wants(lease.request)
            if unwanted and lease.cancel("stopped"):
                log.info("agent.unwanted", task_id=task_id)
