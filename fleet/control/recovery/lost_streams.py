"""After a stream was lost with what it held: the tasks that run are given again what they are owed.

A task whose deadline or calls are gone would wait for ever, or until its deadline. A task whose state is gone cannot go
on: it fails, and whoever waits for it hears so.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog
from msgspec.structs import replace
from nats.js import JetStreamContext

from fleet import subjects
from fleet.clock import now_ms
from fleet.control.outbox import Outbox
from fleet.control.repair import end_again
from fleet.control.store import StateStore, Stored
from fleet.deliberation.events import CallAgent, Effect, Requested, SetDeadline
from fleet.deliberation.machine import decide, due, recover
from fleet.deliberation.state import Deliberation
from fleet.errors import NewerState, UnreadableState
from fleet.jetstream.history import find_unended
from fleet.jetstream.payloads import Texts
from fleet.messages import AllFailed, DeliberationAccepted
from fleet.requests.task import Task
from fleet.times import from_rfc3339, rfc3339

log = structlog.get_logger(__name__)

LONGEST_TASK_S = 2 * 3600.0
PAUSE_S = 3.0
OWED: dict[str, type[Any]] = {
    subjects.DELIBERATION_CONTROL: SetDeadline,
    subjects.AGENT_REQUESTS: CallAgent,
    subjects.AGENT_RESPONSES: CallAgent,
}
"""Stream -> what a task is owed again when it is lost."""


class Resumption:
    """Message ids are deterministic: several processes may do the same at once."""

    def __init__(self, js: JetStreamContext, store: StateStore, outbox: Outbox, texts: Texts) -> None:
        self._js = js
        self._store = store
        self._outbox = outbox
        self._texts = texts
        self._repairs: set[asyncio.Task[None]] = set()
        self._reading = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        self._waiting: set[str] = set()

    def after_loss_of(self, streams: Sequence[str]) -> None:
        """Begins, in a task of its own, and tries until everything is done."""
        owed = tuple({kind for stream, kind in OWED.items() if stream in streams})
        if owed or subjects.STATES in streams:
            task = asyncio.create_task(self._repair(owed, states=subjects.STATES in streams))
            self._repairs.add(task)
            task.add_done_callback(self._repairs.discard)

    def stop(self) -> None:
        """Gives up what `after_loss_of` has begun: its connection is closed."""
        for task in self._repairs:
            task.cancel()

    async def _repair(self, owed: tuple[type[Any], ...], *, states: bool) -> None:
        while True:
            try:
                if states:
                    await self._fail_the_lost()
                if owed:
                    await self.resume(owed)
                return
            except Exception as error:
                log.error("tasks.not_resumed", error=repr(error), again_in_s=PAUSE_S)
            await asyncio.sleep(PAUSE_S)

    async def fail_if_lost(self, task_id: str) -> None:
        """Ends this task, and others, if it was accepted, has not ended, and has no state that can be read.

        For whoever works on it, who waits.
        """
        self._waiting.add(task_id)
        try:
            await self._fail_the_lost()
        finally:
            self._waiting.discard(task_id)

    async def _fail_the_lost(self) -> None:
        """Those who ask before the stream is read share one reading."""
        if self._next is None:
            self._next = asyncio.create_task(self._fail_all_lost())
            self._next.add_done_callback(_seen)
        await asyncio.shield(self._next)

    async def _fail_all_lost(self) -> None:
        async with self._reading:
            self._next = None
            failures = []
            for accepted in await find_unended(self._js, self._texts, LONGEST_TASK_S):
                try:
                    await self._fail_lost(accepted)
                except Exception as error:  # the others must not wait for this one
                    failures.append(error)
            if failures:
                raise failures[0]

    async def _fail_lost(self, accepted: DeliberationAccepted) -> None:
        revision = 0
        try:
            stored = await self._store.load(accepted.task_id)
        except UnreadableState as error:
            stored, revision = None, error.revision
        if stored is None:
            state = lost(accepted, now_ms()).change(written_by=self._outbox.instance)
            log.error("task.lost", task_id=state.task_id)
            stored = Stored(state, await self._store.save(state, revision))
        if stored.state.ended:  # perhaps by another process, which died before it said so
            at_work = accepted.task_id in self._waiting
            await end_again(self._store, self._outbox, stored, due(stored.state), at_work=at_work)

    async def resume(self, owed: tuple[type[Any], ...]) -> None:
        """Publishes the effects of kinds `owed` of every task that runs."""
        resumed = 0
        for task_id in await self._tasks():
            try:
                stored = await self._store.load(task_id)
            except (NewerState, UnreadableState) as error:
                log.warning("task.not_resumed", task_id=task_id, error=str(error))
                continue
            if stored is not None and not stored.state.ended:
                effects = [_anew(effect) for effect in recover(stored.state) if isinstance(effect, owed)]
                await self._outbox.publish(stored.state, effects)
                resumed += 1
        if resumed:
            log.warning("tasks.resumed", count=resumed, owed=[kind.__name__ for kind in owed])

    async def _tasks(self) -> list[str]:
        bucket = await self._js.key_value(subjects.BUCKET)
        watcher = await bucket.watchall(ignore_deletes=True, meta_only=True)
        found = []
        async for entry in watcher:
            if entry is None:  # that was all
                break
            found.append(entry.key)
        await watcher.stop()
        # nats-py's own `keys` leaves it behind, for five minutes.
        consumer = (await watcher._sub.consumer_info()).name
        await self._js.delete_consumer(f"KV_{subjects.BUCKET}", consumer)
        return found


def lost(accepted: DeliberationAccepted, at_ms: int) -> Deliberation:
    """The end of a task of which only its acceptance is known."""
    accepted_ms = from_rfc3339(accepted.accepted_at)
    task = Task(
        task_description="",
        role=accepted.role,
        num_agents=len(accepted.agents),
        rounds=accepted.rounds,
        correlation=accepted.correlation,
    )
    begun = decide(None, Requested(accepted.task_id, task, accepted.stream_sequence, accepted_ms)).state
    event = AllFailed(
        task_id=accepted.task_id,
        error="the fleet lost the state of this deliberation",
        failed_agents=(),
        total_agents=len(accepted.agents),
        duration_ms=max(0, at_ms - accepted_ms),
        completed_at=rfc3339(at_ms),
        correlation=accepted.correlation,
    )
    return begun.change(status="FAILED", result=event)


def _seen(task: asyncio.Task[None]) -> None:
    """Whoever asked may have gone."""
    if not task.cancelled():
        task.exception()


def _anew(effect: Effect) -> Effect:
    """A call as its second attempt: the first one's id may be known to a stream that is still there."""
    return CallAgent(replace(effect.request, attempt=2)) if isinstance(effect, CallAgent) else effect
