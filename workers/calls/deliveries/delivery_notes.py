"""Notes in the object store how each delivery of a call ended, for the worker that gets the call next.

NATS counts deliveries, and does not tell a worker that died from one that handed the call back. A call that kills, or
freezes, every worker that takes it would go from worker to worker. So a worker notes what it hands back, and notes when
it begins with a redelivered call. An ordinary call, taken once and answered, costs nothing.

A delivery was lost if it was not handed back, and the worker that took it renews its note no more.
"""

import asyncio
from collections.abc import Callable, Iterable

import nats.errors
import structlog
from nats.aio.msg import Msg

from fleet.jetstream.payloads import Texts
from workers.calls.deliveries.leases import Lease

log = structlog.get_logger(__name__)

LOST_AFTER = 2
"""Deliveries whose worker was lost: the call gets no third one."""
NOTE_WITHIN_S = 2.0

HANDED_BACK, BROKEN, TAKEN = "handed back", "broken", "taken"


class DeliveryNotes:
    """Of one worker. `renew_s`: how often it renews the notes of the calls it holds."""

    def __init__(self, texts: Texts, name: str, renew_s: float) -> None:
        self._texts = texts
        self._name = name
        self._renew_s = renew_s
        self._number = 0

    async def handed_back(self, msg: Msg) -> None:
        await self._note(msg, HANDED_BACK)

    async def broken(self, msg: Msg) -> bool:
        """Notes that a defect of the worker ended it; whether one had ended an earlier delivery."""
        earlier = await self._earlier(msg)
        await self._note(msg, BROKEN)
        return BROKEN in earlier.values()

    async def begin(self, msg: Msg) -> None:
        """Called for a redelivered call before it runs."""
        await self._note(msg, self._taken())

    async def lost_workers(self, msg: Msg) -> bool:
        """Whether `LOST_AFTER` workers were lost while they made this call."""
        if msg.metadata.num_delivered <= LOST_AFTER:
            return False
        earlier = await self._earlier(msg)
        if not _lost(earlier):
            return False
        # NATS may have been away, and not the worker: then it still holds the call, and renews its note.
        await asyncio.sleep(2 * self._renew_s)
        return _lost(earlier) and await self._earlier(msg) == earlier

    async def renew(self, leases: Callable[[], Iterable[Lease]]) -> None:
        """Renews the note of each redelivered call. Runs until cancelled."""
        while True:
            await asyncio.sleep(self._renew_s)
            for lease in leases():
                while lease.replaced:
                    await self._note(lease.replaced.pop(), HANDED_BACK)
                if lease.msg.metadata.num_delivered > 1:
                    await self._note(lease.msg, self._taken())

    def _taken(self) -> str:
        self._number += 1
        return f"{TAKEN} {self._name} {self._number}"

    async def _earlier(self, msg: Msg) -> dict[int, str]:
        """The notes, by delivery; empty where they cannot be read."""
        notes: dict[int, str] = {}
        try:
            async with asyncio.timeout(NOTE_WITHIN_S):
                for number in range(1, msg.metadata.num_delivered):
                    notes[number] = await self._texts.noted(_name(msg, number)) or ""
        except (nats.errors.Error, OSError, TimeoutError) as error:
            log.warning("delivery.notes_unreadable", error=type(error).__name__)
            return {}
        return notes

    async def _note(self, msg: Msg, text: str) -> None:
        try:
            async with asyncio.timeout(NOTE_WITHIN_S):
                await self._texts.note(_name(msg, msg.metadata.num_delivered), text)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            log.warning("delivery.not_noted", error=type(error).__name__)


def _lost(earlier: dict[int, str]) -> bool:
    """The first delivery leaves no note when it begins; a later one without a note never reached a worker."""
    lost = [number for number, note in earlier.items() if note.startswith(TAKEN) or (number == 1 and not note)]
    return len(lost) >= LOST_AFTER


def _name(msg: Msg, number: int) -> str:
    meta = msg.metadata
    return f"calls/delivery-{meta.sequence.stream}-{meta.timestamp.timestamp():.6f}.{number}"
