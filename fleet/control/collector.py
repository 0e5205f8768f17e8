"""The collector: folds what the workers answer into the state, and republishes the terminal event."""

from collections.abc import Callable
from typing import Any

import structlog

from fleet import subjects
from fleet.clock import now_ms
from fleet.config import Settings
from fleet.control.component import Component
from fleet.control.intake import Broker, OutboxHolder, Received, durable, reason_of, served_only
from fleet.control.items import Item
from fleet.control.service.server import Service
from fleet.deliberation.events import CancelAsked, DeadlinePassed, Event, Responded
from fleet.messages import UNDECODABLE, AgentResponse, CancelRequest, DeadlineReached, decode, decoder

log = structlog.get_logger(__name__)

RESPONSES = (subjects.AGENT_COMPLETED, subjects.AGENT_FAILED)
CONTROLS = (subjects.CONTROL_DEADLINE, subjects.CONTROL_CANCEL)


class Collector:
    """The FastStream application of `agent.response.*` and of the control messages."""

    def __init__(self, settings: Settings) -> None:
        self.holder = OutboxHolder()
        self.broker = Broker(settings, "fleet-collector", self.holder)
        reads = ((subjects.AGENT_RESPONSES, subjects.COLLECTOR), (subjects.DELIBERATION_CONTROL, subjects.CONTROLLER))
        self.component = Component(settings, "collector", self.broker, self.holder, reads)
        self.broker.subscriber(
            subjects.AGENT_RESPONSE,
            title="responses",
            description="Fills the slot of the call; the last one of a phase moves the deliberation on.",
            **durable(subjects.AGENT_RESPONSES, subjects.COLLECTOR),
        )(served_only(subjects.AGENT_RESPONSES, subjects.COLLECTOR, RESPONSES, self.on_response))
        self.broker.subscriber(
            subjects.CONTROL,
            title="control",
            description="Deadlines, which NATS delivers when their time has come, and cancellations.",
            **durable(subjects.DELIBERATION_CONTROL, subjects.CONTROLLER),
        )(served_only(subjects.DELIBERATION_CONTROL, subjects.CONTROLLER, CONTROLS, self.on_control))

    async def on_response(self, received: Received[AgentResponse]) -> None:
        """`agent.response.completed` and `.failed`."""
        try:
            body = await self.component.texts.inline(received.body)
            response: AgentResponse = decoder(AgentResponse).decode(body)
        except UNDECODABLE as error:
            await received.delivery.give_up(reason_of(error))
            return
        except Exception as error:  # its text is not to be had
            await received.delivery.retry_later(error)
            return
        self._submit(response.task_id, Responded(response, now_ms()), received)

    async def on_control(self, received: Received[DeadlineReached | CancelRequest]) -> None:
        """`control.deadline` and `control.cancel`."""
        try:
            if received.msg.subject == subjects.CONTROL_DEADLINE:
                reached = decode(received.body, DeadlineReached)
                self._submit(reached.task_id, DeadlinePassed(now_ms()), received)
            elif received.msg.subject == subjects.CONTROL_CANCEL:
                cancel = decode(received.body, CancelRequest)
                self._submit(cancel.task_id, CancelAsked(cancel.reason or "cancelled by request", now_ms()), received)
            else:
                await received.delivery.give_up(f"nothing is known of {received.msg.subject}")
        except UNDECODABLE as error:
            await received.delivery.give_up(reason_of(error))

    def _submit(self, task_id: str, event: Event, received: Received[Any]) -> None:
        self.component.runner.submit(task_id, Item(event, received.delivery))


async def run(settings: Settings, *, on_ready: Callable[[], None]) -> None:
    """Runs until cancelled; then takes nothing new, finishes what is in flight, and returns."""
    component = Collector(settings).component
    service = Service(component)

    async def start() -> None:
        await component.serve(service.start)
        on_ready()
        log.info("collector.ready")

    try:
        await component.run(start)
    finally:
        await service.retire()
        await component.drain()
        await service.leave()
        await component.close()
