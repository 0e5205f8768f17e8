"""How the deliveries of a call ended: noted beside it, for the worker that gets it next.

NATS counts deliveries, and does not tell a worker that died from one that handed the call back. A call that kills, or
freezes, whoever takes it would go from worker to worker. So what is handed back is noted, and so is who begins with a
call that came again. An ordinary call, taken once and answered, pays nothing.

A delivery was lost if it was not handed back, and whoever took it gives no sign any more.
"""

import asyncio
from collections.abc import Callable, Iterable

import nats.errors
import structlog
from nats.aio.msg import Msg

from fleet.jetstream.payloads import Texts
from workers.calls.leases import Lease

log = structlog.get_logger(__name__)

LOST_AFTER = 2
"""Deliveries that took their worker with them: the call gets no third one."""
NOTE_WITHIN_S = 2.0

HANDED_BACK, BROKEN, TAKEN = "handed back", "broken", "taken"


class Deliveries:
    """Of one worker. `sign_s`: how often it gives a sign of the calls it holds."""

    def __init__(self, texts: Texts, name: str, sign_s: float) -> None:
        self._texts = texts
        self._name = name
        self._sign_s = sign_s
        self._signs = 0

    async def handed_back(self, msg: Msg) -> None:
        await self._note(msg, HANDED_BACK)

    async def broken(self, msg: Msg) -> bool:
        """Notes that an error of ours ended it; whether that had happened to an earlier one."""
        earlier = await self._earlier(msg)
        await self._note(msg, BROKEN)
        return BROKEN in earlier.values()

    async def begin(self, msg: Msg) -> None:
        """For a call that came again."""
        await self._note(msg, self._sign())

    async def lost_workers(self, msg: Msg) -> bool:
        """Whether the call took `LOST_AFTER` workers with it."""
        if msg.metadata.num_delivered <= LOST_AFTER:
            return False
        earlier = await self._earlier(msg)
        if not _lost(earlier):
            return False
        # NATS may have been away, and not the worker: then it still holds the call, and says so.
        await asyncio.sleep(2 * self._sign_s)
        return _lost(earlier) and await self._earlier(msg) == earlier

    async def keep(self, leases: Callable[[], Iterable[Lease]]) -> None:
        """Gives a sign of each call that came again. Runs until cancelled."""
        while True:
            await asyncio.sleep(self._sign_s)
            for lease in leases():
                while lease.replaced:
                    await self._note(lease.replaced.pop(), HANDED_BACK)
                if lease.msg.metadata.num_delivered > 1:
                    await self._note(lease.msg, self._sign())

    def _sign(self) -> str:
        self._signs += 1
        return f"{TAKEN} {self._name} {self._signs}"

    async def _earlier(self, msg: Msg) -> dict[int, str]:
        """What was noted, by delivery; empty where it cannot be read."""
        found: dict[int, str] = {}
        try:
            async with asyncio.timeout(NOTE_WITHIN_S):
                for number in range(1, msg.metadata.num_delivered):
                    found[number] = await self._texts.noted(_name(msg, number)) or ""
        except (nats.errors.Error, OSError, TimeoutError) as error:
            log.warning("delivery.unknown", error=type(error).__name__)
            return {}
        return found

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
