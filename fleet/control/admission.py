"""How many deliberations may be in progress at once: what comes beyond waits in its stream.

A deliberation in progress has one message in `DELIBERATION_CONTROL`, its scheduled deadline, from acceptance to end: so
the length of that stream is the count, for all dispatchers together. What a look finds free is good for a second;
two dispatchers that look at the same moment take half of it each, three or more may take a few too many.

Requests that are here already and find no room are kept (`in_progress`) until there is some. They are few: NATS
delivers no more than the consumer's `max_ack_pending`.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)

GOOD_FOR_S = 1.0
LOOK_EVERY_S, LOOK_AGAIN_S = 0.1, 1.0
KEEP_EVERY_S = 1.5


class Kept(Protocol):
    """A delivery as far as admission cares; `fleet.control.intake.JetStreamDelivery` is the real one."""

    async def keep(self) -> None: ...
    async def hand_back(self) -> None: ...


class Admission:
    """Of one dispatcher. `in_progress` counts the deliberations of all."""

    def __init__(self, limit: int, in_progress: Callable[[], Awaitable[int]]) -> None:
        self._limit = limit
        self._in_progress = in_progress
        self._room = 0
        self._good_until = 0.0
        self._held: deque[tuple[Kept, Callable[[], None]]] = deque()
        self._wake = asyncio.Event()

    @property
    def held(self) -> int:
        """Requests that wait here for room."""
        return len(self._held)

    def submit(self, delivery: Kept, admit: Callable[[], None]) -> None:
        """Calls `admit` as soon as there is room, in the order of submission."""
        if not self._held and self._room > 0 and time.monotonic() < self._good_until:
            self._room -= 1
            admit()
        else:
            self._held.append((delivery, admit))
            self._wake.set()

    async def run(self) -> None:
        """Runs until cancelled; what is held then is handed back."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await self._let_all_in()
        finally:
            await asyncio.gather(*(delivery.hand_back() for delivery, _ in self._held), return_exceptions=True)

    async def _let_all_in(self) -> None:
        kept_at, full = time.monotonic(), False
        while self._held:
            try:
                await self._look()
            except Exception as error:
                log.warning("admission.look_failed", error=repr(error))
                await asyncio.sleep(LOOK_AGAIN_S)
            while self._held and self._room > 0:
                self._room -= 1
                _, admit = self._held.popleft()
                admit()
            if not self._held:
                break
            if not full:
                full = True
                log.warning("admission.full", in_progress=self._limit, held=len(self._held))
            if time.monotonic() - kept_at > KEEP_EVERY_S:
                kept_at = time.monotonic()
                await asyncio.gather(*(delivery.keep() for delivery, _ in self._held), return_exceptions=True)
            await asyncio.sleep(LOOK_EVERY_S)
        if full:
            log.info("admission.open")

    async def _look(self) -> None:
        self._room = 0  # Nobody is let in while the count is on its way.
        free = self._limit - await self._in_progress()
        self._room = -(-free // 2) if free > 0 else 0
        self._good_until = time.monotonic() + GOOD_FOR_S
