"""NATS does not check where a client has answers sent to: a state can be overwritten so. It is never believed."""

import json
from pathlib import Path

import pytest

from fleet import subjects
from fleet.jetstream.payloads import Texts
from fleet.messages import AgentFailed, AgentRequested
from tests.support import agents
from tests.support.client.following import Follower
from tests.support.fleets.control_plane import running
from tests.support.fleets.whole_fleet import whole
from tests.support.nats.permitted import permitted
from tests.support.variants import some_of
from tests.support.waiting import until
from tests.support.workers.fake_control_plane import SLOW

KEY = f"$KV.{subjects.BUCKET}"
GET = f"$JS.API.DIRECT.GET.{subjects.STATES}"


@pytest.mark.usefixtures("nats_binary")
async def test_a_state_that_a_client_destroys_fails_and_is_not_believed(tmp_path: Path) -> None:
    """The task has its one terminal event as soon as anybody looks, long before its deadline."""
    async with permitted(tmp_path / "nats") as users:
        names = {"worker_url": users.url("worker"), "client_url": users.url("client")}
        async with whole(users.url("control"), SLOW, **names) as fleet:  # type: ignore[arg-type]
            follower = Follower(fleet)
            constraints = {"timeout_seconds": 3600}
            await follower.call({"task_id": "victim", "task_description": "Design it", "constraints": constraints})
            await fleet.inbox.next(subjects.ACCEPTED, task_id="victim")
            await fleet.nc.publish(subjects.REQUESTED, b"{}", reply=f"{KEY}.victim")

            async def is_found_out() -> bool:
                return (await fleet.ask(subjects.RESULT, {"task_id": "victim"}))[1].get("status") != "IN_PROGRESS"

            await until(is_found_out)
            failed = await fleet.inbox.next(subjects.FAILED, task_id="victim")
            assert "lost the state" in failed["error"]
            assert "cannot be read" in failed["error"]
            assert (await follower.rest())[-1] == failed
            assert json.loads((await fleet.nc.request(subjects.RESULT, b"victim")).data)["status"] == "FAILED"
            assert [s for s in fleet.inbox.of("victim") if s in subjects.TERMINAL] == [subjects.FAILED]


@some_of(1, "value", [b"", b"{", b"[]", b"\xff\x00", b'{"task_id": "victim", "status": "COMPLETED"}'])
async def test_a_task_whose_state_is_no_state_ends_with_its_next_answer(nats_url: str, value: bytes) -> None:
    """Whatever bytes somebody has written there."""
    calls: list[AgentRequested] = []
    async with running(nats_url, lambda call: calls.append(call)) as fleet:  # type: ignore[func-returns-value]
        await fleet.request(task_id="victim", constraints={"timeout_seconds": 3600})
        await fleet.inbox.next(subjects.ACCEPTED, task_id="victim")
        await until(lambda: bool(calls))
        js = fleet.nc.jetstream()
        await (await js.key_value(subjects.BUCKET)).put("victim", value)
        await agents.publish(js, agents.answer(calls[0]))
        failed = await fleet.inbox.next(subjects.FAILED, task_id="victim")
        assert "cannot be read" in failed["error"]


@pytest.mark.usefixtures("nats_binary")
async def test_a_state_that_is_copied_to_another_key_is_not_believed(tmp_path: Path) -> None:
    """Only to a key that is free: a stored state carries the revision before it, and NATS holds a copy to that."""
    async with permitted(tmp_path / "nats") as users:
        names = {"worker_url": users.url("worker"), "client_url": users.url("client")}
        async with whole(users.url("control"), SLOW, **names) as fleet:  # type: ignore[arg-type]
            for task_id in ("other", "taken"):
                await fleet.request(task_id=task_id, num_agents=1)
                await fleet.inbox.next(subjects.ACCEPTED, task_id=task_id)
            for key in ("free", "taken"):
                await fleet.nc.publish(f"{GET}.{KEY}.other", reply=f"{KEY}.{key}")

            async def is_copied() -> bool:
                return (await fleet.ask(subjects.RESULT, {"task_id": "free"}))[0] != "404"

            await until(is_copied)
            code, body = await fleet.ask(subjects.RESULT, {"task_id": "free"})
            assert (code, "it is the state of other" in body["error"]) == ("503", True)
            code, body = await fleet.ask(subjects.RESULT, {"task_id": "taken"})
            assert (code, body["task_id"], body["status"]) == (None, "taken", "IN_PROGRESS")


async def test_a_task_whose_state_is_too_long_to_be_read_ends_with_its_next_answer(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not become shorter: nobody waits for it."""
    calls: list[AgentRequested] = []
    async with running(nats_url, lambda call: calls.append(call)) as fleet:  # type: ignore[func-returns-value]
        await fleet.request(task_id="victim", constraints={"timeout_seconds": 3600})
        await fleet.inbox.next(subjects.ACCEPTED, task_id="victim")
        await until(lambda: bool(calls))
        js = fleet.nc.jetstream()
        top = {"task_id": "victim", "status": "IN_PROGRESS"}
        value = await Texts(js, fleet.nc.max_payload).refer("tasks/victim/state", b"x" * 2000, top)
        monkeypatch.setattr("fleet.jetstream.payloads.MAX_BYTES", 1000)
        await (await js.key_value(subjects.BUCKET)).put("victim", value)
        await agents.publish(js, agents.answer(calls[0]))
        failed = await fleet.inbox.next(subjects.FAILED, task_id="victim")
        assert "more than 1000" in failed["error"]


async def test_what_a_worker_says_of_a_failure_is_bounded(nats_url: str) -> None:
    """It stands in the state several times, and may come from a worker that somebody has broken into."""

    def fail(call: AgentRequested) -> AgentFailed:
        return agents.failure(call).change(error="x" * 1_000_000)

    async with running(nats_url, fail) as fleet:
        task_id = await fleet.request(num_agents=2)
        failed = await fleet.inbox.next(subjects.FAILED, task_id=task_id)
        assert [len(agent["error"]) < 2100 for agent in failed["failed_agents"]] == [True, True]
