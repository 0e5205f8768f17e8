"""A model server that is away for half of a deliberation's time: one agent, no other server, and the call is made."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from msgspec import structs

from fleet import subjects
from fleet.clock import now_ms
from fleet.local.ports import free_port
from fleet.model_servers import EndpointConfig, ModelConfig
from fleet.times import rfc3339
from tests.support.workers.fake_control_plane import Plane, request, settings
from workers.calls.worker import AgentWorker
from workers.simulator.server import Simulator, SimulatorConfig

OUTAGE_S, DEADLINE_S = 60.0, 120.0

LOADING = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 15\r\nConnection: close\r\n\r\nLoading a model"
FULL = LOADING.replace(b"Connection", b"Retry-After: 7\r\nConnection")
BROKEN = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
KINDS = {"loading": LOADING, "full": FULL, "broken": BROKEN, "refused": None}


@asynccontextmanager
async def away(response: bytes | None, port: int) -> AsyncIterator[None]:
    """Every request is answered so; None: nobody listens."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(response or b"")
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    if response is None:
        yield
        return
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()


async def comes_back(response: bytes | None, port: int, done: asyncio.Event) -> None:
    async with away(response, port):
        await asyncio.sleep(OUTAGE_S)
    async with Simulator(SimulatorConfig(port=port)):
        await done.wait()


@pytest.mark.slow
async def test_a_minute_without_a_model_server_costs_a_minute(plane: Plane) -> None:
    """503 with and without Retry-After, and refused connections: the call is answered within its two minutes."""
    done, ports = asyncio.Event(), {kind: free_port() for kind in KINDS}
    servers = [asyncio.create_task(comes_back(KINDS[kind], port, done)) for kind, port in ports.items()]
    endpoints = {kind: EndpointConfig(url=f"http://127.0.0.1:{port}") for kind, port in ports.items()}
    models = {kind: ModelConfig(name="simulated", endpoints=(kind,)) for kind in KINDS}
    async with Simulator() as nowhere:
        config = structs.replace(settings(plane, nowhere), vllm_urls=(), endpoints=endpoints, models=models)
    async with AgentWorker.open(config, "worker"):
        deadline = rfc3339(now_ms() + round(1000 * DEADLINE_S))
        for kind in KINDS:
            await plane.submit(request(task_id=kind, model=kind, num_agents=1, deadline_at=deadline))
        await plane.next(subjects.AGENT_COMPLETED, len(KINDS), within_s=DEADLINE_S + 10)
    done.set()
    await asyncio.gather(*servers)
    answered = {json.loads(msg.data)["task_id"] for msg in plane.of(subjects.AGENT_COMPLETED)}
    assert answered == KINDS.keys()
    assert not plane.of(subjects.AGENT_FAILED)
