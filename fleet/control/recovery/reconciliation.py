"""Makes streams and states agree after a restore: each stream of a backup is of another moment.

    the state says    the streams say                  what is done
    ─────────────────────────────────────────────────────────────────────────────────────────
    it runs           its end was published            the state takes over that end
    it runs           no deadline, or neither a call   these are published again
                      nor its answer
    it has ended      nothing since then               its end is published
    there is none     its end was published            that end becomes its state, unless somebody deleted it by its key

Deliberations go on meanwhile. So only what was accepted before is looked at, and what is missing must still be missing
a few seconds later: an answer or a call may have been on its way.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
import structlog
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError

from fleet import subjects
from fleet.clock import now_ms
from fleet.control.items import Adopt, Demand, PublishAgain, Reissue
from fleet.control.lost_tasks import ended_state
from fleet.control.runner import Runner
from fleet.control.states.store import StateStore
from fleet.control.states.unpublished import MOST_ATTEMPTS, missing
from fleet.deliberation.events import CallAgent, SetDeadline
from fleet.errors import NewerState, StoreConflict, UnreadableState
from fleet.jetstream.history import acceptances, events, terminal_id
from fleet.jetstream.payloads import MissingText, Texts
from fleet.jetstream.quirks import entries
from fleet.messages import UNDECODABLE, CallName, TerminalEvent, decode
from fleet.tenants.names import key_of_event, of_all
from fleet.times import from_rfc3339, rfc3339

log = structlog.get_logger(__name__)

SETTLED_AFTER_S = 3.0


class _End(msgspec.Struct, frozen=True):
    completed_at: str = ""


class _Outline(msgspec.Struct, frozen=True):
    """What a state tells without being loaded."""

    status: str = ""
    run: str = ""
    accepted_at: str = ""
    result: _End | None = None


@dataclass(frozen=True, slots=True)
class _Told:
    """A terminal event in its stream."""

    task_id: str
    sequence: int
    at: datetime


class Reconciliation:
    """Of one process. Several may do it at once: what they demand is decided by the state, and by message ids."""

    def __init__(self, js: JetStreamContext, texts: Texts, store: StateStore, runner: Runner) -> None:
        self._js = js
        self._texts = texts
        self._store = store
        self._runner = runner

    async def run(self) -> None:
        """Makes streams and states agree. Raises what NATS raises."""
        outlines, known = await self._outlines()
        ends = await self._ends()
        last_ms = await self._last_event_ms()
        running: list[str] = []
        for task_id, outline in outlines.items():
            told = ends.get(terminal_id(task_id, outline.run))
            demand: Demand | None = None
            if outline.result is not None:
                ended_ms = from_rfc3339(outline.result.completed_at) if outline.result.completed_at else 0
                # Events before the last one were there, whatever has become of them since.
                demand = PublishAgain() if told is None and last_ms is not None and ended_ms > last_ms else None
            elif told is not None:
                event = await self._end_at(told.sequence)
                demand = None if event is None else Adopt(event)
            elif outline.status == "IN_PROGRESS":
                running.append(task_id)
            if demand is not None:
                await self._demand(task_id, demand)
        await self._reissue(running)
        since = await self._states_are_kept_since()
        gone = {msg_id: told for msg_id, told in ends.items() if told.task_id not in known and told.at > since}
        if gone:
            await self._restore_ends(gone)

    async def _restore_ends(self, ends: Mapping[str, _Told]) -> None:
        """Their results can be asked for again. Nothing is published: this was."""
        restored = 0
        async with aclosing(acceptances(self._js, self._texts)) as accepted:
            async for each in accepted:
                told = ends.get(terminal_id(each.key, each.run))
                event = None if told is None else await self._end_at(told.sequence)
                if event is not None:
                    try:
                        await self._store.save(ended_state(each, event), 0)
                        restored += 1
                    except StoreConflict:
                        continue  # another process did it, or it was asked for again
        log.warning("states.restored", count=restored)

    async def _reissue(self, running: Iterable[str]) -> None:
        """Publishes the calls and deadlines that are gone, until they are seen in their streams: NATS drops ids that it
        knows, also those of messages that were purged since.
        """
        gone = await self._missing(running)
        for attempt in range(2, MOST_ATTEMPTS + 1):
            if not gone:
                return
            await asyncio.sleep(SETTLED_AFTER_S)
            before, gone = gone, await self._missing(gone)
            for task_id, names in gone.items():
                if lost := names & before[task_id]:
                    await self._demand(task_id, Reissue((CallAgent, SetDeadline), lost, attempt))
        if gone:
            log.warning("tasks.not_reissued", count=len(gone))

    async def _missing(self, running: Iterable[str]) -> dict[str, frozenset[str]]:
        """Task id -> names of what it requires, and what is not stored; without tasks that lack nothing."""
        gone: dict[str, frozenset[str]] = {}
        stored = frozenset({*await self._schedules(), *await self._calls()})
        answered = await self._answered()  # after the calls, which go when their answers are stored
        for task_id in running:
            try:
                state = await self._store.load(task_id)
            except (NewerState, UnreadableState) as error:
                log.warning("task.not_reconciled", task_id=task_id, error=str(error))
                continue
            if state is not None and (names := missing(state.state, stored, answered)):
                gone[task_id] = names
        return gone

    async def _demand(self, task_id: str, demand: Demand) -> None:
        try:
            await self._runner.recover(task_id, demand)
        except (NewerState, UnreadableState) as error:
            log.warning("task.not_reconciled", task_id=task_id, error=str(error))

    async def _end_at(self, sequence: int) -> TerminalEvent | None:
        try:
            msg = await self._js.get_msg(subjects.DELIBERATIONS, sequence)
            event: TerminalEvent = decode(await self._texts.inline(msg.data or b""), TerminalEvent)  # type: ignore[arg-type]
        except (NotFoundError, MissingText, *UNDECODABLE):
            return None
        return event

    async def _outlines(self) -> tuple[dict[str, _Outline], set[str]]:
        """Of the states that are there now, by task id; and the ids of those and of what was deleted by its key."""
        now = rfc3339(now_ms())
        outlines: dict[str, _Outline] = {}
        known: set[str] = set()
        async with aclosing(entries(self._js, subjects.BUCKET)) as stored:
            async for entry in stored:
                known.add(entry.key)
                if entry.operation:  # deleted
                    continue
                try:
                    outline = msgspec.json.decode(entry.value or b"", type=_Outline)
                except UNDECODABLE:
                    continue  # it fails as soon as anybody looks
                if outline.accepted_at < now:
                    outlines[entry.key] = outline
        return outlines, known

    async def _ends(self) -> dict[str, _Told]:
        """Terminal events by message id."""
        ends: dict[str, _Told] = {}
        async with aclosing(events(self._js, of_all(*subjects.TERMINAL), None, headers_only=True)) as stored:
            async for msg in stored:
                headers = msg.headers or {}
                key = key_of_event(msg.subject, headers)
                ends[headers.get("Nats-Msg-Id", "")] = _Told(key, msg.metadata.sequence.stream, msg.metadata.timestamp)
        return ends

    async def _states_are_kept_since(self) -> datetime:
        kept_s = (await self._js.stream_info(subjects.STATES)).config.max_age
        return datetime.now(UTC) - timedelta(seconds=kept_s) if kept_s else datetime.min.replace(tzinfo=UTC)

    async def _last_event_ms(self) -> int | None:
        """When the last event was stored; None where that cannot be told."""
        state = (await self._js.stream_info(subjects.DELIBERATIONS)).state
        if state.last_seq == 0:
            return 0
        try:
            last = await self._js.get_msg(subjects.DELIBERATIONS, state.last_seq)
        except NotFoundError:
            return None
        return None if last.time is None else round(last.time.timestamp() * 1000)

    async def _schedules(self) -> list[str]:
        schedules = subjects.schedule_of(">")
        info = await self._js.stream_info(subjects.DELIBERATION_CONTROL, subjects_filter=schedules)
        return list(info.state.subjects or ())

    async def _calls(self) -> list[str]:
        """Message ids of the calls that wait for a worker, or are with one."""
        waiting = self._stored(subjects.AGENT_REQUESTS, subjects.AGENT_REQUESTED, 0)
        return [(msg.headers or {}).get("Nats-Msg-Id", "") async for msg in waiting]

    async def _answered(self) -> set[str]:
        """Names of the calls whose answers are stored, and not taken yet."""
        try:
            collector = await self._js.consumer_info(subjects.AGENT_RESPONSES, subjects.COLLECTOR)
        except NotFoundError:
            return set()
        taken = collector.ack_floor.stream_seq if collector.ack_floor is not None else 0
        names: set[str] = set()
        async for msg in self._stored(subjects.AGENT_RESPONSES, subjects.AGENT_RESPONSE, taken):
            with suppress(*UNDECODABLE):
                names.add(decode(msg.data or b"", CallName).name)
        return names

    async def _stored(self, stream: str, subject: str, after: int) -> AsyncIterator[RawStreamMsg]:
        """What the stream holds now behind a sequence, one by one."""
        sequence = after
        while True:
            try:
                msg = await self._js.get_msg(stream, sequence + 1, subject=subject, next=True)
            except NotFoundError:
                return
            sequence = msg.seq or sequence + 1
            yield msg
