"""Applies deliveries to tasks, one batch per task at a time (`transitions`), then acknowledges them.

What arrives while a batch is being saved is folded into the next one, with one write. Answers of one phase often come
together: those that do not end it wait a moment for the one that does. Different tasks do not wait for each other.

Recovery enters here too (`recover`): nobody else repairs what a task has published, so nobody has to be asked who works
on it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import structlog

from fleet.control.items import Demand, FailLost, Item, Ticket
from fleet.control.publishing.terminal_events import Publisher
from fleet.control.states.saves import Observer
from fleet.control.states.store import StateStore
from fleet.control.states.transitions import Transitions
from fleet.crashpoints import reach
from fleet.deliberation.events import Followed, Requested, Responded
from fleet.errors import EventInFlight, StoreConflict
from fleet.event_loop import log_failure
from fleet.jetstream.connection import OUTAGES
from fleet.messages import DeliberationAccepted

log = structlog.get_logger(__name__)

WRITE_FAILING_FOR_S = 60.0
"""Longer than the longest pause between two tries."""
LINGER_S = 0.01
"""How long an answer waits for the others of its phase. It is on disk in its stream, and not acknowledged before."""


FindUnended = Callable[[], Awaitable[Mapping[str, DeliberationAccepted]]]
"""Task id -> its acceptance, of every task without a terminal event: `lost_tasks.UnendedTasks.find`."""


class Queue:
    """Deliveries of one task that are not being worked on yet. `work` ends once nothing is left here."""

    __slots__ = ("arrived", "items", "work")

    def __init__(self, item: Item, work: asyncio.Future[None]) -> None:
        self.items = [item]
        self.work = work
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
    """One per process; replicas meet in compare-and-set."""

    def __init__(self, store: StateStore, publisher: Publisher, find_unended: FindUnended, observer: Observer) -> None:
        """`find_unended` is called for a task whose deadline has come and whose state is gone."""
        self._find_unended = find_unended
        self._observer = observer
        self._transitions = Transitions(store, publisher, self._acceptance_of, observer)
        self._queues: dict[str, Queue] = {}
        self._tasks: set[asyncio.Future[None]] = set()
        self._write_failed_at: float | None = None

    def submit(self, task_id: str, item: Item) -> asyncio.Future[None]:
        """Takes a delivery over: it is acknowledged when applied, or handed back for another try. Either has happened
        when what is returned ends, which must not be cancelled.
        """
        queue = self._queues.get(task_id)
        if queue is not None:
            queue.put(item)
        else:
            # The work begins later, in a turn of its own.
            self._queues[task_id] = queue = Queue(item, self._start(self._work(task_id)))
        return queue.work

    async def recover(self, task_id: str, demand: Demand | Followed) -> None:
        """Submits a demand of recovery, or that another task follows this one, and waits until it was applied. Raises
        what prevented it.
        """
        ticket = Ticket()
        self.submit(task_id, Item(demand, ticket))
        await ticket.outcome

    def forget_all(self) -> None:
        """What was kept in memory of states, since those in the bucket may be others."""
        self._transitions.forget_all()

    @property
    def write_failing(self) -> bool:
        """True while the last write to NATS failed (a full disk or stream, say), if that was lately."""
        return self._write_failed_at is not None and time.monotonic() - self._write_failed_at < WRITE_FAILING_FOR_S

    @property
    def in_work(self) -> Collection[str]:
        """Ids of the tasks whose deliveries are being applied. It follows what happens."""
        return self._queues.keys()

    async def drain(self, grace_s: float) -> None:
        """Waits for what was submitted; what is not done in time comes again elsewhere."""
        until = time.monotonic() + grace_s
        while self._tasks and (left := until - time.monotonic()) > 0:
            await asyncio.wait(self._tasks, timeout=left)

    def _start(self, work: Awaitable[None]) -> asyncio.Future[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(log_failure)
        task.add_done_callback(self._tasks.discard)
        return task

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
            stored = await self._transitions.known(task_id)
        except Exception:
            return  # it will show when the batch is handled
        if stored is not None:
            open_ = list(stored.state.calls.values()).count("open")
            if len(queue.items) < open_:
                await queue.grow_to(open_, LINGER_S)

    async def _handle(self, task_id: str, batch: Sequence[Item]) -> None:
        try:
            change = await self._transitions.apply(task_id, batch)
        except Exception as error:
            self._transitions.forget(task_id)
            if isinstance(error, OUTAGES):
                self._write_failed_at = time.monotonic()
            elif len(batch) > 1 and not isinstance(error, EventInFlight | StoreConflict):
                # One of them is at fault: the others must not wait for it.
                for item in batch:
                    await self._handle(task_id, [item])
                return
            # Whatever it was, the deliveries are not lost: they come again, later each time.
            log.warning("deliveries.retried", task_id=task_id, count=len(batch), error=repr(error))
            # Not here: one that is given up submits a demand for this very task, and waits for it.
            self._start(_settle(task_id, [item.delivery.retry_later(error) for item in batch]))
        else:
            self._write_failed_at = None
            reach("runner.published")
            if change.state is not None and change.state.ended:
                await self._observer.exported()  # what comes again after a crash makes the same spans
            for _, item in change.elsewhere:
                assert isinstance(item.event, Requested)
                log.warning("request.renamed", task_id=item.event.task_id, instead_of=task_id)
                self.submit(item.event.task_id, item)
            await _settle(task_id, [item.delivery.ack() for item in change.applicable(batch)])
            reach("runner.acknowledged")

    async def _acceptance_of(self, task_id: str) -> DeliberationAccepted | None:
        """Others of which the same is true are submitted: they need not wait for their deadlines."""
        unended = await self._find_unended()
        for other, accepted in unended.items():
            if other != task_id:
                self.submit(other, Item(FailLost(accepted), Ticket()))
        return unended.get(task_id)


async def _settle(task_id: str, settling: Sequence[Awaitable[None]]) -> None:
    """A delivery that can be neither acknowledged nor handed back comes again after `ack_wait`."""
    for outcome in await asyncio.gather(*settling, return_exceptions=True):
        if isinstance(outcome, Exception):
            log.warning("delivery.not_settled", task_id=task_id, error=repr(outcome))
