"""More requests than the fleet takes: they wait in the stream, and when that is full the publisher hears of it."""

import json
from datetime import UTC, datetime

import nats
import pytest
from nats.js.errors import APIError, NoStreamResponseError

from fleet import subjects
from fleet.client.session import STREAM_FULL, session
from fleet.config import Limits, Settings
from fleet.errors import FleetError
from fleet.jetstream import topology
from fleet.jetstream.lifetimes import CONTROL_ACK_WAIT_S
from fleet.messages import AgentRequested, AgentResponse
from tests.support import agents
from tests.support.fleets.control_plane import Fleet, running
from tests.support.waiting import WITHIN_S, until

REQUEST = b'{"task_description": "Design it", "num_agents": 1, "rounds": 0}'


class Gate:
    """Workers that answer nothing until it is opened."""

    def __init__(self) -> None:
        self.waiting: list[AgentRequested] = []
        self.is_open = False

    def __call__(self, call: AgentRequested) -> AgentResponse | None:
        if self.is_open:
            return agents.answer(call)
        self.waiting.append(call)
        return None

    async def open(self, fleet: Fleet) -> None:
        """Answers all that waits, and whatever comes."""
        self.is_open = True
        for call in self.waiting:
            await agents.publish(fleet.nc.jetstream(), agents.answer(call))


async def waiting(fleet: Fleet) -> int:
    """Requests in the stream."""
    info = await fleet.nc.jetstream().stream_info(subjects.DELIBERATION_REQUESTS)
    return int(info.state.messages)


def count(fleet: Fleet, subject: str) -> int:
    return sum(seen == subject for seen, _, _ in fleet.inbox.events)


async def until_accepted(fleet: Fleet, expected: int) -> None:
    await until(lambda: count(fleet, subjects.ACCEPTED) >= expected)


async def test_a_publisher_gets_an_error_when_the_stream_is_full(nats_url: str) -> None:
    """As a JetStream error, in the reply of a plain request, and as 503 of `deliberation.ask`: never silence."""
    gate = Gate()
    async with running(nats_url, gate, Limits(max_waiting_requests=3, max_in_flight=1)) as fleet:
        await fleet.request(task_id="in-progress", num_agents=1, rounds=0)
        await until_accepted(fleet, 1)
        for number in range(3):
            await fleet.request(task_id=f"waiting-{number}", num_agents=1, rounds=0)
        with pytest.raises(APIError) as raised:
            await fleet.nc.jetstream().publish(subjects.REQUESTED, REQUEST)
        assert raised.value.err_code == STREAM_FULL
        reply = json.loads((await fleet.nc.request(subjects.REQUESTED, REQUEST, timeout=WITHIN_S)).data)
        assert reply["error"]["err_code"] == STREAM_FULL
        code, body = await fleet.ask(subjects.ASK, REQUEST)
        assert (code, "maximum messages exceeded" in body["error"]) == ("503", True)
        await gate.open(fleet)
        for number in range(3):
            await fleet.inbox.next(subjects.COMPLETED, task_id=f"waiting-{number}")
        await fleet.request(task_id="later", num_agents=1, rounds=0)
        await fleet.inbox.next(subjects.COMPLETED, task_id="later")


async def test_no_more_deliberations_than_max_in_flight_are_in_progress(nats_url: str) -> None:
    """The others wait in the stream, for longer than their deliveries' `ack_wait`, and are done once there is room."""
    gate = Gate()
    async with running(nats_url, gate, Limits(max_in_flight=4)) as fleet:
        ids = [await fleet.request(num_agents=1, rounds=0) for _ in range(20)]
        await until_accepted(fleet, 4)
        # Deliveries that were not kept would come again by then, and count as begun.

        async def are_held_long_enough() -> bool:
            return await held_s(fleet) >= 1.5 * CONTROL_ACK_WAIT_S

        await until(are_held_long_enough)
        info = await fleet.nc.jetstream().consumer_info(subjects.DELIBERATION_REQUESTS, subjects.DISPATCHER)
        assert (count(fleet, subjects.ACCEPTED), await waiting(fleet), info.num_redelivered) == (4, 16, 0)
        await gate.open(fleet)
        for task_id in ids:
            await fleet.inbox.next(subjects.COMPLETED, task_id=task_id)
        assert all(fleet.inbox.of(task_id) == [subjects.ACCEPTED, subjects.COMPLETED] for task_id in ids)


async def test_the_deadline_runs_from_acceptance_not_from_when_room_was_waited_for(nats_url: str) -> None:
    """However long that was."""
    async with running(nats_url, lambda call: None, Limits(max_in_flight=1)) as fleet:
        await fleet.request(task_id="first", num_agents=1, constraints={"timeout_seconds": 2})
        await fleet.request(task_id="second", num_agents=1, constraints={"timeout_seconds": 1})
        first = await fleet.inbox.next(subjects.FAILED, task_id="first")
        second = await fleet.inbox.next(subjects.FAILED, task_id="second")
        assert first["duration_ms"] >= 2000
        assert second["duration_ms"] >= 1000
        accepted = await fleet.inbox.next(subjects.ACCEPTED, task_id="second")
        assert accepted["accepted_at"] >= first["completed_at"]


async def held_s(fleet: Fleet) -> float:
    """Since the last request was stored, which waits behind all others."""
    last = await fleet.nc.jetstream().get_last_msg(subjects.DELIBERATION_REQUESTS, subjects.REQUESTED)
    assert last.time is not None
    return float((datetime.now(UTC) - last.time).total_seconds())


async def test_a_cancelled_deliberation_makes_room(nats_url: str) -> None:
    """As every end does."""
    async with running(nats_url, lambda call: None, Limits(max_in_flight=1)) as fleet:
        await fleet.request(task_id="first", num_agents=1)
        await until_accepted(fleet, 1)
        await fleet.request(task_id="second", num_agents=1)
        await fleet.ask(subjects.CANCEL, {"task_id": "first"})
        await fleet.inbox.next(subjects.ACCEPTED, task_id="second")


async def test_the_command_line_says_that_the_fleet_is_full(nats_url: str) -> None:
    """And not that there is no JetStream, although its error has the same status."""
    settings = Settings(nats_url=nats_url, limits=Limits(max_waiting_requests=1))
    async with session(settings) as client:
        await topology.declare(client.js, settings)
        await client.publish({"task_description": "Design it"})
    with pytest.raises(FleetError, match="as many requests waiting as it takes"):
        async with session(settings) as client:
            await client.publish({"task_description": "Design it"})


async def test_a_request_that_is_too_many_leaves_no_trace(nats_url: str) -> None:
    """Nobody is told that it was accepted, and it can be published again once there is room."""
    nc = await nats.connect(nats_url)
    js = nc.jetstream()
    await topology.declare(js, Settings(nats_url=nats_url, limits=Limits(max_waiting_requests=1)))
    await js.publish(subjects.REQUESTED, REQUEST)
    with pytest.raises(APIError):
        await js.publish(subjects.REQUESTED, REQUEST, headers={"Nats-Msg-Id": "again"})
    await js.purge_stream(subjects.DELIBERATION_REQUESTS)
    ack = await js.publish(subjects.REQUESTED, REQUEST, headers={"Nats-Msg-Id": "again"})
    assert not ack.duplicate
    await nc.close()


async def test_what_others_put_beside_the_deadlines_takes_nobodys_room(nats_url: str) -> None:
    """Neither what a neighbour publishes, nor what lies in the stream since it took all of `control.>`."""
    async with running(nats_url, agents.answer, Limits(max_in_flight=2)) as fleet:
        js = fleet.nc.jetstream()
        wanted = (await js.stream_info(subjects.DELIBERATION_CONTROL)).config
        await js.update_stream(wanted.evolve(subjects=["control.>"]))
        for number in range(3):
            await js.publish(f"control.pump.{number}.set", b"{}")
        await topology.declare(js, Settings(limits=Limits(max_in_flight=2)))
        with pytest.raises(NoStreamResponseError):
            await js.publish("control.pump.3.set", b"{}")
        await fleet.request(task_id="ours", num_agents=1, rounds=0)
        await fleet.inbox.next(subjects.COMPLETED, task_id="ours")
