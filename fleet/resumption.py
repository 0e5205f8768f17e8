"""After a stream was lost with what it held: the tasks that run are given again what they are owed.

A task whose deadline or calls are gone would wait for ever, or until its deadline.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog
from msgspec.structs import replace
from nats.js import JetStreamContext
from nats.js.errors import NoKeysError

from fleet import subjects
from fleet.connection import OUTAGES
from fleet.deliberation.events import CallAgent, Effect, SetDeadline
from fleet.deliberation.machine import recover
from fleet.outbox import Outbox
from fleet.store import StateStore

log = structlog.get_logger(__name__)

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
        if owed:
            self._task = asyncio.create_task(self.resume(owed))

    async def resume(self, owed: tuple[type[Any], ...]) -> None:
        """Publishes the effects of kinds `owed` of every task that runs."""
        resumed = 0
        try:
            for task_id in await self._tasks():
                stored = await self._store.load(task_id)
                if stored is not None and not stored.state.ended:
                    effects = [_anew(effect) for effect in recover(stored.state) if isinstance(effect, owed)]
                    await self._outbox.publish(stored.state, effects, repeated=True)
                    resumed += 1
        except OUTAGES as error:
            log.error("tasks.not_resumed", error=repr(error))
        if resumed:
            log.warning("tasks.resumed", count=resumed, owed=[kind.__name__ for kind in owed])

    async def _tasks(self) -> list[str]:
        try:
            keys: list[str] = await (await self._js.key_value(subjects.BUCKET)).keys()
        except NoKeysError:
            return []
        return keys


def _anew(effect: Effect) -> Effect:
    """A call as its second attempt: the first one's id may be known to a stream that is still there."""
    return CallAgent(replace(effect.request, attempt=2)) if isinstance(effect, CallAgent) else effect
