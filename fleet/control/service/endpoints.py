"""Answers the endpoints `deliberation.ask`, `.result` and `.cancel`.

They decide nothing: `ask` publishes a request, `cancel` a durable control message, and both wait for the terminal event
as any other client would.
"""

import time
import uuid
from collections.abc import Mapping

import nats.errors
from nats.js.errors import APIError
from nats.micro.request import Request

from fleet import subjects
from fleet.control.component import Component
from fleet.control.service.calls import HandOver, Receipt, decoded, fault, key_in, taken_over
from fleet.control.service.lookup import Lookup, Submission, result_of
from fleet.control.service.waiters import Closed, Waiters
from fleet.deliberation.state import Deliberation
from fleet.deliberation.trace import root_context
from fleet.errors import UnreadableState
from fleet.jetstream.lifetimes import LONGEST_CALL_S
from fleet.messages import CancelReply, CancelRequest, ResultReply, ResultRequest, TerminalEvent, encode, of_run
from fleet.messages.headers import headers, traceparent_in
from fleet.observability.retries import again
from fleet.requests.by_reference import by_reference
from fleet.tenants.names import name_of, subject_of, tenant_of

MAX_WAIT_S = 300.0
CANCELLED_BY_REQUEST = "cancelled by request"
PUBLISH_WITHIN_S, FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 0.1, 0.5
POLL_S, CANCEL_POLL_S, UNKNOWN_POLL_S = 5.0, 0.5, 0.5
"""How often a waiting call looks into the bucket, in case an event was missed while reconnecting."""


class Endpoints:
    """What each endpoint answers. They raise `ServiceFault`, and `HandOver` once this instance shuts down."""

    def __init__(self, component: Component, waiters: Waiters, lookup: Lookup) -> None:
        self._component = component
        self._waiters = waiters
        self._lookup = lookup

    async def ask(self, request: Request) -> TerminalEvent:
        """Publishes the body to `deliberation.requested`; the terminal event, or faults 400 and 409."""
        submission = await self.submit(request)
        until, woken = time.monotonic() + LONGEST_CALL_S, True
        with self._waiters.registered(*submission.keys) as waiter:
            while (left := until - time.monotonic()) > 0:
                state = await submission.state(missed=not woken)
                if state is not None and state.result is not None:
                    return state.result
                try:
                    woken = await waiter.wait(min(left, POLL_S))
                except Closed:
                    raise HandOver(request.data, submission.receipt) from None
        raise fault(504, f"{submission.task_id} has not ended", task_id=submission.task_id)

    async def submit(self, request: Request) -> Submission:
        """Publishes the request, unless another instance has done so before it handed the call over."""
        tenant = tenant_of(request.subject)
        named = await self._lookup.named(request.data, tenant)
        receipt = taken_over(request)
        if receipt is None or not receipt.sequence:
            receipt = await self._publish(tenant, request.data, request.headers or {})
        return Submission(self._lookup, tenant, named or await self._made(tenant, receipt), receipt)

    async def _made(self, tenant: str, receipt: Receipt) -> str:
        """The id that the fleet makes for this request, as the dispatcher does."""
        submission = Submission(self._lookup, tenant, subjects.generated_id(receipt.sequence), receipt)
        try:
            state = await self._lookup.load(submission.key)
        except UnreadableState:
            return submission.task_id
        if state is None or submission.began(state):
            return submission.task_id
        return subjects.second_id(receipt.sequence, receipt.message_id)

    async def result(self, request: Request) -> ResultReply:
        """Status now, or after at most `wait_seconds`."""
        call: ResultRequest = decoded(request.data, ResultRequest)
        key = key_in(request, call.task_id)
        until = time.monotonic() + min(max(call.wait_seconds or 0.0, 0.0), MAX_WAIT_S)
        with self._waiters.registered(key) as waiter:
            while True:
                state = await self._lookup.load(key)
                left = until - time.monotonic()
                if (state is not None and state.ended) or left <= 0:
                    return result_of(state) if state else await self._lookup.pending(key)
                try:
                    await waiter.wait(min(left, POLL_S if state else UNKNOWN_POLL_S))
                except Closed:
                    raise HandOver(encode(call.change(wait_seconds=left))) from None

    async def cancel(self, request: Request) -> CancelReply:
        """Makes the cancellation durable, then waits for the terminal event."""
        call: CancelRequest = decoded(request.data, CancelRequest)
        key = key_in(request, call.task_id)
        cancelled = taken_over(request) is not None
        with self._waiters.registered(key) as waiter:
            state = await self._lookup.load(key)
            if state is None:
                state, cancelled = await self._cancel_waiting(key, call), True
            if not state.ended:
                await self._publish_cancel(call, state)
                cancelled, until = True, time.monotonic() + MAX_WAIT_S
                while not state.ended and time.monotonic() < until:
                    try:
                        await waiter.wait(CANCEL_POLL_S)
                    except Closed:
                        raise HandOver(request.data) from None
                    state = await self._lookup.load(key) or state
        if cancelled and state.status == "CANCELLED":
            return CancelReply(task_id=call.task_id, status="CANCELLED")
        if not state.ended:
            raise fault(504, f"{call.task_id} has not ended", task_id=call.task_id, status=state.status)
        raise fault(409, f"{call.task_id} already ended: {state.status}", task_id=call.task_id, status=state.status)

    async def _cancel_waiting(self, key: str, call: CancelRequest) -> Deliberation:
        """The state of a task whose request waited for room, or was recorded just now; 404 without one."""
        waiting = self._lookup.waiting(name_of(key).tenant)
        sequence = await waiting.sequence_of(call.task_id)
        if sequence is not None:
            await waiting.cancel(call.task_id, sequence, call.reason or CANCELLED_BY_REQUEST)
        state = await self._lookup.load(key)
        if state is None:
            raise fault(404, f"no task {call.task_id}", task_id=call.task_id, status="UNKNOWN")
        return state

    async def _publish(self, tenant: str, data: bytes, sent: Mapping[str, str]) -> Receipt:
        """What was stored. Tried again while the stream has no leader: stored once.

        A caller's own `Nats-Msg-Id` is kept, so that an ask that is repeated within two minutes is the same request.
        """
        sent_headers = {"Nats-Msg-Id": sent.get("Nats-Msg-Id") or f"ask.{uuid.uuid4().hex}"}
        if traceparent := traceparent_in(sent):
            sent_headers["traceparent"] = traceparent
        body = await by_reference(data, self._component.texts, tenant)
        requested = subject_of(tenant, subjects.REQUESTED)
        try:
            ack = await again(
                "request.publish",
                lambda: self._component.js.publish(requested, body, headers=sent_headers),
                on=_may_pass,
                within_s=PUBLISH_WITHIN_S,
                first_s=FIRST_PAUSE_S,
                longest_s=LONGEST_PAUSE_S,
            )
        except APIError as error:
            raise fault(503, f"the request was not taken: {error.description}") from None
        except (nats.errors.Error, TimeoutError) as error:
            raise fault(503, f"the request was not taken: {error or type(error).__name__}") from None
        return Receipt(int(ack.seq), sent_headers["Nats-Msg-Id"])

    async def _publish_cancel(self, call: CancelRequest, state: Deliberation) -> None:
        sent_headers = headers(
            subjects.CONTROL_CANCEL,
            of_run(f"{state.task_id}.cancel", state.run),
            f"/fleet/{self._component.name}",
            state.task_id,
            str(root_context(state)),
        )
        of_task = encode(call.change(task_id=state.task_id))
        await self._component.js.publish(subjects.CONTROL_CANCEL, of_task, headers=sent_headers)


def _may_pass(error: Exception) -> bool:
    """Whether it may be over in a moment: what the stream itself has refused is not."""
    return isinstance(error, nats.errors.Error | TimeoutError) and not isinstance(error, APIError)
