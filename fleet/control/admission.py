"""Bounds how many deliberations are in progress at once. Requests beyond that wait in their stream.

A deliberation in progress has one scheduled deadline in `DELIBERATION_CONTROL`, from acceptance to end: the number of
those is the count for all dispatchers together. The room that a look finds is good for a second;
two dispatchers that look at the same moment take half of it each, three or more may take a few too many.

Requests that are here already and find no room are held, and NATS is told that they are in progress. They are few: NATS
delivers no more than the consumer's `max_ack_pending`.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import structlog

from fleet.jetstream.lifetimes import KEEP_EVERY_S
from fleet.observability.retries import again

log = structlog.get_logger(__name__)

ROOM_VALID_S = 1.0
LOOK_EVERY_S, LOOK_AGAIN_S = 0.1, 0.5


class Holdable(Protocol):
    """A delivery as far as admission cares; `fleet.control.intake.JetStreamDelivery` is the real one."""

    async def keep(self) -> None: ...
    async def hand_back(self) -> None: ...


class Admission:
    """Of one dispatcher."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._room = 0
        self._valid_until = 0.0
        self._held: deque[tuple[Holdable, Callable[[], None]]] = deque()
        self._wake = asyncio.Event()

    @property
    def held(self) -> int:
        """Requests that wait here for room."""
        return len(self._held)

    def submit(self, delivery: Holdable, admit: Callable[[], None]) -> None:
        """Calls `admit` as soon as there is room, in the order of submission."""
        if not self._held and self._room > 0 and time.monotonic() < self._valid_until:
            self._room -= 1
            admit()
        else:
            self._held.append((delivery, admit))
            self._wake.set()

    async def run(self, in_progress: Callable[[], Awaitable[int]]) -> None:
        """Runs until cancelled; what is held then is handed back. `in_progress` counts the deliberations of all."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_held())
                while True:
                    await self._wake.wait()
                    self._wake.clear()
                    await self._admit_held(in_progress)
        finally:
            held, self._held = self._held, deque()
            await asyncio.gather(*(delivery.hand_back() for delivery, _ in held), return_exceptions=True)

    async def _admit_held(self, in_progress: Callable[[], Awaitable[int]]) -> None:
        full = False
        while self._held:
            look = partial(self._look, in_progress)
            await again("requests.count", look, on=Exception, first_s=LOOK_AGAIN_S, longest_s=LOOK_AGAIN_S)
            while self._held and self._room > 0:
                self._room -= 1
                _, admit = self._held.popleft()
                admit()
            if not self._held:
                break
            if not full:
                full = True
                log.warning("admission.full", in_progress=self._limit, held=len(self._held))
            await asyncio.sleep(LOOK_EVERY_S)
        if full:
            log.info("admission.open")

    async def _keep_held(self) -> None:
        """Whatever a look takes: a request that comes again after `ack_wait` would be admitted twice."""
        while True:
            await asyncio.sleep(KEEP_EVERY_S)
            await asyncio.gather(*(delivery.keep() for delivery, _ in self._held), return_exceptions=True)

    async def _look(self, in_progress: Callable[[], Awaitable[int]]) -> None:
        self._room = 0  # Nothing is admitted during the count.
        free = self._limit - await in_progress()
        self._room = -(-free // 2) if free > 0 else 0
        self._valid_until = time.monotonic() + ROOM_VALID_S
