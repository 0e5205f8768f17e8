"""The NATS micro service `deliberations`: `deliberation.ask`, `.result` and `.cancel`.

Dispatchers and collectors both serve it, as one queue group. It decides nothing: `ask` publishes a request, `cancel` a
durable control message, and both wait for the terminal event as any other client would.

An instance that goes away hands over what it still waits for: it publishes the request again, with its caller's reply
subject, and another instance answers in its place.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import nats.errors
import structlog
from nats.js.errors import APIError, NotFoundError
from nats.micro import add_service
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, ServiceConfig

from fleet import __version__, subjects
from fleet.control.component import Component
from fleet.control.service.calls import HandOver, ServiceFault, answered_only, decoded, fault, taken_over, task_id_of
from fleet.control.service.waiters import Endings
from fleet.deliberation.state import Deliberation
from fleet.errors import BadRequest, NewerState
from fleet.jetstream.connection import OUTAGES
from fleet.jetstream.history import find_rejection
from fleet.jetstream.origin import may_be_answered
from fleet.messages import CancelRequest, DeliberationRejected, ResultReply, ResultRequest, decode, encode
from fleet.messages.headers import child_traceparent, headers, line, republishable
from fleet.requests.by_reference import by_reference, whole_request

log = structlog.get_logger(__name__)

MAX_WAIT_S = 300.0
ASK_LIMIT_S = 3600.0 + 60.0
"""Longest timeout a request may have, and a minute for what comes before and after."""
LEAVE_WITHIN_S, LOOK_WITHIN_S = 2.0, 10.0
PUBLISH_WITHIN_S, PUBLISH_PAUSE_S = 10.0, 0.25
POLL_S, CANCEL_POLL_S = 5.0, 0.5
"""How often a waiting call looks into the bucket, in case an event was missed while reconnecting."""


class Service:
    """The three endpoints. Calls that wait do so in tasks of their own."""

    def __init__(self, component: Component) -> None:
        self._component = component
        self._endings = Endings(lambda body: component.texts.inline(body))
        self._tasks: set[asyncio.Task[None]] = set()
        self._service: Any = None
        self._others = False

    async def start(self) -> None:
        """Subscribes; `nats micro ls` finds it from now on."""
        nc = self._component.nc
        for subject in (*subjects.TERMINAL, subjects.REJECTED):
            await nc.subscribe(subject, cb=self._endings.on_event)
        self._service = await add_service(
            nc,
            ServiceConfig(
                name=subjects.SERVICE,
                version=__version__,
                description="Councils of agents that deliberate: ask, look at the result, cancel.",
            ),
        )
        for verb in self._service._subscriptions.values():
            verb._cb = answered_only(verb._cb)
        for subject, handler in (
            (subjects.ASK, self.ask),
            (subjects.RESULT, self.result),
            (subjects.CANCEL, self.cancel),
        ):
            await self._service.add_endpoint(
                EndpointConfig(
                    name=subject.rpartition(".")[2],
                    subject=subject,
                    metadata=dict(subjects.ENDPOINT_MESSAGES[subject]),
                    handler=self._in_its_own_task(handler),
                )
            )
        await nc.flush()

    async def retire(self) -> None:
        """Takes no new requests, and loses none that was on its way here; those that wait go on waiting."""
        if self._service is None:
            return
        try:
            async with asyncio.timeout(LEAVE_WITHIN_S):
                for endpoint in self._service._endpoints:
                    await endpoint._subscription.drain()  # nats-py's own way would drop what has arrived
                self._service._endpoints.clear()
                await self._service.stop()
        except OUTAGES as error:
            log.info("service.not_drained", reason=repr(error))

    async def leave(self) -> None:
        """Hands over what still waits, or answers it with 503 where no other instance is there."""
        waiting = set(self._tasks)  # some may end while the others are asked for
        if not waiting:
            return
        try:
            await self._component.nc.request(f"$SRV.PING.{subjects.SERVICE}", timeout=LEAVE_WITHIN_S)
            self._others = True
        except (nats.errors.Error, TimeoutError):
            pass
        log.info("service.left", waiting=len(waiting), handed_over=self._others)
        self._endings.close()
        _, late = await asyncio.wait(waiting, timeout=LEAVE_WITHIN_S)
        for task in late:
            task.cancel()

    def _in_its_own_task(self, handler: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[None]]:
        async def serve(request: Request) -> None:
            if not request._msg.reply or not may_be_answered(request._msg.reply):
                return  # published, not requested; or it would be said in the fleet's name what a caller may not say
            try:
                await request.respond(await self._body(await handler(request)))
            except ServiceFault as refused:
                await self._refuse(request, refused)
            except HandOver as leaving:
                await self._hand_over(request, leaving)
            except NewerState as error:
                await self._refuse(request, fault(503, str(error)))
            except Exception as error:
                log.error("service.failed", subject=request.subject, error=repr(error))
                await self._refuse(request, fault(500, f"{type(error).__name__}: {error}"))

        async def start(request: Request) -> None:
            task = asyncio.create_task(serve(request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return start

    async def _hand_over(self, request: Request, leaving: HandOver) -> None:
        if self._others:
            msg = request._msg
            given = {**republishable(request.headers), **leaving.headers}
            body = await by_reference(leaving.body, self._component.texts)
            await self._component.nc.publish(msg.subject, body, reply=msg.reply, headers=given)
        else:
            text = "this instance is shutting down; the deliberation goes on, ask deliberation.result for it"
            await self._refuse(request, fault(503, text))

    async def _refuse(self, request: Request, refused: ServiceFault) -> None:
        """Whatever the caller has sent: NATS closes a connection over a reply beyond `max_payload`."""
        text, body = line(refused.text), encode(refused.body)
        if self._component.texts.too_large(body):
            body = encode({"error": text})
        await request.respond_error(str(refused.code), text, data=body)

    async def _body(self, reply: Any) -> bytes:
        """The reply, or a reference to it where it does not fit one message."""
        body = encode(reply)
        texts = self._component.texts
        if not texts.too_large(body):
            return body
        facts = msgspec.json.decode(body)
        top = {name: facts[name] for name in ("task_id", "status") if name in facts}
        return await texts.refer(f"tasks/{top.get('task_id')}/reply", body, top)

    # --- endpoints ------------------------------------------------------------------------------------------------

    async def ask(self, request: Request) -> Any:
        """Publishes the body to `deliberation.requested`; answers with the terminal event, or faults 400 / 409."""
        sequence = taken_over(request) or await self._publish(request)
        task_id = await self._named(request.data) or f"d-{sequence}"
        keys = (task_id, f"#{sequence}")
        until = time.monotonic() + ASK_LIMIT_S
        while (left := until - time.monotonic()) > 0:
            if rejection := self._endings.rejection(sequence):
                body = decode(rejection, DeliberationRejected)
                raise ServiceFault(409 if body.code == "conflict" else 400, body.error, body)
            state = await self._load(task_id)
            if state is not None and state.result is not None and await self._is_this(state, sequence):
                return state.result
            if self._endings.rejection(sequence) is None and not await self._endings.wait(keys, min(left, POLL_S)):
                raise HandOver(request.data, sequence)
            if state is None or state.stream_sequence != sequence:
                await self._look_for_rejection(sequence)
        raise fault(504, f"{task_id} has not ended", task_id=task_id)

    async def result(self, request: Request) -> ResultReply:
        """Status now, or after at most `wait_seconds`."""
        wanted = decoded(request.data, ResultRequest)
        until = time.monotonic() + min(max(wanted.wait_seconds or 0.0, 0.0), MAX_WAIT_S)
        while True:
            state = await self._load(wanted.task_id)
            left = until - time.monotonic()
            if (state is not None and state.ended) or left <= 0:
                break
            if not await self._endings.wait((wanted.task_id,), min(left, POLL_S if state else 0.5)):
                raise HandOver(encode(wanted.change(wait_seconds=left)))
        if state is None:
            if await self._is_waiting_in_the_stream(wanted.task_id):
                return ResultReply(task_id=wanted.task_id, status="PENDING")
            body = {"task_id": wanted.task_id, "status": "UNKNOWN", "error": f"no task {wanted.task_id}"}
            raise ServiceFault(404, f"no task {wanted.task_id}", body)
        return ResultReply(
            task_id=state.task_id,
            status=state.status,
            progress=state.progress,
            result=state.result,
            accepted_at=state.accepted_at,
            deadline_at=state.deadline_at,
            correlation=state.task.correlation,
        )

    async def cancel(self, request: Request) -> Any:
        """Makes the cancellation durable, then waits for the terminal event."""
        wanted = decoded(request.data, CancelRequest)
        state = await self._load(wanted.task_id)
        if state is None:
            body = {"task_id": wanted.task_id, "status": "UNKNOWN", "error": f"no task {wanted.task_id}"}
            raise ServiceFault(404, f"no task {wanted.task_id}", body)
        cancelled = taken_over(request) is not None
        if not state.ended:
            await self._publish_cancel(wanted, state)
            cancelled, until = True, time.monotonic() + MAX_WAIT_S
            while not state.ended and time.monotonic() < until:
                if not await self._endings.wait((wanted.task_id,), CANCEL_POLL_S):
                    raise HandOver(request.data)
                state = await self._load(wanted.task_id) or state
        if cancelled and state.status == "CANCELLED":
            return {"task_id": wanted.task_id, "status": "CANCELLED"}
        if not state.ended:
            raise fault(504, f"{wanted.task_id} has not ended", task_id=wanted.task_id, status=state.status)
        body = {"task_id": wanted.task_id, "status": state.status, "error": f"already ended: {state.status}"}
        raise ServiceFault(409, f"{wanted.task_id} already ended: {state.status}", body)

    async def _publish(self, request: Request) -> int:
        """The sequence of the request in its stream. Tried again while the stream has no leader: stored once."""
        given = {"Nats-Msg-Id": f"ask.{uuid.uuid4().hex}"}
        if traceparent := (request.headers or {}).get("traceparent"):
            given["traceparent"] = traceparent
        body = await by_reference(request.data, self._component.texts)
        until = time.monotonic() + PUBLISH_WITHIN_S
        while True:
            try:
                ack = await self._component.js.publish(subjects.REQUESTED, body, headers=given)
                return int(ack.seq)
            except APIError as error:
                raise fault(503, f"the request was not taken: {error.description}") from None
            except (nats.errors.Error, TimeoutError) as error:
                if time.monotonic() > until:
                    raise fault(503, f"the request was not taken: {error or type(error).__name__}") from None
            await asyncio.sleep(PUBLISH_PAUSE_S)

    async def _publish_cancel(self, wanted: CancelRequest, state: Deliberation) -> None:
        given = headers(
            subjects.CONTROL_CANCEL,
            f"{wanted.task_id}.cancel",
            f"/fleet/{self._component.name}",
            wanted.task_id,
            child_traceparent(state.traceparent),
        )
        await self._component.js.publish(subjects.CONTROL_CANCEL, encode(wanted), headers=given)

    # --- looking things up ----------------------------------------------------------------------------------------

    async def _named(self, data: bytes) -> str | None:
        """The id that a request names, wherever it lies; a bad one is for the dispatcher to reject."""
        try:
            return task_id_of(await whole_request(data, 0, self._component.texts))
        except BadRequest:
            return None

    async def _load(self, task_id: str) -> Deliberation | None:
        until = time.monotonic() + LOOK_WITHIN_S
        while True:
            try:
                stored = await self._component.store.load(task_id)
                return stored.state if stored else None
            except OUTAGES:  # the bucket has no leader, for a moment
                if time.monotonic() > until:
                    raise
            await asyncio.sleep(PUBLISH_PAUSE_S)

    async def _is_this(self, state: Deliberation, sequence: int) -> bool:
        """Whether the result on record answers the request at `sequence`: not while that may yet be a conflict."""
        if state.stream_sequence == sequence:
            return True
        # An older task of that id: the dispatcher takes the request off the stream once it is compared.
        for _ in range(100):
            if not await self._is_stored(sequence):
                await self._look_for_rejection(sequence)
                return self._endings.rejection(sequence) is None
            await asyncio.sleep(0.05)
        return False

    async def _look_for_rejection(self, sequence: int) -> None:
        """A rejection whose event was missed stands in the stream before its request is taken off."""
        if self._endings.rejection(sequence) is None and not await self._is_stored(sequence):
            missed = await find_rejection(self._component.js, self._component.texts, sequence, ASK_LIMIT_S)
            if missed is not None:
                self._endings.note_rejection(missed)

    async def _is_stored(self, sequence: int) -> bool:
        try:
            await self._component.js.get_msg(subjects.DELIBERATION_REQUESTS, seq=sequence)
        except NotFoundError:
            return False
        except OUTAGES:
            pass  # not known: as if it were
        return True

    async def _is_waiting_in_the_stream(self, task_id: str) -> bool:
        """Whether `d-<seq>` names a request that no dispatcher has taken yet."""
        prefix, _, digits = task_id.partition("-")
        return prefix == "d" and subjects.is_key(task_id) and digits.isdecimal() and await self._is_stored(int(digits))
