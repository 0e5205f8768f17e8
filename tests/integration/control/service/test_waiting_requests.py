"""Requests that wait for room can be seen and cancelled, and who asks for one that is gone is told."""

import json
from typing import Any

import pytest

from fleet import subjects
from fleet.config import Limits
from fleet.control.service import endpoints
from tests.support import agents
from tests.support.client.following import Follower
from tests.support.fleets.control_plane import Fleet, running
from tests.support.waiting import WITHIN_S, until_stored

FULL = Limits(max_in_flight=1)


async def busy(fleet: Fleet) -> None:
    """All room is taken."""
    await fleet.request(task_id="busy", num_agents=1)
    await fleet.inbox.next(subjects.ACCEPTED, task_id="busy")


@pytest.mark.parametrize("named", [{"task_id": "mine"}, {}])
async def test_a_waiting_request_is_pending(nats_url: str, named: dict[str, Any]) -> None:
    """By the id that its client gave it, or by that of its receipt; any other is unknown."""
    async with running(nats_url, lambda call: None, FULL) as fleet:
        await busy(fleet)
        task_id = await fleet.request(**named)
        for _ in range(2):
            assert await fleet.ask(subjects.RESULT, {"task_id": task_id}) == (
                None,
                {"task_id": task_id, "status": "PENDING"},
            )
        follower = await Follower(fleet).call({"task_id": task_id})
        assert await follower.next() == {"task_id": task_id, "status": "PENDING"}
        code, body = await fleet.ask(subjects.RESULT, {"task_id": "other"})
        assert (code, body["status"]) == ("404", "UNKNOWN")
        await fleet.ask(subjects.CANCEL, {"task_id": "busy"})
        await fleet.inbox.next(subjects.ACCEPTED, task_id=task_id)
        assert (await fleet.ask(subjects.RESULT, {"task_id": task_id}))[1]["status"] == "IN_PROGRESS"


@pytest.mark.parametrize("named", [{"task_id": "mine"}, {}])
async def test_a_waiting_request_can_be_cancelled(nats_url: str, named: dict[str, Any]) -> None:
    """It has its one terminal event, no call is made for it, and once there is room it does not begin."""
    calls: list[str] = []
    async with running(nats_url, lambda call: calls.append(call.task_id), FULL) as fleet:  # type: ignore[func-returns-value]
        await busy(fleet)
        task_id = await fleet.request(**named)
        reply = await fleet.ask(subjects.CANCEL, {"task_id": task_id, "reason": "not needed"})
        assert reply == (None, {"task_id": task_id, "status": "CANCELLED"})
        event = await fleet.inbox.next(subjects.CANCELLED, task_id=task_id)
        assert event["reason"] == "not needed"
        assert (await fleet.ask(subjects.RESULT, {"task_id": task_id}))[1]["status"] == "CANCELLED"
        assert (await fleet.ask(subjects.CANCEL, {"task_id": task_id}))[0] == "409"
        await fleet.ask(subjects.CANCEL, {"task_id": "busy"})
        await fleet.request(task_id="next", num_agents=1)
        await fleet.inbox.next(subjects.ACCEPTED, task_id="next")
        told = fleet.inbox.of(task_id)
        assert told[:2] == [subjects.ACCEPTED, subjects.CANCELLED]
        assert told.count(subjects.CANCELLED) == 1
        assert set(calls) <= {"busy", "next"}


async def test_what_waits_is_read_once(nats_url: str) -> None:
    """However often one asks for ids that nobody knows."""
    async with running(nats_url, lambda call: None, FULL) as fleet:
        await busy(fleet)
        for number in range(20):
            await fleet.request(task_id=f"waiting-{number}")
        for _ in range(10):  # both instances have read it then
            await fleet.ask(subjects.RESULT, {"task_id": "nobody"})
        reads = 0

        async def count(_: Any) -> None:
            nonlocal reads
            reads += 1

        await fleet.nc.subscribe(f"$JS.API.STREAM.MSG.GET.{subjects.DELIBERATION_REQUESTS}", cb=count)
        for _ in range(10):
            await fleet.ask(subjects.RESULT, {"task_id": "nobody"})
        await fleet.nc.flush()
        assert reads == 0
        assert (await fleet.ask(subjects.RESULT, {"task_id": "waiting-7"}))[1]["status"] == "PENDING"


@pytest.mark.parametrize("verb", [subjects.ASK, subjects.FOLLOW])
async def test_a_call_whose_request_was_purged_ends(nats_url: str, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """With an error that says so, where the dispatcher did not get it."""
    monkeypatch.setattr(endpoints, "POLL_S", 0.1)
    monkeypatch.setattr("fleet.control.service.following.REPLY_EVERY_S", 0.1)
    async with running(nats_url, lambda call: None, FULL) as fleet:
        js = fleet.nc.jetstream()
        await fleet.nc.request(
            f"$JS.API.CONSUMER.PAUSE.{subjects.DELIBERATION_REQUESTS}.{subjects.DISPATCHER}",
            b'{"pause_until": "2100-01-01T00:00:00Z"}',
        )
        follower = Follower(fleet)
        await follower.call({"task_id": "t", "task_description": "x"}, verb)
        await until_stored(js, subjects.DELIBERATION_REQUESTS, lambda count: count > 0)
        await js.purge_stream(subjects.DELIBERATION_REQUESTS)
        while follower.codes[-1:] in ([], [None]):
            await follower.next()
        assert (follower.codes[-1], follower.replies[-1]["status"]) == ("404", "UNKNOWN")


async def test_an_ask_that_is_repeated_with_its_message_id_runs_once(nats_url: str) -> None:
    """As on `deliberation.requested`; another id is another request."""
    async with running(nats_url, agents.answer) as fleet:
        body = json.dumps({"task_description": "Design it", "num_agents": 1}).encode()
        replies = [
            json.loads(
                (await fleet.nc.request(subjects.ASK, body, timeout=WITHIN_S, headers={"Nats-Msg-Id": msg_id})).data
            )
            for msg_id in ("one", "one", "two")
        ]
        assert replies[0] == replies[1]
        assert replies[2]["task_id"] != replies[0]["task_id"]


async def test_statistics_count_errors_and_the_time_until_the_reply(nats_url: str) -> None:
    """As `nats micro stats` shows them, over all instances."""
    async with running(nats_url, agents.answer) as fleet:
        for _ in range(3):
            await fleet.ask(subjects.RESULT, {"task_id": "nobody"})
        await fleet.request(task_id="slow", num_agents=1)
        await fleet.ask(subjects.RESULT, {"task_id": "nobody", "wait_seconds": 1})
        inbox = fleet.nc.new_inbox()
        sub = await fleet.nc.subscribe(inbox)
        await fleet.nc.publish(f"$SRV.STATS.{subjects.SERVICE}", reply=inbox)
        stats = [json.loads((await sub.next_msg(timeout=WITHIN_S)).data) for _ in range(2)]
        of_result = [e for one in stats for e in one["endpoints"] if e["name"] == "result"]
        assert sum(endpoint["num_errors"] for endpoint in of_result) == 4
        assert {endpoint["last_error"] for endpoint in of_result} <= {"", "404:no task nobody"}
        assert sum(endpoint["processing_time"] for endpoint in of_result) >= 1e9  # one has waited for so long
