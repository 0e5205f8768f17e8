"""A dispatcher says in `/readyz` that no model server answers, as workers tell it."""

import asyncio
import json
from typing import Any

import aiohttp
import nats
from msgspec import structs

from fleet import subjects
from fleet.config import RoleProfile, load
from fleet.control import dispatcher
from fleet.local.testbed import NoWorkers
from fleet.messages import encode
from fleet.messages.workers import EndpointStatus, WorkerStatus
from tests.support.nats.servers import free_ports
from tests.support.waiting import WITHIN_S, until

SERVER = "http://127.0.0.1:9"


async def test_models_are_missing_once_no_server_answers_any_worker(nats_url: str) -> None:
    """And are not any more, once one does."""
    (port,) = free_ports(1)
    settings = structs.replace(
        load({"NATS_URL": nats_url, "VLLM_URL": SERVER}),
        health_port=port,
        health_host="127.0.0.1",
        roles={"DEV": RoleProfile(persona="You are a developer.")},
    )
    up = asyncio.Event()
    task = asyncio.create_task(dispatcher.run(settings, NoWorkers(), on_ready=up.set))
    nc = await nats.connect(nats_url)
    try:
        async with asyncio.timeout(WITHIN_S), aiohttp.ClientSession() as http:
            await up.wait()

            async def is_ready() -> bool:
                return "models" not in (await _readiness(http, port))["problems"]

            async def is_not() -> bool:
                return not await is_ready()

            for answers in (True, False, True):
                await tell(nc, answers)
                await until(is_ready if answers else is_not)
            assert SERVER not in json.dumps(await _readiness(http, port))
            await tell(nc, answers=False)
            await until(is_not)
            assert SERVER in (await _readiness(http, port))["details"]["models"]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await nc.close()


async def tell(nc: Any, answers: bool) -> None:
    at = "2026-01-01T00:00:00.000Z"
    endpoint = EndpointStatus(name=SERVER, url=SERVER, breaker="closed", opened=0, open_calls=0, answers=answers)
    status = WorkerStatus(
        name="w", started_at=at, told_at=at, open_calls=0, done=0, failed=0, last_fetch_age_s=0.0, endpoints=(endpoint,)
    )
    await nc.publish(subjects.status_of("w"), encode(status))


async def _readiness(http: aiohttp.ClientSession, port: int) -> dict[str, Any]:
    async with http.get(f"http://127.0.0.1:{port}/readyz") as reply:
        return dict(await reply.json())
