"""Runs the dispatcher: validates and records `deliberation.requested`, and starts the workers."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Protocol

import structlog

from fleet import subjects
from fleet.clock import now_ms
from fleet.config import Settings
from fleet.control.admission import Admission
from fleet.control.component import Component
from fleet.control.fleet_gauges import running_tasks
from fleet.control.intake import Broker, IncomingMessage, Subscription
from fleet.control.items import Item
from fleet.control.lifecycle import DRAIN_S, Lifecycle
from fleet.control.models import Models
from fleet.control.service.server import Service
from fleet.crashpoints import reach
from fleet.deliberation.drawing import RoleModels
from fleet.deliberation.events import Requested
from fleet.errors import BadRequest
from fleet.event_loop import log_failure
from fleet.jetstream.connection import OUTAGES
from fleet.jetstream.declaring.capacity import shortage
from fleet.killable import JobFailed, Processes
from fleet.messages import DeliberationRejected
from fleet.messages.trace_ids import TraceContext, context_of, digest
from fleet.observability.health import Observation
from fleet.observability.metrics import Metrics
from fleet.requests import compiling
from fleet.requests.by_reference import whole_request
from fleet.requests.parse import parse_request
from fleet.requests.task import Task
from fleet.requests.tolerance import ignored_fields
from fleet.times import rfc3339

log = structlog.get_logger(__name__)


class Launcher(Protocol):
    """Launches, sizes and supervises the workers. `fleet.local.launcher.LauncherProcess` is the real one."""

    async def start(self) -> None:
        """Returns once workers take calls: all, or after a while those that there are."""

    async def stop(self) -> None:
        """Stops supervising; the workers go on for other dispatchers."""

    def answering(self) -> int | None:
        """How many workers have answered lately; None while not even Ray is known to answer."""


REQUESTS = Subscription(
    consumer=subjects.DISPATCHER,
    title="requests",
    description="Records a request and hands its first calls to the workers.",
)


class Dispatcher:
    """Handles `deliberation.requested`."""

    def __init__(self, component: Component, admission: Admission) -> None:
        self._component = component
        self._admission = admission
        self._processes = Processes()
        self._checking: set[asyncio.Task[None]] = set()
        self._roles = component.settings.roles

    async def on_requested(self, message: IncomingMessage) -> None:
        """Validates, and gives what is valid to the runner, which records and acknowledges it."""
        delivery = message.delivery
        try:
            body = await whole_request(message.body, delivery.sequence, self._component.texts)
            task_id, task = parse_request(body, delivery.sequence, self._roles)
            if compiling.is_quick(task):
                compiling.check_here(task_id, task)
            ignored = ignored_fields(body)
        except BadRequest as error:
            await self._reject(message, error)
            return
        except OUTAGES as failure:  # its text is not to be had
            await delivery.retry_later(failure)
            return
        if compiling.is_quick(task):
            await self._accept(task_id, task, ignored, message)
        else:
            # Not here: what comes next would wait for it.
            checking = asyncio.create_task(self._accept_if_it_compiles(task_id, task, ignored, message))
            self._checking.add(checking)
            checking.add_done_callback(log_failure)
            checking.add_done_callback(self._checking.discard)

    async def close(self) -> None:
        """Hands back what is still being compiled, and ends the processes."""
        for checking in self._checking:
            checking.cancel()
        await asyncio.gather(*self._checking, return_exceptions=True)
        await self._processes.close()

    async def _accept_if_it_compiles(
        self, task_id: str, task: Task, ignored: tuple[str, ...], message: IncomingMessage
    ) -> None:
        delivery = message.delivery
        keeping = asyncio.create_task(delivery.keep_on())
        try:
            await compiling.check(task_id, task, self._processes)
        except BadRequest as error:
            await self._reject(message, error)
        except asyncio.CancelledError:
            await delivery.hand_back()
            raise
        except (*OUTAGES, JobFailed) as failure:  # no process to be had
            log.warning("request.not_compiled", task_id=task_id, error=repr(failure))
            await delivery.retry_later(failure)
        else:
            await self._accept(task_id, task, ignored, message)
        finally:
            keeping.cancel()

    async def _accept(self, task_id: str, task: Task, ignored: tuple[str, ...], message: IncomingMessage) -> None:
        delivery = message.delivery

        def admit() -> None:
            # Its time runs from now, not from when it began to wait for room.
            rubric = self._roles[task.role].rubric
            event = Requested(
                task_id,
                task,
                delivery.sequence,
                now_ms(),
                self._sampled(message, task_id),
                rubric,
                ignored,
                delivery.run,
                message.message_id,
                self._models(task),
                {role: self._roles[role].shadow for role in (task.role, *task.roles)},
            )
            self._component.runner.submit(task_id, Item(event, delivery))

        try:
            begun = await self._begun_as(task_id, message) if delivery.redelivered else None
        except Exception as failure:
            await delivery.retry_later(failure)
            return
        if begun:  # It was admitted before, and its first calls may not have been published.
            task_id = begun
            admit()
        else:
            self._admission.submit(delivery, admit)

    async def _begun_as(self, task_id: str, message: IncomingMessage) -> str | None:
        """The id under which it may have been recorded already: the second one goes first, since only this request has
        it.
        """
        delivery = message.delivery
        ids = [task_id]
        if task_id == subjects.generated_id(delivery.sequence):
            ids.insert(0, subjects.second_id(delivery.sequence, message.message_id or delivery.run))
        for known in ids:
            if await self._component.store.load(known) is not None:
                return known
        return None

    def _models(self, task: Task) -> dict[str, RoleModels]:
        """Of its roles that share their calls between several models."""
        profiles = {role: self._roles[role] for role in (task.role, *task.roles)}
        return {
            role: RoleModels(shares=profile.models, judge=profile.judge_model)
            for role, profile in profiles.items()
            if profile.models
        }

    def _sampled(self, message: IncomingMessage, task_id: str) -> str | None:
        """The request's trace context. Without one, and where the settings leave this trace out: one that says so."""
        tracer = self._component.tracer
        if tracer is None or context_of(message.traceparent) is not None:
            return message.traceparent
        trace = TraceContext(digest(16, task_id, message.delivery.sequence), "").child("request")
        return None if tracer.samples(trace) else str(trace._replace(flags="00"))

    async def in_progress(self) -> int:
        """Deliberations that have not ended, those being recorded just now included; all that there may be, while
        NATS has no room for another."""
        if await shortage(self._component.js) is not None:
            return self._component.settings.limits.max_in_flight
        in_work = len(self._component.runner.in_work)
        return in_work + len(await running_tasks(self._component.js))

    async def _reject(self, message: IncomingMessage, error: BadRequest) -> None:
        delivery = message.delivery
        log.info("request.rejected", task_id=error.task_id, code=error.code, path=error.path)
        try:
            await self._component.outbox.reject(_rejection(error, message), message.traceparent)
            reach("request.rejected")
            await delivery.bury(error.error)
        except Exception as failure:
            await delivery.retry_later(failure)


async def run(
    settings: Settings, launcher: Launcher, *, on_ready: Callable[[], None], metrics: Metrics | None = None
) -> None:
    """Runs until cancelled; then takes nothing new, finishes what is in flight, and returns."""
    lifecycle = Lifecycle(settings, "dispatcher", ((REQUESTS.stream, REQUESTS.consumer),), metrics)
    admission = Admission(settings.limits.max_in_flight)
    lifecycle.health.metrics["fleet_requests_held"].at().set_function(lambda: float(admission.held))
    lifecycle.health.watch("ray", lambda: _ray(launcher))
    lifecycle.health.watch("workers", lambda: _workers(launcher, settings.workers.count))
    models = Models(settings)
    lifecycle.health.watch("models", models.seen)

    async def parts(component: Component, broker: Broker, begun: AsyncExitStack) -> None:
        reach("dispatcher.connected")
        await component.nc.subscribe(subjects.status_of(">"), cb=models.hear)
        service = Service(component)
        await service.start()
        begun.push_async_callback(service.leave)
        begun.push_async_callback(component.runner.drain, DRAIN_S)
        dispatcher = Dispatcher(component, admission)
        lifecycle.keep("admission", admission.run(dispatcher.in_progress), begun)
        begun.push_async_callback(dispatcher.close)
        begun.push_async_callback(service.retire)
        again = component.meter.redelivered(REQUESTS.consumer)
        broker.serve(REQUESTS, dispatcher.on_requested, component.dead_letters, again)

    async def ready() -> None:
        await launcher.start()
        reach("dispatcher.launched")
        on_ready()
        log.info("dispatcher.ready")

    async with AsyncExitStack() as stack:
        stack.push_async_callback(launcher.stop)
        await lifecycle.run(parts, ready)


def _ray(launcher: Launcher) -> Observation:
    answers = launcher.answering() is not None
    return Observation(answers, "" if answers else "Ray has not answered lately, or not yet")


def _workers(launcher: Launcher, count: int) -> Observation:
    answering = launcher.answering() or 0
    return Observation(answering > 0, "" if answering >= count else f"{answering} of {count} workers answer")


def _rejection(error: BadRequest, message: IncomingMessage) -> DeliberationRejected:
    return DeliberationRejected(
        task_id=error.task_id,
        code=error.code,  # type: ignore[arg-type]
        path=error.path,
        error=error.error,
        stream_sequence=message.delivery.sequence,
        rejected_at=rfc3339(now_ms()),
        run=message.delivery.run,
        message_id=message.message_id,
        correlation=error.correlation,
    )
