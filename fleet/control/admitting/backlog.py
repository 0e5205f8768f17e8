"""Knows whether work that has begun waits for a process: then nothing new needs to begin.

Of what was begun at once, calls wait in their stream until a worker has room, and answers until a collector has dealt
with them. Whoever asks then waits behind all of it. What waits in admission instead costs no time, and is fair. A call
that a worker has taken does not wait, however long its model takes: models have all the work that they can take. Only
where the settings say how many calls they can take at once, there are not many more than twice as many. Else workers
would be full of calls that wait for a model, and could not take those of whoever is next. Twice: the calls of a worker
that has died count until they come again.

As much may wait as workers take, and end, in a moment. So they never stand still between two looks.
"""

import asyncio
import time
from typing import Final

import structlog
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo

from fleet import subjects
from fleet.jetstream.connection import OUTAGES
from fleet.logger import Seldom

log = structlog.get_logger(__name__)

TAKEN_WITHIN_S: Final = 0.2
ENDED_WITHIN_S: Final = 0.5
LEAST: Final = 16
"""So many calls may wait at any pace."""
PACE_LASTS_S: Final = 0.5
"""For about so long an earlier pace counts."""
TOLD_EVERY_S: Final = 10.0
"""How often a log says that NATS does not tell."""


class _Pace:
    """How fast a count has risen lately, per second."""

    def __init__(self) -> None:
        self.per_s = 0.0
        self._last: tuple[int, float] | None = None

    def note(self, count: int, now: float) -> None:
        before, self._last = self._last, (count, now)
        if before is None or count < before[0] or now <= before[1]:  # the consumer was made anew
            return
        passed = now - before[1]
        pace = (count - before[0]) / passed
        self.per_s += (pace - self.per_s) * min(1.0, passed / PACE_LASTS_S)

    def room(self, within_s: float) -> float:
        """So many may wait: in that time they are gone."""
        return max(LEAST, self.per_s * within_s)


class Backlog:
    """As one dispatcher sees it. Between two looks it knows only of what it begins itself."""

    def __init__(self, js: JetStreamContext, seats: int | None = None) -> None:
        """`seats`: calls that all models take at once, if that is known (`fleet.model_servers.seats_of`)."""
        self._js = js
        self._seats = seats
        self._waiting = self._unended = 0
        """As the last look has found: what waits for a process, and calls that wait or are at work."""
        self._beginning = self._begun = 0
        """Calls that are not recorded yet, and that were recorded after the last look."""
        self._taken, self._ended = _Pace(), _Pace()
        self._failed = Seldom(TOLD_EVERY_S)

    @property
    def has_room(self) -> bool:
        """Whether another deliberation may begin."""
        new = self._beginning + self._begun
        if self._seats is not None and self._unended + new - 2 * self._seats >= self._ended.room(ENDED_WITHIN_S):
            return False
        return self._waiting + new < self._taken.room(TAKEN_WITHIN_S)

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
            if (times := self._failed.count("look")) is not None:
                log.warning("backlog.not_seen", error=repr(error), times=times)
            return
        self._begun -= seen
        now, waiting, at_work = time.monotonic(), calls.num_pending or 0, calls.num_ack_pending or 0
        taken = calls.delivered.consumer_seq if calls.delivered else 0
        self._waiting, self._unended = waiting + _unhandled(answers), waiting + at_work
        self._taken.note(taken, now)
        self._ended.note(max(0, taken - at_work), now)


def _unhandled(answers: ConsumerInfo) -> int:
    """What was delivered more than once waits for something else: a newer process, say."""
    delivered = max(0, (answers.num_ack_pending or 0) - (answers.num_redelivered or 0))
    return (answers.num_pending or 0) + delivered
