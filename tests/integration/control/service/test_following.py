"""`deliberation.follow`: everything that happens, as replies to one request, and nothing when nobody follows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fleet import subjects
from fleet.control.service import following
from fleet.messages import AgentRequested, AgentResponse
from tests.support import agents
from tests.support.client.following import Follower, steps
from tests.support.fleets.control_plane import Fleet, running
from tests.support.fleets.whole_fleet import whole
from tests.support.nats import natscli
from tests.support.nats.permitted import permitted
from tests.support.variants import some_of
from tests.support.waiting import until

TASK = {"task_id": "t", "task_description": "Design it", "num_agents": 3}


class Gate:
    """Workers that answer as many calls as they are let."""

    def __init__(self) -> None:
        self._held: list[AgentRequested] = []

    def take(self, call: AgentRequested) -> AgentResponse | None:
        self._held.append(call)
        return None

    async def answer(
        self, fleet: Fleet, count: int, respond: Callable[[AgentRequested], AgentResponse] = agents.answer
    ) -> None:
        await until(lambda: len(self._held) >= count)
        for _ in range(count):
            await agents.publish(fleet.nc.jetstream(), respond(self._held.pop(0)))


async def test_a_request_is_submitted_and_everything_is_told(nats_url: str) -> None:
    """Each phase that begins, each call that ends, the terminal event, and then the empty message."""
    async with running(nats_url, agents.answer) as fleet:
        follower = await Follower(fleet).call(TASK)
        replies = await follower.rest()
        assert replies[0]["task_id"] == "t"
        assert replies[0]["status"] in ("PENDING", "IN_PROGRESS")
        done = await fleet.inbox.next(subjects.COMPLETED, task_id="t")
        assert replies[-1] == done
        told = steps(replies)
        for phase, round_ in (("propose", 0), ("critique", 1), ("revise", 1), ("score", 1)):
            of_phase = [step for step in told if step[:2] == (phase, round_)]
            assert (phase, round_, 0, 3, None, None) in of_phase
            ended = [(step[2], step[4], step[5]) for step in of_phase if step[4] is not None]
            assert [done for done, _, _ in ended] == [1, 2, 3]
            assert {agent for _, agent, _ in ended} == {f"agent-dev-00{number}" for number in (1, 2, 3)}
            assert {outcome for _, _, outcome in ended} == {"completed"}
        order = [phase for phase, *_ in told]
        assert order == sorted(order, key=["propose", "critique", "revise", "score"].index)
        assert set(follower.codes) == {None}


@pytest.mark.parametrize("body", [{"task_id": "t"}, b"t", b'"t"'])
async def test_a_task_is_followed_from_where_it_stands(nats_url: str, body: Any) -> None:
    """Failures are named by their type."""
    gate = Gate()
    async with running(nats_url, gate.take) as fleet:
        await fleet.request(**TASK)
        await fleet.inbox.next(subjects.ACCEPTED, task_id="t")
        follower = await Follower(fleet).call(body)
        first = await follower.next()
        assert first is not None
        assert (first["status"], first["progress"]) == (
            "IN_PROGRESS",
            {"phase": "propose", "round": 0, "done": 0, "expected": 3},
        )
        await gate.answer(fleet, 1, agents.failure)
        step = steps([await follower.next() or {}])
        assert step == [("propose", 0, 1, 3, "agent-dev-001", "ServerError")]
        await gate.answer(fleet, 2)
        _, _, begun = [await follower.next() for _ in range(3)]
        assert steps([begun or {}]) == [("critique", 1, 0, 2, None, None)]
        assert await fleet.ask(subjects.CANCEL, {"task_id": "t"}) == (None, {"task_id": "t", "status": "CANCELLED"})
        replies = await follower.rest()
        assert replies[-1]["status"] == "CANCELLED"


async def test_an_ended_task_is_told_at_once(nats_url: str) -> None:
    """Status, event, empty message."""
    async with running(nats_url, agents.answer) as fleet:
        _, done = await fleet.ask(subjects.ASK, TASK)
        replies = await (await Follower(fleet).call({"task_id": "t"})).rest()
        assert [reply["status"] for reply in replies] == ["COMPLETED", "COMPLETED"]
        assert replies[-1] == done


@some_of(
    2,
    ("body", "code", "said"),
    [
        ({"task_id": "nobody"}, "404", "no task nobody"),
        (b"nobody", "404", "no task nobody"),
        ({"task_description": "x", "num_agents": 100}, "400", "$.num_agents"),
        (b"{", "400", "it ends too early"),
        (b" ", "400", "names no task"),
        ({"task_id": "t", "rounds": 2}, "400", "$.task_description"),
        (TASK | {"task_id": "used", "task_description": "Another"}, "409", "used before"),
    ],
)
async def test_errors_are_followed_by_the_empty_message(nats_url: str, body: Any, code: str, said: str) -> None:
    """As with `ask`."""
    async with running(nats_url, agents.answer) as fleet:
        await fleet.ask(subjects.ASK, TASK | {"task_id": "used"})
        follower = await Follower(fleet).call(body)
        replies = await follower.rest()
        assert follower.codes[-1] == code
        assert said in replies[-1]["error"]


async def test_a_sign_of_life_comes_while_nothing_happens(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was not heard is read: here no write is told."""

    async def deaf(self: Any) -> None: ...

    monkeypatch.setattr(following, "REPLY_EVERY_S", 0.1)
    monkeypatch.setattr(following._Follower, "_listen", deaf)
    gate = Gate()
    async with running(nats_url, gate.take) as fleet:
        follower = await Follower(fleet).call(TASK)
        while steps(follower.replies)[-2:] != [("propose", 0, 0, 3, None, None)] * 2:
            await follower.next()
        await gate.answer(fleet, 1)
        while ("propose", 0, 1, 3, "agent-dev-001", "completed") not in steps(follower.replies):
            await follower.next()


async def test_nobody_follows_nothing_is_told(nats_url: str) -> None:
    """A follower leaves no consumer behind, and without one there is none."""
    async with running(nats_url, agents.answer) as fleet:
        js = fleet.nc.jetstream()
        await fleet.ask(subjects.ASK, TASK)
        assert await js.consumers_info(subjects.STATES) == []
        for number in range(3):
            await (await Follower(fleet).call(TASK | {"task_id": f"t{number}"})).rest()

        async def none_is_left() -> bool:
            return not await js.consumers_info(subjects.STATES)

        await until(none_is_left)


@pytest.mark.usefixtures("nats_binary")
async def test_the_nats_command_line_follows_with_the_rights_of_a_client(tmp_path: Path) -> None:
    """Under the shipped permissions it ends by itself, and has shown everything."""
    binary = natscli.nats_cli(tmp_path)
    async with permitted(tmp_path / "server") as users:
        others = {"worker_url": users.url("worker"), "client_url": users.url("client")}
        async with whole(users.url("control"), **others):  # type: ignore[arg-type]
            body = json.dumps({"task_description": "Design it", "num_agents": 2})
            options = ("--wait-for-empty", "--reply-timeout", "30s", "--raw")
            status, out = await natscli.run(binary, users.url("client"), "req", subjects.FOLLOW, *options, body)
    assert status == 0, out
    told = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert {outcome for *_, outcome in steps(told)} == {None, "completed"}
    assert told[-1]["status"] == "COMPLETED", out
