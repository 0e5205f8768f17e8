"""Tells the observer of each change of a state, once: where a save was not answered, what is stored decides."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from fleet.control.states.store import StateStore
from fleet.deliberation.events import Event
from fleet.deliberation.state import Deliberation
from fleet.event_loop import log_failure
from fleet.observability.retries import again

log = structlog.get_logger(__name__)

LOOK_AFTER_S, LOOK_WITHIN_S = 0.1, 40.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0


@dataclass(frozen=True, slots=True)
class AppliedEvent:
    """An event that has changed the state. `before` None: it began the task."""

    event: Event
    before: Deliberation | None
    after: Deliberation


class Observer(Protocol):
    """Is told what becomes of tasks: it counts, and traces."""

    def saved(self, before: Deliberation | None, after: Deliberation, applied: Sequence[AppliedEvent]) -> None:
        """Each change once, by the process whose save has won: the state before (None: there was none that could be
        read), the state that was saved, and the events that led there."""

    def ended(self, state: Deliberation) -> None:
        """Each end, by whoever decides it, and by whoever publishes it again after a crash."""

    async def exported(self) -> None:
        """Returns once what was told of ends has left the process, or a short time is over."""


class DoubtfulSaves:
    """NATS may have stored what it did not confirm."""

    def __init__(self, store: StateStore, observer: Observer) -> None:
        self._store = store
        self._observer = observer
        self._looking: set[asyncio.Task[None]] = set()

    def check(self, before: Deliberation | None, after: Deliberation, applied: Sequence[AppliedEvent]) -> None:
        """Looks whether `after` is stored, and tells it then."""
        task = asyncio.create_task(self._look(before, after, applied), name="look at a doubtful save")
        self._looking.add(task)
        task.add_done_callback(log_failure)
        task.add_done_callback(self._looking.discard)

    async def _look(self, before: Deliberation | None, after: Deliberation, applied: Sequence[AppliedEvent]) -> None:
        await asyncio.sleep(LOOK_AFTER_S)
        try:
            stored = await again(
                "save.look",
                lambda: self._store.load(after.task_id),
                on=Exception,
                within_s=LOOK_WITHIN_S,
                first_s=FIRST_PAUSE_S,
                longest_s=LONGEST_PAUSE_S,
            )
        except Exception as error:  # NATS is still away
            log.warning("save.in_doubt", task_id=after.task_id, error=repr(error))
        else:
            if stored is not None and stored.state == after:
                self._observer.saved(before, after, applied)
