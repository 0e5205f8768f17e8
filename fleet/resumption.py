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
from fleet.connection import OUTAGES
from fleet.deliberation.events import CallAgent, Effect, Requested, SetDeadline
from fleet.deliberation.machine import decide, due, recover
from fleet.deliberation.state import Deliberation
from fleet.errors import StoreConflict
from fleet.history import find_unended
from fleet.messages import AllFailed, DeliberationAccepted
from fleet.outbox import Outbox
from fleet.repair import end_again
from fleet.requests import Task
from fleet.store import StateStore, Stored
from fleet.times import from_rfc3339, now_ms, rfc3339

log = structlog.get_logger(__name__)

LONGEST_TASK_S = 2 * 3600.0
OWED: dict[str, type[Any]] = {
    subjects.DELIBERATION_CONTROL: SetDeadline,
    subjects.AGENT_REQUESTS: CallAgent,
    subjects.AGENT_RESPONSES: CallAgent,
}
"""Stream -> what a task is owed again when it is lost."""


class Resumption:
    """Message ids are deterministic: several processes may do the same at once."""

    def __init__(self, js: JetStreamContext, store: StateStore, outbox: Outbox) -> None:
        self._js = js
        self._store = store
        self._outbox = outbox
        self._task: asyncio.Task[None] | None = None

    def after_loss_of(self, streams: Sequence[str]) -> None:
        """Begins, in a task of its own."""
        owed = tuple({kind for stream, kind in OWED.items() if stream in streams})
        if owed or subjects.STATES in streams:
            self._task = asyncio.create_task(self._repair(owed, states=subjects.STATES in streams))

    async def _repair(self, owed: tuple[type[Any], ...], *, states: bool) -> None:
        try:
            if states:
                await self.fail_the_lost()
            if owed:
                await self.resume(owed)
        except OUTAGES as error:
            log.error("tasks.not_resumed", error=repr(error))

    async def fail_the_lost(self) -> None:
        """Ends every task that was accepted, has not ended, and has no state."""
        for accepted in await find_unended(self._js, LONGEST_TASK_S):
            state = lost(accepted, now_ms()).change(written_by=self._outbox.instance)
            try:
                stored = Stored(state, await self._store.save(state, 0))
            except StoreConflict:  # It has one, or another process was faster.
                continue
            log.error("task.lost", task_id=state.task_id)
            await end_again(self._store, self._outbox, stored, due(state), at_work=False)

    async def resume(self, owed: tuple[type[Any], ...]) -> None:
        """Publishes the effects of kinds `owed` of every task that runs."""
        resumed = 0
        for task_id in await self._tasks():
            stored = await self._store.load(task_id)
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


def _anew(effect: Effect) -> Effect:
    """A call as its second attempt: the first one's id may be known to a stream that is still there."""
    return CallAgent(replace(effect.request, attempt=2)) if isinstance(effect, CallAgent) else effect
