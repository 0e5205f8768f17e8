"""Knows whether work that has begun waits for a process: then nothing new needs to begin.

Of what was begun at once, calls wait in their stream until a worker has room, and answers until a collector has dealt
with them. Whoever asks then waits behind all of it. What waits in admission instead costs no time, and is fair. A call
that a worker has taken does not wait, however long its model takes: models have all the work that they can take.

As much may wait as is gone within `GONE_WITHIN_S`, at the pace at which workers take calls. So they never stand still
between two looks.
"""

import asyncio
import time
from typing import Final

import structlog
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo

from fleet import subjects
from fleet.jetstream.connection import OUTAGES

log = structlog.get_logger(__name__)

GONE_WITHIN_S: Final = 0.2
LEAST: Final = 16
"""So many calls may wait at any pace."""
PACE_LASTS_S: Final = 0.5
"""For about so long an earlier pace counts."""


class Backlog:
    """As one dispatcher sees it. Between two looks it knows only of what it begins itself."""

    def __init__(self, js: JetStreamContext) -> None:
        self._js = js
        self._waiting = 0
        """As the last look has found."""
        self._beginning = self._begun = 0
        """Calls that are not recorded yet, and that were recorded after the last look."""
        self._pace = 0.0
        self._taken: tuple[int, float] | None = None

    @property
    def has_room(self) -> bool:
        """Whether another deliberation may begin."""
        return self._waiting + self._beginning + self._begun < max(LEAST, self._pace * GONE_WITHIN_S)

    def begin(self, calls: int, recorded: asyncio.Future[None]) -> None:
        """A deliberation begins with so many calls. `recorded` ends once they are published."""
        self._beginning += calls

        def publish(_: asyncio.Future[None]) -> None:
            self._beginning -= calls
            self._begun += calls

        recorded.add_done_callback(publish)

    async def look(self) -> None:
        """Asks NATS. What cannot be had counts as before."""
        seen = self._begun
        try:
            calls, answers = await asyncio.gather(
                self._js.consumer_info(subjects.AGENT_REQUESTS, subjects.WORKERS),
                self._js.consumer_info(subjects.AGENT_RESPONSES, subjects.COLLECTOR),
            )
        except OUTAGES as error:
            log.debug("backlog.not_seen", error=repr(error))
            return
        self._begun -= seen
        self._waiting = (calls.num_pending or 0) + _unhandled(answers)
        self._note_pace(calls.delivered.consumer_seq if calls.delivered else 0, time.monotonic())

    def _note_pace(self, taken: int, now: float) -> None:
        before, self._taken = self._taken, (taken, now)
        if before is None or taken < before[0] or now <= before[1]:  # the consumer was made anew
            return
        passed = now - before[1]
        pace = (taken - before[0]) / passed
        self._pace += (pace - self._pace) * min(1.0, passed / PACE_LASTS_S)


def _unhandled(answers: ConsumerInfo) -> int:
    """What was delivered more than once waits for something else: a newer process, say."""
    delivered = max(0, (answers.num_ack_pending or 0) - (answers.num_redelivered or 0))
    return (answers.num_pending or 0) + delivered
