"""One tenant asks for far more at once than workers have room for; another one asks for little."""

from pathlib import Path

import pytest

from fleet import subjects
from fleet.config import Workers
from tests.support.fleets.tenants import A, B, shared
from workers.simulator.server import SimulatorConfig

pytestmark = pytest.mark.usefixtures("nats_binary")

COUNCILS, AGENTS = 8, 16


async def test_what_workers_have_no_room_for_waits_where_it_costs_no_time(tmp_path: Path) -> None:
    """Of the flood a part has begun when the other's is accepted, which is before its turn. Everything ends in time."""
    few = Workers(ack_wait_s=3, calls_per_worker=8)
    async with shared(tmp_path, SimulatorConfig(latency_ms=200), workers=few) as stage:
        for number in range(COUNCILS):
            await stage[A].request(task_id=f"n{number}", num_agents=AGENTS, rounds=0)
        await stage[A].inbox.next(subjects.ACCEPTED)
        await stage[B].request(task_id="light", num_agents=1)
        await stage[B].inbox.next(subjects.ACCEPTED, task_id="light")
        accepted = {event["task_id"] for subject, _, event in stage[A].inbox.events if subject == subjects.ACCEPTED}
        assert len(accepted) <= COUNCILS // 2
        for number in range(COUNCILS):
            await stage[A].inbox.next(subjects.COMPLETED, task_id=f"n{number}")
        await stage[B].inbox.next(subjects.COMPLETED, task_id="light")
