"""Runs dispatcher, collector and service on a real nats-server, with a client that sees their events."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import nats
from msgspec import structs

from fleet import subjects
from fleet.config import Limits, load
from fleet.local.testbed import in_process
from fleet.messages import AgentRequested, AgentResponse
from tests.support import agents
from tests.support.waiting import WITHIN_S


class Inbox:
    """Every event of the fleet, as a core subscriber sees them."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, str], Any]] = []
        self._news = asyncio.Condition()

    async def take(self, msg: Any) -> None:
        async with self._news:
            self.events.append((msg.subject, msg.headers or {}, _read(msg.data)))
            self._news.notify_all()

    async def next(self, subject: str, **fields: Any) -> dict[str, Any]:
        """Waits for an event of `subject` whose fields are as given."""

        def found() -> Any:
            return next((body for s, _, body in self.events if s == subject and fields.items() <= body.items()), None)

        try:
            async with asyncio.timeout(WITHIN_S), self._news:
                await self._news.wait_for(found)
                return dict(found())
        except TimeoutError:
            seen = [(told, body.get("task_id")) for told, _, body in self.events]
            raise TimeoutError(f"no {subject} of {fields}, but {seen}") from None

    def of(self, task_id: str) -> list[str]:
        """Subjects of a task's events. That it was accepted may be told again, to a machine that is slow."""
        told = [subject for subject, _, body in self.events if body.get("task_id") == task_id]
        again = (subject == subjects.ACCEPTED and subject in told[:index] for index, subject in enumerate(told))
        return [subject for subject, repeated in zip(told, again, strict=True) if not repeated]


def _read(body: bytes) -> Any:
    """Empty where somebody has published what is no event."""
    try:
        return json.loads(body)
    except ValueError:
        return {}


class Fleet:
    """A client's view."""

    def __init__(self, nc: Any, inbox: Inbox) -> None:
        self.nc = nc
        self.inbox = inbox

    async def request(self, **body: Any) -> str:
        body.setdefault("task_description", "Design it")
        ack = json.loads((await self.nc.request(subjects.REQUESTED, json.dumps(body).encode(), timeout=WITHIN_S)).data)
        return str(body.get("task_id") or f"d-{ack['seq']}")

    async def ask(self, subject: str, body: Any) -> tuple[str | None, dict[str, Any]]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        reply = await self.nc.request(subject, data, timeout=WITHIN_S)
        return (reply.headers or {}).get("Nats-Service-Error-Code"), json.loads(reply.data)


async def client_on(nc: Any) -> Fleet:
    """It hears what begins and ends."""
    inbox = Inbox()
    for subject in (subjects.ACCEPTED, subjects.REJECTED, *subjects.TERMINAL):
        await nc.subscribe(subject, cb=inbox.take)
    await nc.flush()
    return Fleet(nc, inbox)


@asynccontextmanager
async def running(
    nats_url: str,
    respond: Callable[[AgentRequested], AgentResponse | None],
    limits: Limits | None = None,
    **more: Any,
) -> AsyncIterator[Fleet]:
    """Dispatcher and collector in this process; `respond` is what workers answer, `more` are further settings."""
    settings = structs.replace(load({"NATS_URL": nats_url}), limits=limits or Limits(), **more)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(in_process(settings))
        nc = await nats.connect(nats_url)
        stack.push_async_callback(nc.close)
        fleet = await client_on(nc)
        await stack.enter_async_context(agents.answering(nc, respond))
        yield fleet


@asynccontextmanager
async def without_workers(url: str, **more: Any) -> AsyncIterator[Fleet]:
    """Its calls wait until somebody answers them; `more` are further settings."""
    async with in_process(structs.replace(load({"NATS_URL": url}), **more)):
        nc = await nats.connect(url)
        try:
            yield await client_on(nc)
        finally:
            await nc.close()
