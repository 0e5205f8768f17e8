"""Makes room where the bucket of states is nearly full: the oldest ones of ended tasks are deleted.

States are kept for `results_days`, so that `deliberation.result` finds them. A fleet that is always busy fills its
bucket before, and requests would wait until the oldest ones expire. Nothing is owed from the state of a task whose
terminal event is in its stream, or must be, so long ago as it ended. Running tasks are never touched.

It is the tenant with the most bytes whose oldest ones go, and nobody's below an equal share of the bucket: no tenant
pushes out what another one still wants to read.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import aclosing
from heapq import heapify, heappop, heappush
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
from fleet.jetstream.history import events
from fleet.jetstream.payloads import reference
from fleet.limits.streams import MIB
from fleet.tenants.names import is_key, name_of
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


class Bucket:
    """What lies in it, by tenant, oldest first.

    `sizes`: (key, bytes) of each value, of which `to_free` bytes should go. No bytes: the mark of a key that somebody
    has deleted. What is under another key is no state.
    """

    def __init__(self, sizes: Iterable[tuple[str, int]], to_free: float) -> None:
        self._states: dict[str, deque[tuple[str, int]]] = {}
        self._bytes: Counter[str] = Counter()
        for key, size in sizes:
            if size and is_key(key):
                tenant = name_of(key).tenant
                self._states.setdefault(tenant, deque()).append((key, size))
                self._bytes[tenant] += size
        self._enough = self._bytes.total() - to_free

    def remove(self, key: str, size: int) -> None:
        self._bytes[name_of(key).tenant] -= size

    @property
    def has_room(self) -> bool:
        return self._bytes.total() <= self._enough

    def oldest(self) -> Iterator[tuple[str, int]]:
        """Whose deletion would make room, as if each one were deleted. None of them is named twice."""
        total, share = self._bytes.total(), self._enough / max(1, len(self._states))
        most = [(-self._bytes[tenant], tenant) for tenant, states in self._states.items() if states]
        heapify(most)
        while total > self._enough and most and -most[0][0] > share:
            less, tenant = heappop(most)
            key, size = self._states[tenant].popleft()
            total -= size
            if self._states[tenant]:
                heappush(most, (less + size, tenant))
            yield key, size


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
        sizes, deleted = await self._sizes(), 0
        info = await self._js.stream_info(subjects.STATES)  # again: what went while they were read is room already
        bucket = Bucket(sizes, info.state.bytes - ENOUGH_AT * (info.config.max_bytes or 0))
        while some := await self._next(bucket):
            gone = await asyncio.gather(*map(self._delete, some))
            for key, size in compress(some.items(), gone):
                bucket.remove(key, size)
            deleted += sum(gone)
        if deleted:
            log.warning("states.deleted", count=deleted, reason=f"the bucket was full to {before:.0%}")
        return bucket.has_room

    async def _sizes(self) -> list[tuple[str, int]]:
        states = events(self._js, (f"{_KEYS}>",), None, headers_only=True, stream=subjects.STATES)
        async with aclosing(states) as stored:
            return [
                (msg.subject.removeprefix(_KEYS), int((msg.headers or {}).get("Nats-Msg-Size", 0)))
                async for msg in stored
            ]

    async def _next(self, bucket: "Bucket") -> dict[str, int]:
        """Keys, with the bytes that each takes. Several, for their terminal events are looked for by one reading; no
        more than memory takes."""
        sizes: dict[str, int] = {}
        loaded = 0
        for key, size in bucket.oldest():
            try:
                msg = await self._js.get_last_msg(subjects.STATES, f"{_KEYS}{key}", direct=True)
            except NotFoundError:
                bucket.remove(key, size)
                continue
            sizes[key] = size
            elsewhere = reference(msg.data or b"")
            loaded += elsewhere.bytes if elsewhere else size
            if len(sizes) == AT_ONCE or loaded >= MOST_LOADED:
                break
        return sizes

    async def _delete(self, key: str) -> bool:
        """Whether it is gone."""
        try:
            stored = await self._store.load(key)
            if stored is None:
                return True
            if not await self._may_go(stored):
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
