"""Runs the collector: folds the workers' answers into the state, and publishes the terminal event."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import structlog

from fleet import subjects
from fleet.clock import now_ms
from fleet.config import Settings
from fleet.control.caching.lookup import ResultCache
from fleet.control.call_tokens import CallTokens
from fleet.control.component import Component
from fleet.control.intake import Broker, IncomingMessage, JetStreamDelivery, Subscription
from fleet.control.items import Item
from fleet.control.lifecycle import DRAIN_S, Lifecycle
from fleet.control.runner import Runner
from fleet.control.scaling.sizing import Sizing
from fleet.control.service.server import Service
from fleet.control.states.room import StatesRoom
from fleet.deliberation.events import CancelAsked, DeadlinePassed, Event, Responded
from fleet.errors import bounded
from fleet.event_loop import end, log_failure
from fleet.jetstream.payloads import Texts
from fleet.logger import Seldom
from fleet.messages import (
    UNDECODABLE,
    AgentFailed,
    AgentResponse,
    CancelRequest,
    DeadlineReached,
    LookRequest,
    decode,
    decoder,
)
from fleet.observability.metrics import Metrics
from fleet.undecodable import why_undecodable

log = structlog.get_logger(__name__)

RESPONSES = Subscription(
    consumer=subjects.COLLECTOR,
    title="responses",
    description="Fills the slot of the call; the last one of a phase moves the deliberation on.",
)
CONTROLS = Subscription(
    consumer=subjects.CONTROLLER,
    title="control",
    description="Deadlines, which NATS delivers when their time has come, cancellations, and looks for results.",
)


class Collector:
    """Handles `agent.response.*` and the control messages."""

    def __init__(self, texts: Texts, runner: Runner, tokens: CallTokens, cache: ResultCache) -> None:
        self._cache = cache
        self._looking: set[asyncio.Task[None]] = set()
        self._tokens = tokens
        self._refused = Seldom()
        self._texts = texts
        self._runner = runner

    async def on_response(self, message: IncomingMessage) -> None:
        """`agent.response.completed` and `.failed`."""
        if not message.call_token:
            # A reply of NATS or a copy, sent here by somebody. There may be thousands: no trace is kept of each.
            await self._refuse(message, "no token")
            return
        try:
            body = await self._texts.inline(message.body)
            response: AgentResponse = decoder(AgentResponse).decode(body)
            genuine = await self._tokens.fits(response, message.call_token)
            if isinstance(response, AgentFailed):
                response = response.change(error=bounded(response.error))
        except UNDECODABLE as error:
            await message.delivery.give_up(_reason_of(error, message.body))
            return
        except Exception as error:  # its text is not to be had
            await message.delivery.retry_later(error)
            return
        if not genuine:
            # Nobody who was given the call: whoever was still answers it.
            await self._refuse(message, "wrong token", call=response.call_id)
            return
        self._submit(response.task_id, Responded(response, now_ms()), message)

    async def _refuse(self, message: IncomingMessage, reason: str, **facts: str) -> None:
        """The log has one line a second for each reason, whatever the answers say."""
        if (count := self._refused.count(reason)) is not None:
            log.warning("answer.forged", reason=reason, sequence=message.delivery.sequence, count=count, **facts)
        await message.delivery.ack()

    async def on_control(self, message: IncomingMessage) -> None:
        """`control.deadline`, `control.cancel` and `control.look`."""
        try:
            if message.subject == subjects.CONTROL_DEADLINE:
                reached = decode(message.body, DeadlineReached)
                self._submit(reached.task_id, DeadlinePassed(now_ms(), reached.run), message)
            elif message.subject == subjects.CONTROL_LOOK:
                # Not here: what comes next would wait for it.
                looking = asyncio.create_task(self._look(decode(message.body, LookRequest), message.delivery))
                self._looking.add(looking)
                looking.add_done_callback(log_failure)
                looking.add_done_callback(self._looking.discard)
            else:
                cancel = decode(message.body, CancelRequest)
                self._submit(cancel.task_id, CancelAsked(cancel.reason or "cancelled by request", now_ms()), message)
        except UNDECODABLE as error:
            await message.delivery.give_up(_reason_of(error, message.body))

    async def _look(self, request: LookRequest, delivery: JetStreamDelivery) -> None:
        keeping = asyncio.create_task(delivery.keep_on())
        try:
            event = await self._cache.look(request.task_id, request.ended, self._runner)
        except asyncio.CancelledError:
            await delivery.hand_back()
            raise
        except Exception as failure:
            await delivery.retry_later(failure)
        else:
            if event is None:
                await delivery.ack()
            else:
                self._runner.submit(request.task_id, Item(event, delivery))
        finally:
            keeping.cancel()

    async def close(self) -> None:
        """Hands back what is still being looked for."""
        await end(*self._looking)

    def _submit(self, task_id: str, event: Event, message: IncomingMessage) -> None:
        self._runner.submit(task_id, Item(event, message.delivery))


def _reason_of(error: Exception, body: bytes) -> str:
    """Why a body is no such message, in one line."""
    return f"undecodable: {why_undecodable(error, body)}"


async def run(settings: Settings, *, on_ready: Callable[[], None], metrics: Metrics | None = None) -> None:
    """Runs until cancelled; then takes nothing new, finishes what is in flight, and returns."""

    async def parts(component: Component, broker: Broker, begun: AsyncExitStack) -> None:
        if settings.workers.is_elastic:
            lifecycle.keep("size of the pool", Sizing(component).run(), begun)
        room = StatesRoom(component.js, component.store, component.outbox)
        lifecycle.keep("room for states", room.run(), begun)
        service = Service(component)
        await service.start()
        begun.push_async_callback(service.leave)
        begun.push_async_callback(component.runner.drain, DRAIN_S)
        collector = Collector(component.texts, component.runner, component.tokens, component.cache)
        begun.push_async_callback(collector.close)
        begun.push_async_callback(service.retire)
        letters, again = component.dead_letters, component.meter.redelivered
        broker.serve(RESPONSES, collector.on_response, letters, again(RESPONSES.consumer))
        broker.serve(CONTROLS, collector.on_control, letters, again(CONTROLS.consumer))

    async def ready() -> None:
        on_ready()
        log.info("collector.ready")

    reads: list[Any] = [(subscription.stream, subscription.consumer) for subscription in (RESPONSES, CONTROLS)]
    lifecycle = Lifecycle(settings, "collector", reads, metrics)
    await lifecycle.run(parts, ready)
