"""Runs dispatcher, collector and service on a real nats-server, with a client that sees their events."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import nats
from msgspec import structs

from fleet import subjects
from fleet.config import Limits, load
from fleet.control import collector, dispatcher
from fleet.messages import AgentRequested, AgentResponse
from tests.support import agents


class NoWorkers:
    """The launcher of a fleet whose workers the test plays."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def answering(self) -> int:
        return 1


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

        async with asyncio.timeout(30), self._news:
            await self._news.wait_for(found)
            return dict(found())

    def of(self, task_id: str) -> list[str]:
        return [subject for subject, _, body in self.events if body.get("task_id") == task_id]


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
        ack = json.loads((await self.nc.request(subjects.REQUESTED, json.dumps(body).encode(), timeout=5)).data)
        return str(body.get("task_id") or f"d-{ack['seq']}")

    async def ask(self, subject: str, body: Any) -> tuple[str | None, dict[str, Any]]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        reply = await self.nc.request(subject, data, timeout=30)
        return (reply.headers or {}).get("Nats-Service-Error-Code"), json.loads(reply.data)


@asynccontextmanager
async def running(
    nats_url: str, respond: Callable[[AgentRequested], AgentResponse | None], limits: Limits | None = None
) -> AsyncIterator[Fleet]:
    """Dispatcher and collector in this process; `respond` is what workers answer."""
    settings = structs.replace(load({"NATS_URL": nats_url}), limits=limits or Limits())
    up = [asyncio.Event(), asyncio.Event()]
    tasks = [
        asyncio.create_task(dispatcher.run(settings, NoWorkers(), on_ready=up[0].set)),
        asyncio.create_task(collector.run(settings, on_ready=up[1].set)),
    ]
    async with asyncio.timeout(20):
        await asyncio.gather(*(event.wait() for event in up))
    nc = await nats.connect(nats_url)
    inbox = Inbox()
    for subject in (subjects.ACCEPTED, subjects.REJECTED, *subjects.TERMINAL):
        await nc.subscribe(subject, cb=inbox.take)
    await nc.flush()
    tasks.append(asyncio.create_task(agents.serve(nc, respond)))
    try:
        yield Fleet(nc, inbox)
    finally:
        for task in reversed(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await nc.close()
