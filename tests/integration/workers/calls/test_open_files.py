"""A worker in a process that may have few files open."""

from pathlib import Path

from fleet import subjects
from tests.support.variants import some_of
from tests.support.workers.fake_control_plane import Plane, request, worker_process
from workers.calls.open_files import OTHERS, PER_CALL
from workers.simulator.server import Simulator, SimulatorConfig

CALLS = 200
ROOM = 40


@some_of(1, ("hard", "at_once"), [(OTHERS + ROOM * PER_CALL, ROOM), (4096, CALLS)])
async def test_calls_that_have_no_room_wait_and_none_fails(
    plane: Plane, tmp_path: Path, hard: int, at_once: int
) -> None:
    """The soft limit is raised; what the hard one leaves no room for waits in the fleet, not for an error."""
    async with Simulator(SimulatorConfig(answer_tokens=20, tokens_per_second=20)) as server:
        for number in range(CALLS):
            await plane.submit(request(task_id=f"t-{number}"))
        async with worker_process(plane, server, tmp_path, open_files=(OTHERS, hard)):
            await plane.next(subjects.AGENT_COMPLETED, CALLS, within_s=60)
        assert server.most_running <= at_once
    assert not plane.of(subjects.AGENT_FAILED)
