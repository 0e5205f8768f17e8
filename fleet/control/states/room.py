"""Makes room where the bucket of states is nearly full: the oldest ones of ended tasks are deleted.

States are kept for `results_days`, so that `deliberation.result` finds them. A fleet that is always busy fills its
bucket before, and requests would wait until the oldest ones expire. Nothing is owed from the state of a task whose
terminal event is in its stream, or must be, so long ago as it ended. Running tasks are never touched.
"""

import asyncio
from itertools import compress

import structlog
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from fleet import subjects
from fleet.clock import now_ms
from fleet.control.publishing.terminal_events import Publisher
from fleet.control.states.store import KeyValueStore, Stored
from fleet.errors import EventInFlight, FleetError, NewerState, UnreadableState
from fleet.jetstream.connection import OUTAGES
from fleet.jetstream.declaring.capacity import HOLD_AT, fullness
from fleet.jetstream.payloads import reference
from fleet.limits.streams import MIB
from fleet.times import from_rfc3339

log = structlog.get_logger(__name__)

ROOM_AT, ENOUGH_AT = HOLD_AT - 0.1, HOLD_AT - 0.2
"""Of the bucket's `max_bytes`: from where on states go, and until where."""
LOOK_EVERY_S = 10.0
LOOK_AGAIN_S = 60.0
"""Where everything has been read, and all that is left is too young."""
TOLD_AFTER_MS, OWED_FOR_MS = 2 * 60_000, 60 * 60_000
"""How old an end must be: with its terminal event in its stream, and without (old events go from there, too)."""
AT_ONCE, MOST_LOADED = 100, 16 * MIB
"""States that are looked at together, and their bytes."""
_KEYS = f"$KV.{subjects.BUCKET}."


class StatesRoom:
    """Of one process. Several may be at it: what another one has deleted is gone."""

    def __init__(self, js: JetStreamContext, store: KeyValueStore, publisher: Publisher) -> None:
        self._js = js
        self._store = store
        self._publisher = publisher

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            pause_s = LOOK_EVERY_S
            try:
                if not await self.make():
                    pause_s = LOOK_AGAIN_S
            except (FleetError, *OUTAGES) as error:
                log.info("states.no_room_made", error=repr(error))
            await asyncio.sleep(pause_s)

    async def make(self) -> bool:
        """Once. Whether there is room now."""
        info = await self._js.stream_info(subjects.STATES)
        if (before := fullness(info)) < ROOM_AT:
            return True
        most, sequence, deleted = info.config.max_bytes or 0, info.state.first_seq, 0
        left = info.state.bytes - ENOUGH_AT * most
        while left > 0:
            sizes, sequence = await self._next(sequence, left)
            if not sizes:
                break
            gone = await asyncio.gather(*map(self._delete, sizes))
            left -= sum(compress(sizes.values(), gone))
            deleted += sum(gone)
        if deleted:
            log.warning("states.deleted", count=deleted, reason=f"the bucket was full to {before:.0%}")
        return left <= 0

    async def _next(self, sequence: int, most: float) -> tuple[dict[str, int], int]:
        """Keys from there on, with the bytes that each takes, and the sequence behind them. Several, for their terminal
        events are looked for by one reading; no more than `most` bytes need, nor than memory takes."""
        sizes: dict[str, int] = {}
        loaded = 0
        while len(sizes) < AT_ONCE and loaded < MOST_LOADED and sum(sizes.values()) < most:
            try:
                msg = await self._js.get_msg(subjects.STATES, seq=sequence, subject=f"{_KEYS}>", direct=True, next=True)
            except NotFoundError:
                break
            sequence = (msg.seq or sequence) + 1
            if msg.data:  # else it is the mark of a key that somebody has deleted
                sizes[(msg.subject or "").removeprefix(_KEYS)] = len(msg.data)
                elsewhere = reference(msg.data)
                loaded += elsewhere.bytes if elsewhere else len(msg.data)
        return sizes, sequence

    async def _delete(self, key: str) -> bool:
        """Whether it is gone."""
        try:
            stored = await self._store.load(key)
            if stored is None or not await self._may_go(stored):
                return False
        except (UnreadableState, NewerState, EventInFlight):
            return False
        await self._store.delete(stored)
        return True

    async def _may_go(self, stored: Stored) -> bool:
        result = stored.state.result
        if result is None:
            return False
        age_ms = now_ms() - from_rfc3339(result.completed_at)
        if age_ms < TOLD_AFTER_MS:
            return False
        return age_ms >= OWED_FOR_MS or await self._publisher.is_published(stored.state)
