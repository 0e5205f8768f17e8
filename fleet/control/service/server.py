"""Serves the endpoints as the NATS micro service `deliberations`: reads calls, sends replies and errors, shuts down.

Dispatchers and collectors both serve it, as one queue group. An instance that shuts down hands over the calls that
still wait: it publishes each again, with its caller's reply subject, and another instance answers in its place.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import msgspec
import nats.errors
import structlog
from nats.micro import add_service
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, ServiceConfig

from fleet import __version__, subjects
from fleet.control.component import Component
from fleet.control.service.calls import HandOver, ServiceFault, answered_only, fault
from fleet.control.service.endpoints import Endpoints
from fleet.control.service.following import Following
from fleet.control.service.lookup import Lookup
from fleet.control.service.waiters import Waiters
from fleet.errors import NewerState, UnreadableState
from fleet.event_loop import log_failure
from fleet.jetstream.connection import OUTAGES
from fleet.jetstream.origin import may_be_answered
from fleet.jetstream.quirks import count_call, drain_endpoints, message_of, wrap_verbs
from fleet.messages import encode
from fleet.messages.headers import line, republishable
from fleet.requests.by_reference import by_reference

log = structlog.get_logger(__name__)

LEAVE_WITHIN_S = 2.0
SHUTTING_DOWN = "this instance is shutting down; the deliberation goes on, ask deliberation.result for it"

Replies = Callable[[Request], AsyncGenerator[Any]]


class Service:
    """One instance of the service. Each call is answered by a task of its own, as it may wait."""

    def __init__(self, component: Component) -> None:
        self._component = component
        self._waiters = Waiters(lambda body: component.texts.inline(body))
        self._tasks: set[asyncio.Task[None]] = set()
        self._service: Any = None
        self._others = False

    async def start(self) -> None:
        """Subscribes; `nats micro ls` finds it from now on."""
        nc = self._component.nc
        for subject in (*subjects.TERMINAL, subjects.REJECTED):
            await nc.subscribe(subject, cb=self._waiters.on_event)
        self._service = await add_service(
            nc,
            ServiceConfig(
                name=subjects.SERVICE,
                version=__version__,
                description="Councils of agents that deliberate: ask, follow, look at the result, cancel.",
            ),
        )
        wrap_verbs(self._service, answered_only)
        lookup = Lookup(self._component, self._waiters)
        endpoints = Endpoints(self._component, self._waiters, lookup)
        following = Following(self._component, self._waiters, lookup, endpoints)
        await self._add(subjects.ASK, _single(endpoints.ask))
        await self._add(subjects.FOLLOW, following.follow, stream=True)
        await self._add(subjects.RESULT, _single(endpoints.result))
        await self._add(subjects.CANCEL, _single(endpoints.cancel))
        await nc.flush()

    async def _add(self, subject: str, replies: Replies, *, stream: bool = False) -> None:
        """One endpoint. `stream`: it sends several replies, and an empty message after the last one."""

        async def start(request: Request) -> None:
            task = asyncio.create_task(self._serve(request, replies, stream), name=f"answer {subject}")
            self._tasks.add(task)
            task.add_done_callback(log_failure)
            task.add_done_callback(self._tasks.discard)

        await self._service.add_endpoint(
            EndpointConfig(
                name=subject.rpartition(".")[2],
                subject=subject,
                metadata=dict(subjects.ENDPOINT_MESSAGES[subject]),
                handler=start,
            )
        )

    async def retire(self) -> None:
        """Takes no new requests, and loses none that was on its way here; those that wait go on waiting."""
        if self._service is None:
            return
        try:
            async with asyncio.timeout(LEAVE_WITHIN_S):
                await drain_endpoints(self._service)
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
        self._waiters.close()
        _, late = await asyncio.wait(waiting, timeout=LEAVE_WITHIN_S)
        for task in late:
            task.cancel()

    async def _serve(self, request: Request, replies: Replies, stream: bool) -> None:
        to = message_of(request).reply
        if not to or not may_be_answered(to):
            return  # published, not requested; or it would be said in the fleet's name what a caller may not say
        try:
            await self._reply(request, replies, stream)
        except OUTAGES as error:  # the caller's time runs out
            log.warning("service.not_replied", subject=request.subject, error=repr(error))

    async def _reply(self, request: Request, replies: Replies, stream: bool) -> None:
        began, handed_over = time.perf_counter_ns(), False
        try:
            refused = await self._answer(request, replies)
        except HandOver as leaving:
            handed_over = self._others
            refused = None if handed_over else fault(503, SHUTTING_DOWN)
            if handed_over:
                await self._hand_over(request, leaving)
        if refused is not None:
            await self._refuse(request, refused)
        if stream and not handed_over:
            await request.respond(b"")
        error = f"{refused.code}:{refused.text}" if refused is not None else None
        count_call(self._service, request.subject, time.perf_counter_ns() - began, error)

    async def _answer(self, request: Request, replies: Replies) -> ServiceFault | None:
        """Sends what there is to reply. Returns the error that is to follow."""
        try:
            async with aclosing(replies(request)) as each:
                async for reply in each:
                    await request.respond(await self._body(reply))
        except ServiceFault as refused:
            return refused
        except HandOver:
            raise
        except (NewerState, UnreadableState) as error:
            return fault(503, str(error))
        except Exception as error:
            log.error("service.failed", subject=request.subject, error=repr(error))
            return fault(500, f"{type(error).__name__}: {error}")
        return None

    async def _hand_over(self, request: Request, leaving: HandOver) -> None:
        msg = message_of(request)
        kept_headers = {**republishable(request.headers), **leaving.headers}
        body = await by_reference(leaving.body, self._component.texts)
        await self._component.nc.publish(msg.subject, body, reply=msg.reply, headers=kept_headers)

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


def _single(answer: Callable[[Request], Awaitable[Any]]) -> Replies:
    """An endpoint with one reply."""

    async def replies(request: Request) -> AsyncGenerator[Any]:
        yield await answer(request)

    return replies
