"""Notes in the bucket `deliberation-cache` which task works, or has worked, on a question: a table of fixed size.

Each tenant has so many slots, and a key has one place among them: `<tenant>.<slot>`. Another question that falls into
the same slot takes it over. So there are never more entries than slots, and no tenant's requests displace another's.

An entry names a task, and another one that it runs beside. Whether they run, or have a result that may be used, their
states say. So an entry is written once, when a task begins to work, and nobody has to take it back.
"""

from typing import Any

from nats.js import JetStreamContext
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError

from fleet import subjects
from fleet.config import Settings
from fleet.messages import UNDECODABLE, Message, decode, encode

ENTRY_BYTES = 512
"""More than the stream needs for one, with the longest names that there can be."""


class Entry(Message, frozen=True, kw_only=True):
    """`task_id`: the task's key; `run`: of its request. `beside`, `beside_run`: of one that was at work when the
    slot was claimed, and may come to a result first. `revision`: of the entry, 0 where there is none.
    """

    key: str = ""
    task_id: str = ""
    run: str = ""
    beside: str = ""
    beside_run: str = ""
    revision: int = 0


class Slots:
    """Of the whole fleet; those who claim one meet in compare-and-set."""

    def __init__(self, bucket: Any, count: int) -> None:
        self._bucket = bucket
        self._count = count

    @classmethod
    async def open(cls, js: JetStreamContext, settings: Settings) -> "Slots":
        """The bucket must exist: `topology.declare` makes it."""
        return cls(await js.key_value(subjects.CACHE), slots_each(settings))

    async def look(self, tenant: str, key: str) -> Entry:
        """What stands in the key's slot; it may be of another key. Raises what NATS does."""
        try:
            stored = await self._bucket.get(self._slot(tenant, key))
        except KeyNotFoundError as error:
            deleted = error.entry
            return Entry(revision=0 if deleted is None else deleted.revision or 0)
        try:
            return decode(stored.value or b"", Entry).change(revision=stored.revision)
        except UNDECODABLE:
            return Entry(revision=stored.revision)

    async def claim(self, tenant: str, entry: Entry) -> bool:
        """Puts `entry` in the place of what stood there at its revision. False: somebody else was faster."""
        value = encode(entry.change(revision=0))
        try:
            await self._bucket.update(self._slot(tenant, entry.key), value, last=entry.revision)
        except KeyWrongLastSequenceError:
            return False
        return True

    def _slot(self, tenant: str, key: str) -> str:
        return f"{tenant}.{int(key[:15], 16) % self._count}"


def slots_each(settings: Settings) -> int:
    """How many a tenant has: all of them together fit the bucket."""
    room = settings.streams[subjects.CACHE_STREAM].max_bytes // (ENTRY_BYTES * (len(settings.tenants) + 1))
    return max(1, min(settings.limits.cache_entries, room))
