"""Equal questions at once: one of them runs, and the others are answered with its result."""

import asyncio

import pytest

from fleet import subjects
from fleet.deliberation import waiting
from fleet.messages import AgentRequested, AgentResponse
from tests.integration.control.caching.test_answers import Council, ask, question
from tests.support import agents
from tests.support.fleets.control_plane import Fleet, running, without_workers
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("nats_binary")


async def test_a_hundred_equal_questions_run_once(nats_url: str) -> None:
    council = Council()
    async with running(nats_url, council) as fleet:
        replies = await asyncio.gather(*(ask(fleet, f"t-{number}") for number in range(100)))
        (ran,) = council.tasks
        assert {reply["cached_from"] for reply in replies if reply["task_id"] != ran} == {ran}
        assert sum(reply["usage"]["calls"] for reply in replies) == len(council.calls)
        for reply in replies:
            assert fleet.inbox.of(reply["task_id"]) == [subjects.ACCEPTED, subjects.COMPLETED]


class Broken(Council):
    """Fails the calls of the first task."""

    def __call__(self, call: AgentRequested) -> AgentResponse | None:
        super().__call__(call)
        return agents.failure(call) if call.task_id == self.tasks[0] else agents.answer(call)


async def test_when_the_one_that_runs_fails_another_one_does(nats_url: str) -> None:
    """And all others are answered by that."""
    council = Broken()
    async with running(nats_url, council) as fleet:
        replies = await asyncio.gather(*(ask(fleet, f"t-{number}") for number in range(20)))
        failed, ran = council.tasks
        assert {r["task_id"]: r["status"] for r in replies if r["status"] != "COMPLETED"} == {failed: "FAILED"}
        assert {r["cached_from"] for r in replies if r["task_id"] not in (failed, ran)} == {ran}


class Silent(Council):
    """Does not answer the calls of the first task."""

    def __call__(self, call: AgentRequested) -> AgentResponse | None:
        super().__call__(call)
        return None if call.task_id == self.tasks[0] else agents.answer(call)


@pytest.mark.parametrize(("ending", "timeout_s"), [("CANCELLED", 300), ("TIMEOUT", 2)])
async def test_when_the_one_that_runs_is_ended_another_one_runs(nats_url: str, ending: str, timeout_s: float) -> None:
    council = Silent()
    async with running(nats_url, council) as fleet:
        first = asyncio.create_task(
            fleet.ask(subjects.ASK, question("first", constraints={"timeout_seconds": timeout_s}))
        )
        await fleet.inbox.next(subjects.ACCEPTED, task_id="first")
        others = [asyncio.create_task(ask(fleet, f"t-{number}")) for number in range(5)]
        for number in range(5):
            await fleet.inbox.next(subjects.ACCEPTED, task_id=f"t-{number}")
        if ending == "CANCELLED":
            await fleet.ask(subjects.CANCEL, {"task_id": "first"})
        assert (await first)[1]["status"] == ending
        replies = await asyncio.gather(*others)
        _, ran = council.tasks
        assert {reply["cached_from"] for reply in replies} == {None, ran}


async def test_when_the_one_that_runs_gets_no_answer_another_one_runs_in_time(nats_url: str) -> None:
    """At half of their time, where all have the same: one runs, and answers all others."""
    council = Silent()
    short = {"constraints": {"timeout_seconds": 6}}
    async with running(nats_url, council) as fleet:
        replies = await asyncio.gather(*(ask(fleet, f"t-{number}", **short) for number in range(10)))
        late, ran = council.tasks
        ends = {reply["task_id"]: reply["status"] for reply in replies}
        assert ends == {**dict.fromkeys(ends, "COMPLETED"), late: "TIMEOUT"}
        assert {reply["cached_from"] for reply in replies if reply["task_id"] not in (late, ran)} == {ran}


async def test_what_ran_beside_and_failed_does_not_hide_the_one_that_goes_on(nats_url: str) -> None:
    """Later ones wait for that, and are answered with its result."""
    async with without_workers(nats_url) as fleet:
        first = asyncio.create_task(ask(fleet, "first"))
        await fleet.inbox.next(subjects.ACCEPTED, task_id="first")
        await _holds(fleet, "first", '"open"')
        short = asyncio.create_task(ask(fleet, "short", constraints={"timeout_seconds": 2}))
        assert (await short)["usage"]["calls"] == 2  # it did run
        late = asyncio.create_task(ask(fleet, "late"))
        await _holds(fleet, "first", '"late"')
        council = Council()
        async with agents.answering(fleet.nc, council):
            assert (await first)["status"] == "COMPLETED"
            assert (await late)["cached_from"] == "first"
            assert (await ask(fleet, "after"))["cached_from"] == "first"
        assert not {"late", "after"} & set(council.tasks)


async def _holds(fleet: Fleet, task_id: str, what: str) -> None:
    """Returns once that stands in the state of the task."""
    states = await fleet.nc.jetstream().key_value(subjects.BUCKET)

    async def is_there() -> bool:
        return what.encode() in ((await states.get(task_id)).value or b"")

    await until(is_there)


async def test_only_so_many_wait_for_one(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes after them runs by itself."""
    monkeypatch.setattr(waiting, "MOST_FOLLOWERS", 2)
    council = Silent()
    async with running(nats_url, council) as fleet:
        await fleet.request(**question("first"))
        await until(lambda: council.calls)
        replies = await asyncio.gather(*(_ended(fleet, f"t-{number}") for number in range(4)))
        assert sorted(replies) == [False, False, True, True]
        await fleet.ask(subjects.CANCEL, {"task_id": "first"})


async def _ended(fleet: Fleet, task_id: str) -> bool:
    """Whether it runs although another one does; the others wait."""
    await fleet.request(**question(task_id))
    states = await fleet.nc.jetstream().key_value(subjects.BUCKET)

    async def is_decided() -> bool:
        followed = (await states.get("first")).value or b""
        return f'"{task_id}"'.encode() in followed or subjects.COMPLETED in fleet.inbox.of(task_id)

    await until(is_decided)
    return subjects.COMPLETED in fleet.inbox.of(task_id)


async def test_one_that_waits_can_be_cancelled_and_has_a_deadline_of_its_own(nats_url: str) -> None:
    """No model was called for it, and nobody else is disturbed. Of two that are late one has run meanwhile."""
    calls: list[AgentRequested] = []
    async with running(nats_url, lambda call: calls.append(call)) as fleet:  # type: ignore[func-returns-value]
        first = asyncio.create_task(ask(fleet, "first"))
        await until(lambda: calls)
        short = {"constraints": {"timeout_seconds": 2}}
        late = [asyncio.create_task(ask(fleet, f"late-{number}", **short)) for number in range(2)]
        cancelled = asyncio.create_task(ask(fleet, "cancelled"))
        await fleet.inbox.next(subjects.ACCEPTED, task_id="cancelled")
        await fleet.ask(subjects.CANCEL, {"task_id": "cancelled"})
        assert ((await cancelled)["status"], set((await cancelled)["usage"].values())) == ("CANCELLED", {0})
        ends = sorted(await asyncio.gather(*late), key=lambda end: end["usage"]["calls"])
        assert [end["status"] for end in ends] == ["TIMEOUT", "TIMEOUT"]
        assert (ends[0]["error"], ends[0]["failed_agents"], set(ends[0]["usage"].values())) == (
            "the result of an equal request did not come within 2 s",
            [],
            {0},
        )
        assert {call.task_id for call in calls} == {"first", ends[1]["task_id"]}
        await fleet.ask(subjects.CANCEL, {"task_id": "first"})
        assert (await first)["status"] == "CANCELLED"
