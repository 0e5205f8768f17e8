"""Repairs tasks after a stream was lost: publishes their calls and deadlines again, and fails those without a state.

A task whose deadline or calls are gone would wait for ever, or until its deadline. Without its state it cannot go on.
"""

import asyncio
from collections.abc import Collection
from contextlib import aclosing
from typing import Any

import msgspec
import structlog
from nats.js import JetStreamContext

from fleet import subjects
from fleet.control.call_tokens import CallTokens
from fleet.control.items import FailLost, Reissue
from fleet.control.lost_tasks import UnendedTasks
from fleet.control.recovery.reconciliation import Reconciliation
from fleet.control.runner import Runner
from fleet.control.states.store import StateStore
from fleet.deliberation.events import CallAgent, SetDeadline
from fleet.errors import NewerState, UnreadableState
from fleet.event_loop import all_of
from fleet.jetstream.payloads import Texts
from fleet.jetstream.quirks import entries
from fleet.jetstream.streams import STREAMS
from fleet.observability.retries import again

log = structlog.get_logger(__name__)

PAUSE_S = 3.0
RESTORED_WITHIN_S = 30.0
_DEADLINES = frozenset(spec.name for spec in STREAMS if spec.deadlines)
"""Where they are lost, the deadline of each running task is published again at once. A call costs a model's time: where
calls or answers are lost, `Reconciliation` asks only for those that are seen to be gone.
"""
_REPAIRED = _DEADLINES | {subjects.STATES, subjects.KEYS_STREAM}


class TopLevel(msgspec.Struct, frozen=True):
    """The part of a state that stands in the bucket even where the rest is in the object store."""

    status: str = ""


class LostStreams:
    """Message ids are deterministic: several processes may do the same at once."""

    def __init__(
        self,
        js: JetStreamContext,
        texts: Texts,
        store: StateStore,
        runner: Runner,
        unended: UnendedTasks,
        tokens: CallTokens,
    ) -> None:
        self._tokens = tokens
        self._js = js
        self._reconciliation = Reconciliation(js, texts, store, runner)
        self._runner = runner
        self._unended = unended
        self._lost: set[str] = set()
        self._running: list[str] | None = None
        self._new_key = False
        self._may_be_restored = False
        self._again: asyncio.TimerHandle | None = None
        self._news = asyncio.Event()

    async def before_consuming(self, streams: Collection[str]) -> None:
        """As `after_loss_of`, and notes which tasks run now: those that begin later have lost nothing.

        Where there was no key of calls, this process has made one. Calls that are open carry a token of another key, or
        none, as an older version's do: no answer to them would count.
        """
        self.after_loss_of(streams)
        self._new_key = subjects.KEYS_STREAM in streams
        if self._new_key or self._lost & _DEADLINES:
            self._running = await self._running_tasks()

    def after_loss_of(self, streams: Collection[str]) -> None:
        """Notes what was lost, for `run` to repair."""
        self._lost |= _REPAIRED.intersection(streams)
        if streams and subjects.STATES not in streams:
            # Streams in memory are in no backup: NATS was started anew, perhaps with what was restored.
            self._may_be_restored = True
        if self._lost or self._may_be_restored:
            self._news.set()

    def after_restore(self) -> None:
        """`run` makes streams and states agree: now, and once more when whoever restores may be done."""
        self._reconcile()
        if self._again is not None:
            self._again.cancel()
        self._again = asyncio.get_running_loop().call_later(RESTORED_WITHIN_S, self._reconcile)

    def _reconcile(self) -> None:
        self._may_be_restored = True
        self._news.set()

    async def run(self) -> None:
        """Until cancelled. What fails is tried again until it is done."""
        while True:
            await self._news.wait()
            await again("tasks.recover", self._recover_all, on=Exception, first_s=PAUSE_S, longest_s=PAUSE_S)

    async def _recover_all(self) -> None:
        """Where it fails, the next try has what was lost meanwhile, too."""
        self._news.clear()
        lost, self._lost = self._lost, set()
        try:
            await self._recover(lost)
        except Exception:
            self._lost |= lost
            raise

    async def _recover(self, lost: Collection[str]) -> None:
        await self._tokens.keep()
        if subjects.STATES in lost:
            await self.fail_lost_tasks()
        kinds = (*((SetDeadline,) if _DEADLINES.intersection(lost) else ()), *((CallAgent,) if self._new_key else ()))
        if kinds:
            if self._running is None:
                self._running = await self._running_tasks()
            await self.reissue(self._running, kinds)
            self._running, self._new_key = None, False
        if self._may_be_restored:
            self._may_be_restored = False
            try:
                self._runner.forget_all()
                await self._reconciliation.run()
                await self.fail_lost_tasks()
            except Exception:
                self._may_be_restored = True
                raise
            log.info("streams.reconciled")

    async def fail_lost_tasks(self) -> None:
        """Ends every task that was accepted, has not ended, and has no state that can be read."""
        unended = await self._unended.find()
        await all_of(self._runner.recover(task_id, FailLost(accepted)) for task_id, accepted in unended.items())

    async def reissue(self, running: Collection[str], kinds: tuple[type[Any], ...]) -> None:
        """Publishes the effects of these kinds again for these tasks."""
        await all_of(self._reissue(task_id, kinds) for task_id in running)
        if running:
            log.warning("tasks.reissued", count=len(running), effects=[kind.__name__ for kind in kinds])

    async def _reissue(self, task_id: str, kinds: tuple[type[Any], ...]) -> None:
        try:
            await self._runner.recover(task_id, Reissue(kinds))
        except (NewerState, UnreadableState) as error:
            log.warning("task.not_reissued", task_id=task_id, error=str(error))

    async def _running_tasks(self) -> list[str]:
        """By the top level of their states: those that have ended are many, and need not be loaded."""
        async with aclosing(entries(self._js, subjects.BUCKET)) as stored:
            return [entry.key async for entry in stored if _is_running(entry.value or b"")]


def _is_running(value: bytes) -> bool:
    """What cannot be read is none: it ends at its deadline."""
    try:
        return msgspec.json.decode(value, type=TopLevel).status == "IN_PROGRESS"
    except msgspec.MsgspecError:
        return False
