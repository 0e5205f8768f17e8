"""`deliberation.ask` answers with the rejection even if its event passed unheard."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from fleet import subjects
from fleet.control.service.waiters import Waiters
from tests.support import agents
from tests.support.fleets.control_plane import Fleet, running


@pytest.fixture
async def deaf(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    """A fleet whose service hears no event."""

    async def nothing(self: Waiters, msg: Any) -> None: ...

    monkeypatch.setattr(Waiters, "on_event", nothing)
    monkeypatch.setattr("fleet.control.service.endpoints.POLL_S", 0.1)
    async with running(nats_url, agents.answer) as fleet:
        yield fleet


async def test_an_invalid_request_is_refused(deaf: Fleet) -> None:
    """The rejection is read from the stream; others before it are not taken for it."""
    for number in (100, 1000):
        code, body = await deaf.ask(subjects.ASK, {"task_description": "x", "num_agents": number})
        assert (code, body["code"], body["path"]) == ("400", "invalid", "$.num_agents")
    assert body["stream_sequence"] == 2


async def test_a_conflict_is_not_answered_with_the_older_result(deaf: Fleet) -> None:
    """Nor is the same request, asked again, refused."""
    first = {"task_id": "twice", "task_description": "Design it", "num_agents": 1}
    _, done = await deaf.ask(subjects.ASK, first)
    code, body = await deaf.ask(subjects.ASK, {**first, "task_description": "Another"})
    assert (code, body["code"]) == ("409", "conflict")
    assert await deaf.ask(subjects.ASK, first) == (None, done)
