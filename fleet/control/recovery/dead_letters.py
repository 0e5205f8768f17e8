"""Messages that nobody can handle: each becomes one whole dead letter, and whoever waits for it is told.

They come from a handler that gives up, from NATS' advisories of exhausted messages (`max_deliver` reached, because
their processes died), and from a look into the work queues, where an exhausted message would lie for ever: an advisory
may be missed.

The dead letter is stored first. Its id is deterministic, so of several processes one stores it, and goes on; the
others leave the message alone, unless the next look finds it there still.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from fleet import subjects
from fleet.clock import now_ms
from fleet.control.outbox import Outbox
from fleet.control.repair import end_again
from fleet.control.store import StateStore, Stored
from fleet.deliberation.machine import due, recover
from fleet.errors import UnreadableState
from fleet.jetstream.origin import published
from fleet.messages import DeliberationRejected, Message, decode
from fleet.messages.unreadable import correlation_of, failed_call, readable
from fleet.times import rfc3339

log = structlog.get_logger(__name__)

QUEUES = (
    (subjects.DELIBERATION_REQUESTS, subjects.DISPATCHER, subjects.REQUESTED),
    (subjects.DELIBERATION_CONTROL, subjects.CONTROLLER, subjects.CONTROL),
    (subjects.AGENT_REQUESTS, subjects.WORKERS, subjects.AGENT_REQUESTED),
)
"""Work queues, their consumers, and what these take."""
LOOK_EVERY_S = 10.0
TRY_ANEW_AFTER_MS = 30_000


@dataclass(frozen=True, slots=True)
class Lost:
    """A message that cannot be handled, and where it lies."""

    stream: str
    sequence: int
    subject: str
    body: bytes
    headers: Mapping[str, str] | None


class Advisory(Message, frozen=True, kw_only=True):
    """The part of `io.nats.jetstream.advisory.v1.max_deliver` that says which message it is about."""

    stream: str
    consumer: str
    stream_seq: int
    deliveries: int


class Undeliverable:
    """One per process of the control plane; all of them share the advisories, as one queue group."""

    def __init__(self, nc: Client, js: JetStreamContext, store: StateStore, outbox: Outbox) -> None:
        self._nc = nc
        self._js = js
        self._store = store
        self._outbox = outbox
        self._left: set[tuple[str, int]] = set()

    async def start(self) -> None:
        """Listens to the advisories."""
        for stream, consumer in (*(queue[:2] for queue in QUEUES), (subjects.AGENT_RESPONSES, subjects.COLLECTOR)):
            advisory = subjects.exhausted(stream, consumer)
            await self._nc.subscribe(advisory, queue=subjects.DEAD_LETTER_GROUP, cb=self._on_advisory)

    async def run(self) -> None:
        """Looks into the work queues until cancelled."""
        while True:
            for stream, consumer, subject in QUEUES:
                try:
                    await self.look(stream, consumer, subject)
                except Exception as error:
                    log.warning("exhausted.look_failed", stream=stream, error=repr(error))
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self, stream: str, consumer: str, subject: str) -> None:
        """Takes off the work queue what its consumer has given up."""
        info = await self._js.consumer_info(stream, consumer)
        # Up to here nothing is waited for any more, and what was acknowledged has left the stream.
        floor = info.ack_floor.stream_seq if info.num_ack_pending else info.delivered.stream_seq
        sequence = 0
        while sequence < floor:
            try:
                sequence = (await self._js.get_msg(stream, sequence + 1, next=True, subject=subject)).seq
            except NotFoundError:
                return
            if sequence <= floor:
                try:
                    await self._take_off(stream, sequence, "exhausted: delivered as often as its consumer allows")
                except Exception as error:  # those behind it must not wait for it
                    log.warning("exhausted.not_kept", stream=stream, sequence=sequence, error=repr(error))

    async def give_up(self, lost: Lost, reason: str) -> None:
        """Keeps it as a dead letter, and tells whoever waits for it. May be called again."""
        await self._keep(lost, reason)
        await self._tell(lost, reason)

    async def _on_advisory(self, msg: Msg) -> None:
        try:
            advisory = decode(msg.data, Advisory)
            if not published(msg, subjects.exhausted(advisory.stream, advisory.consumer)):
                return
            reason = f"exhausted: delivered {advisory.deliveries} times without success"
            await self._take_off(advisory.stream, advisory.stream_seq, reason)
        except Exception as error:
            log.warning("exhausted.not_kept", error=repr(error))

    async def _take_off(self, stream: str, sequence: int, reason: str) -> None:
        try:
            found = await self._js.get_msg(stream, sequence)
        except NotFoundError:
            return
        given = {name: str(value) for name, value in (found.headers or {}).items()}
        lost = Lost(stream, sequence, found.subject or "", found.data or b"", given)
        if not await self._keep(lost, reason) and (stream, sequence) not in self._left:
            self._left.add((stream, sequence))
            return
        await self._tell(lost, reason)
        self._left.discard((stream, sequence))
        if stream != subjects.AGENT_RESPONSES:
            try:
                await self._js.delete_msg(stream, sequence)
            except APIError as error:
                log.info("exhausted.not_deleted", stream=stream, sequence=sequence, reason=str(error))

    async def _keep(self, lost: Lost, reason: str) -> bool:
        """False where it was kept before."""
        log.warning("message.dead_lettered", stream=lost.stream, sequence=lost.sequence, reason=reason)
        return await self._outbox.dead_letter(
            lost.subject, lost.body, lost.headers, stream=lost.stream, sequence=lost.sequence, reason=reason
        )

    async def _tell(self, lost: Lost, reason: str) -> None:
        match lost.subject:
            case subjects.REQUESTED:
                await self._end_or_recover(lost, reason)
            case subjects.CONTROL_CANCEL | subjects.CONTROL_DEADLINE:
                await self._try_anew(lost)
            case subjects.AGENT_REQUESTED | subjects.AGENT_COMPLETED | subjects.AGENT_FAILED:
                failed = failed_call(lost.headers, lost.body, reason, now_ms())
                if failed is not None:
                    await self._outbox.fail_call(failed)
                await self._say_an_end_that_is_owed(readable(lost.body).get("task_id"))

    async def _end_or_recover(self, lost: Lost, reason: str) -> None:
        """What was recorded gets what it is owed; what was not is rejected, though its client did nothing wrong."""
        named = readable(lost.body).get("task_id")
        task_id = named if isinstance(named, str) and subjects.is_key(named) else f"d-{lost.sequence}"
        stored = await self._known(task_id)
        if stored is not None and stored.state.stream_sequence == lost.sequence:
            effects = recover(stored.state, request_redelivered=True)
            if stored.state.ended:
                await end_again(self._store, self._outbox, stored, effects, at_work=False)
            else:
                await self._outbox.publish(stored.state, effects)
            return
        rejected = DeliberationRejected(
            task_id=task_id,
            code="undeliverable",
            path="$",
            error=f"$: the fleet could not handle this request: {reason}",
            stream_sequence=lost.sequence,
            rejected_at=rfc3339(now_ms()),
            correlation=correlation_of(lost.body),
        )
        await self._outbox.reject(rejected, (lost.headers or {}).get("traceparent"))

    async def _say_an_end_that_is_owed(self, task_id: object) -> None:
        """The message may be the one that led to the end of the task, and was given up before that was said."""
        stored = await self._known(task_id) if isinstance(task_id, str) else None
        if stored is not None and stored.state.ended:
            await end_again(self._store, self._outbox, stored, due(stored.state), at_work=False)

    async def _known(self, task_id: str) -> Stored | None:
        """None, too, for a state that cannot be read: its task ends at its deadline."""
        try:
            return await self._store.load(task_id)
        except UnreadableState:
            return None

    async def _try_anew(self, lost: Lost) -> None:
        """Without its deadline a task might never end."""
        named = readable(lost.body).get("task_id")
        stored = await self._known(named) if isinstance(named, str) else None
        if stored is None or stored.state.ended:
            await self._say_an_end_that_is_owed(named)
            return
        msg_id = f"{lost.stream}.{lost.sequence}.again"
        if lost.subject == subjects.CONTROL_DEADLINE:
            await self._outbox.set_deadline(stored.state, rfc3339(now_ms() + TRY_ANEW_AFTER_MS), msg_id)
        else:
            await self._js.publish(lost.subject, lost.body, headers={"Nats-Msg-Id": msg_id})
