"""A worker that is not wanted any more finishes its calls and takes no other; wanted again, it goes on."""

from typing import Any

import pytest
from nats.js.api import AckPolicy, ConsumerConfig

from fleet import subjects
from fleet.jetstream import worker_statuses
from tests.support.waiting import until
from tests.support.workers.fake_control_plane import Plane, request, settings, working
from workers.calls import worker as worker_module
from workers.calls.worker import AgentWorker
from workers.simulator.server import Simulator, SimulatorConfig

NEVER_S = 3_000.0
SLOW = SimulatorConfig(tokens_per_second=20, answer_tokens=40)


async def never_delivered_again(plane: Plane) -> None:
    """A call that waited for `ack_wait` would not be answered within a test."""
    await plane.js.delete_consumer(subjects.AGENT_REQUESTS, subjects.WORKERS)
    consumer = ConsumerConfig(
        durable_name=subjects.WORKERS,
        filter_subject=subjects.AGENT_REQUESTED,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=NEVER_S,
    )
    await plane.js.add_consumer(subjects.AGENT_REQUESTS, consumer)


async def test_calls_in_flight_end_and_others_take_what_comes(plane: Plane) -> None:
    """At once: nothing is handed to a worker that does not take it."""
    await never_delivered_again(plane)
    async with Simulator(SLOW) as simulator, working(plane, simulator, ack_wait_s=NEVER_S) as worker:
        await plane.submit(request(agent_id="agent-dev-001"))
        await until(lambda: worker.status().open_calls == 1)
        assert await worker.retire(True) == 1
        assert worker.status().draining
        await plane.submit(request(agent_id="agent-dev-002"))
        async with AgentWorker.open(settings(plane, simulator, ack_wait_s=NEVER_S), "another") as another:
            await plane.next(subjects.AGENT_COMPLETED, 2)
            await plane.settled()
            assert (worker.status().done, another.status().done) == (1, 1)
        assert await worker.retire(True) == 0
        assert worker.status().last_fetch_age_s == 0


async def test_wanted_again_it_takes_what_waits(plane: Plane) -> None:
    """Also while it has calls open."""
    await never_delivered_again(plane)
    async with Simulator(SLOW) as simulator, working(plane, simulator, ack_wait_s=NEVER_S) as worker:
        await plane.submit(request(agent_id="agent-dev-001"))
        await until(lambda: worker.status().open_calls == 1)
        await worker.retire(True)
        await plane.submit(request(agent_id="agent-dev-002"))
        await worker.retire(False)
        await plane.next(subjects.AGENT_COMPLETED, 2)
        assert not worker.status().draining


async def test_nobody_misses_a_worker_that_was_retired(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes back what it has told of itself; one that ends in another way is looked for."""
    monkeypatch.setattr(worker_module, "STATUS_EVERY_S", 0.05)

    async def told() -> Any:
        return await worker_statuses.look(plane.nc)

    async with Simulator() as simulator:
        for retired, left in ((False, 1), (True, 0)):
            async with working(plane, simulator) as worker:
                await until(told)
                await worker.retire(retired)
            assert len(await told()) == left
