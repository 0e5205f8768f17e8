"""Moves one task on: read its state, decide, save by compare-and-set, publish.

    outcome   when                                                     what is done
    ────────────────────────────────────────────────────────────────────────────────────────────────────────
    UNKNOWN   there is no state, and nothing that begins one           nothing
    STALE     nothing new for a cached state: it may be an old one     tried again on the stored one
    NOTHING   nothing new for the stored state                         what it requires is published `AGAIN`, or as an
                                                                       `END`, if a delivery or recovery asks for it
    CONFLICT  another process saved in between                         tried again on what that one has saved
    SAVED     the state has changed                                    published as `FIRST`, or as an `END`

Beside it, a request without a name may turn out to be another task's: its stream was set back. It is handed back to the
caller, under its second id.

    publication  what it means
    ────────────────────────────────────────────────────────────────────────────────────────────────────────
    FIRST        decided just now, by this process: nobody else publishes it
    AGAIN        a running task's: message ids are deterministic, and NATS drops what it has
    END          an end that another process may publish too: looked up, claimed, published (`terminal_events`)

Save first, publish second: a lost publish is repaired when the delivery comes again (its id stands in the state as the
cause of the last transition), a lost save is not.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum, auto

import structlog

from fleet.clock import now_ms
from fleet.control.items import Adopt, FailLost, Item, PublishAgain
from fleet.control.lost_tasks import state_for_lost_task
from fleet.control.publishing.terminal_events import Publisher, publish_end
from fleet.control.states.folding import Change, Read, fold
from fleet.control.states.saves import DoubtfulSaves, Observer
from fleet.control.states.state_cache import StateCache
from fleet.control.states.store import StateStore, Stored
from fleet.control.states.unpublished import may_be_unpublished, recovered, reissued
from fleet.crashpoints import reach
from fleet.deliberation.events import DeadlinePassed, Effect, Requested
from fleet.deliberation.machine import due, recover
from fleet.deliberation.state import Deliberation
from fleet.deliberation.trace import root_context
from fleet.errors import StoreConflict, UnreadableState
from fleet.jetstream.connection import OUTAGES
from fleet.jetstream.lifetimes import LEASE_S
from fleet.messages import DeliberationAccepted

log = structlog.get_logger(__name__)

MAX_CONFLICTS = 50
MOST_CAUSES = 64
"""Deliveries that a state names: those of the last few transitions."""

AcceptanceOf = Callable[[str], Awaitable[DeliberationAccepted | None]]
"""Looks up the acceptance of a task that has no terminal event."""


class Outcome(Enum):
    """What one try to apply a batch came to. The next try, after `STALE` and `CONFLICT`, reads from the store."""

    UNKNOWN = auto()
    """There is no such task."""
    STALE = auto()
    """Nothing changes the state that is kept in memory, which may be an old one."""
    NOTHING = auto()
    """Nothing changes the state."""
    CONFLICT = auto()
    """Another process has saved meanwhile."""
    SAVED = auto()


class Transitions:
    """Of one process. One batch of a task at a time: its caller sees to that."""

    def __init__(
        self,
        store: StateStore,
        publisher: Publisher,
        acceptance_of: AcceptanceOf,
        observer: Observer,
    ) -> None:
        self._observer = observer
        self._doubtful = DoubtfulSaves(store, observer)
        self._store = store
        self._publisher = publisher
        self._acceptance_of = acceptance_of
        self._cache = StateCache()

    async def known(self, task_id: str) -> Stored | None:
        """The state as it was last seen here, or is now."""
        stored = self._cache.get(task_id)
        if stored is None and (stored := await self._store.load(task_id)) is not None:
            self._cache.put(stored)
        return stored

    def forget(self, task_id: str) -> None:
        """The next batch reads from the store."""
        self._cache.drop(task_id)

    def forget_all(self) -> None:
        """As `forget`, of every task: a bucket that was set back gives out its revisions again."""
        self._cache.clear()

    async def apply(self, task_id: str, batch: Sequence[Item]) -> Change:
        """Applies the events in order. The state is what they led to, None for a task nobody knows; what is `elsewhere`
        was not applied.
        """
        for attempt in range(MAX_CONFLICTS):
            outcome, change = await self._try(task_id, batch, first=attempt == 0)
            if outcome not in (Outcome.STALE, Outcome.CONFLICT):
                return change
            self._cache.drop(task_id)
        raise StoreConflict(task_id, 0)

    async def _try(self, task_id: str, batch: Sequence[Item], *, first: bool) -> tuple[Outcome, Change]:
        read = await self._read(task_id, batch, first=first)
        change = fold(read, batch)
        batch = change.applicable(batch)
        if change.state is None:
            log.info("event.unknown_task", task_id=task_id, events=[type(item.event).__name__ for item in batch])
            return Outcome.UNKNOWN, change
        if change.state is not read.state:
            return await self._commit(read, change, batch)
        if read.cached:  # what means nothing to an old state may fill a slot now
            return Outcome.STALE, change
        if read.stored is not None:
            await self._publish_again(read.stored, batch)
        await self._reject(change)
        return Outcome.NOTHING, change

    async def _read(self, task_id: str, batch: Sequence[Item], *, first: bool) -> Read:
        if (cached := self._cache.get(task_id)) is not None:
            return Read(cached, cached.revision, cached=True)
        if first and all(_is_new_request(item) for item in batch):
            return Read(None)  # most likely: no need to look, the store refuses what exists
        try:
            stored = await self._store.load(task_id)
        except UnreadableState as error:
            begun = await self._end_of_lost_task(task_id, batch, error)
            ends = any(isinstance(item.event, DeadlinePassed | FailLost) for item in batch)
            if begun is None and not ends and not all(isinstance(item.event, PublishAgain) for item in batch):
                raise
            return Read(None, error.revision, begun=begun)
        if stored is not None:
            return Read(stored, stored.revision)
        if any(isinstance(item.event, Requested) for item in batch):
            return Read(None)
        return Read(None, begun=await self._end_of_lost_task(task_id, batch))

    async def _end_of_lost_task(
        self, task_id: str, batch: Sequence[Item], unreadable: UnreadableState | None = None
    ) -> Deliberation | None:
        """Its state is gone: it ends at its deadline, or when recovery demands it; at once where what is there is none.
        None: it was never accepted, it has ended, or its time has not come."""
        events = [item.event for item in batch]
        accepted = next((event.accepted for event in events if isinstance(event, FailLost)), None)
        destroyed = unreadable is not None and not unreadable.may_come
        if accepted is None and (destroyed or any(isinstance(event, DeadlinePassed) for event in events)):
            accepted = await self._acceptance_of(task_id)
        return None if accepted is None else state_for_lost_task(accepted, now_ms(), unreadable)

    async def _commit(self, read: Read, change: Change, batch: Sequence[Item]) -> tuple[Outcome, Change]:
        state = change.state
        assert state is not None
        if change.moved:
            state = state.change(cause=_cause(read.state, batch), written_by=self._publisher.instance)
        reach("runner.decided")
        try:
            stored = await self._store.save(state, read.revision)
        except StoreConflict:
            return Outcome.CONFLICT, change
        except OUTAGES:
            self._doubtful.check(read.state, state, change.applied)
            raise
        self._observer.saved(read.state, state, change.applied)
        if read.state is None and read.begun is None:
            facts = {"role": state.task.role, "agents": len(state.agents), "trace_id": root_context(state).trace_id}
            log.info("deliberation.accepted", task_id=state.task_id, **facts)
        if state.ended:
            self._observer.ended(state)
        reach("runner.saved")
        self._cache.put(stored)
        if read.begun is not None:
            log.error("task.lost", task_id=state.task_id)
        # What came again together with something new may not have been published for.
        unpublished = [] if read.state is None else [item for item in batch if may_be_unpublished(read.state, item)]
        effects = recovered(state, unpublished) if unpublished else due(state, since=read.state) if change.moved else ()
        if state.ended and read.state is None and read.begun is None:
            effects = recover(state, request_redelivered=True)  # accepted and ended in one step
        adopted = any(isinstance(item.event, Adopt) for item in batch)
        may_be_said = state.ended and (read.begun is not None or adopted or _lease_is_over(batch))
        await self._publish(stored, (*effects, *reissued(state, batch)), may_be_said=may_be_said)
        await self._reject(change)
        return Outcome.SAVED, change

    async def _publish_again(self, stored: Stored, batch: Sequence[Item]) -> None:
        """A delivery that was applied before came again: its process may have died before publishing. So it may where
        the deadline of a task comes that has ended: it is taken back once the end is published.
        """
        state = stored.state
        unpublished = [item for item in batch if may_be_unpublished(state, item)]
        effects = (*(recovered(state, unpublished) if unpublished else ()), *reissued(state, batch))
        if effects:
            log.info("effects.published_again", task_id=state.task_id, phase=state.phase, round=state.round)
            if state.ended:
                self._observer.ended(state)
            await self._publish(stored, effects, may_be_said=state.ended)

    async def _publish(self, stored: Stored, effects: Sequence[Effect], *, may_be_said: bool) -> None:
        """`may_be_said`: the task has ended, and its end may have been published before: that is looked for first."""
        if not effects:
            return
        if may_be_said:
            await publish_end(self._store, self._publisher, stored, effects)
        else:
            await self._publisher.publish(stored.state, effects)

    async def _reject(self, change: Change) -> None:
        assert change.state is not None
        for rejection in change.rejections:
            log.info("request.rejected", task_id=change.state.task_id, code=rejection.rejected.code)
        if change.rejections:
            await self._publisher.publish(change.state, change.rejections)


def _cause(before: Deliberation | None, batch: Sequence[Item]) -> tuple[str, ...]:
    """Where a council has shadows, each moves on without the other: what the transitions before led to may not have
    been published, and is not published again by this one.
    """
    cause = tuple(item.delivery.id for item in batch)
    return cause if before is None or before.shadows is None else (*before.cause, *cause)[-MOST_CAUSES:]


def _is_new_request(item: Item) -> bool:
    return isinstance(item.event, Requested) and not item.delivery.redelivered


def _lease_is_over(batch: Sequence[Item]) -> bool:
    now = time.monotonic()
    return any(item.delivery.redelivered or now - item.delivery.received_at > LEASE_S for item in batch)
