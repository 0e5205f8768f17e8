"""Lets one dispatcher at a time count a tenant's deliberations and begin more of them.

What is begun is seen by others once it is recorded. Two dispatchers that count at the same moment would each begin as
many as are missing. So whoever counts has the turn until what it began is recorded: one value of a bucket, changed by
compare-and-set. Whoever dies meanwhile loses the turn once the same value has stood there for `LOST_AFTER_S`, by the
clock of whoever waits for it.
"""

import time
from typing import Any

import structlog
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from fleet import subjects
from fleet.jetstream.compare_and_set import store_after
from fleet.jetstream.connection import OUTAGES

log = structlog.get_logger(__name__)

LOST_AFTER_S = 3.0
WITHIN_S = 1.0
NOBODY = b""


class Turns:
    """Of one dispatcher. `name`: no other process has it."""

    def __init__(self, js: JetStreamContext, name: str) -> None:
        self._js = js
        self._name = name.encode()
        self._revision = 0
        self._seen: tuple[Any, float] = (None, 0.0)
        """Which value was found last, and when it was found first. A bucket that was made anew gives out its revisions
        again: so by NATS' time, too."""

    async def take(self) -> bool:
        """Whether it is this one's turn now. Raises what NATS does."""
        try:
            msg = await self._js.get_last_msg(subjects.WORKERS_STREAM, subjects.TURN, direct=True)
        except NotFoundError:
            return await self._store(self._name, 0)
        holder, revision = msg.data or NOBODY, msg.seq or 0
        if (revision, msg.time) != self._seen[0]:
            self._seen = (revision, msg.time), time.monotonic()
        lost = time.monotonic() - self._seen[1] >= LOST_AFTER_S
        return (lost or holder in (NOBODY, self._name)) and await self._store(self._name, revision)

    async def keep(self) -> None:
        """For longer than others would wait."""
        try:
            await self._store(self._name, self._revision)
        except OUTAGES as error:
            log.debug("turn.not_kept", error=repr(error))

    async def give_back(self) -> None:
        """Others need not wait. Unless somebody has taken it meanwhile."""
        try:
            await self._store(NOBODY, self._revision)
        except OUTAGES as error:
            log.debug("turn.not_given_back", error=repr(error))

    async def _store(self, holder: bytes, revision: int) -> bool:
        stored = await store_after(self._js, subjects.TURN, holder, revision, WITHIN_S)
        if stored is not None:
            self._revision = stored
        return stored is not None
