"""Runs the dispatcher: validates and records `deliberation.requested`, and starts the workers."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from fleet import subjects
from fleet.clock import now_ms
from fleet.config import Settings
from fleet.control import launching
from fleet.control.admitting.admission import Admission
from fleet.control.admitting.backlog import Backlog
from fleet.control.admitting.held import Admit
from fleet.control.admitting.turns import Turns
from fleet.control.caching.keys import CacheKeys
from fleet.control.component import Component
from fleet.control.intake import Broker, IncomingMessage, Subscription
from fleet.control.items import Item
from fleet.control.lifecycle import DRAIN_S, Lifecycle
from fleet.control.models import Models, judges_of, models_of_roles
from fleet.control.publishing.rejections import rejection
from fleet.control.publishing.token_counters import TokenCounters
from fleet.control.recovery.forgotten import ForgottenRequests
from fleet.control.scaling.expected_work import expected_tokens
from fleet.control.scaling.running import running_tasks
from fleet.control.scaling.sizing import Follower
from fleet.control.service.server import Service
from fleet.control.states.recorded import recorded_as
from fleet.control.tenant_rules import PRIORITIES, TenantRules
from fleet.crashpoints import reach
from fleet.deliberation.events import Requested
from fleet.errors import BadRequest, NewerState, UnreadableState
from fleet.event_loop import log_failure
from fleet.jetstream.connection import OUTAGES
from fleet.jetstream.declaring.capacity import shortage
from fleet.killable import JobFailed, Processes
from fleet.messages import DeliberationCompleted
from fleet.messages.trace_ids import TraceContext, context_of, digest
from fleet.observability.metrics import Metrics
from fleet.requests import compiling
from fleet.requests.by_reference import whole_request
from fleet.requests.parse import parse_request
from fleet.requests.task import Task
from fleet.requests.tolerance import ignored_fields
from fleet.tenants.names import key_of, of_all

log = structlog.get_logger(__name__)

OF_SETTINGS = ("forbidden", "budget")
"""Rejections of sound requests: nobody has to look at them, and there may be many."""
REQUESTS = Subscription(
    consumer=subjects.DISPATCHER,
    title="requests",
    description="Records a request and hands its first calls to the workers.",
)


def requests_of(settings: Settings) -> tuple[Subscription, ...]:
    """Of the default tenant, and of each other one."""
    return (REQUESTS, *(replace(REQUESTS, title=f"requests of {name}", tenant=name) for name in settings.tenants))


class Dispatcher:
    """Handles `deliberation.requested`."""

    def __init__(self, component: Component, admission: Admission) -> None:
        self._component = component
        self._admission = admission
        self._processes = Processes()
        self._checking: set[asyncio.Task[None]] = set()
        self._roles = component.settings.roles
        self._tenants = component.settings.tenants
        self._rules = TenantRules(component.settings, TokenCounters(component.js))
        self._keys = CacheKeys(component.settings)
        self._forgotten = ForgottenRequests(component.js)

    async def on_requested(self, message: IncomingMessage) -> None:
        """Validates, and gives what is valid to the runner, which records and acknowledges it."""
        delivery = message.delivery
        try:
            body = await whole_request(message.body, delivery.sequence, self._component.texts, message.tenant)
            task_id, task = parse_request(body, delivery.sequence, self._roles)
            key = key_of(message.tenant, task_id)
            await self._rules.check(key, task, partial(self._begun_as, key, message))
            if compiling.is_quick(task):
                compiling.check_here(task_id, task)
            ignored = ignored_fields(body)
        except BadRequest as error:
            await self._reject(message, error)
            return
        except (*OUTAGES, NewerState, UnreadableState) as failure:  # its text or its state is not to be had
            await delivery.retry_later(failure)
            return
        if compiling.is_quick(task) and task.cache == "off":
            await self._accept(key, task, ignored, message)
        else:
            # Not here: what comes next would wait for it.
            self._begin_check(self._accept_later(task_id, task, ignored, message))

    async def close(self) -> None:
        """Hands back what is still being checked, and ends the processes."""
        for checking in self._checking:
            checking.cancel()
        await asyncio.gather(*self._checking, return_exceptions=True)
        await self._processes.close()

    async def _accept_later(self, task_id: str, task: Task, ignored: tuple[str, ...], message: IncomingMessage) -> None:
        """Once it is known to compile, and whether it is answered already."""
        cache_key = self._keys.of(message.tenant, task) if task.cache != "off" else ""
        answer: DeliberationCompleted | None = None

        async def check() -> None:
            nonlocal answer
            if not compiling.is_quick(task):
                await compiling.check(task_id, task, self._processes)
            if task.cache == "use":
                answer = await self._component.cache.find(message.tenant, cache_key)

        if await self._passes(check(), message):
            await self._accept(key_of(message.tenant, task_id), task, ignored, message, cache_key, answer)

    async def _passes(self, check: Awaitable[None], message: IncomingMessage) -> bool:
        """Whether the request passes a check that may take its time; one that does not is dealt with."""
        delivery = message.delivery
        keeping = asyncio.create_task(delivery.keep_on())
        try:
            await check
        except BadRequest as error:
            await self._reject(message, error)
        except asyncio.CancelledError:
            await delivery.hand_back()
            raise
        except (*OUTAGES, JobFailed, NewerState, UnreadableState) as failure:  # no process, or no state, to be had
            log.warning("request.not_checked", sequence=delivery.sequence, error=repr(failure))
            await delivery.retry_later(failure)
        else:
            return True
        finally:
            keeping.cancel()
        return False

    async def _accept(
        self,
        key: str,
        task: Task,
        ignored: tuple[str, ...],
        message: IncomingMessage,
        cache_key: str = "",
        answer: DeliberationCompleted | None = None,
    ) -> None:
        delivery = message.delivery

        def admit() -> asyncio.Future[None]:
            # Its time runs from now, not from when it began to wait for room.
            event = Requested(
                key,
                task,
                delivery.sequence,
                now_ms(),
                traceparent=self._sampled(message, key),
                rubric=self._roles[task.role].rubric,
                ignored_fields=ignored,
                run=delivery.run,
                message_id=message.message_id,
                models=models_of_roles(task, self._roles),
                shadows={role: self._roles[role].shadow for role in (task.role, *task.roles)},
                cache_key=cache_key,
                answer=answer,
                judges=judges_of(self._component.settings),
            )
            return self._component.runner.submit(key, Item(event, delivery))

        try:
            begun = await self._begun_as(key, message) if delivery.redelivered else None
        except Exception as failure:
            await delivery.retry_later(failure)
            return
        if begun:  # It was admitted before, and its first calls may not have been published.
            key = begun
            admit()
        elif answer is not None:  # it needs no room
            admit()
        else:
            expected = expected_tokens(task) if self._tenants else 0.0
            begin = partial(self._begin, key, task, message, admit)
            self._admission.submit(key, delivery, begin, expected, PRIORITIES.index(task.priority), task.num_agents)

    def _begin(self, key: str, task: Task, message: IncomingMessage, admit: Admit) -> asyncio.Future[None]:
        """While it waited its budget may have been spent, or its task have ended."""
        delivery = message.delivery
        waited, has_budget = self._forgotten.may_be(delivery), self._rules.has_budget(message.tenant)
        if not waited and not has_budget:
            return admit()
        ended = False

        async def check() -> None:
            nonlocal ended
            ended = waited and await self._forgotten.has_ended(key, delivery)
            if has_budget and not ended:
                await self._rules.check(key, task, partial(self._begun_as, key, message))

        async def begin() -> None:
            if await self._passes(check(), message):
                await (delivery.ack() if ended else asyncio.wait((admit(),)))

        return self._begin_check(begin())

    def _begin_check(self, check: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        checking = asyncio.create_task(check)
        self._checking.add(checking)
        checking.add_done_callback(log_failure)
        checking.add_done_callback(self._checking.discard)
        return checking

    async def _begun_as(self, key: str, message: IncomingMessage) -> str | None:
        delivery = message.delivery
        own = message.message_id or delivery.run
        return await recorded_as(self._component.store, key, delivery.sequence, own)

    def _sampled(self, message: IncomingMessage, key: str) -> str | None:
        """The request's trace context. Without one, and where the settings leave this trace out: one that says so."""
        tracer = self._component.tracer
        if tracer is None or context_of(message.traceparent) is not None:
            return message.traceparent
        trace = TraceContext(digest(16, key, message.delivery.sequence), "").child("request")
        return None if tracer.samples(trace) else str(trace._replace(flags="00"))

    async def in_progress(self) -> int:
        """Deliberations that have not ended, those being recorded just now included; all that there may be, while
        NATS has no room for another."""
        if await shortage(self._component.js) is not None:
            return self._component.settings.limits.max_in_flight
        in_work = tuple(self._component.runner.in_work)
        running = await running_tasks(self._component.js)
        if self._tenants:
            self._admission.see({*in_work, *running})
        return len(in_work) + len(running)

    async def _reject(self, message: IncomingMessage, error: BadRequest) -> None:
        delivery = message.delivery
        log.info("request.rejected", task_id=error.task_id, code=error.code, path=error.path)
        try:
            await self._component.outbox.reject(rejection(error, message), message.traceparent)
            reach("request.rejected")
            if error.code in OF_SETTINGS:
                await delivery.ack()
            else:
                await delivery.bury(error.error)
        except Exception as failure:
            await delivery.retry_later(failure)


async def run(
    settings: Settings, launcher: launching.Launcher, *, on_ready: Callable[[], None], metrics: Metrics | None = None
) -> None:
    """Runs until cancelled; then takes nothing new, finishes what is in flight, and returns."""
    subscriptions = requests_of(settings)
    reads = [(each.stream, each.consumer) for each in subscriptions]
    lifecycle = Lifecycle(settings, "dispatcher", reads, metrics)
    admission = Admission(settings.limits.max_in_flight, settings.tenants)
    lifecycle.health.metrics["fleet_requests_held"].at().set_function(lambda: float(admission.held))
    follower, models = Follower(settings, launcher), Models(settings)
    lifecycle.health.watch("ray", lambda: launching.ray(launcher))
    lifecycle.health.watch("workers", follower.workers)
    lifecycle.health.watch("models", models.seen)

    async def parts(component: Component, broker: Broker, begun: AsyncExitStack) -> None:
        reach("dispatcher.connected")
        await component.nc.subscribe(subjects.status_of(">"), cb=models.hear)
        for subject in of_all(*subjects.TERMINAL) if settings.tenants else ():
            await component.nc.subscribe(subject, cb=admission.on_end)
        service = Service(component)
        await service.start()
        begun.push_async_callback(service.leave)
        begun.push_async_callback(component.runner.drain, DRAIN_S)
        dispatcher = Dispatcher(component, admission)
        if settings.workers.is_elastic:
            lifecycle.keep("size of the pool", follower.run(component), begun)
        counts, js, name = follower.counts(dispatcher.in_progress, models.seen), component.js, component.outbox.instance
        lifecycle.keep("admission", admission.run(counts, Turns(js, name), Backlog(js, models.seats)), begun)
        begun.push_async_callback(dispatcher.close)
        begun.push_async_callback(service.retire)
        again = component.meter.redelivered(REQUESTS.consumer)
        for subscription in subscriptions:
            broker.serve(subscription, dispatcher.on_requested, component.dead_letters, again)

    async def ready() -> None:
        await launcher.start()
        reach("dispatcher.launched")
        on_ready()
        log.info("dispatcher.ready")

    async with AsyncExitStack() as stack:
        stack.push_async_callback(launcher.stop)
        await lifecycle.run(parts, ready)
