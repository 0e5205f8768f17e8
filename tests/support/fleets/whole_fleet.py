"""Runs a whole fleet in this process, with a worker on a simulated vLLM and a client."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from msgspec import structs

from fleet.config import Limits, RoleProfile, Settings, Workers
from fleet.jetstream import connection
from fleet.local.testbed import in_process
from tests.support.fleets.control_plane import Fleet, client_on
from workers.simulator.server import Simulator, SimulatorConfig

ROLE = RoleProfile(persona="You are a developer.", max_tokens=20_000)
WORKERS = Workers(ack_wait_s=3, calls_per_worker=32)


@asynccontextmanager
async def whole(
    nats_url: str,
    simulated: SimulatorConfig | None = None,
    limits: Limits | None = None,
    *,
    worker_url: str | None = None,
    client_url: str | None = None,
    role: RoleProfile = ROLE,
    workers: Workers = WORKERS,
    **more: Any,
) -> AsyncIterator[Fleet]:
    """`nats_url` may name several servers; the others are for users of their own; `more` are further settings. The
    client hears all ends of deliberations."""
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(Simulator(simulated or SimulatorConfig()))
        settings = Settings(
            nats_url=nats_url,
            vllm_urls=(simulator.url,),
            roles={"DEV": role},
            limits=limits or Limits(),
            workers=workers,
            **more,
        )
        worker = structs.replace(settings, nats_url=worker_url or nats_url)
        await stack.enter_async_context(in_process(settings, worker=worker))
        client = structs.replace(settings, nats_url=client_url or nats_url)
        nc = await connection.connect(client, "client", reconnect_time_wait=0.2)
        stack.push_async_callback(nc.close)
        yield await client_on(nc)
