"""Stores each message that nobody can handle as one dead letter, whole, and publishes the failure it means.

Such messages come from a handler that gives up, from NATS' advisories of exhausted messages (`max_deliver` reached,
because their processes died), and from a look into the work queues, where an exhausted message would stay for ever: an
advisory may be missed.

The dead letter is stored first. Its id is deterministic, so of several processes one stores it, and goes on. The others
leave the message alone, unless their next look finds it there still.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from fleet import subjects
from fleet.clock import now_ms
from fleet.control.call_tokens import CallTokens
from fleet.control.items import PublishAgain
from fleet.control.publishing.outbox import Outbox
from fleet.control.runner import Runner
from fleet.control.states.store import StateStore, Stored
from fleet.deliberation.state import Deliberation
from fleet.errors import UnreadableState, echoed
from fleet.jetstream.origin import published, run_of
from fleet.jetstream.streams import STREAMS, ConsumerSpec, StreamSpec, consumed
from fleet.messages import AgentFailed, DeliberationRejected, Message, decode
from fleet.messages.headers import CALL_TOKEN, REASON
from fleet.messages.unreadable import correlation_of, failed_call, readable
from fleet.tenants.names import key_of, tenant_of, without_tenant
from fleet.times import rfc3339

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 10.0
DEADLINE_AGAIN_AFTER_MS = 30_000
EXHAUSTED = "exhausted"
"""Begins the reason of what only the control plane gives up."""


@dataclass(frozen=True, slots=True)
class UndeliverableMessage:
    """A message that cannot be handled, its place in its stream, and when it was stored there."""

    stream: str
    sequence: int
    run: str
    subject: str
    body: bytes
    headers: Mapping[str, str] | None


def _is_of(state: Deliberation, message: UndeliverableMessage) -> bool:
    """Whether this request began the task; the state of an older version does not tell when it was stored."""
    return state.stream_sequence == message.sequence and state.run in ("", message.run)


class Advisory(Message, frozen=True, kw_only=True):
    """The part of `io.nats.jetstream.advisory.v1.max_deliver` that says which message it is about."""

    stream: str
    consumer: str
    stream_seq: int
    deliveries: int


class DeadLetters:
    """One per process of the control plane; all of them share the advisories, as one queue group."""

    def __init__(
        self,
        nc: Client,
        js: JetStreamContext,
        store: StateStore,
        outbox: Outbox,
        runner: Runner,
        tokens: CallTokens,
        streams: Collection[StreamSpec] = STREAMS,
    ) -> None:
        self._tokens = tokens
        self._streams = streams
        self._nc = nc
        self._js = js
        self._store = store
        self._outbox = outbox
        self._runner = runner
        self._left_to_others: dict[str, set[int]] = {}
        """Stream -> what its last look has found stored by another process, which should have taken it off."""

    @property
    def left_to_others(self) -> int:
        """Messages that wait for another process, or for the next look."""
        return sum(map(len, self._left_to_others.values()))

    async def start(self) -> None:
        """Listens to the advisories, and to what workers store: their letters are counted here."""
        await self._nc.subscribe(
            subjects.deadletter_of(subjects.AGENT_REQUESTED), queue=subjects.DEAD_LETTER_GROUP, cb=self._on_letter
        )
        for spec, consumer in consumed(self._streams):
            advisory = subjects.exhausted(spec.name, consumer.name)
            await self._nc.subscribe(advisory, queue=subjects.DEAD_LETTER_GROUP, cb=self._on_advisory)

    async def run(self) -> None:
        """Looks into the work queues until cancelled."""
        while True:
            for spec, consumer in consumed(self._streams):
                try:
                    if spec.work_queue:
                        await self.look(spec.name, consumer)
                except Exception as error:
                    log.warning("deadletter.look_failed", stream=spec.name, error=repr(error))
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self, stream: str, consumer: ConsumerSpec) -> None:
        """Takes off the work queue what its consumer has given up."""
        info = await self._js.consumer_info(stream, consumer.name)
        # Up to here nothing is waited for any more, and what was acknowledged has left the stream.
        floor = info.ack_floor.stream_seq if info.num_ack_pending else info.delivered.stream_seq
        before = self._left_to_others.get(stream, set())
        left: set[int] = set()
        self._left_to_others[stream] = left
        sequence = 0
        while sequence < floor:
            try:
                msg = await self._js.get_msg(stream, sequence + 1, next=True, subject=consumer.filter)
                sequence = msg.seq or sequence + 1
            except NotFoundError:
                return
            if sequence > floor:
                return
            try:
                reason = f"{EXHAUSTED}: delivered as often as its consumer allows"
                if not await self._take_off(stream, sequence, reason, stored_by_another=sequence in before):
                    left.add(sequence)
            except Exception as error:  # those behind it must not wait for it
                log.warning("deadletter.not_stored", stream=stream, sequence=sequence, error=repr(error))

    async def give_up(self, message: UndeliverableMessage, reason: str) -> None:
        """Stores it as a dead letter, and publishes what that means for its task. May be called again."""
        await self.store(message, reason)
        await self._publish_failure(message, reason)

    async def store(self, message: UndeliverableMessage, reason: str) -> bool:
        """Stores it as a dead letter, and nothing else. False where it was stored before."""
        log.warning("message.dead_lettered", stream=message.stream, sequence=message.sequence, reason=reason)
        return await self._outbox.dead_letter(
            message.subject,
            message.body,
            message.headers,
            stream=message.stream,
            sequence=message.sequence,
            run=message.run,
            reason=reason,
        )

    async def _on_letter(self, msg: Msg) -> None:
        """Those of the control plane itself are counted as they are stored."""
        reason = (msg.headers or {}).get(REASON, "")
        if published(msg, msg.subject) and not reason.startswith(EXHAUSTED):
            self._outbox.count_letter(reason)

    async def _on_advisory(self, msg: Msg) -> None:
        try:
            advisory = decode(msg.data, Advisory)
            if not published(msg, subjects.exhausted(advisory.stream, advisory.consumer)):
                return
            reason = f"{EXHAUSTED}: delivered {advisory.deliveries} times without success"
            await self._take_off(advisory.stream, advisory.stream_seq, reason)
        except Exception as error:
            log.warning("deadletter.not_stored", error=repr(error))

    async def _take_off(self, stream: str, sequence: int, reason: str, *, stored_by_another: bool = False) -> bool:
        """False where another process has just stored it, and is about to take it off. `stored_by_another`: that was
        so before, and it is still there.
        """
        try:
            raw = await self._js.get_msg(stream, sequence)
        except NotFoundError:
            return True
        headers = {name: str(value) for name, value in (raw.headers or {}).items()}
        message = UndeliverableMessage(stream, sequence, run_of(raw), raw.subject or "", raw.data or b"", headers)
        if not await self.store(message, reason) and not stored_by_another:
            return False
        await self._publish_failure(message, reason)
        if stream != subjects.AGENT_RESPONSES:
            try:
                await self._js.delete_msg(stream, sequence)
            except APIError as error:
                log.info("deadletter.not_taken_off", stream=stream, sequence=sequence, reason=str(error))
        return True

    async def _publish_failure(self, message: UndeliverableMessage, reason: str) -> None:
        match without_tenant(message.subject):
            case subjects.REQUESTED:
                await self._recover_or_reject(message, reason)
            case subjects.CONTROL_CANCEL | subjects.CONTROL_DEADLINE:
                await self._publish_control_again(message)
            case subjects.AGENT_REQUESTED | subjects.AGENT_COMPLETED | subjects.AGENT_FAILED:
                failed = failed_call(message.headers, message.body, reason, now_ms())
                if failed is not None and await self._may_fail(failed, message):
                    await self._outbox.fail_call(failed)
                await self._publish_missing_end(readable(message.body).get("task_id"))

    async def _may_fail(self, failed: AgentFailed, message: UndeliverableMessage) -> bool:
        """Not for junk of somebody who was never given the call."""
        if message.subject == subjects.AGENT_REQUESTED:
            return True
        return await self._tokens.fits(failed, str((message.headers or {}).get(CALL_TOKEN, "")))

    async def _recover_or_reject(self, message: UndeliverableMessage, reason: str) -> None:
        """A request that was recorded has its effects published. Another one is rejected, though its client did nothing
        wrong.
        """
        named = readable(message.body).get("task_id")
        made = subjects.generated_id(message.sequence)
        message_id = (message.headers or {}).get("Nats-Msg-Id") or None
        second = subjects.second_id(message.sequence, message_id or message.run)
        ids = (named,) if isinstance(named, str) and subjects.is_task_id(named) else (made, second)
        tenant = tenant_of(message.subject)
        for key in (key_of(tenant, task_id) for task_id in ids):
            stored = await self._known(key)
            if stored is not None and _is_of(stored.state, message):
                await self._runner.recover(key, PublishAgain(request=True))
                return
        rejected = DeliberationRejected(
            task_id=ids[0],
            tenant=tenant,
            code="undeliverable",
            path="$",
            error=f"$: the fleet could not handle this request: {reason}",
            stream_sequence=message.sequence,
            rejected_at=rfc3339(now_ms()),
            run=message.run,
            message_id=message_id,
            correlation=echoed(correlation_of(message.body)),
        )
        await self._outbox.reject(rejected, (message.headers or {}).get("traceparent"))

    async def _publish_missing_end(self, task_id: object) -> None:
        """The message may be the one that led to the end of the task, and was given up before that was published."""
        if isinstance(task_id, str):
            await self._runner.recover(task_id, PublishAgain())

    async def _known(self, task_id: str) -> Stored | None:
        """None, too, for a state that cannot be read: its task ends at its deadline."""
        try:
            return await self._store.load(task_id)
        except UnreadableState:
            return None

    async def _publish_control_again(self, message: UndeliverableMessage) -> None:
        """Without its deadline a task might never end."""
        named = readable(message.body).get("task_id")
        stored = await self._known(named) if isinstance(named, str) else None
        if stored is None or stored.state.ended:
            await self._publish_missing_end(named)
            return
        msg_id = f"{message.stream}.{message.sequence}.{message.run}.again"
        if message.subject == subjects.CONTROL_DEADLINE:
            await self._outbox.set_deadline(stored.state, rfc3339(now_ms() + DEADLINE_AGAIN_AFTER_MS), msg_id)
        else:
            await self._js.publish(message.subject, message.body, headers={"Nats-Msg-Id": msg_id})
