"""Tells which deliberations run, and reads the states of those that this process has not moved on itself."""

import asyncio
from collections.abc import Collection

import structlog
from nats.js import JetStreamContext

from fleet import subjects
from fleet.control.scaling.expected_work import ExpectedWork
from fleet.control.states.store import StateStore
from fleet.errors import FleetError
from fleet.jetstream.connection import OUTAGES

log = structlog.get_logger(__name__)

MOST_LOADS, LOADS_AT_ONCE = 256, 16
"""At one look; further ones count as average ones until the next."""


async def running_tasks(js: JetStreamContext) -> list[str]:
    """Keys of the deliberations that have not ended: each has a deadline, from acceptance to end."""
    prefix = subjects.schedule_of("")
    # What else lies in this stream, or lay there before, is no deliberation.
    info = await js.stream_info(subjects.DELIBERATION_CONTROL, subjects_filter=subjects.schedule_of(">"))
    return [subject.removeprefix(prefix) for subject in info.state.subjects or ()]


async def note_unknown(running: Collection[str], store: StateStore, ahead: ExpectedWork) -> None:
    """A task is accepted by a dispatcher, and known to a collector with its first answer: before, its state tells."""
    room = asyncio.Semaphore(LOADS_AT_ONCE)

    async def note(key: str) -> None:
        try:
            async with room:
                stored = await store.load(key)
        except (FleetError, *OUTAGES) as error:
            log.debug("task.not_counted", task_id=key, error=repr(error))
        else:
            if stored is not None and key in ahead.unknown((key,)):
                ahead.note(stored.state)

    await asyncio.gather(*map(note, ahead.unknown(running)[:MOST_LOADS]))
