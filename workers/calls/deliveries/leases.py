"""Holds the messages that a worker works on: renews their leases at NATS, and settles each message once.

A worker that dies renews nothing any more: after `ack_wait` NATS delivers its messages to others.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, Literal

import nats.errors
import structlog
from nats.aio.msg import Msg

from fleet.event_loop import log_failure
from fleet.messages import AgentRequested, AgentStop

log = structlog.get_logger(__name__)

REMEMBERED_STOPS = 10_000
REMEMBERED_FOR_S = 60.0
"""Calls of a stopped task do not arrive later than this; its id may be used again one day."""
FIRST_DELAY_S, LONGEST_DELAY_S = 2.0, 30.0

End = Literal["stopped", "handed back"]
Outcome = Literal["ack", "term", "nak", "nak later"]
Key = tuple[int, datetime]
"""A message's sequence in its stream, and when it was stored: a stream that is created again counts from 1."""


class Lease:
    """One message, and the task that works on it. `end` says why that was cancelled.

    `request`: None until it is decoded; `may_be_duplicate`: another worker may be working on it, too; `replaced`:
    earlier deliveries of the same message, which was redelivered while it was worked on; `is_answered`: only its
    acknowledgement is left.
    """

    def __init__(self, msg: Msg) -> None:
        self.msg = msg
        self.request: AgentRequested | None = None
        self.may_be_duplicate = msg.metadata.num_delivered > 1
        self.task: asyncio.Task[None] | None = None
        self.end: End | None = None
        self.replaced: list[Msg] = []
        self.is_answered = False

    @property
    def task_id(self) -> str | None:
        return self.request.task_id if self.request else None

    def cancel(self, end: End) -> bool:
        """Whether it was not cancelled before."""
        if self.end is not None or self.task is None:
            return False
        self.end = end
        self.task.cancel()
        return True


class Leases:
    """All of one worker; its length is how many take capacity. `freed` is called when that has become less."""

    def __init__(self, freed: Callable[[], None]) -> None:
        self._freed = freed
        self._open: dict[Key, Lease] = {}
        self._answered = 0
        self._refused: set[asyncio.Task[None]] = set()
        self._stopped: OrderedDict[tuple[str, str], float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open) - self._answered

    def answered(self, lease: Lease) -> None:
        """It takes no capacity any more, though it is still to be acknowledged."""
        if not lease.is_answered:
            lease.is_answered = True
            self._answered += 1
            self._freed()

    def take(self, msg: Msg, work: Callable[[Lease], Coroutine[Any, Any, None]]) -> None:
        """Starts `work` on the message; on one that is being worked on, the lease is renewed."""
        key = msg.metadata.sequence.stream, msg.metadata.timestamp
        if (held := self._open.get(key)) is not None:
            log.info("lease.taken_over_by_redelivery", sequence=key[0], delivery=msg.metadata.num_delivered)
            held.replaced.append(held.msg)
            held.msg, held.may_be_duplicate = msg, True
            return
        lease = self._open[key] = Lease(msg)
        lease.task = asyncio.create_task(work(lease), name="call")
        lease.task.add_done_callback(lambda _: self._over(key))
        lease.task.add_done_callback(log_failure)

    def refuse(self, msg: Msg, hand_back: Callable[[Msg], Coroutine[Any, Any, None]]) -> None:
        """Hands a message back at once."""
        task = asyncio.create_task(hand_back(msg), name="hand back")
        self._refused.add(task)
        task.add_done_callback(self._refused.discard)
        task.add_done_callback(log_failure)

    def all(self) -> list[Lease]:
        return list(self._open.values())

    async def finish(self, within_s: float) -> None:
        """Waits until nothing is open, or the time is over."""
        if tasks := self._tasks():
            await asyncio.wait(tasks, timeout=max(0.0, within_s))

    async def hand_back(self, within_s: float) -> int:
        """Cancels what is open, for others to do, and waits until NATS has been told; returns how many that were."""
        tasks = self._tasks()
        for lease in self._open.values():
            lease.cancel("handed back")
        if pending := tasks | self._refused:
            await asyncio.wait(pending, timeout=within_s)
        return len(tasks)

    def stop(self, stop: AgentStop) -> None:
        """Cancels all calls of a deliberation, and remembers it for those that are still to come."""
        task_id, key = stop.task_id, (stop.task_id, stop.run)
        self._stopped[key] = time.monotonic()
        self._stopped.move_to_end(key)
        while len(self._stopped) > REMEMBERED_STOPS:
            self._stopped.popitem(last=False)
        leases = [
            lease for lease in self._open.values() if lease.request is not None and _task_of(lease.request) == key
        ]
        for lease in leases:
            lease.cancel("stopped")
        if leases:
            log.info("agent.stopped", task_id=task_id, calls=len(leases))

    def suspect(self, task_id: str) -> None:
        """Has the task's calls watched: it was said to have ended, and its state does not show that yet."""
        for lease in self._open.values():
            lease.may_be_duplicate = lease.may_be_duplicate or lease.task_id == task_id

    def stopped(self, request: AgentRequested) -> bool:
        """Whether `stop` was called for its task, lately."""
        at = self._stopped.get(_task_of(request))
        return at is not None and time.monotonic() - at < REMEMBERED_FOR_S

    async def renew(self, every_s: float) -> None:
        """Tells NATS that work goes on. Runs until cancelled: one loop for all."""
        while True:
            await asyncio.sleep(every_s)
            for lease in self.all():
                try:
                    await lease.msg.in_progress()
                except (nats.errors.Error, OSError) as error:
                    log.warning("lease.not_renewed", task_id=lease.task_id, error=type(error).__name__)
                    break

    def _tasks(self) -> set[asyncio.Task[None]]:
        return {lease.task for lease in self._open.values() if lease.task is not None}

    def _over(self, key: Key) -> None:
        self._answered -= self._open.pop(key).is_answered
        self._freed()


def _task_of(request: AgentRequested) -> tuple[str, str]:
    return request.task_id, request.run


async def settle(msg: Msg, outcome: Outcome) -> None:
    """Best effort: a message that is not settled is redelivered, and its call is then already answered."""
    try:
        match outcome:
            case "ack":
                await msg.ack()
            case "term":
                await msg.term()
            case "nak":
                await msg.nak()
            case "nak later":
                await msg.nak(delay=min(FIRST_DELAY_S * msg.metadata.num_delivered, LONGEST_DELAY_S))
    except (nats.errors.Error, OSError) as error:
        log.warning("message.not_settled", outcome=outcome, error=type(error).__name__)
