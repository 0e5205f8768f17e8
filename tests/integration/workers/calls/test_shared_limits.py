"""Limits of an endpoint hold over all workers of a fleet, which share them through NATS. The model server counts."""

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from fleet import subjects
from fleet.clock import now_ms
from fleet.model_servers import EndpointConfig
from fleet.times import rfc3339
from tests.support.waiting import until
from tests.support.workers.fake_control_plane import SLOW, Plane, request, settings, worker_process
from workers.calls.worker import AgentWorker
from workers.simulator.server import Simulator, SimulatorConfig

SHORT = SimulatorConfig(tokens_per_second=100, answer_tokens=10)


def limited(plane: Plane, simulator: Simulator, calls_per_worker: int = 16, **limits: Any) -> Any:
    endpoint = EndpointConfig(url=simulator.url, **limits)
    return structs.replace(
        settings(plane, simulator, calls_per_worker=calls_per_worker), vllm_urls=(), endpoints={"server": endpoint}
    )


async def submit(plane: Plane, calls: int) -> None:
    late = rfc3339(now_ms() + 300_000)
    await asyncio.gather(*(plane.submit(request(task_id=f"t{number}", deadline_at=late)) for number in range(calls)))


@pytest.mark.parametrize("workers", [1, 4])
async def test_no_more_calls_are_open_than_the_endpoint_may_have(plane: Plane, workers: int) -> None:
    """All of its seats are used, and nobody waits in the server."""
    async with Simulator(SHORT) as simulator, AsyncExitStack() as stack:
        for number in range(workers):
            config = limited(plane, simulator, max_concurrency=6)
            await stack.enter_async_context(AgentWorker.open(config, f"worker-{number}"))
        await submit(plane, 60)
        await plane.next(subjects.AGENT_COMPLETED, 60)
        assert simulator.most_running == 6
        assert simulator.requests == 60


async def test_one_busy_worker_has_all_seats_and_another_gets_its_part(plane: Plane) -> None:
    """A worker that has calls waits for seats of one that has more than its part, and no longer."""
    async with Simulator(SHORT) as simulator:
        config = limited(plane, simulator, calls_per_worker=60, max_concurrency=4)
        async with AgentWorker.open(config, "worker-0") as first:
            await submit(plane, 60)
            await until(lambda: first.status().open_calls == 60)
            await until(lambda: simulator.most_running == 4)
            async with AgentWorker.open(config, "worker-1") as second:
                await plane.submit(request(task_id="late"))
                await until(lambda: second.status().done == 1)
                assert first.status().open_calls > 0
        assert simulator.most_running == 4


async def test_a_killed_workers_seats_come_back(plane: Plane, tmp_path: Path) -> None:
    """Others see that it is silent."""
    await plane.put_state()
    async with (
        Simulator(SLOW) as simulator,
        worker_process(plane, simulator, tmp_path, endpoint="max_concurrency = 1") as process,
    ):
        await plane.submit(request())
        await until(lambda: simulator.running == 1)
        process.send_signal(signal.SIGKILL)
        async with AgentWorker.open(limited(plane, simulator, max_concurrency=1), "worker-1"):
            await until(lambda: simulator.requests == 2)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
async def test_rates_hold_over_a_minute(plane: Plane, workers: int) -> None:
    """Within 5 %, counted by the server, while more calls wait than may begin."""
    async with (
        Simulator(SimulatorConfig(answer_tokens=10, recorded_calls=2_000)) as simulator,
        AsyncExitStack() as stack,
    ):
        for number in range(workers):
            worker = limited(plane, simulator, calls_per_worker=200, requests_per_minute=600)
            await stack.enter_async_context(AgentWorker.open(worker, f"worker-{number}"))
        await submit(plane, 720)
        await plane.next(subjects.AGENT_COMPLETED, 680, within_s=90)
        times = sorted(call.started for call in simulator.calls())
    first = times[0]
    assert 600 * 0.95 <= sum(at < first + 60 for at in times) <= 600 * 1.05
