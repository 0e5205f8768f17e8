"""Ends calls that another worker may be making too, as soon as their answer is not needed any more.

A worker that stands still, or is cut off from NATS, for longer than `ack_wait` loses its leases and is not told: NATS
delivers the calls to other workers. So every redelivered call, and every call held through such a time, may be a
duplicate. Twice a second the state of their tasks is read.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from workers.calls.deliveries.leases import Lease, Leases
from workers.calls.task_view import TaskView

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 0.5
PAUSE_S = 1.0
"""This process stood still if it looks so much later than it should."""


class DuplicateWatch:
    """Of one worker. `task_view` reads a task's state, None where it cannot be read."""

    def __init__(self, leases: Leases, task_view: Callable[[str], Awaitable[TaskView | None]]) -> None:
        self._leases = leases
        self._task_view = task_view
        self._all_until = 0.0

    def suspect_all(self) -> None:
        """Every open call, and what comes in the next moment: it may have lain in the connection."""
        self._all_until = time.monotonic() + PAUSE_S

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            due = time.monotonic() + LOOK_EVERY_S
            await asyncio.sleep(LOOK_EVERY_S)
            now_s = time.monotonic()
            if now_s - due > PAUSE_S:
                log.warning("worker.was_suspended", seconds=round(now_s - due, 1), calls=len(self._leases))
                self.suspect_all()
            await self._end_unneeded(everything=now_s < self._all_until or now_s - due > PAUSE_S)

    async def _end_unneeded(self, *, everything: bool) -> None:
        by_task: dict[str, list[Lease]] = {}
        for lease in self._leases.all():
            lease.may_be_duplicate = lease.may_be_duplicate or everything
            if lease.may_be_duplicate and lease.task_id is not None:
                by_task.setdefault(lease.task_id, []).append(lease)
        await asyncio.gather(*(self._check(task_id, leases) for task_id, leases in by_task.items()))

    async def _check(self, task_id: str, leases: list[Lease]) -> None:
        task = await self._task_view(task_id)
        for lease in leases:
            not_needed = task and lease.request and not task.needs(lease.request)
            if not_needed and lease.cancel("stopped"):
                log.info("agent.not_needed_any_more", task_id=task_id)
