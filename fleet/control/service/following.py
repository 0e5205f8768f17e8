"""Answers the endpoint `deliberation.follow`: sends each step of a deliberation as a reply to one request.

Nothing is published for it. For each follower NATS tells its instance when the bucket's value of that task is written
(headers only); the instance then reads the state, and replies what is new in it. What NATS tells is a hint, and can be
lost: the state is read every `REPLY_EVERY_S` anyway.
"""

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.micro.request import Request

from fleet import subjects
from fleet.control.component import Component
from fleet.control.service.calls import NO_RECEIPT, HandOver, decoded, fault, key_in, taken_over
from fleet.control.service.endpoints import Endpoints
from fleet.control.service.lookup import Lookup, Submission, result_of
from fleet.control.service.updates import FollowPosition, progress_reply, seen_of, updates
from fleet.control.service.waiters import Closed, Waiter, Waiters
from fleet.jetstream.connection import OUTAGES
from fleet.jetstream.lifetimes import LONGEST_CALL_S
from fleet.messages import UNDECODABLE, Message, ResultReply, decode, encode
from fleet.tenants.names import is_key, tenant_of

log = structlog.get_logger(__name__)

REPLY_EVERY_S, READ_WITHIN_S = 5.0, 4.0
"""Together less than the ten seconds of silence after which a client takes an instance for dead."""
UNUSED_FOR_S = 30.0


class FollowCall(Message, frozen=True, kw_only=True):
    """A task by its id. `seen`: what it was told by an instance that shuts down."""

    task_id: str
    seen: FollowPosition | None = None


class Following:
    """Answers `deliberation.follow`."""

    def __init__(self, component: Component, waiters: Waiters, lookup: Lookup, endpoints: Endpoints) -> None:
        self._component = component
        self._waiters = waiters
        self._lookup = lookup
        self._endpoints = endpoints

    async def follow(self, request: Request) -> AsyncGenerator[Any]:
        """The status, then what happens, then the terminal event. Faults as `ask` and `result` do."""
        call = follow_call(request.data)
        if call is None:
            submission = await self._endpoints.submit(request)
        else:
            key_in(request, call.task_id)
            submission = Submission(
                self._lookup, tenant_of(request.subject), call.task_id, taken_over(request) or NO_RECEIPT
            )
        with self._waiters.registered(*submission.keys) as waiter:
            state = await submission.state(missed=call is not None)
            yield result_of(state) if state else ResultReply(task_id=submission.task_id, status="PENDING")
            follower = _Follower(self._component, submission, waiter)
            if call is not None:
                # The first reply tells what was before.
                follower.seen = call.seen or (seen_of(state) if state else None)
            async with follower.woken_by_writes():
                try:
                    async for reply in follower.replies():
                        yield reply
                except Closed:
                    left = FollowCall(task_id=submission.task_id, seen=follower.seen)
                    raise HandOver(encode(left), submission.receipt) from None


class _Follower:
    """One call: what it was told, and how it is woken."""

    def __init__(self, component: Component, submission: Submission, waiter: Waiter) -> None:
        self._component = component
        self._submission = submission
        self._waiter = waiter
        self._consumer = f"follow-{uuid.uuid4().hex}"
        self._inbox = component.nc.new_inbox()
        self.seen: FollowPosition | None = None

    async def replies(self) -> AsyncGenerator[Any]:
        """What is new, as it happens; a sign of life at least every `REPLY_EVERY_S`; the terminal event."""
        until = time.monotonic() + LONGEST_CALL_S
        replied_at, woken = time.monotonic(), True
        while time.monotonic() < until:
            state = await self._submission.state_within(READ_WITHIN_S, missed=not woken)
            if state is not None:
                for reply in updates(self.seen, state):
                    replied_at = time.monotonic()
                    yield reply
                self.seen = seen_of(state)
                if state.result is not None:
                    yield state.result
                    return
            if time.monotonic() - replied_at >= REPLY_EVERY_S:
                replied_at = time.monotonic()
                yield self._sign_of_life()
                await self._listen()
            woken = await self._waiter.wait(max(0.0, replied_at + REPLY_EVERY_S - time.monotonic()))
        raise fault(504, f"{self._submission.task_id} has not ended", task_id=self._submission.task_id)

    def _sign_of_life(self) -> Message:
        task_id = self._submission.task_id
        if self.seen is None:
            return ResultReply(task_id=task_id, status="PENDING")
        return progress_reply(task_id, self.seen.progress)

    @asynccontextmanager
    async def woken_by_writes(self) -> AsyncIterator[None]:
        """Inside, every write of the task's state wakes the waiter."""

        async def wake(_: Msg) -> None:
            self._waiter.event.set()

        subscription = await self._component.nc.subscribe(self._inbox, cb=wake)
        await self._listen()
        try:
            yield
        finally:
            with suppress(*OUTAGES):
                await subscription.unsubscribe()
                await self._component.js.delete_consumer(subjects.STATES, self._consumer)

    async def _listen(self) -> None:
        """Has NATS tell of writes. Called again and again: it changes nothing unless the consumer was lost."""
        if not is_key(self._submission.key):
            return
        consumer = ConsumerConfig(
            name=self._consumer,
            description="Tells an instance of the service that a state was written, for a call that follows it.",
            deliver_subject=self._inbox,
            deliver_policy=DeliverPolicy.NEW,
            filter_subject=f"$KV.{subjects.BUCKET}.{self._submission.key}",
            ack_policy=AckPolicy.NONE,
            headers_only=True,
            mem_storage=True,
            num_replicas=1,
            inactive_threshold=UNUSED_FOR_S,
        )
        try:
            await self._component.js.add_consumer(subjects.STATES, consumer)
        except OUTAGES as error:
            log.info("follow.not_told", task_id=self._submission.task_id, error=repr(error))


def follow_call(data: bytes) -> FollowCall | None:
    """A task that is named by its id; None for a request, which is to be submitted."""
    if data.strip()[:1] != b"{":
        named: FollowCall = decoded(data, FollowCall)
        return named
    try:
        if msgspec.json.decode(data).keys() <= {"task_id", "seen"}:
            return decode(data, FollowCall)
    except UNDECODABLE:
        pass  # the dispatcher says what is wrong with it
    return None
