"""Handles one delivered call: decides whether it is still needed, has it made, publishes its response, settles it.

A message is acknowledged once its response is stored. Before a redelivered call is made, its slot is looked up: another
worker may have answered it.
"""

import asyncio
import time

import msgspec
import structlog
from nats.aio.msg import Msg
from structlog.contextvars import bind_contextvars

from fleet.clock import now_ms
from fleet.crashpoints import reach
from fleet.errors import AgentCallError
from fleet.jetstream.connection import OUTAGES
from fleet.jetstream.origin import is_copy
from fleet.jetstream.payloads import MissingText
from fleet.messages import UNDECODABLE, AgentCompleted, AgentRequested, ErrorType, decode
from fleet.messages.trace_ids import TraceContext, context_of, digest
from fleet.messages.unreadable import failed_call
from fleet.observability.spans import Tracer
from fleet.times import from_rfc3339
from fleet.undecodable import why_undecodable
from workers.calls import responses
from workers.calls.call_names import facts
from workers.calls.call_spans import call_context, invoke_agent
from workers.calls.caller import Caller, first_attempt, log_response
from workers.calls.deliveries.delivery_notes import LOST_AFTER, DeliveryNotes
from workers.calls.deliveries.leases import Lease, Leases, Outcome, settle
from workers.calls.publisher import WorkerPublisher, age_s

log = structlog.get_logger(__name__)

TEXT_TRIES = 3
"""A replica of the object store may lag: a text that is missing once need not be lost."""
LOOK_UP_AFTER_S = 1.0
"""A call that waited longer than this may be answered already."""


class MessageHandler:
    """Of one worker. `done` and `failed` count its stored responses."""

    def __init__(
        self,
        publisher: WorkerPublisher,
        caller: Caller,
        notes: DeliveryNotes,
        leases: Leases,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._publisher = publisher
        self._caller = caller
        self._notes = notes
        self._leases = leases
        self.done = 0
        self.failed = 0

    async def handle(self, lease: Lease) -> None:
        """Works on one message and settles it, whatever happens."""
        outcome: Outcome
        has_defect = False
        try:
            outcome = await self._work(lease)
        except asyncio.CancelledError:
            outcome = "ack" if lease.end == "stopped" else "nak"
        except OUTAGES as error:
            outcome = _later(lease, error)
        except Exception as error:
            fields = facts(lease.request) if lease.request else {}
            log.exception("agent.internal_error", error_type=type(error).__name__, **fields)
            has_defect, outcome = True, await self._after_defect(lease, error)
        await settle(lease.msg, outcome)
        reach("worker.acknowledged")
        if outcome in ("nak", "nak later") and not has_defect:
            await self._notes.handed_back(lease.msg)

    async def hand_back(self, msg: Msg) -> None:
        """Leaves a message to other workers."""
        await settle(msg, "nak")
        await self._notes.handed_back(msg)

    async def _work(self, lease: Lease) -> Outcome:
        msg = lease.msg
        if is_copy(msg):
            await self._publisher.dead_letter(msg, "a copy of a stored message, which nobody published")
            return "term"
        try:
            body = await self._publisher.inline(msg.data)
            request = await self._publisher.with_parts(decode(body, AgentRequested))
            deadline_ms = from_rfc3339(request.deadline_at)
        except (msgspec.MsgspecError, ValueError, RecursionError, MissingText) as error:
            return await self._unreadable(msg, error)
        lease.request = request
        if (reason := await self._reason_to_skip(msg, request, deadline_ms)) is not None:
            log.info("agent.skipped", reason=reason, **facts(request))
            if self._tracer is not None and reason == "answered" and msg.metadata.num_delivered > 1:
                self._trace_lost(self._tracer, request, msg)
            late = reason == "deadline" and await self._is_needed(request)
            return await self._too_late(request, msg) if late else "ack"
        if msg.metadata.num_delivered > 1:
            if await self._notes.lost_workers(msg):
                what = f"the call was lost together with its worker {LOST_AFTER} times"
                log.error("agent.worker_lost", delivery=msg.metadata.num_delivered, **facts(request))
                return await self._fail(request, msg, "WorkerLost", what)
            await self._notes.begin(msg)
        return await self._call(lease, request, msg)

    async def _call(self, lease: Lease, request: AgentRequested, msg: Msg) -> Outcome:
        phase, delivery = phase_of(msg), msg.metadata.num_delivered
        bind_contextvars(trace_id=phase.trace_id)  # this message has a task of its own
        reach("worker.taken")
        response = await self._caller.call(request, delivery, phase)
        reach("worker.answered")
        if not await self._publisher.respond(response, call_context(phase, request, delivery), msg):
            return "nak later"
        reach("worker.stored")
        log_response(response)
        if self._tracer is not None:  # before the message is gone: nobody else could tell of the call
            self._leases.answered(lease)
            await self._tracer.exported()
        if isinstance(response, AgentCompleted):
            self.done += 1
        else:
            self.failed += 1
        return "ack"

    def _trace_lost(self, tracer: Tracer, request: AgentRequested, msg: Msg) -> None:
        """Whoever had the call before has answered it, and may have died before its span was exported: the same span,
        with less to say."""
        phase, delivery, now_ns = phase_of(msg), msg.metadata.num_delivered - 1, time.time_ns()
        span = call_context(phase, request, delivery)
        tracer.emit(invoke_agent(span, phase, request, delivery, (now_ns, now_ns), None))

    # --- whether to call --------------------------------------------------------------------------------------------

    async def _reason_to_skip(self, msg: Msg, request: AgentRequested, deadline_ms: int) -> str | None:
        """Why this call need not be made."""
        if self._leases.stopped(request):
            return "stopped"
        if deadline_ms <= now_ms():
            return "deadline"
        if msg.metadata.num_delivered > 1 or age_s(msg) > LOOK_UP_AFTER_S:
            task = await self._publisher.task_view(request.task_id)
            if task is not None and not task.needs(request):
                return "answered"
        return None

    async def _is_needed(self, request: AgentRequested) -> bool:
        task = await self._publisher.task_view(request.task_id)
        return task is not None and task.needs(request)

    async def _is_unneeded(self, msg: Msg) -> bool:
        """Whether the call's answer is not needed any more, as far as its headers tell."""
        call = failed_call(msg.headers, b"", "", 0)
        task = await self._publisher.task_view(call.task_id) if call else None
        return call is not None and task is not None and not task.needs(call)

    # --- calls that are not made ------------------------------------------------------------------------------------

    async def _unreadable(self, msg: Msg, error: Exception) -> Outcome:
        if isinstance(error, MissingText):
            if await self._is_unneeded(msg):
                return "ack"
            if msg.metadata.num_delivered < TEXT_TRIES:
                return "nak later"
        log.error("agent.undecodable", sequence=msg.metadata.sequence.stream, error_type=type(error).__name__)
        words = f"undecodable: {why_undecodable(error, msg.data)}" if isinstance(error, UNDECODABLE) else ""
        return await self._give_up(msg, words or f"{type(error).__name__}: {error}")

    async def _after_defect(self, lease: Lease, error: Exception) -> Outcome:
        """A defect of the worker, perhaps after the model has answered: the second one fails the call, for a third
        would follow."""
        try:
            if not await self._notes.broken(lease.msg):
                return "nak later"
            what = f"the worker failed twice, the last time with {type(error).__name__}"
            if lease.request is None:
                return await self._give_up(lease.msg, what)
            return await self._fail(lease.request, lease.msg, "InternalError", what)
        except OUTAGES as outage:
            return _later(lease, outage)
        except Exception:
            log.exception("agent.internal_error_not_answered")
            return "nak later"

    async def _too_late(self, request: AgentRequested, msg: Msg) -> Outcome:
        """The deadline has passed and its own message has not ended the task: NATS drops it while the disk is full."""
        return await self._fail(request, msg, "DeadlineExceeded", "the deadline had passed before the call began")

    async def _fail(self, request: AgentRequested, msg: Msg, error_type: ErrorType, what: str) -> Outcome:
        error = AgentCallError(error_type, what, retryable=False)
        delivery = msg.metadata.num_delivered
        failed = responses.failed(request, error, first_attempt(request, delivery), 0, delivery)
        stored = await self._publisher.respond(failed, phase_of(msg), msg)
        return "ack" if stored else "nak later"

    async def _give_up(self, msg: Msg, reason: str) -> Outcome:
        """No worker can make this call: its deliberation must not wait for it."""
        failed = failed_call(msg.headers, msg.data, reason, now_ms())
        if failed is not None and not await self._publisher.respond(failed, phase_of(msg), msg):
            return "nak later"
        await self._publisher.dead_letter(msg, reason)
        return "term"


def _later(lease: Lease, error: Exception) -> Outcome:
    """NATS is away, full or too slow: no fault of the call, nor of this code."""
    log.warning("agent.handed_back", error=repr(error), **(facts(lease.request) if lease.request else {}))
    return "nak later"


def phase_of(msg: Msg) -> TraceContext:
    """The span that the message belongs to: its phase, or, of a publisher that tells none, one of its own."""
    told = context_of((msg.headers or {}).get("traceparent"))
    return told or TraceContext(digest(16, msg.reply), "").child("call")
