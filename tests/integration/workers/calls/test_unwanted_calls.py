"""Calls that nobody waits for any more: their connections to the model are closed, whoever holds them."""

import json
import signal
import time
from pathlib import Path

from fleet import subjects
from fleet.times import rfc3339
from tests.support.waiting import until, until_consumer
from tests.support.workers.fake_control_plane import SLOW, Plane, request, worker_process, working
from workers.simulator.server import Simulator

UNAWARE_S = 600.0
"""A worker that takes this for the `ack_wait` never tells NATS that it is still at work."""


async def redelivered(plane: Plane) -> None:
    """Waits until NATS has handed a call to a second worker, or to the same one again."""
    await until_consumer(plane.js, subjects.AGENT_REQUESTS, subjects.WORKERS, lambda info: info.num_redelivered > 0)


async def test_the_deadline_closes_open_calls(plane: Plane) -> None:
    """All of them, without being told; their failure says why."""
    async with Simulator(SLOW) as simulator, working(plane, simulator):
        soon = rfc3339(round(time.time() * 1000) + 1000)
        for number in range(5):
            await plane.submit(request(agent_id=f"agent-dev-{number}", deadline_at=soon))
        await until(lambda: simulator.aborted == 5)
        failed = [json.loads((await plane.next(subjects.AGENT_FAILED, count)).data) for count in range(1, 6)]
        await plane.settled()
    assert {body["error_type"] for body in failed} == {"DeadlineExceeded"}


async def test_a_worker_that_stood_still_drops_a_call_that_another_one_answered(plane: Plane, tmp_path: Path) -> None:
    """It closes its connection on waking, and says nothing."""
    async with Simulator(SLOW) as slow, Simulator() as quick, worker_process(plane, slow, tmp_path) as zombie:
        await plane.put_state()
        await plane.submit(request())
        await plane.next(subjects.AGENT_PROGRESS)
        zombie.send_signal(signal.SIGSTOP)
        async with working(plane, quick):
            await plane.next(subjects.AGENT_COMPLETED)
            await plane.put_state(calls="completed")
            await plane.settled()
            assert slow.aborted == 0
            zombie.send_signal(signal.SIGCONT)
            await until(lambda: slow.aborted == 1)
    assert len(plane.of(subjects.AGENT_COMPLETED)) == 1
    assert not plane.of(subjects.AGENT_FAILED)


async def test_a_worker_that_stood_still_drops_its_call_once_the_other_one_has_answered(
    plane: Plane, tmp_path: Path
) -> None:
    """Until then nobody knows which of the two will."""
    async with Simulator(SLOW) as one, Simulator(SLOW) as two, worker_process(plane, one, tmp_path) as zombie:
        await plane.put_state()
        await plane.submit(request())
        await plane.next(subjects.AGENT_PROGRESS)
        zombie.send_signal(signal.SIGSTOP)
        async with working(plane, two):
            await until(lambda: two.running == 1)
            zombie.send_signal(signal.SIGCONT)
            await plane.put_state(calls="completed")
            await until(lambda: (one.aborted, two.aborted) == (1, 1))
            await plane.settled()
    assert not plane.of(subjects.AGENT_COMPLETED) + plane.of(subjects.AGENT_FAILED)


async def test_a_call_that_came_again_is_closed_when_the_first_worker_answers_it(plane: Plane) -> None:
    """The first one did not know that its lease was over."""
    async with (
        Simulator(SLOW) as first,
        Simulator(SLOW) as second,
        working(plane, first, ack_wait_s=UNAWARE_S, calls_per_worker=1),
    ):
        await plane.put_state()
        await plane.submit(request())
        await until(lambda: first.running == 1)
        async with working(plane, second):
            await until(lambda: second.running == 1)
            await plane.put_state(calls="completed")
            await until(lambda: second.aborted == 1)


async def test_a_call_that_comes_back_to_its_own_worker_goes_on(plane: Plane) -> None:
    """It is not made twice; the lease is renewed."""
    async with Simulator(SLOW) as simulator, working(plane, simulator, ack_wait_s=UNAWARE_S) as worker:
        await plane.put_state()
        await plane.submit(request())
        await redelivered(plane)
        await plane.submit(request(agent_id="agent-dev-002"))
        await until(lambda: simulator.requests == 2)
        assert worker.status().open_calls == 2
        assert {call.request_id for call in simulator.calls()} == {
            "t.0.propose.agent-dev-001.1",
            "t.0.propose.agent-dev-002.1",
        }
