"""Serves the endpoints as the NATS micro services `deliberations` and, where it is set, `agents`: reads calls, sends
replies and errors, shuts down.

Dispatchers and collectors both serve them, as one queue group. An instance that shuts down hands over the calls that
still wait: it publishes each again, with its caller's reply subject, and another instance answers in its place.
"""

import asyncio
import time
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec
import nats.errors
import structlog
from nats.micro import add_service
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, ServiceConfig
from nats.micro.service import Service as MicroService

from fleet import __version__, subjects
from fleet.control.component import Component
from fleet.control.service.agent import Agent
from fleet.control.service.calls import Endpoint, HandOver, Replies, ServiceFault, answered_only, fault, single
from fleet.control.service.endpoints import Endpoints
from fleet.control.service.following import Following
from fleet.control.service.lookup import Lookup
from fleet.control.service.texts import texts_of
from fleet.control.service.waiters import TOLD, Waiters
from fleet.errors import NewerState, UnreadableState
from fleet.event_loop import log_failure
from fleet.jetstream.connection import OUTAGES
from fleet.jetstream.origin import may_be_answered
from fleet.jetstream.quirks import count_call, drain_endpoints, message_of, wrap_verbs
from fleet.messages import encode
from fleet.messages.headers import line, republishable
from fleet.requests.by_reference import by_reference
from fleet.tenants.names import DEFAULT_TENANT, EVERY, TEXT, TEXT_MESSAGES, key_of, subject_of, tenant_of

log = structlog.get_logger(__name__)

LEAVE_WITHIN_S = 2.0
SHUTTING_DOWN = "this instance is shutting down; the deliberation goes on, ask deliberation.result for it"


@dataclass(slots=True)
class _Registered:
    """A micro service of this instance. `another`: where only other instances answer by now; `others`: one has."""

    micro: MicroService
    another: str
    others: bool = False


class Service:
    """One instance of the services. Each call is answered by a task of its own, as it may wait."""

    def __init__(self, component: Component) -> None:
        self._component = component
        self._waiters = Waiters(lambda body: component.texts.inline(body))
        self._tasks: set[asyncio.Task[None]] = set()
        self._registered: list[_Registered] = []
        self._agent: Agent | None = None

    async def start(self) -> None:
        """Subscribes; `nats micro ls` finds it from now on."""
        nc, settings = self._component.nc, self._component.settings
        tenants = (DEFAULT_TENANT, *((EVERY,) if settings.tenants else ()))
        for tenant in tenants:
            for subject in TOLD:
                await nc.subscribe(subject_of(tenant, subject), cb=self._waiters.on_event)
        lookup = Lookup(self._component, self._waiters)
        endpoints = Endpoints(self._component, self._waiters, lookup)
        following = Following(self._component, self._waiters, lookup, endpoints)
        config = ServiceConfig(
            name=subjects.SERVICE,
            version=__version__,
            description="Councils of agents that deliberate: ask, follow, look at the result, cancel.",
        )
        served = [each for tenant in tenants for each in _endpoints(tenant, endpoints, following)]
        if settings.tenants:  # then no account of clients has JetStream, the default one's included
            served += [_endpoint(tenant, TEXT, texts_of(self._component), stream=True) for tenant in tenants]
        deliberations = await self._register(config, f"$SRV.PING.{subjects.SERVICE}")
        for endpoint in served:
            await self._add(deliberations, endpoint)
        if settings.agent_protocol:
            self._agent = agent = Agent(self._component, following)
            registered = await self._register(agent.config, agent.status_subject)
            agent.instance_id = registered.micro.id  # first: whoever asks for its status is told it
            for endpoint in agent.endpoints(tenants):
                await self._add(registered, endpoint)
        await nc.flush()
        if self._agent is not None:  # last: who fails before is started anew, and nobody ends what has begun
            self._agent.begin()

    async def _register(self, config: ServiceConfig, another: str) -> _Registered:
        registered = _Registered(await add_service(self._component.nc, config), another)
        self._registered.append(registered)
        wrap_verbs(registered.micro, answered_only)
        return registered

    async def _add(self, registered: _Registered, endpoint: Endpoint) -> None:
        async def start(request: Request) -> None:
            task = asyncio.create_task(self._serve(request, endpoint, registered), name=f"answer {endpoint.subject}")
            self._tasks.add(task)
            task.add_done_callback(log_failure)
            task.add_done_callback(self._tasks.discard)

        await registered.micro.add_endpoint(
            EndpointConfig(
                name=endpoint.name, subject=endpoint.subject, metadata=dict(endpoint.metadata), handler=start
            )
        )

    async def retire(self) -> None:
        """Takes no new requests, and loses none that was on its way here; those that wait go on waiting."""
        if self._agent is not None:
            await self._agent.end()
        try:
            async with asyncio.timeout(LEAVE_WITHIN_S):
                for registered in self._registered:
                    await drain_endpoints(registered.micro)
                    await registered.micro.stop()
        except OUTAGES as error:
            log.info("service.not_drained", reason=repr(error))

    async def leave(self) -> None:
        """Hands over what still waits, or answers it with 503 where no other instance is there."""
        waiting = set(self._tasks)  # some may end while the others are asked for
        if not waiting:
            return
        await asyncio.gather(*map(self._look_for_others, self._registered))
        others = [registered.micro.info().name for registered in self._registered if registered.others]
        log.info("service.left", waiting=len(waiting), handed_over=others)
        self._waiters.close()
        _, late = await asyncio.wait(waiting, timeout=LEAVE_WITHIN_S)
        for task in late:
            task.cancel()

    async def _look_for_others(self, registered: _Registered) -> None:
        try:
            await self._component.nc.request(registered.another, timeout=LEAVE_WITHIN_S)
            registered.others = True
        except (nats.errors.Error, TimeoutError):
            pass

    async def _serve(self, request: Request, endpoint: Endpoint, registered: _Registered) -> None:
        to = message_of(request).reply
        if not to or not may_be_answered(to):
            return  # published, not requested; or it would be said in the fleet's name what a caller may not say
        try:
            await self._reply(request, endpoint, registered)
        except OUTAGES as error:  # the caller's time runs out
            log.warning("service.not_replied", subject=request.subject, error=repr(error))

    async def _reply(self, request: Request, endpoint: Endpoint, registered: _Registered) -> None:
        began, handed_over = time.perf_counter_ns(), False
        try:
            refused = await self._answer(request, endpoint)
        except HandOver as leaving:
            handed_over = registered.others
            refused = None if handed_over else fault(503, SHUTTING_DOWN)
            if handed_over:
                await self._hand_over(request, leaving)
        if refused is not None:
            refused = endpoint.refused(refused)
            await self._refuse(request, refused)
        if endpoint.stream and not handed_over:
            await request.respond(b"")
        error = f"{refused.code}:{refused.text}" if refused is not None else None
        count_call(registered.micro, request.subject, time.perf_counter_ns() - began, error)

    async def _answer(self, request: Request, endpoint: Endpoint) -> ServiceFault | None:
        """Sends what there is to reply. Returns the error that is to follow."""
        tenant = tenant_of(request.subject)
        if tenant != DEFAULT_TENANT and tenant not in self._component.settings.tenants:
            return fault(404, f"this fleet has no tenant {tenant}")
        try:
            async with aclosing(endpoint.replies(request)) as each:
                async for reply in each:
                    await request.respond(await self._body(tenant, reply))
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
        body = await by_reference(leaving.body, self._component.texts, tenant_of(msg.subject))
        await self._component.nc.publish(msg.subject, body, reply=msg.reply, headers=kept_headers)

    async def _refuse(self, request: Request, refused: ServiceFault) -> None:
        """Whatever the caller has sent: NATS closes a connection over a reply beyond `max_payload`."""
        text, body = line(refused.text), encode(refused.body)
        if self._component.texts.too_large(body):
            body = encode({"error": text})
        await request.respond_error(str(refused.code), text, data=body)

    async def _body(self, tenant: str, reply: Any) -> bytes:
        """The reply, or a reference to it where it does not fit one message."""
        if isinstance(reply, bytes):
            return reply
        body = encode(reply)
        texts = self._component.texts
        if not texts.too_large(body):
            return body
        facts = msgspec.json.decode(body)
        top = {name: facts[name] for name in ("task_id", "status") if name in facts}
        return await texts.refer(f"tasks/{key_of(tenant, top['task_id'])}/reply", body, top)


def _endpoints(tenant: str, endpoints: Endpoints, following: Following) -> Iterable[Endpoint]:
    """Of the default tenant, or of `EVERY` other one."""
    yield _endpoint(tenant, subjects.ASK, single(endpoints.ask))
    yield _endpoint(tenant, subjects.FOLLOW, following.follow, stream=True)
    yield _endpoint(tenant, subjects.RESULT, single(endpoints.result))
    yield _endpoint(tenant, subjects.CANCEL, single(endpoints.cancel))


def _endpoint(tenant: str, subject: str, replies: Replies, *, stream: bool = False) -> Endpoint:
    return Endpoint(
        name=f"{'' if tenant == DEFAULT_TENANT else 'tenant-'}{subject.rpartition('.')[2]}",
        subject=subject_of(tenant, subject),
        replies=replies,
        stream=stream,
        metadata=subjects.ENDPOINT_MESSAGES.get(subject, TEXT_MESSAGES),
    )
