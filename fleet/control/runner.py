"""One way to move a deliberation: load -> decide -> compare-and-set -> publish the outbox -> acknowledge.

Deliveries for one task are worked on one batch at a time: what arrives while a batch is being saved is folded into the
next one, with one write. Answers of one phase often come together: those that do not end it wait a moment for the one
that does. Different tasks do not wait for each other.

Save first, publish second: a lost publish is repaired when the delivery comes again (its id stands in the state as the
cause of the last transition), a lost save is not.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from fleet.control.repair import Publisher, end_again
from fleet.control.store import StateStore, Stored
from fleet.crashpoints import reach
from fleet.deliberation.events import DeadlinePassed, Event, Reject, Requested, Responded
from fleet.deliberation.machine import decide, due, recover
from fleet.deliberation.state import Deliberation
from fleet.errors import StillOut, StoreConflict, UnreadableState
from fleet.jetstream.connection import OUTAGES

log = structlog.get_logger(__name__)

MAX_CONFLICTS = 50
CACHED_STATES = 1024
HINDERED_FOR_S = 60.0
"""Longer than the longest pause between two tries."""
LINGER_S = 0.01
"""How long an answer waits for the others of its phase. It is on disk in its stream, and not acknowledged before."""
LEASE_S = 2.5
"""Half of `ack_wait`. A process that has held a delivery for longer may have been replaced by another one."""


class Delivery(Protocol):
    """One message from JetStream, as far as the runner cares."""

    id: str
    redelivered: bool
    received_at: float
    """`time.monotonic()` when it came."""

    async def ack(self) -> None: ...
    async def retry_later(self, reason: Exception) -> None: ...


@dataclass(frozen=True, slots=True)
class Item:
    """An event and the delivery that carried it."""

    event: Event
    delivery: Delivery


class Queue:
    """Deliveries of one task that are not being worked on yet."""

    __slots__ = ("arrived", "items")

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.arrived = asyncio.Event()

    def put(self, item: Item) -> None:
        self.items.append(item)
        self.arrived.set()

    def take(self) -> list[Item]:
        items, self.items = self.items, []
        return items

    async def grow_to(self, count: int, within_s: float) -> None:
        """Returns once there are so many, or the time is over."""
        try:
            async with asyncio.timeout(within_s):
                while len(self.items) < count:
                    self.arrived.clear()
                    await self.arrived.wait()
        except TimeoutError:
            pass


class Runner:
    """Folds events into states. One per process; replicas meet in compare-and-set.

    `fail_if_lost` is called for a task whose deadline has come and whose state is gone.
    """

    def __init__(
        self, store: StateStore, outbox: Publisher, fail_if_lost: Callable[[str], Awaitable[None]] | None = None
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._fail_if_lost = fail_if_lost
        self._queues: dict[str, Queue] = {}
        self._hindered_at: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._cache: OrderedDict[str, Stored] = OrderedDict()

    def submit(self, task_id: str, item: Item) -> None:
        """Takes a delivery over: it is acknowledged when applied, or handed back for another try."""
        queue = self._queues.get(task_id)
        if queue is not None:
            queue.put(item)
            return
        self._queues[task_id] = queue = Queue()
        queue.put(item)
        task = asyncio.create_task(self._work(task_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def hindered(self) -> bool:
        """Whether NATS lately did not take what had to be written (a full disk or stream, say), and has not since."""
        return self._hindered_at is not None and time.monotonic() - self._hindered_at < HINDERED_FOR_S

    def works_on(self, task_id: str) -> bool:
        """Whether deliveries of this task are being applied."""
        return task_id in self._queues

    @property
    def busy(self) -> int:
        """Tasks being worked on."""
        return len(self._tasks)

    async def drain(self, grace_s: float) -> None:
        """Waits for what was submitted; what is not done in time comes again elsewhere."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)

    async def _work(self, task_id: str) -> None:
        queue = self._queues[task_id]
        try:
            while queue.items:
                await self._linger(task_id, queue)
                await self._handle(task_id, queue.take())
        finally:
            del self._queues[task_id]

    async def _linger(self, task_id: str, queue: Queue) -> None:
        """Waits for the other answers of the phase, if there is nothing but some of them."""
        if any(not isinstance(item.event, Responded) or item.delivery.redelivered for item in queue.items):
            return
        try:
            stored = await self._known(task_id)
        except Exception:
            return  # it will be told when the batch is handled
        if stored is not None:
            open_ = list(stored.state.calls.values()).count("open")
            if len(queue.items) < open_:
                await queue.grow_to(open_, LINGER_S)

    async def _known(self, task_id: str) -> Stored | None:
        """The state as it was last seen here, or is now."""
        stored = self._cache.get(task_id)
        if stored is None:
            stored = await self._store.load(task_id)
            if stored is not None:
                self._remember(stored)
        return stored

    async def _handle(self, task_id: str, batch: Sequence[Item]) -> None:
        try:
            await self.apply(task_id, batch)
        except Exception as error:
            self._cache.pop(task_id, None)
            if isinstance(error, OUTAGES):
                self._hindered_at = time.monotonic()
            elif len(batch) > 1 and not isinstance(error, StillOut | StoreConflict):
                # One of them is at fault: the others must not wait for it.
                for item in batch:
                    await self._handle(task_id, [item])
                return
            # Whatever it was, the deliveries are not lost: they come again, later each time.
            log.warning("deliveries.retried", task_id=task_id, count=len(batch), error=repr(error))
            await _settle(task_id, [item.delivery.retry_later(error) for item in batch])
        else:
            self._hindered_at = None
            reach("runner.published")
            await _settle(task_id, [item.delivery.ack() for item in batch])
            reach("runner.acknowledged")

    async def apply(self, task_id: str, batch: Sequence[Item]) -> Deliberation | None:
        """Applies the events in order; returns the state they led to, None for a task nobody knows."""
        for attempt in range(MAX_CONFLICTS):
            cached = self._cache.get(task_id)
            # What is asked for the first time is most likely new: no need to look, the store refuses what exists.
            new = attempt == 0 and cached is None and all(_is_first(item) for item in batch)
            try:
                stored = None if new else cached or await self._store.load(task_id)
            except UnreadableState:
                if await self._end_what_is_lost(task_id, batch):
                    return None
                raise
            before = stored.state if stored else None
            state, moved, rejections = _fold(before, batch)
            if state is None:
                log.info("event.unknown_task", task_id=task_id, events=[type(item.event).__name__ for item in batch])
                await self._end_what_is_lost(task_id, batch)
                return None
            if state is before:
                if cached is not None:
                    # A replica may have moved the task on: what means nothing to an old state may fill a slot now.
                    del self._cache[task_id]
                    continue
                if stored is not None:
                    await self._repair(stored, batch)
                await self._reject(state, rejections)
                return state
            if moved:
                cause = tuple(item.delivery.id for item in batch)
                state = state.change(cause=cause, written_by=self._outbox.instance)
            reach("runner.decided")
            try:
                revision = await self._store.save(state, stored.revision if stored else 0)
            except StoreConflict:
                self._cache.pop(task_id, None)
                continue
            reach("runner.saved")
            self._remember(Stored(state, revision))
            # What came again together with something new may not have been published for.
            owed = [item for item in batch if before is not None and _owes(before, item)]
            effects = recover(state, request_redelivered=_asked(owed)) if owed else due(state)
            if moved and state.ended and _lease_is_over(batch):
                await end_again(self._store, self._outbox, Stored(state, revision), effects, at_work=True)
            elif moved or owed:
                await self._outbox.publish(state, effects)
            await self._reject(state, rejections)
            return state
        raise StoreConflict(task_id, 0)

    async def _end_what_is_lost(self, task_id: str, batch: Sequence[Item]) -> bool:
        """A task whose state is gone ends at its deadline. Whether that has come."""
        due_now = any(isinstance(item.event, DeadlinePassed) for item in batch)
        if due_now and self._fail_if_lost is not None:
            await self._fail_if_lost(task_id)
        return due_now

    async def _repair(self, stored: Stored, batch: Sequence[Item]) -> None:
        """A delivery that was applied before came again: its process may have died before publishing. So it may where
        the deadline of a task comes that has ended: it is taken back once the end is out.
        """
        state = stored.state
        owed = [item for item in batch if _owes(state, item)]
        if not owed:
            return
        log.info("outbox.republished", task_id=state.task_id, phase=state.phase, round=state.round)
        effects = recover(state, request_redelivered=_asked(owed))
        if state.ended:
            await end_again(self._store, self._outbox, stored, effects, at_work=True)
        else:
            await self._outbox.publish(state, effects)

    async def _reject(self, state: Deliberation, rejections: Sequence[Reject]) -> None:
        for rejection in rejections:
            log.info("request.rejected", task_id=state.task_id, code=rejection.rejected.code)
        if rejections:
            await self._outbox.publish(state, rejections)

    def _remember(self, stored: Stored) -> None:
        task_id = stored.state.task_id
        if stored.state.ended:
            self._cache.pop(task_id, None)
            return
        self._cache[task_id] = stored
        self._cache.move_to_end(task_id)
        if len(self._cache) > CACHED_STATES:
            self._cache.popitem(last=False)


async def _settle(task_id: str, settling: Sequence[Awaitable[None]]) -> None:
    """A delivery that can be neither acknowledged nor handed back comes again after `ack_wait`."""
    for outcome in await asyncio.gather(*settling, return_exceptions=True):
        if isinstance(outcome, Exception):
            log.warning("delivery.not_settled", task_id=task_id, error=repr(outcome))


def _fold(state: Deliberation | None, batch: Sequence[Item]) -> tuple[Deliberation | None, bool, list[Reject]]:
    """Applies the batch in memory. Returns the new state, whether anything must be published for it, and the requests
    to reject.
    """
    moved = False
    rejections: list[Reject] = []
    for item in batch:
        if state is None and not isinstance(item.event, Requested):
            continue
        decision = decide(state, item.event)
        state = decision.state
        rejected = [effect for effect in decision.outbox if isinstance(effect, Reject)]
        rejections += rejected
        moved = moved or len(decision.outbox) > len(rejected)
    return state, moved, rejections


def _is_first(item: Item) -> bool:
    return isinstance(item.event, Requested) and not item.delivery.redelivered


def _asked(items: Sequence[Item]) -> bool:
    return any(isinstance(item.event, Requested) for item in items)


def _owes(state: Deliberation, item: Item) -> bool:
    # NATS need not say that it came again: a durable that was made anew counts deliveries from one.
    if state.ended and isinstance(item.event, DeadlinePassed):
        return True
    if isinstance(item.event, Requested) and item.event.sequence == state.stream_sequence:
        return True
    return item.delivery.id in state.cause


def _lease_is_over(batch: Sequence[Item]) -> bool:
    now = time.monotonic()
    return any(item.delivery.redelivered or now - item.delivery.received_at > LEASE_S for item in batch)
