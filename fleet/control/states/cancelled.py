"""Bounds how many states a tenant holds of tasks that were cancelled before they had used anything.

Such a task costs its tenant nothing, neither tokens nor room, and its state would be kept for days like any other: one
tenant could fill the bucket in which all need room. So each has a list of its last ones, in `deliberation-cache`, and
the state of what falls off is deleted. Its events stay. Where a process dies between an end and this list, a state is
left.
"""

import asyncio
from collections import defaultdict

import structlog
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from fleet import subjects
from fleet.control.states.store import KeyValueStore
from fleet.deliberation.state import Deliberation
from fleet.errors import FleetError
from fleet.jetstream.compare_and_set import store_after
from fleet.jetstream.connection import OUTAGES
from fleet.messages import UNDECODABLE, Message, decode, encode

log = structlog.get_logger(__name__)

KEPT = 256
"""Of each tenant."""
TRIES = 50
WITHIN_S = 2.0


class Cancelled(Message, frozen=True):
    """A task's key, and its request."""

    task_id: str
    run: str


class CancelledStates:
    """Of the whole fleet: those who change a list meet in compare-and-set."""

    def __init__(self, js: JetStreamContext, store: KeyValueStore) -> None:
        self._js = js
        self._store = store
        self._changing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """Of each tenant: only other processes are in the way then, and there are few."""

    async def note(self, state: Deliberation) -> None:
        """The task has ended. May be called again, and does not raise: what cannot be noted is kept."""
        if state.status != "CANCELLED" or state.usage.total:
            return
        try:
            async with self._changing[state.name.tenant]:
                fallen = await self._add(state.name.tenant, Cancelled(task_id=state.task_id, run=state.run))
            for old in fallen:
                await self._forget(old)
        except (FleetError, *OUTAGES) as error:
            log.info("state.not_bounded", task_id=state.task_id, error=repr(error))

    async def _add(self, tenant: str, new: Cancelled) -> tuple[Cancelled, ...]:
        """Returns what falls off."""
        subject = f"$KV.{subjects.CACHE}.{tenant}.cancelled"
        for _ in range(TRIES):
            try:
                msg = await self._js.get_last_msg(subjects.CACHE_STREAM, subject)
                listed, revision = _read(msg.data or b""), msg.seq or 0
            except NotFoundError:
                listed, revision = (), 0
            if new in listed:
                return ()
            listed = (*listed, new)
            if await store_after(self._js, subject, encode(listed[-KEPT:]), revision, WITHIN_S) is not None:
                return listed[:-KEPT]
        return ()

    async def _forget(self, old: Cancelled) -> None:
        stored = await self._store.load(old.task_id)
        if stored is not None and stored.state.run == old.run and stored.state.ended:
            await self._store.delete(stored)


def _read(data: bytes) -> tuple[Cancelled, ...]:
    try:
        return decode(data, tuple[Cancelled, ...])
    except UNDECODABLE:
        return ()
