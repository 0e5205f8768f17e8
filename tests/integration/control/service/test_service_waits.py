"""What a call of the service costs while it waits, and that it misses nothing."""

import asyncio
from typing import Any

import pytest

from fleet import subjects
from fleet.control.service import endpoints
from fleet.control.service.lookup import Lookup
from fleet.control.service.waiters import Waiters
from fleet.deliberation.state import Deliberation
from tests.support import agents
from tests.support.fleets.control_plane import running


async def test_an_ordinary_ask_looks_for_no_rejection(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads neither the stream of requests nor that of events, unless it has waited for long."""
    monkeypatch.setattr(endpoints, "POLL_S", 3600.0)
    async with running(nats_url, agents.answer) as fleet:
        asked: list[str] = []

        async def note(msg: Any) -> None:
            asked.append(msg.subject)

        for subject in ("MSG.GET.DELIBERATION_REQUESTS", "MSG.GET.DELIBERATIONS"):
            await fleet.nc.subscribe(f"$JS.API.STREAM.{subject}", cb=note)
        await fleet.nc.subscribe("$JS.API.CONSUMER.CREATE.DELIBERATIONS.>", cb=note)
        await fleet.nc.flush()
        for _ in range(10):
            code, body = await fleet.ask(subjects.ASK, {"task_description": "x", "num_agents": 1})
            assert (code, body["status"]) == (None, "COMPLETED")
        await fleet.nc.flush()
        assert asked == []


@pytest.mark.parametrize("verb", [subjects.ASK, subjects.RESULT])
async def test_an_end_while_the_state_is_read_is_noticed(
    nats_url: str, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """The state that is read is that before the end, and the event has come before anybody waits."""
    release = asyncio.Event()

    def respond(call: Any) -> Any:
        release.set()
        return agents.answer(call)

    monkeypatch.setattr(endpoints, "POLL_S", 3600.0)
    async with running(nats_url, respond) as fleet:
        load, wake, was_woken = Lookup.load, Waiters.wake, asyncio.Event()

        def noted(self: Waiters, key: str) -> None:
            wake(self, key)
            was_woken.set()

        async def slow(self: Lookup, task_id: str) -> Deliberation | None:
            state = await load(self, task_id)
            if state is not None and not state.ended:
                await was_woken.wait()
            return state

        monkeypatch.setattr(Waiters, "wake", noted)
        monkeypatch.setattr(Lookup, "load", slow)
        body: dict[str, Any] = {"task_id": "t", "task_description": "Design it", "num_agents": 1}
        if verb == subjects.RESULT:
            await fleet.request(**body)
            await release.wait()
            body = {"task_id": "t", "wait_seconds": 200}
        _, reply = await fleet.ask(verb, body)
        assert reply["status"] == "COMPLETED"
