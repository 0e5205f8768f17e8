"""Publishes a terminal event again if no process has: look it up, claim it by compare-and-set, publish it.

Concurrent look-ups share one reading of the stream. Where a durable was lost NATS delivers again every response that
its stream still holds, and each leads to a look-up: to read the stream for each of them would take for ever.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Protocol

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from fleet import subjects
from fleet.control.states.store import StateStore, Stored
from fleet.deliberation.events import Conclude, Effect
from fleet.deliberation.state import Deliberation
from fleet.jetstream.history import events, terminal_id
from fleet.tenants.names import of_all
from fleet.times import from_rfc3339

SCAN_MARGIN = timedelta(seconds=60)
"""How far the clocks of NATS servers may differ when a terminal event is looked for by time."""

TOOK_WITHIN_S = 0.5
"""A stream that took an event as lately as this has a leader."""
SUBJECTS = {
    "COMPLETED": subjects.COMPLETED,
    "FAILED": subjects.FAILED,
    "TIMEOUT": subjects.FAILED,
    "CANCELLED": subjects.CANCELLED,
}


class Publisher(Protocol):
    """Carries effects out; `fleet.control.publishing.outbox.Outbox` is the real one."""

    @property
    def instance(self) -> str:
        """The name of this process' connection, by which others ask for it."""

    async def is_published(self, state: Deliberation) -> bool:
        """Whether the terminal event is in its stream. Raises `EventInFlight` where that cannot be told yet."""

    async def publish(self, state: Deliberation, effects: Iterable[Effect]) -> None:
        """Publishes all, or raises. A terminal event only where `state` was written by this instance."""


async def publish_end(store: StateStore, publisher: Publisher, stored: Stored, effects: Sequence[Effect]) -> None:
    """Publishes what an ended state requires. Raises `EventInFlight`, and `StoreConflict` where another one was faster.

    The claim is made by saving the state once more: of two that repair an end one goes on, and only while the disk
    takes what is written. What JetStream refuses core subscribers have seen already, and would see again.
    """
    state = stored.state
    if await publisher.is_published(state):
        effects = [effect for effect in effects if not isinstance(effect, Conclude)]
    else:
        state = state.change(written_by=publisher.instance)
        await store.save(state, stored.revision)
    await publisher.publish(state, effects)


@dataclass(slots=True)
class LookUp:
    """`since`: a moment before which the event cannot have been stored, by NATS' own clock; None: since ever."""

    since: datetime | None
    answer: "asyncio.Future[bool]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class TerminalEvents:
    """Looks up whether terminal events are stored. Rare: only after a crash, a pause or a loss."""

    def __init__(self, js: JetStreamContext) -> None:
        self._js = js
        self._waiting: dict[str, LookUp] = {}
        self._reading: asyncio.Task[None] | None = None
        self._took_at = -inf

    def took_one(self) -> None:
        """An event of this process was stored."""
        self._took_at = time.monotonic()

    async def expect_leader(self) -> None:
        """Returns where the stream is there and has a leader, or had one just now; else raises what NATS does.

        Of a cluster the stream's leader answers, and nobody else. What is published without one is seen by core
        subscribers, and not stored.
        """
        if time.monotonic() - self._took_at > TOOK_WITHIN_S:
            await self._js.stream_info(subjects.DELIBERATIONS)
            self.took_one()

    async def is_stored(self, task_id: str, run: str = "", completed_at: str = "") -> bool:
        """Whether the stream held the terminal event of this run of the task at some time since this was called.

        `completed_at`: as the event says. A state that was set back may have been written long after. Raises what NATS
        does.
        """
        since = await self._decided_at(task_id)
        if since is not None and completed_at:
            told = datetime.fromtimestamp(from_rfc3339(completed_at) / 1000, UTC) - SCAN_MARGIN
            since = min(since, told)
        look_up = self._waiting.setdefault(terminal_id(task_id, run), LookUp(since))
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_all())
        return await asyncio.shield(look_up.answer)

    async def _read_all(self) -> None:
        while self._waiting:
            look_ups, self._waiting = self._waiting, {}
            try:
                await self._read(look_ups)
            except Exception as error:
                for look_up in look_ups.values():
                    if not look_up.answer.done():
                        look_up.answer.set_exception(error)
                        look_up.answer.exception()  # who asked may have gone

    async def _read(self, look_ups: dict[str, LookUp]) -> None:
        known = [look_up.since for look_up in look_ups.values() if look_up.since is not None]
        since = min(known) if len(known) == len(look_ups) else None
        left = set(look_ups)
        async with aclosing(events(self._js, of_all(*subjects.TERMINAL), since, headers_only=True)) as stored:
            async for msg in stored:
                msg_id = (msg.header or {}).get("Nats-Msg-Id", "")
                if msg_id in left:
                    left.remove(msg_id)
                    look_ups[msg_id].answer.set_result(True)
                if not left:
                    return
        self._took_at = -inf
        await self.expect_leader()  # replicas can be read without a leader
        for msg_id in left:
            look_ups[msg_id].answer.set_result(False)

    async def _decided_at(self, task_id: str) -> datetime | None:
        """When the end was decided, by NATS' clock: whoever decided it may have one that is off."""
        try:
            value = await self._js.get_last_msg(subjects.STATES, f"$KV.{subjects.BUCKET}.{task_id}")
        except NotFoundError:
            return None
        return None if value.time is None else value.time - SCAN_MARGIN
