"""Runs a whole fleet in this process: dispatcher, collector, and a worker on a simulated vLLM."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from msgspec import structs

from fleet import subjects
from fleet.config import Limits, RoleProfile, Settings, Workers
from fleet.control import collector, dispatcher
from fleet.jetstream import connection
from tests.support.control_plane import Fleet, Inbox, NoWorkers
from workers.calls.worker import AgentWorker
from workers.simulator.server import Simulator, SimulatorConfig

ROLE = RoleProfile(persona="You are a developer.", max_tokens=20_000)


@asynccontextmanager
async def whole(
    nats_url: str,
    simulated: SimulatorConfig | None = None,
    limits: Limits | None = None,
    *,
    worker_url: str | None = None,
    client_url: str | None = None,
    **more: str,
) -> AsyncIterator[Fleet]:
    """`nats_url` may name several servers; the others are for users of their own; `more` are further settings. The
    client hears all ends of deliberations."""
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(Simulator(simulated or SimulatorConfig()))
        settings = Settings(
            nats_url=nats_url,
            vllm_urls=(simulator.url,),
            roles={"DEV": ROLE},
            limits=limits or Limits(),
            workers=Workers(ack_wait_s=3, calls_per_worker=32),
            **more,  # type: ignore[arg-type]
        )
        await _component(stack, lambda ready: dispatcher.run(settings, NoWorkers(), on_ready=ready))
        await _component(stack, lambda ready: collector.run(settings, on_ready=ready))
        worker_settings = structs.replace(settings, nats_url=worker_url or nats_url)
        await stack.enter_async_context(AgentWorker.open(worker_settings, "worker-test"))

        client = structs.replace(settings, nats_url=client_url or nats_url)
        nc = await connection.connect(client, "client", reconnect_time_wait=0.2)
        stack.push_async_callback(nc.close)
        inbox = Inbox()
        for subject in (subjects.ACCEPTED, subjects.REJECTED, *subjects.TERMINAL):
            await nc.subscribe(subject, cb=inbox.take)
        await nc.flush()
        yield Fleet(nc, inbox)


async def _component(stack: AsyncExitStack, run: object) -> None:
    ready = asyncio.Event()
    task: asyncio.Task[None] = asyncio.create_task(run(ready.set))  # type: ignore[operator]

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(end)
    async with asyncio.timeout(60):
        await ready.wait()
