"""Looks for the result of an equal request: one that is there, or one that somebody is at work on.

    what the slot's task is          what follows
    ────────────────────────────────────────────────────────────────────────────────────────
    ended, with a usable result      this one is answered with it
    at work                          this one follows it, and is told of its end; or, once half of its time has gone,
                                     claims the slot, and begins
    ended otherwise, or at work,     the same for that other one
      beside another one
    itself                           it begins
    none, of another question,       it claims the slot, and begins
    ended otherwise, unreadable

A task is recorded before it looks. So what claims a slot has a state, and of a state that is not there nothing is
awaited. Who looks may die at any moment: the message that made it look comes again.
"""

import structlog

from fleet.clock import now_ms
from fleet.control.caching.slots import Entry, Slots
from fleet.control.runner import Runner
from fleet.control.states.store import StateStore
from fleet.deliberation.events import Followed, ResultFound, ResultMissing
from fleet.deliberation.state import Deliberation
from fleet.deliberation.waiting import is_reusable, may_take_over
from fleet.errors import NewerState, StoreConflict, UnreadableState
from fleet.messages import DeliberationCompleted

log = structlog.get_logger(__name__)

MOST_LOOKS = 20
"""In which somebody else was faster each time."""


class ResultCache:
    """Of one process."""

    def __init__(self, slots: Slots, store: StateStore) -> None:
        self._slots = slots
        self._store = store

    async def find(self, tenant: str, key: str) -> DeliberationCompleted | None:
        """The result for a request that is not recorded yet. Raises what NATS does."""
        entry = await self._slots.look(tenant, key)
        return _first_result(await self._tasks_of(entry, key), key)

    async def look(self, task_id: str, ended: str, runner: Runner) -> ResultFound | ResultMissing | None:
        """For a task that may wait. `ended`: one that it has followed. None: it waits on, and will be told. Raises what
        NATS and the runner do.
        """
        stored = await self._store.load(task_id)
        if stored is None or not stored.state.waits:
            return ResultMissing(now_ms())  # what follows from that may not have been published
        own = stored.state
        if ended and (result := _result_of(await self._load(ended), own.cache_key)) is not None:
            return ResultFound(result, now_ms())
        for _ in range(MOST_LOOKS):
            entry = await self._slots.look(own.name.tenant, own.cache_key)
            if (entry.task_id, entry.run) == (task_id, own.run):
                return ResultMissing(now_ms())
            others = await self._tasks_of(entry, own.cache_key) if own.task.cache != "refresh" else []
            if (result := _first_result(others, own.cache_key)) is not None:
                return ResultFound(result, now_ms())
            working = [each for each in others if not each.ended]
            if working and not may_take_over(own, working[0], now_ms()):
                followed = [await self._followed(own, each.task_id, runner) for each in working]
                still = [each for each in followed if each is not None and not each.ended]
                if len(still) < len(working):
                    continue
                # Too many wait for them, where this one is not among them.
                return None if any(task_id in each.followers for each in still) else ResultMissing(now_ms())
            claimed = Entry(key=own.cache_key, task_id=task_id, run=own.run, revision=entry.revision)
            if working:  # the one that has been at work for longest
                claimed = claimed.change(beside=working[-1].task_id, beside_run=working[-1].run)
            if await self._slots.claim(own.name.tenant, claimed):
                return ResultMissing(now_ms())
        raise StoreConflict(task_id, 0)

    async def _followed(self, own: Deliberation, other_id: str, runner: Runner) -> Deliberation | None:
        """The other one afterwards. It may have ended meanwhile."""
        await runner.recover(other_id, Followed(own.task_id))
        return await self._load(other_id)

    async def _tasks_of(self, entry: Entry, key: str) -> list[Deliberation]:
        """The slot's task, and the one that it ran beside, as far as they are there."""
        named = {entry.task_id: entry.run, entry.beside: entry.beside_run} if entry.key == key else {}
        states = [(await self._load(task_id), run) for task_id, run in named.items() if task_id]
        return [state for state, run in states if state is not None and (state.cache_key, state.run) == (key, run)]

    async def _load(self, task_id: str) -> Deliberation | None:
        """None where there is nothing that can be read."""
        try:
            stored = await self._store.load(task_id)
        except (NewerState, UnreadableState) as error:
            log.info("cache.unreadable", task_id=task_id, error=str(error))
            return None
        return None if stored is None else stored.state


def _first_result(states: list[Deliberation], key: str) -> DeliberationCompleted | None:
    return next((result for state in states if (result := _result_of(state, key)) is not None), None)


def _result_of(state: Deliberation | None, key: str) -> DeliberationCompleted | None:
    """That may be used for an equal request."""
    if state is None or state.cache_key != key or not isinstance(state.result, DeliberationCompleted):
        return None
    return state.result if is_reusable(state.result) else None
