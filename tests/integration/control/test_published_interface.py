"""Everything that a whole fleet publishes and replies is what the AsyncAPI document says, by reference or not."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleet import subjects
from tests.support.fleets.control_plane import Fleet
from tests.support.fleets.whole_fleet import whole
from tests.support.nats import servers
from tests.support.repository.asyncapi import DOCUMENT, matching, messages_of, problems
from tests.support.waiting import until
from workers.simulator.config import SimulatorConfig

LONG = SimulatorConfig(answer_tokens=12_000, max_model_len=1_000_000)
"""Proposals that do not fit the messages of the server below, so that everything around them travels by reference."""
CLIENTS = {subjects.REQUESTED, *subjects.ENDPOINT_MESSAGES}
SUBJECTS = {channel["address"] for channel in DOCUMENT["channels"].values() if channel["address"]} - CLIENTS


class Tap:
    """Every message that the fleet publishes."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any, dict[str, str]]] = []

    async def take(self, msg: Any) -> None:
        self.seen.append((msg.subject, json.loads(msg.data), dict(msg.headers or {})))

    def names(self) -> set[str]:
        """The messages that were seen; each must be exactly one of its subject's."""
        names = set()
        for subject, body, headers in self.seen:
            found = matching(messages_of(subject), body)
            assert len(found) == 1, [problems(name, body) for name in messages_of(subject)]
            names |= {*found}
            if "headers" in DOCUMENT["components"]["messages"][found[0]]:
                assert problems_of_headers(headers) == []
        return names


def problems_of_headers(headers: dict[str, str]) -> list[str]:
    known = DOCUMENT["components"]["schemas"]["Headers"]["properties"]
    return problems("Headers", {name: value for name, value in headers.items() if name in known})


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with (
        servers.one(tmp_path / "nats", max_payload="64KB") as server,
        whole(server.url, LONG) as fleet,
    ):
        yield fleet


async def tapped(fleet: Fleet) -> Tap:
    tap = Tap()
    for subject in SUBJECTS:
        await fleet.nc.subscribe(subject, cb=tap.take)
    await fleet.nc.flush()
    return tap


def reply_is(subject: str, body: Any) -> list[str]:
    return matching(messages_of(f"{subject}.reply"), body)


async def test_ordinary_messages_and_replies(nats_url: str) -> None:
    """Every phase, every end, every reply."""
    async with whole(nats_url, SimulatorConfig(answer_tokens=40, tokens_per_second=200)) as fleet:
        tap = await tapped(fleet)
        options = {"synthesis": True, "selection": "architect", "seed": 7}
        _, done = await fleet.ask(subjects.ASK, {"task_description": "x", "num_agents": 3, "options": options})
        assert reply_is(subjects.ASK, done) == ["DeliberationCompleted"]
        code, refused = await fleet.ask(subjects.ASK, {"task_description": "x", "rounds": 9})
        assert (code, reply_is(subjects.ASK, refused)) == ("400", ["DeliberationRejected"])
        _, status = await fleet.ask(subjects.RESULT, {"task_id": done["task_id"]})
        assert reply_is(subjects.RESULT, status) == ["ResultReply"]
        for subject in (subjects.RESULT, subjects.CANCEL):
            for body in (b"nobody", b"{", b'{"task_id": 7}'):
                _, unknown = await fleet.ask(subject, body)
                assert reply_is(subject, unknown) == ["ServiceError"], unknown
        _, late = await fleet.ask(subjects.CANCEL, {"task_id": done["task_id"]})
        assert reply_is(subjects.CANCEL, late) == ["ServiceError"]
        assert tap.names() >= {
            *("DeliberationAccepted", "DeliberationRejected", "DeliberationCompleted"),
            *("AgentRequested", "AgentCompleted", "AgentProgress"),
        }


async def test_failures_and_cancellations(nats_url: str) -> None:
    """Calls that fail, a deliberation that fails, one that is cancelled, one that runs out of time."""
    slow = SimulatorConfig(latency_ms=60_000)
    async with whole(nats_url, slow) as fleet:
        tap = await tapped(fleet)
        stopped = await fleet.request(num_agents=1)
        late = await fleet.request(num_agents=1, constraints={"timeout_seconds": 1})
        failed = await fleet.inbox.next(subjects.FAILED, task_id=late)
        assert failed["status"] == "TIMEOUT"
        _, reply = await fleet.ask(subjects.RESULT, {"task_id": stopped})
        assert reply_is(subjects.RESULT, reply) == ["ResultReply"]
        _, reply = await fleet.ask(subjects.CANCEL, {"task_id": stopped, "reason": "enough"})
        assert reply_is(subjects.CANCEL, reply) == ["CancelReply"]
        await fleet.inbox.next(subjects.CANCELLED, task_id=stopped)
        assert tap.names() >= {"DeliberationFailed", "DeliberationCancelled", "AgentStop", "CancelRequest"}


async def test_bodies_by_reference(small: Fleet) -> None:
    """Events, calls, answers and replies that do not fit one message."""
    tap = await tapped(small)
    body = {
        "task_id": "long",
        "task_description": "x",
        "num_agents": 3,
        "constraints": {"metadata": {"k": "x " * 25_000}},
    }
    _, done = await small.ask(subjects.ASK, {**body, "options": {"early_stop": False}})
    assert reply_is(subjects.ASK, done) == ["ReplyByReference"]
    _, status = await small.ask(subjects.RESULT, {"task_id": "long"})
    assert reply_is(subjects.RESULT, status) == ["ReplyByReference"]
    assert tap.names() >= {
        *("AgentRequestedByReference", "AgentCompletedByReference"),
        *("DeliberationCompleted", "DeliberationAccepted"),
    }


async def test_a_rejection_by_reference(tmp_path: Path) -> None:
    """Of a request whose correlation is nearly as long as a message, on a server that takes short ones only."""
    correlation = {"k": "\N{MUSICAL SYMBOL G CLEF}" * 3_700}
    request = msgspec.json.encode({"task_description": "", "correlation": correlation})
    async with servers.one(tmp_path / "nats", max_payload="16KB") as server, whole(server.url) as fleet:
        tap = await tapped(fleet)
        await fleet.nc.request(subjects.REQUESTED, request)
        await until(lambda: any(subject == subjects.REJECTED for subject, _, _ in tap.seen))  # filled by NATS
        assert "DeliberationRejectedByReference" in tap.names()
