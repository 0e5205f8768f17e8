"""Publishes the core's effects. Every message has a deterministic id, so publishing one again changes nothing."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, assert_never

import msgspec
import structlog
from nats.js import JetStreamContext

from fleet import subjects
from fleet.control.call_tokens import CallTokens
from fleet.control.publishing.call_parts import CallParts
from fleet.control.publishing.fence import PublisherFence
from fleet.control.publishing.large_events import fitting
from fleet.control.publishing.schedules import Schedules
from fleet.control.publishing.terminal_events import SUBJECTS, TerminalEvents
from fleet.control.publishing.token_counters import TokenCounters
from fleet.control.states.cancelled import CancelledStates
from fleet.control.telemetry.metering import Meter, overhead_ms
from fleet.crashpoints import reach
from fleet.deliberation.events import (
    Announce,
    CallAgent,
    ClearDeadline,
    Conclude,
    Effect,
    LookForResult,
    Reject,
    SetDeadline,
    StopCalls,
)
from fleet.deliberation.state import Deliberation
from fleet.deliberation.trace import phase_context, root_context
from fleet.errors import EventInFlight
from fleet.jetstream.history import terminal_id
from fleet.jetstream.lasting import Connection
from fleet.jetstream.payloads import Texts
from fleet.messages import (
    AgentFailed,
    AgentRequested,
    AgentStop,
    DeadlineReached,
    DeliberationRejected,
    LookRequest,
    TerminalEvent,
    encode,
    of_run,
    status_of,
)
from fleet.messages.end_summary import header_of
from fleet.messages.headers import CALL_TOKEN, headers, line, of_dead_letter
from fleet.messages.trace_ids import TraceContext, context_of, digest
from fleet.tenants.names import TaskName, key_of, subject_of

log = structlog.get_logger(__name__)

PUBLISH_TIMEOUT_S = 5.0


class Outbox:
    """Publishes effects on behalf of `component` (`dispatcher` or `collector`).

    `fence`: of the connection `nc`; None: one that nobody asks. `meter` counts what is stored for the first time.
    `tokens`: what calls carry. `counters`: of what tenants use, `cancelled`: what they hold; None: there are none.
    """

    def __init__(
        self,
        nc: Connection,
        js: JetStreamContext,
        texts: Texts,
        component: str,
        tokens: CallTokens,
        fence: PublisherFence | None = None,
        meter: Meter | None = None,
        counters: TokenCounters | None = None,
        cancelled: CancelledStates | None = None,
    ) -> None:
        self._counters = counters
        self._cancelled = cancelled
        self._tokens = tokens
        self._meter = meter
        self._fence = fence or PublisherFence(nc)
        self._nc, self._js = nc, js
        self._texts = texts
        self._parts = CallParts(texts)
        self._terminal_events, self._schedules = TerminalEvents(js), Schedules(nc, js)
        self._source = f"/fleet/{component}"

    @property
    def instance(self) -> str:
        """The name of the connection that events leave by now."""
        return self._fence.instance

    async def publish(self, state: Deliberation, effects: Iterable[Effect]) -> None:
        """Publishes all, or raises. A terminal event leaves only by the connection that the state names.

        Calls are stored before what nobody waits for yet: the disk would make them wait for one another. Where they
        cannot be, the rest goes out nevertheless: a task that does not get on needs its deadline. A terminal event is
        stored before its deadline is taken back. What looks for results follows all: it may lead to an end.
        """
        effects = tuple(effects)
        stored = await self._store_calls(state, [effect.request for effect in effects if isinstance(effect, CallAgent)])
        together: list[Effect] = []
        last = [effect for effect in effects if isinstance(effect, LookForResult)]
        for effect in effects:
            match effect:
                case CallAgent() | LookForResult():
                    pass
                case Announce() | SetDeadline() | Reject():
                    together.append(effect)
                case StopCalls() | Conclude() | ClearDeadline():
                    await self._publish_together(state, together)
                    together.clear()
                    await self._publish_one(state, effect)
                case _:
                    assert_never(effect)
        await self._publish_together(state, together)
        await self._publish_together(state, last)
        for failure in stored:
            if failure is not None:
                raise failure

    async def _publish_together(self, state: Deliberation, effects: Iterable[Effect]) -> None:
        await asyncio.gather(*(self._publish_one(state, effect) for effect in effects))

    async def _publish_one(self, state: Deliberation, effect: Effect) -> None:
        task_id = state.task_id
        match effect:
            case CallAgent(call):
                body = encode(call)
                if self._texts.too_large(body):
                    body = await self._texts.refer(f"calls/{call.msg_id}", body, {"task_id": task_id})
                # Calls of shadows belong to no phase of the council.
                trace = root_context(state) if call.shadow else phase_context(state, call.phase, call.round)
                await self._send(subjects.AGENT_REQUESTED, body, call.msg_id, task_id, trace, self._token_of(call))
            case Announce(accepted):
                msg_id = of_run(f"{task_id}.accepted", state.run)
                await self._tell(subjects.ACCEPTED, encode(accepted), msg_id, state.name, root_context(state))
            case SetDeadline(_, at, attempt):
                sooner = f"look.{at}" if state.waits else "shadows"
                name = f"{task_id}.{'deadline' if at == state.deadline_at else sooner}"
                msg_id = name if attempt == 1 else f"{name}.{attempt}"
                await self.set_deadline(state, at, of_run(msg_id, state.run))
            case Reject(rejected, traceparent):
                await self.reject(rejected, traceparent)
            case LookForResult(waiting, look_at, ended):
                msg_id = of_run(f"{task_id}.ended.{waiting}" if ended else f"{task_id}.look.{look_at}.now", state.run)
                body = encode(LookRequest(task_id=waiting, ended=ended))
                await self._send(subjects.CONTROL_LOOK, body, msg_id, waiting, root_context(state))
            case StopCalls():
                msg_id = of_run(f"{task_id}.stop", state.run)
                all_headers = self._headers(subjects.AGENT_STOP, msg_id, task_id, root_context(state))
                stop = AgentStop(task_id=task_id, run=state.run)
                await self._nc.publish(subjects.AGENT_STOP, encode(stop), headers=all_headers)
            case Conclude(event):
                reach("outbox.stopped")
                await self._conclude(state, event)
                reach("outbox.concluded")
            case ClearDeadline():
                await self._schedules.take_back(state)
                if self._cancelled is not None:
                    await self._cancelled.note(state)
            case _:
                assert_never(effect)

    async def reject(self, rejected: DeliberationRejected, traceparent: str | None) -> None:
        """Publishes `deliberation.rejected`."""
        sequence = rejected.stream_sequence
        name = TaskName(rejected.tenant, line(rejected.task_id or subjects.generated_id(sequence)))
        msg_id = of_run(f"{key_of(rejected.tenant, str(sequence))}.rejected", rejected.run)
        trace = (context_of(traceparent) or TraceContext(digest(16, msg_id), "")).child(msg_id)
        ack = await self._tell(subjects.REJECTED, encode(rejected), msg_id, name, trace)
        if self._meter is not None and not ack.duplicate:
            self._meter.rejected(rejected.code)

    async def dead_letter(
        self,
        subject: str,
        body: bytes,
        headers: Mapping[str, str] | None,
        *,
        stream: str,
        sequence: int,
        run: str,
        reason: str,
    ) -> bool:
        """Stores a message that nobody could handle, whole, with the reason in its headers. False: stored before.

        A body that leaves no room for them goes by reference.
        """
        body = await self._texts.preserve(f"deadletters/{stream}-{sequence}", body)
        ack = await self._js.publish(
            subjects.deadletter_of(subject),
            body,
            headers=of_dead_letter(headers, stream=stream, sequence=sequence, run=run, reason=reason),
            timeout=PUBLISH_TIMEOUT_S,
        )
        if not ack.duplicate:
            self.count_letter(reason)
        return not ack.duplicate

    def count_letter(self, reason: str) -> None:
        """One more dead letter is stored."""
        if self._meter is not None:
            self._meter.dead_letter(reason)

    async def set_deadline(self, state: Deliberation, at: str, msg_id: str) -> None:
        """Schedules `control.deadline`, in place of what may be scheduled for this task."""
        trace = root_context(state)
        await self._send(
            subjects.schedule_of(state.task_id),
            encode(DeadlineReached(task_id=state.task_id, run=state.run)),
            msg_id,
            state.task_id,
            trace,
            {"Nats-Schedule": f"@at {at}", "Nats-Schedule-Target": subjects.CONTROL_DEADLINE},
        )

    async def fail_call(self, failed: AgentFailed) -> None:
        """`agent.response.failed` on behalf of a worker, for a call that came to none, or an answer to no use."""
        msg_id = f"{failed.msg_id}.undeliverable"
        trace = TraceContext(digest(16, msg_id), "").child(msg_id)
        await self._send(subjects.AGENT_FAILED, encode(failed), msg_id, failed.task_id, trace, self._token_of(failed))

    async def _store_calls(
        self, state: Deliberation, calls: Sequence[AgentRequested]
    ) -> Sequence[BaseException | None]:
        """Returns what failed, one entry for each call."""
        try:
            calls = await self._parts.stored(calls)
        except Exception as error:
            return [error]
        storing = (self._publish_one(state, CallAgent(call)) for call in calls)
        return await asyncio.gather(*storing, return_exceptions=True)

    async def _conclude(self, state: Deliberation, event: TerminalEvent) -> None:
        body = await fitting(self._texts, event)
        if self._counters is not None:
            await self._counters.count(event, state.run)
            reach("outbox.counted")
        await self._terminal_events.expect_leader()
        if not self.instance or state.written_by != self.instance:
            # The connection was lost since it was decided: others may have been told that it is gone.
            raise EventInFlight(state.task_id, f"{state.written_by or 'nobody'} may publish it, not this connection")
        msg_id = terminal_id(state.task_id, state.run)
        trace, status = root_context(state), status_of(event)
        await self._tell(SUBJECTS[status], body, msg_id, state.name, trace, header_of(event, overhead_ms(state)))
        self._terminal_events.took_one()
        facts = {"status": status, "duration_ms": event.duration_ms, "trace_id": trace.trace_id}
        log.info("deliberation.ended", task_id=state.task_id, **facts)

    async def is_published(self, state: Deliberation) -> bool:
        """Whether the terminal event of `state` is in its stream. Raises `EventInFlight` while it may still arrive."""
        if state.written_by:
            await self._fence.wait_for(state.written_by, state.task_id)
        completed_at = state.result.completed_at if state.result is not None else ""
        return await self._terminal_events.is_stored(state.task_id, state.run, completed_at)

    async def _tell(
        self,
        subject: str,
        body: bytes,
        msg_id: str,
        name: TaskName,
        trace: TraceContext,
        more: dict[str, str] | None = None,
    ) -> Any:
        """An event for the task's tenant: under its subject, with the id that it knows. Its headers are as they are in
        the tenant's account. What a client has named badly is no key."""
        own = name.task_id if subjects.is_task_id(name.task_id) else "rejected"
        key, told = key_of(name.tenant, own), subject_of(name.tenant, subject)
        return await self._send(subject, body, msg_id, name.task_id, trace, more, key=key, told=told)

    async def _send(
        self,
        subject: str,
        body: bytes,
        msg_id: str,
        task_id: str,
        trace: TraceContext,
        more: dict[str, str] | None = None,
        *,
        key: str | None = None,
        told: str | None = None,
    ) -> Any:
        """Within the fleet. For a tenant: `key` is the task's, whose id is `task_id`; `told`: the subject."""
        if self._texts.too_large(body):
            facts = msgspec.json.decode(body)
            top = {name: facts[name] for name in ("task_id", "status", "stream_sequence") if name in facts}
            body = await self._texts.refer(f"tasks/{key or task_id}/{subject}", body, top)
        all_headers = {**self._headers(subject, msg_id, task_id, trace), **(more or {})}
        return await self._js.publish(told or subject, body, headers=all_headers, timeout=PUBLISH_TIMEOUT_S)

    def _token_of(self, call: AgentRequested | AgentFailed) -> dict[str, str]:
        return {CALL_TOKEN: self._tokens.of(call)}

    def _headers(self, subject: str, msg_id: str, task_id: str, trace: TraceContext) -> dict[str, str]:
        return headers(subject, msg_id, self._source, task_id, str(trace))
