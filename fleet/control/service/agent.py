"""Serves the council as an agent of Synadia's agent protocol for NATS (0.3): it is found, prompted and seen at work.

A prompt is a request that is submitted and followed: what `deliberation.follow` replies is put into the protocol's
words. Nothing else differs, so that a task that was begun by a prompt has one end, whatever becomes of its caller.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

import structlog
from nats.micro.request import Request
from nats.micro.service import ServiceConfig

from fleet import __version__, subjects
from fleet.clock import now_ms
from fleet.control.component import Component
from fleet.control.service.calls import Endpoint, single, taken_over
from fleet.control.service.following import Following
from fleet.control.service.prompts import MOST_BYTES, answer_of, fault_of, refused, request_in, status_of
from fleet.event_loop import end, log_failure
from fleet.jetstream.connection import OUTAGES
from fleet.jetstream.quirks import with_data
from fleet.messages import (
    DeliberationCompleted,
    FollowReply,
    Heartbeat,
    PromptStatus,
    ResultReply,
    TerminalEvent,
    encode,
)
from fleet.tenants.names import DEFAULT_TENANT, subject_of
from fleet.times import rfc3339

log = structlog.get_logger(__name__)

VERSION = "0.3"
"""Of the protocol."""
SESSION = "default"
QUEUE_GROUP = "agents"
BEAT_EVERY_S = 30
ACK = PromptStatus(data="ack")


class Agent:
    """One instance of it."""

    def __init__(self, component: Component, following: Following) -> None:
        self._component = component
        self._following = following
        self._owner = component.settings.fleet_name
        self.instance_id = ""
        self._beating: asyncio.Task[None] | None = None

    @property
    def config(self) -> ServiceConfig:
        """How `$SRV.INFO` shows it."""
        return ServiceConfig(
            name=subjects.AGENTS_SERVICE,
            version=__version__,
            description="A council: several models propose, criticise, revise and score; the best text is the answer.",
            metadata={
                "agent": subjects.AGENT,
                "owner": self._owner,
                "session": SESSION,
                "protocol_version": VERSION,
            },
            queue_group=QUEUE_GROUP,
        )

    @property
    def status_subject(self) -> str:
        """Where any instance answers."""
        return subjects.of_fleet(subjects.PROMPT_STATUS, self._owner)

    def endpoints(self, tenants: Iterable[str]) -> list[Endpoint]:
        """Clients take the one that is named `prompt`, under the same subject in each account."""
        most = min(self._component.nc.max_payload, MOST_BYTES)
        prompt = subjects.of_fleet(subjects.PROMPT, self._owner)
        return [
            *(
                Endpoint(
                    name="prompt" if tenant == DEFAULT_TENANT else "tenant-prompt",
                    subject=subject_of(tenant, prompt),
                    replies=self.prompt,
                    stream=True,
                    metadata={
                        "max_payload": f"{most}B",
                        "attachments_ok": "false",
                        **subjects.ENDPOINT_MESSAGES[subjects.PROMPT],
                    },
                    refused=refused,
                )
                for tenant in tenants
            ),
            Endpoint(
                name="status", subject=self.status_subject, replies=single(self.status), metadata={"reply": "Heartbeat"}
            ),
        ]

    async def prompt(self, request: Request) -> AsyncGenerator[bytes]:
        """`ack`, the task's id, what happens, the winner's text. Faults as `deliberation.follow` does."""
        if taken_over(request) is None:
            request = with_data(request, request_in(request.data))
            yield encode(ACK)
        async with aclosing(self._following.follow(request)) as replies:
            async for reply in replies:
                if isinstance(reply, ResultReply | FollowReply):
                    yield encode(status_of(reply))
                else:
                    async for piece in self._answer(reply):
                        yield piece

    async def _answer(self, event: TerminalEvent) -> AsyncGenerator[bytes]:
        if not isinstance(event, DeliberationCompleted):
            raise fault_of(event)
        winner = event.ranked[0].proposal
        text = winner.content
        if winner.content_ref is not None:
            text = (await self._component.texts.get(winner.content_ref)).decode()
        for piece in answer_of(event, text, self._component.texts.limit):
            yield encode(piece)

    async def status(self, _: Request) -> Heartbeat:
        """The next heartbeat, at once."""
        return self._heartbeat()

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(
            agent=subjects.AGENT,
            owner=self._owner,
            session=SESSION,
            instance_id=self.instance_id,
            ts=rfc3339(now_ms()),
            interval_s=BEAT_EVERY_S,
        )

    def begin(self) -> None:
        """Tells from now on that it is there."""
        self._beating = asyncio.create_task(self._beat(), name="heartbeats of the agent")
        self._beating.add_done_callback(log_failure)

    async def end(self) -> None:
        """It tells no more."""
        if self._beating is not None:
            await end(self._beating)

    async def _beat(self) -> None:
        subject = subjects.of_fleet(subjects.HEARTBEAT, self._owner)
        while True:
            try:
                await self._component.nc.publish(subject, encode(self._heartbeat()))
            except OUTAGES as error:  # the next one is sent in time for whoever waits for three
                log.info("agent.heartbeat_not_sent", error=repr(error))
            await asyncio.sleep(BEAT_EVERY_S)
